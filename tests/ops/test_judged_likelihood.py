"""Answers scored by a language model: alone, behind questions, behind demonstrations, pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop, ModelError, RecipeError

PICTURES = Path(__file__).parent / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE = "<__dj__image>"


class Told:
    """A token is a word; each costs 2, and 1 where it stands in what is before it."""

    def __init__(self):
        self.asked = []

    def log_probs(self, texts):
        self.asked += texts
        return [[-1.0 if w in b.split() else -2.0 for w in text.split()] for b, text in texts]

    def caption_log_probs(self, images, texts, question):
        self.asked.append((question, [image.getextrema()[0] for image in images]))
        greys = [image.getextrema()[0] == (127, 127) for image in images]
        return [
            [-3.0 if grey else -image.width / 100] * len(text.split())
            for grey, image, text in zip(greys, images, texts, strict=True)
        ]


def run(op, rows, scorer=None, **params):
    scorer = scorer or Told()
    (bound,) = bind([{op: params}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    batch = Batch(items, Context(models=ScriptedModels(others={"lm": scorer})))
    (found,) = bound.op.measure(batch)
    return found, scorer, bound.op


def test_perplexity_is_of_the_answer_behind_its_question():
    rows = [{"text": "a b", "q": "x", "r": "x y"}, {"text": "", "q": "x", "r": ""}]
    found, told, op = run("llm_perplexity_filter", rows, hf_model="lm")
    assert found[0] == pytest.approx(math.exp(2))
    assert found[1] == Drop("", "no answer to score")
    assert told.asked == [("", "a b"), ("", "")]
    templates = {"query_template": "Q: {q}", "response_template": "{r}"}
    found, told, _ = run("llm_perplexity_filter", rows, hf_model="lm", **templates)
    assert told.asked[0] == ("Q: x ", "x y")
    assert found[0] == pytest.approx(math.exp(1.5))
    assert op.keep(100.0)
    assert not op.keep(100.1)


def test_messages_stand_for_templates_and_faults_are_told():
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": " x z "}]
    rows = [{"messages": said}, {"messages": [{"role": "user"}]}, {"other": 1}]
    found, told, _ = run("llm_perplexity_filter", rows, hf_model="lm")
    assert told.asked == [("x  ", "x z")]
    assert found[0] == pytest.approx(math.exp(1.5))
    assert [one.reason for one in found[1:]] == ["message without text", "field is missing"]
    assert found[2].value == "text"


def test_special_tokens_are_left_out_on_demand():
    rows = [{"text": f"{IMAGE} a b <|__dj__eoc|>"}]
    _, told, _ = run("llm_perplexity_filter", rows, hf_model="lm", ignore_special_tokens=True)
    assert told.asked == [("", "a b")]


def test_the_difficulty_of_an_instruction_is_a_ratio_of_losses():
    rows = [{"q": "x y", "text": "x y"}, {"q": "a", "text": "x y"}, {"q": "a", "text": " "}]
    how = {"hf_model": "lm", "query_template": "{q}"}
    found, told, _ = run("instruction_following_difficulty_filter", rows, **how)
    assert found == [pytest.approx(0.5), pytest.approx(1.0), Drop("", "no answer to score")]
    assert told.asked[3:] == [("", "x y"), ("", "x y"), ("", "")]
    found, _, _ = run("instruction_following_difficulty_filter", rows[:1], **how,
                      ratio_of="perplexity")  # fmt: skip
    assert found == [pytest.approx(math.exp(-1))]
    with pytest.raises(RecipeError, match="ratio_of"):
        bind([{"instruction_following_difficulty_filter": {"ratio_of": "log"}}])


def test_influence_is_what_a_row_does_for_validation_answers(tmp_path):
    valid = [{"q": "h", "text": "x y"}, {"q": "h", "text": "u"}, {"q": "h", "text": "z"}]
    rows = [{"q": "a", "text": "x"}, {"q": "a", "text": "b"}]
    how = {"hf_model": "lm", "query_template": "{q}", "valid_dataset": valid, "n_shot": 2}
    found, told, _ = run("in_context_influence_filter", rows, **how, task_desc="Do:")
    assert found == [pytest.approx((2 / 1.5 + 1) / 2), pytest.approx(1.0)]
    assert told.asked[:3] == [("Do: h ", "x y"), ("Do: h ", "u"), ("a x Do: h ", "x y")]
    found, told, _ = run("in_context_influence_filter", rows, **how, valid_as_demo=True)
    assert told.asked == [("a ", "x"), ("a ", "b"), ("h x y a ", "x"), ("h u a ", "x"),
                          ("h x y a ", "b"), ("h u a ", "b")]  # fmt: skip
    assert found == [pytest.approx((2 + 1) / 2), pytest.approx(1.0)]
    file = tmp_path / "valid.jsonl"
    file.write_text("\n".join(map(json.dumps, valid)))
    again, _, _ = run("in_context_influence_filter", rows, **{**how, "valid_dataset": str(file)})
    assert again == [pytest.approx((2 / 1.5 + 1) / 2), pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("valid", "said"),
    [
        (None, "tells of no rows: list some"),
        ([{"q": 1}], "field is missing: text"),
        ("gone.jsonl", "gone.jsonl cannot be read"),
    ],
)
def test_validation_rows_that_are_none_are_told_when_the_recipe_is_read(valid, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"in_context_influence_filter": {"valid_dataset": valid}}])


def test_what_a_picture_adds_to_a_caption():
    rows = [{"text": f"{IMAGE} a b", "images": [A]}, {"text": "no picture", "images": []},
            {"text": f"{IMAGE} c <|__dj__eoc|>{IMAGE}", "images": [B, A]},
            {"text": f"{IMAGE} c", "images": ["gone.jpg"]}]  # fmt: skip
    how = {"model": "lm", "min_score": 0.5}
    found, told, op = run("image_caption_likelihood_filter", rows, **how)
    assert found[:3] == [[pytest.approx(1.0)], [], [pytest.approx(0.0)]]
    assert found[3].reason == "missing image"
    assert [question for question, _ in told.asked] == ["Describe the picture."] * 2
    assert told.asked[1][1] == [(127, 127)] * 2
    assert op.keep_all([found[:3]]) == [True, True, False]
    raw, told, _ = run("image_caption_likelihood_filter", rows[:1], subtract_blank=False,
                       question="What?", **how)  # fmt: skip
    assert raw == [[pytest.approx(-2.0)]]
    assert [question for question, _ in told.asked] == ["What?"]


def test_a_model_without_eyes_ends_the_run():
    class Blind:
        def log_probs(self, texts):
            return []

    rows = [{"text": f"{IMAGE} a", "images": [A]}]
    with pytest.raises(ModelError, match="sees no pictures"):
        run("image_caption_likelihood_filter", rows, Blind(), model="lm", min_score=0)


def test_a_model_by_path_gives_the_perplexity_of_its_own_loss(tmp_path):
    import torch

    from tests.inference.tiny import tiny_language, tiny_tokenizer
    from vlforge.inference.local import LocalModels

    language = tiny_language()
    language.save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    (bound,) = bind([{"llm_perplexity_filter": {"hf_model": str(tmp_path / "lm")}}])
    texts = ["the red cat sits", "a horse"]
    items = [Item(str(n), n, {"text": text}) for n, text in enumerate(texts)]
    (found,) = bound.op.measure(Batch(items, Context(models=LocalModels(device="cpu"))))
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([[1, *tiny_tokenizer().encode(text)]])
        loss = language(input_ids=ids, labels=ids).loss.item()
        assert value == pytest.approx(math.exp(loss), rel=1e-4)
