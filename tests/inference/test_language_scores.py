"""Texts have the probabilities that transformers' own loss gives them, whatever the batch."""

from __future__ import annotations

import pytest
import torch

from tests.inference.test_native import tiny_blip2, tiny_llava_hf
from tests.inference.tiny import WORDS, picture, tiny_folder, tiny_language, tiny_tokenizer
from tests.models import tiny_native
from vlforge.inference.language_scores import LocalLanguage
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalModels
from vlforge.models.native import NativeModel
from vlforge.types import DataError, ModelError, Refusal, Sample, Turn

PAIRS = [
    ("", "the red cat sits on grass"),
    ("what is", " a horse"),
    ("", "cat"),
    ("the cat", ""),
    ("the red cat stands", " on the blue grass ."),
]


def language_folder(out, positions=64, **names):
    tiny_language(positions=positions).save_pretrained(out)
    tokenizer = tiny_tokenizer()
    for name, value in names.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(out)
    return str(out)


def close(found, wanted):
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for left, right in zip(found, wanted, strict=True):
        assert left == pytest.approx(right, abs=1e-4)


def test_probabilities_are_those_of_the_models_own_loss(tmp_path):
    models = LocalModels(device="cpu")
    scorer = models.language(language_folder(tmp_path / "lm"))
    assert models.language(str(tmp_path / "lm")) is scorer
    found = scorer.log_probs(PAIRS)
    for (before, text), values in zip(PAIRS, found, strict=True):
        ids = [1, *scorer.loaded.tokenizer.encode(before + text, add_special_tokens=False)]
        known = 1 + len(before.split())
        assert len(values) == len(ids) - known == len(text.split())
        if not text:
            continue
        labels = torch.tensor([[-100] * known + ids[known:]])
        loss = scorer.loaded.model(input_ids=torch.tensor([ids]), labels=labels).loss
        assert -sum(values) / len(values) == pytest.approx(float(loss), abs=1e-4)


def test_a_text_has_the_same_probabilities_alone_and_in_any_batch(tmp_path, monkeypatch):
    loaded = load_model(language_folder(tmp_path / "lm"), "cpu")
    together = LocalLanguage(loaded, 8).log_probs(PAIRS)
    close([LocalLanguage(loaded, 1).log_probs([pair])[0] for pair in PAIRS], together)
    monkeypatch.setattr("vlforge.inference.language_scores.LOGITS_AT_ONCE", 200)
    close(LocalLanguage(loaded, 8).log_probs(PAIRS), together)


