"""Options are ranked by what a plain forward says of each, alone and whole."""

from __future__ import annotations

import pytest
import torch

from tests import families
from tests.inference.tiny import picture, tiny_folder
from vlforge.inference.load import load_model
from vlforge.inference.native import native_inputs, native_prompt
from vlforge.inference.options import option_scores
from vlforge.inference.prefetch import with_pictures
from vlforge.inference.prompts import pixels_of
from vlforge.text.encode import encode_turns
from vlforge.types import DataError, ModelError, Sample, Turn

OPTIONS = [
    ("red", "blue", "the cat"),
    ("a horse on grass", "a horse", "the blue cat sits on the red horse"),
    ("cat", "horse"),
    ("grass", "the grass", "red", "blue"),
]


def asked(folder):
    """Questions of unequal lengths with one, no and two pictures."""
    texts = ["what is the cat", "is the horse on grass what is it on", "what", "what is red"]
    made = []
    for number, text in enumerate(texts):
        paths = []
        for place in range((1, 0, 2, 1)[number]):
            path = folder / f"{number}-{place}.png"
            picture(10 * number + place).save(path)
            paths.append(str(path))
        turn = Turn("user", "<image>\n" * len(paths) + text)
        made.append(Sample(str(number), tuple(paths), (turn,)))
    return made


def plain_scores(loaded, sample, text):
    """The log-probability of each token that is learnt of this answer, by one whole forward."""
    turns = (*sample.turns, Turn("assistant", text))
    encoded = encode_turns(
        loaded.template, loaded.tokenizer, turns, max_length=None, images=len(sample.images)
    )
    pixels = pixels_of(loaded, sample.images) if sample.images else None
    labels = torch.tensor([encoded.labels])
    spliced = loaded.model.splice(torch.tensor([encoded.ids]), pixels, labels=labels)
    with torch.inference_mode():
        logits = loaded.model.language(inputs_embeds=spliced.embeds).logits[0]
    scores = torch.log_softmax(logits[:-1], -1)
    wanted = spliced.plan.labels[0][1:]
    places = (wanted >= 0).nonzero()[:, 0]
    return [float(scores[place, wanted[place]]) for place in places]


@pytest.mark.parametrize("template", ["v1", "v1_short"])
def test_shared_prompts_give_what_a_forward_per_option_gives(tmp_path, template):
    loaded = load_model(tiny_folder(tmp_path / "model", template), "cpu")
    samples = asked(tmp_path)
    for batch in (1, 4, 32):
        mean = option_scores(loaded, samples, OPTIONS, "mean", batch)
        total = option_scores(loaded, samples, OPTIONS, "sum", batch)
        for n, (sample, texts) in enumerate(zip(samples, OPTIONS, strict=True)):
            plain = [plain_scores(loaded, sample, text) for text in texts]
            assert mean[n] == pytest.approx([sum(p) / len(p) for p in plain], abs=1e-4)
            assert total[n] == pytest.approx([sum(p) for p in plain], abs=1e-4)
    assert len({row.index(max(row)) for row in mean}) > 1, "the case must hold several answers"


def test_a_letter_counts_without_the_end_of_the_turn(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", "v1"), "cpu")
    sample = asked(tmp_path)[0]
    (found,) = option_scores(loaded, [sample], [("red", "blue")], "letter")
    plain = [plain_scores(loaded, sample, text) for text in ("red", "blue")]
    assert all(len(tokens) == 2 for tokens in plain), "a word and the end of the turn"
    assert found == pytest.approx([tokens[0] for tokens in plain], abs=1e-5)


def test_opened_pictures_change_nothing(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", "v1"), "cpu")
    samples = asked(tmp_path)
    opened = with_pictures(loaded, samples)
    assert not any(isinstance(image, str) for sample in opened for image in sample.images)
    before = option_scores(loaded, samples, OPTIONS, "sum")
    assert option_scores(loaded, opened, OPTIONS, "sum") == before


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_ranks_options_whatever_the_batch(name):
    loaded = families.loaded(name)
    samples = families.samples()[:4] if name != "minigpt4" else families.samples()[:1]
    options = [("red", "the blue cat", "horse")] * len(samples)
    together = option_scores(loaded, samples, options, "mean")
    for sample, row, texts in zip(samples, together, options, strict=True):
        assert option_scores(loaded, [sample], [texts], "mean", 1)[0] == pytest.approx(
            row, abs=1e-4
        )


@pytest.mark.parametrize("name", families.NATIVE)
def test_a_model_of_transformers_ranks_options_like_its_own_forward(name):
    loaded = families.loaded(name)
    sample = families.samples()[0]
    texts = ("red", "the blue cat sits", "horse")
    (found,) = option_scores(loaded, [sample], [texts], "sum")
    prompt = native_prompt(loaded, sample)
    for text, score in zip(texts, found, strict=True):
        inputs = dict(native_inputs(loaded, [prompt]))
        ids = loaded.tokenizer.encode(_rest(loaded, sample, prompt, text), add_special_tokens=False)
        whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
        for key, value in inputs.items():
            if getattr(value, "shape", None) == inputs["input_ids"].shape and key != "input_ids":
                tail = torch.full((1, len(ids)), int(key == "attention_mask"), dtype=value.dtype)
                inputs[key] = torch.cat([value, tail], 1)
        with torch.inference_mode():
            logits = loaded.model(**inputs | {"input_ids": whole}).logits[0]
        logs = torch.log_softmax(logits[-len(ids) - 1 : -1], -1)
        plain = sum(float(logs[place, token]) for place, token in enumerate(ids))
        assert score == pytest.approx(plain, abs=1e-3)


def _rest(loaded, sample, prompt, text):
    from vlforge.models.native import message

    turns = (*sample.turns, Turn("assistant", text))
    messages = [message(turn.role, turn.text) for turn in turns]
    whole = loaded.processor.apply_chat_template(messages, tokenize=False)
    return whole[len(prompt.text) :].rstrip("\n") if whole.startswith(prompt.text) else text


def test_options_that_cannot_be_told_apart_are_named(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", "v1"), "cpu")
    sample = asked(tmp_path)[0]
    with pytest.raises(DataError, match="0: an option without a word, or two that are equal"):
        option_scores(loaded, [sample], [("dog", "duck")], "letter")  # both unknown words


def test_a_question_longer_than_the_model_is_an_error(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", "v1", positions=40), "cpu")
    sample = Sample("long", (), (Turn("user", "what " * 60),))
    with pytest.raises(ModelError, match="and the model takes 40"):
        option_scores(loaded, [sample], [("red", "blue")], "sum")
