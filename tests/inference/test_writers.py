"""Writers of model folders: every request by itself, whatever answers and whoever is beside it."""

from __future__ import annotations

import json
import threading
import warnings

import pytest
import sentencepiece
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.inference.test_load import spoil
from tests.inference.test_native import tiny_llava_hf, widen
from tests.inference.tiny import picture, tiny_folder, tiny_tokenizer
from vlforge.inference.answers import prompt_for
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat, LocalModels
from vlforge.inference.prompts import Batches
from vlforge.inference.writers import LocalWriter, asked
from vlforge.types import Caption, Drawing, ModelError, Refusal, Sample, Turn

WORDS = "the red blue cat horse on grass a sits".split()
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}a {{ m['content'] }} . {% endfor %}{% if add_generation_prompt %}what {% endif %}"
)


def requests(folder=None, count=7):
    """Conversations of one to three turns with no, one or two pictures."""
    made = []
    for number in range(count):
        images = [] if folder is None else [str(folder / f"{n}.png") for n in range(number % 3)]
        for place, path in enumerate(images):
            picture(place + 5).save(path)
        words = "<image>\n" * len(images) + " ".join(WORDS[: 2 + number % 5])
        turns = [Turn("user", words)]
        if number % 2:
            turns += [Turn("assistant", "the cat"), Turn("user", "what is red")]
        made.append(Sample(str(number), tuple(images), tuple(turns)))
    return made


def assert_alone_as_together(loaded, samples, drawing):
    """Every request alone, and all in another order and batch; gives the texts."""
    keys = [101 * n for n in range(len(samples))]
    together = LocalWriter(loaded, 3).write(samples, drawing, keys)
    backwards = LocalWriter(loaded, 5).write(samples[::-1], drawing, keys[::-1])[::-1]
    for sample, key, first, second in zip(samples, keys, together, backwards, strict=True):
        (alone,) = LocalWriter(loaded, 1).write([sample], drawing, [key])
        assert [c.text for c in alone] == [c.text for c in first] == [c.text for c in second]
        assert [c.confidence for c in alone] == pytest.approx([c.confidence for c in first], 1e-4)
    return [[caption.text for caption in row] for row in together]


DRAWINGS = [Drawing(8), Drawing(8, 1.0, 0.9, candidates=3), Drawing(8, beams=2)]
KINDS = {"family": lambda out: tiny_folder(out, "v1", positions=128), "native": tiny_llava_hf}