def test_a_text_longer_than_the_model_is_read_in_windows(tmp_path):
    loaded = load_model(language_folder(tmp_path / "lm", positions=8), "cpu")
    scorer = LocalLanguage(loaded)
    words = [WORDS[n * 5 % 9] for n in range(21)]
    (values,) = scorer.log_probs([("", " ".join(words))])
    assert len(values) == 21
    ids = [1, *loaded.tokenizer.convert_tokens_to_ids(words)]
    # Id n is told by the window that holds it and, past the first, at least 4 before it.
    for n in range(1, 22):
        begin = 0 if n < 8 else 4 * (n // 4 - 1)
        window = torch.tensor([ids[begin : n + 1]])
        logits = loaded.model(input_ids=window).logits[0, -2]
        assert values[n - 1] == pytest.approx(float(logits.log_softmax(-1)[ids[n]]), abs=1e-4)
    (short,) = scorer.log_probs([(" ".join(words), " cat")])
    window = torch.tensor([[*ids[-7:], *loaded.tokenizer.convert_tokens_to_ids(["cat"])]])
    wanted = loaded.model(input_ids=window).logits[0, -2].log_softmax(-1)[window[0, -1]]
    assert short == [pytest.approx(float(wanted), abs=1e-4)]


def test_a_document_begins_with_the_first_token_or_the_end_of_another(tmp_path):
    loaded = load_model(language_folder(tmp_path / "lm"), "cpu")
    pair = ("", "the cat")
    first = LocalLanguage(loaded).log_probs([pair])[0]
    loaded.tokenizer.bos_token = None
    after_another = LocalLanguage(loaded).log_probs([pair])[0]
    loaded.tokenizer.eos_token = None
    assert len(LocalLanguage(loaded).log_probs([pair])[0]) == 1
    assert first != after_another
    assert len(first) == len(after_another) == 2


@pytest.mark.parametrize("build", [tiny_folder, tiny_llava_hf, tiny_blip2])
def test_the_language_model_inside_an_image_text_model_scores_too(tmp_path, build):
    loaded = load_model(build(tmp_path / "vlm"), "cpu")
    together = LocalLanguage(loaded, 8).log_probs(PAIRS)
    close([LocalLanguage(loaded, 1).log_probs([pair])[0] for pair in PAIRS], together)
    assert [len(row) for row in together] == [6, 2, 1, 0, 5]


@pytest.mark.parametrize("build", [tiny_folder, tiny_llava_hf, tiny_blip2])
def test_a_caption_is_scored_beside_its_picture(tmp_path, build):
    loaded = load_model(build(tmp_path / "vlm"), "cpu")
    images, texts = [picture(1), picture(2), picture(1)], ["the cat", "red grass .", "the cat"]
    together = LocalLanguage(loaded, 8).caption_log_probs(images, texts, "what is")
    assert together[0] == pytest.approx(together[2], abs=1e-4)
    alone = [
        LocalLanguage(loaded, 1).caption_log_probs([image], [text], "what is")[0]
        for image, text in zip(images, texts, strict=True)
    ]
    close(alone, together)
    (other,) = LocalLanguage(loaded).caption_log_probs([picture(2)], ["the cat"], "what is")
    assert other != pytest.approx(together[0], abs=1e-3)


@pytest.mark.parametrize("build", [tiny_native.qwen2, tiny_native.gemma, tiny_native.smolvlm])
def test_native_models_score_as_their_own_loss_says(tmp_path, build):
    loaded = load_model(build(tmp_path / "vlm"), "cpu")
    images, texts = [picture(1, (60, 40)), picture(2, (33, 80))], ["a red cat", "grass, it is."]
    together = LocalLanguage(loaded, 2).caption_log_probs(images, texts, "Describe.")
    native = NativeModel(loaded.model, loaded.processor)
    for image, text, values in zip(images, texts, together, strict=True):
        turns = (Turn("user", "<image>\nDescribe."), Turn("assistant", text))
        batch = native.collate([native.encode(Sample("1", ("",), turns), [image])])
        loss = loaded.model(**batch).loss.item()
        assert sum(values) / len(values) == pytest.approx(-loss, abs=1e-4)
    pairs = [("", "a red cat"), ("what is", " that thing there")]
    both = LocalLanguage(loaded, 2).log_probs(pairs)
    close([LocalLanguage(loaded, 1).log_probs([pair])[0] for pair in pairs], both)


def test_what_a_picture_adds_is_what_the_likelihood_scorer_says(tmp_path):
    from PIL import Image

    from vlforge.inference.score import local_scorer

    loaded = load_model(tiny_folder(tmp_path / "vlm"), "cpu")
    blank = Image.new("RGB", (20, 14), (127, 127, 127))
    both = LocalLanguage(loaded).caption_log_probs([picture(1), blank], ["the cat"] * 2, "")
    seen, unseen = (sum(row) / len(row) for row in both)
    (score,) = local_scorer(loaded).score([picture(1)], ["the cat"])
    assert seen - unseen == pytest.approx(score, abs=1e-4)


def test_blip2_is_told_the_words_alone(tmp_path):
    loaded = load_model(tiny_blip2(tmp_path / "blip"), "cpu")
    image, text = picture(1), "the red cat"
    (values,) = LocalLanguage(loaded).caption_log_probs([image], [text], "what")
    pixels = loaded.processor(images=[image], return_tensors="pt")["pixel_values"]
    words = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[18, 18, 18, 1, *words]])
    logits = loaded.model(pixel_values=pixels, input_ids=ids).logits[0, 3:-1]
    wanted = logits.log_softmax(-1)[range(3), words]
    assert values == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_picture_that_the_processor_refuses_costs_itself_alone(tmp_path, monkeypatch):
    loaded = load_model(tiny_llava_hf(tmp_path / "vlm"), "cpu")
    scorer, images = LocalLanguage(loaded), [picture(1), picture(2)]
    (wanted,) = scorer.caption_log_probs(images[:1], ["the cat"], "what is")
    encode = NativeModel.encode

    def refusing(self, sample, pictures, template):
        if pictures[0] is images[1]:
            raise DataError("too thin")
        return encode(self, sample, pictures, template)

    monkeypatch.setattr(NativeModel, "encode", refusing)
    found = scorer.caption_log_probs(images, ["the cat", "red"], "what is")
    assert found == [
        pytest.approx(wanted, abs=1e-5),
        Refusal("caption cannot be scored", "too thin"),
    ]
    assert scorer.caption_log_probs(images[1:], ["red"], "")[0].detail == "too thin"


def test_halves_of_characters_do_not_end_the_run(tmp_path):
    scorer = LocalLanguage(load_model(language_folder(tmp_path / "lm"), "cpu"))
    assert len(scorer.log_probs([("", "the \ud83d cat")])[0]) == 3
    seeing = LocalLanguage(load_model(tiny_folder(tmp_path / "vlm"), "cpu"))
    assert len(seeing.caption_log_probs([picture(1)], ["the \ud83d cat"], "")[0]) == 3


def test_models_that_cannot_tell_are_refused(tmp_path):
    models = LocalModels(device="cpu")
    with pytest.raises(ModelError, match="no model at"):
        models.language(str(tmp_path / "gone"))
    lone = models.language(language_folder(tmp_path / "lm"))
    with pytest.raises(ModelError, match="sees no pictures"):
        lone.caption_log_probs([picture(1)], ["cat"], "")
    silent = models.language(str(tiny_llava_hf(tmp_path / "llava")))
    silent.loaded.processor.chat_template = None
    with pytest.raises(ModelError, match="no chat template, so it cannot be asked"):
        silent.caption_log_probs([picture(1)], ["cat"], "")
