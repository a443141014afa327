"""Trained classifiers of texts: a probability to filter by, tags of questions."""

from __future__ import annotations

import pytest

from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.language import _bundled_table
from vlforge.types import Drop, RecipeError, Refusal

IMAGE = "<__dj__image>"


class Told:
    """Sure of `long` by the number of letters; notes what it reads."""

    labels = ("short", "long")

    def __init__(self):
        self.read = []

    def classify_texts(self, texts):
        self.read += texts
        return [[1 - min(len(t), 10) / 10, min(len(t), 10) / 10] for t in texts]


def run(op, rows, writer=None, **params):
    model = Told()
    (bound,) = bind([{op: params}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    models = ScriptedModels(others={"c": model, "w": writer})
    batch = Batch(items, Context(models=models))
    found = bound.op.apply(batch) if bound.op.kind == "mapper" else bound.op.measure(batch)[0]
    return found, model


def test_the_probability_of_a_class_is_the_score():
    rows = [{"text": "abc"}, {"text": f"{IMAGE}abcd"}]
    how = {"model": "c", "label": "__label__long", "ignore_special_tokens": True}
    found, model = run("text_quality_classifier_filter", rows, **how)
    assert found == [0.3, 0.4]
    assert model.read == ["abc", "abcd"]
    with pytest.raises(RecipeError, match="label is 'good'; c knows long, short"):
        run("text_quality_classifier_filter", rows, model="c", label="good")


def test_fasttext_models_give_probabilities_of_all_their_labels():
    path = str(_bundled_table())
    rows = [
        {"text": "The cat sits\non the mat."},
        {"text": "Die Katze sitzt da."},
        {"text": "\ud83d"},
    ]
    english, _ = run("text_quality_classifier_filter", rows, model=path, label="en")
    german, _ = run("text_quality_classifier_filter", rows, model=path, label="__label__de")
    assert english[0] > 0.5 > 0.1 > english[1] > 0
    assert german[1] > 0.5 > 0.1 > german[0] > 0
    assert 0 <= english[2] <= 1
    with pytest.raises(RecipeError, match="label is 'good'"):
        run("text_quality_classifier_filter", rows, model=path, label="good")


def test_a_fasttext_file_that_is_none_is_told(tmp_path):
    file = tmp_path / "m.bin"
    with pytest.raises(RecipeError, match="which is no file"):
        bind([{"text_quality_classifier_filter": {"model": str(file), "label": "x"}}])
    file.write_bytes(b"nothing")
    with pytest.raises(RecipeError, match=r"m\.bin"):
        run("text_quality_classifier_filter", [{"text": "x"}], model=str(file), label="x")


def test_a_classifier_of_transformers_is_opened_by_its_folder(tmp_path):
    from tests.inference.tiny_judges import tiny_bert
    from vlforge.inference.local import LocalModels

    folder = tiny_bert(tmp_path / "bert")
    models = LocalModels(device="cpu")
    label = models.classifier(str(folder)).labels[1]
    (bound,) = bind([
        {"text_quality_classifier_filter": {"model": str(folder), "label": label}}])  # fmt: skip
    texts = ["the red cat", "a horse on grass"]
    items = [Item(str(n), n, {"text": text}) for n, text in enumerate(texts)]
    (found,) = bound.op.measure(Batch(items, Context(models=models)))
    wanted = [row[1] for row in models.classifier(str(folder)).classify_texts(texts)]
    assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["intent", "sentiment", "topic"])
def test_questions_are_tagged_with_their_likeliest_class(kind):
    rows = [
        {"query": "why?", "__dj__meta__": {"a": 1}},
        {"query": "what is that?"},
        {"query": " "},
        {"__dj__meta__": {f"query_{kind}_label": "x", f"query_{kind}_score": 1.0}},
    ]
    found, model = run(f"query_{kind}_detection_mapper", rows, hf_model="c")
    assert found[0] == {
        "query": "why?",
        "__dj__meta__": {"a": 1, f"query_{kind}_label": "short", f"query_{kind}_score": 0.6},
    }
    assert found[1]["__dj__meta__"][f"query_{kind}_label"] == "long"
    assert found[2] == Drop("", "no text to ask about", None, "query")
    assert found[3] == rows[3]
    assert model.read == ["why?", "what is that?"]


@pytest.mark.parametrize("translates", [True, False])
def test_chinese_questions_are_translated_before(translates):
    def reply(sample, times):
        if sample.id == "u2#0":
            return Refusal("server refuses")
        return " why is that " if times else ""

    writer = ScriptedWriter(reply)
    writer.translates = translates
    rows = [{"q": "为什么?"}, {"q": "why?"}, {"q": "谁?"}]
    how = {"hf_model": "c", "zh_to_en_hf_model": "w", "query_key": "q", "label_key": "l",
           "score_key": "s"}  # fmt: skip
    found, model = run("query_intent_detection_mapper", rows, writer, **how)
    assert model.read == ["why is that", "why?"]
    assert found[0] == {"q": "为什么?", "__dj__meta__": {"l": "long", "s": 1.0}}
    assert found[2] == Drop("", "server refuses", None, None)
    turns = writer.asked[0].turns
    assert (turns[-1].text == "为什么?") == translates
    assert turns[-1].text.endswith("为什么?")
    assert translates or "from Chinese into English" in turns[-1].text


def test_chinese_questions_stay_where_nothing_translates():
    _, model = run("query_topic_detection_mapper", [{"query": "谁?"}], hf_model="c",
                   zh_to_en_hf_model=None)  # fmt: skip
    assert model.read == ["谁?"]