@pytest.mark.parametrize("drawing", DRAWINGS, ids=["greedy", "sampled", "beams"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_answered_as_if_it_were_alone(tmp_path, kind, drawing):
    loaded = load_model(KINDS[kind](tmp_path / "model"), "cpu")
    texts = assert_alone_as_together(loaded, requests(tmp_path), drawing)
    assert {len(row) for row in texts} == {drawing.candidates}
    assert len({text for row in texts for text in row}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_answer_is_the_chats(tmp_path, kind):
    loaded = load_model(KINDS[kind](tmp_path / "model"), "cpu")
    samples = requests(tmp_path)
    written = LocalWriter(loaded, 4).write(samples, Drawing(6), range(7))
    assert [row[0].text for row in written] == [
        a.text for a in LocalChat(loaded).answer(samples, 6)
    ]


def test_sampling_depends_on_the_key(tmp_path):
    writer = LocalWriter(load_model(tiny_folder(tmp_path / "model", "v1"), "cpu"))
    (asked,) = requests(count=1)
    rows = writer.write([asked] * 6, Drawing(8, 1.0), [1, 2, 3, 1, 2, 3])
    assert rows[:3] == rows[3:]
    assert len({row[0].text for row in rows}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_cannot_be_answered_costs_itself_alone(tmp_path, kind):
    loaded = load_model(KINDS[kind](tmp_path / "model"), "cpu")
    good = requests(tmp_path)
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:80])
    ask = (Turn("user", "<image>\nwhat is red"),)
    bad = [
        Sample("a", (str(tmp_path / "gone.png"),), ask),
        Sample("b", (str(tmp_path / "cut.png"),), ask),
        Sample("c", (), (Turn("user", " ".join(WORDS * 30)),)),
        Sample("d", (str(tmp_path / "0.png"),) * 2, ask),
    ]
    mixed = [good[0], bad[0], good[1], bad[1], bad[2], *good[2:], bad[3]]
    found = LocalWriter(loaded, 4).write(mixed, Drawing(5), range(len(mixed)))
    refused = [one for one in found if isinstance(one, Refusal)]
    assert [one.reason for one in refused] == [
        "picture cannot be read",
        "picture cannot be read",
        "conversation too long",
        "model cannot take the request",
    ]
    assert "gone.png" in refused[0].detail
    assert refused[3].detail == "1 <image> and 2 pictures"
    alone = LocalWriter(loaded, 4).write(good, Drawing(5), range(7))
    assert [one[0].text for one in found if isinstance(one, list)] == [r[0].text for r in alone]


def test_pictures_of_the_row_itself_are_opened_like_files(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", "v1"), "cpu")
    file = requests(tmp_path)[1]
    given = Sample("1", ((tmp_path / "0.png").read_bytes(),), file.turns)
    first, second = LocalWriter(loaded).write([file, given], Drawing(8), [1, 2])
    assert first[0].text == second[0].text


def test_an_answer_ends_at_the_strings_asked_for(tmp_path):
    writer = LocalWriter(load_model(tiny_folder(tmp_path / "model", "v1"), "cpu"))
    (asked,) = requests(count=1)
    whole = writer.write([asked], Drawing(8), [1])[0][0].text
    stop = whole.split()[-1]
    cut = writer.write([asked], Drawing(8, stop=(stop,)), [1])[0][0].text
    assert whole.startswith(cut)
    assert stop not in cut


def test_the_next_batch_is_made_ready_while_this_one_is_worked_on():
    ready, done = {n: threading.Event() for n in range(6)}, []

    def prepare(group):
        for item in group:
            assert not ready[item].is_set(), "made ready twice"
            ready[item].set()
        return [item * 10 for item in group]

    def work(group):
        if not done and len(group) > 1:
            done.append("halved")
            raise torch.OutOfMemoryError
        last = max(group) // 10
        assert last + 1 not in ready or ready[last + 1].wait(60)
        return [item + 1 for item in group]

    assert Batches(4).run(range(6), work, lambda item: item, prepare) == [1, 11, 21, 31, 41, 51]


def test_what_cannot_be_drawn_is_told(tmp_path):
    writer = LocalWriter(load_model(tiny_folder(tmp_path / "model", "v1"), "cpu"))
    with pytest.raises(ModelError, match="greedy candidates would be equal"):
        writer.write(requests(count=1), Drawing(candidates=2), [1])
    with pytest.raises(ModelError, match="beams search without sampling"):
        writer.write(requests(count=1), Drawing(temperature=1.0, beams=2), [1])


# Language models without eyes


SIZES = {
    "vocab_size": 18,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "gemma3_text": {"sliding_window": 8},
    "bloom": {"n_layer": 2, "n_head": 2},
}


def tiny_text(out, kind="llama", template=None):
    """A random causal language model in the layout of its own files."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, **OTHERS.get(kind, {}))
    widen(AutoModelForCausalLM.from_config(config)).save_pretrained(out)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "phi3", "gemma", "gemma3_text", "gpt2", "opt", "bloom"]
)
def test_causal_models_answer_each_request_by_itself(tmp_path, kind):
    loaded = load_model(tiny_text(tmp_path / "model", kind), "cpu")
    assert loaded.kind == "language"
    samples = requests(count=5)
    for drawing in DRAWINGS[:2]:
        texts = assert_alone_as_together(loaded, samples, drawing)
    written = LocalWriter(loaded, 5).write(samples, Drawing(6), range(5))
    for sample, row in zip(samples, written, strict=True):
        ids = torch.tensor([prompt_for(loaded, sample).ids])
        whole = loaded.model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        said = loaded.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert row[0].text == said.strip()
    assert len({text for row in texts for text in row}) > 2


def test_a_chat_template_of_the_tokenizer_is_followed(tmp_path):
    loaded = load_model(tiny_text(tmp_path / "model", template=CHAT), "cpu")
    sample = Sample("1", (), (Turn("user", "cat"), Turn("assistant", "horse"), Turn("user", "on")))
    assert (
        loaded.tokenizer.decode(prompt_for(loaded, sample).ids) == "a cat . a horse . a on . what"
    )
    assert loaded.notes == ()
    told = Sample("1", (), (Turn("system", "the grass "), Turn("user", " cat")))
    folded = loaded.tokenizer.decode(asked(loaded, told, 0).prompt.ids)
    assert folded == "a the grass \n\n cat . what".replace("\n\n", "<unk>")


def test_without_a_template_plain_words_are_used_and_told(tmp_path):
    loaded = load_model(tiny_text(tmp_path / "model"), "cpu")
    assert loaded.stops == ("\nUser:",)
    assert "no chat template: it is asked in plain words" in loaded.notes[0]
    chosen = load_model(tmp_path / "model", "cpu", template="v1")
    assert chosen.stops == ()
    assert not any("plain words" in note for note in chosen.notes)


def test_one_template_for_all_models_leaves_those_alone_that_have_their_own(tmp_path):
    for folder in (tiny_text(tmp_path / "llama", template=CHAT), tiny_t5(tmp_path / "t5")):
        loaded = load_model(folder, "cpu", template="minigpt4")
        assert loaded.template is None
        assert loaded.notes[0].endswith(
            "asked in its own way; template minigpt4 is for other models"
        )


def test_pictures_for_a_model_without_eyes_end_the_run(tmp_path):
    writer = LocalWriter(load_model(tiny_text(tmp_path / "model"), "cpu"))
    with pytest.raises(ModelError, match="sees no pictures; name an image-text model"):
        writer.write(requests(tmp_path, 2), Drawing(4), [1, 2])


def test_a_conversation_without_room_is_refused_by_every_kind(tmp_path):
    long = Sample("1", (), (Turn("user", " ".join(WORDS * 8)),))
    for kind in ("llama", "opt", "bloom"):
        loaded = load_model(tiny_text(tmp_path / kind, kind), "cpu")
        found = LocalWriter(loaded).write([long, *requests(count=2)], Drawing(4), range(3))
        assert [isinstance(one, Refusal) for one in found] == [True, False, False]
    assert LocalWriter(load_model(tmp_path / "llama")).write([long], Drawing(4), [1]) == [
        Refusal("conversation too long", "73 tokens, and the model takes 64")
    ]


def test_chat_speaks_with_a_language_model_too(tmp_path):
    for kind in ("llama", "bloom"):
        chat = LocalChat(tiny_text(tmp_path / kind, kind, CHAT), device="cpu")
        (sample,) = requests(count=1)
        assert "".join(chat.stream(sample, 6)) == chat.answer([sample], 6)[0].text


def test_no_decoder_is_no_writer(tmp_path):
    fields = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ModelError, match="a model of type 'bert'"):
        load_model(tmp_path, "cpu")


def test_weights_that_are_missing_are_told(tmp_path):
    folder = tiny_text(tmp_path / "model")
    spoil(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ModelError, match=r"lacks 1 weights, the first is model\.norm\.weight"):
        load_model(folder, "cpu")


# From text to text


def tiny_t5(out):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=18, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=0,
    )  # fmt: skip
    widen(T5ForConditionalGeneration(config)).save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    return out


def tiny_marian(out):
    """As Opus-MT folders are: two sentencepiece files, one vocabulary, its own search settings."""
    out.mkdir()
    lines = [" ".join(WORDS[n % 9 :] + WORDS[: n % 9]) for n in range(40)]
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(out / side), vocab_size=40,
            hard_vocab_limit=False, minloglevel=2, pad_id=-1, bos_id=-1,
        )  # fmt: skip
        (out / f"{side}.model").rename(out / f"{side}.spm")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(out / "source.spm"))
    names = ["</s>", "<unk>", *(pieces.id_to_piece(n) for n in range(len(pieces)))]
    vocab = {name: n for n, name in enumerate(dict.fromkeys([*names, "<pad>"]))}
    (out / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    files = [str(out / name) for name in ("source.spm", "target.spm", "vocab.json")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MarianTokenizer(*files, source_lang="en", target_lang="zh").save_pretrained(out)
    torch.manual_seed(0)
    pad = vocab["<pad>"]
    config = MarianConfig(
        vocab_size=len(vocab), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, eos_token_id=0,
        max_position_embeddings=64, pad_token_id=pad, decoder_start_token_id=pad,
        forced_eos_token_id=0,
    )  # fmt: skip
    model = widen(MarianMTModel(config))
    settings = {"num_beams": 4, "max_length": 64, "early_stopping": True, "bad_words_ids": [[pad]]}
    model.generation_config.update(**settings)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("build", [tiny_t5, tiny_marian])
def test_models_from_text_to_text_answer_each_request_by_itself(tmp_path, build, capfd):
    loaded = load_model(build(tmp_path / "model"), "cpu")
    capfd.readouterr()
    samples = requests(count=5)
    for drawing in DRAWINGS:
        assert_alone_as_together(loaded, samples, drawing)
    assert capfd.readouterr().err == ""
    writer = LocalWriter(loaded)
    assert writer.translates == (build is tiny_marian)
    with pytest.raises(ModelError, match="sees no pictures"):
        writer.write(requests(tmp_path, 2), Drawing(4), [1, 2])


def test_a_translator_gets_the_text_alone(tmp_path):
    loaded = load_model(tiny_marian(tmp_path / "model"), "cpu")
    turns = (Turn("system", "Translate."), Turn("user", "the cat sits"), Turn("assistant", "a"))
    ids = prompt_for(loaded, Sample("1", (), turns)).ids
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == "the cat sits"
    assert ids[-1] == loaded.tokenizer.eos_token_id
    long = Sample("2", (), (Turn("user", " ".join(WORDS * 20)),))
    found = LocalWriter(loaded).write([long, Sample("1", (), turns)], Drawing(99), [1, 2])
    assert found[0].reason == "conversation too long"
    assert isinstance(found[1][0], Caption)


# By name


def test_a_writer_is_a_folder_or_an_endpoint(tmp_path):
    models = LocalModels(device="cpu")
    folder = str(tiny_folder(tmp_path / "model", "v1"))
    assert models.writer(folder).loaded is models.captioner(folder).loaded
    with pytest.raises(ModelError) as error:
        LocalModels(endpoints={}).writer("gpt-5")
    assert str(error.value) == (
        "'gpt-5' is neither a model folder here nor an endpoint of the recipe; give a folder, or "
        "a server under endpoints (there are: none)"
    )
