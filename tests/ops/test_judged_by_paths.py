"""Judging by models that lie in folders: tiny random ones, in the layouts that users have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.inference.tiny import tiny_folder, tiny_language, tiny_tokenizer
from vlforge.inference.local import LocalModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind

PICTURES = Path(__file__).parent / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE = "<__dj__image>"
ROWS = [{"text": f"{IMAGE} the red cat", "images": [A]}, {"text": f"{IMAGE} grass", "images": [B]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    tiny_language(positions=2048).save_pretrained(out / "lm")
    tiny_tokenizer().save_pretrained(out / "lm")
    tiny_folder(out / "vlm", "v1", positions=2048)
    return out


def run(op, rows, **params):
    (bound,) = bind([{op: params}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    models = LocalModels(device="cpu")
    batch = Batch(items, Context(models=models))
    return (bound.op.apply(batch) if bound.op.kind == "mapper" else bound.op.measure(batch)), models


@pytest.mark.parametrize(
    ("op", "name", "params"),
    [
        ("llm_quality_score_filter", "lm", {"api_or_hf_model": "lm"}),
        ("vlm_quality_score_filter", "vlm", {"model": "vlm"}),
    ],
)
def test_a_model_that_cannot_judge_costs_rows_and_does_not_end_the_run(folder, op, name, params):
    params = {key: str(folder / name) for key in params}
    how = {"try_num": 2, "sampling_params": {"max_tokens": 4}}
    (scores, *_), _ = run(op, ROWS, **params, **how)
    assert [one.reason for one in scores] == ["reply does not follow the format"] * 2


def test_what_a_picture_adds_is_as_the_likelihood_scorer_says(folder):
    path = str(folder / "vlm")
    (found,), models = run(
        "image_caption_likelihood_filter", ROWS, model=path, min_score=0, question=""
    )
    (pair,) = bind([{"image_text_agreement_filter": {"model": path, "min_score": 0}}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(ROWS)]
    (wanted,) = pair.op.measure(Batch(items, Context(models=models)))
    assert [one for (one,) in found] == pytest.approx([one for (one,) in wanted], abs=1e-4)


def test_instruction_difficulty_is_the_ratio_of_the_models_own_losses(folder):
    path = str(folder / "lm")
    rows = [{"q": "what is", "text": "a red cat"}]
    ((ratio,),), models = run(
        "instruction_following_difficulty_filter", rows, hf_model=path, query_template="{q}"
    )
    model, tokenizer = models.loaded(path).model, tiny_tokenizer()

    def loss(before, answer):
        ids = [1, *tokenizer.encode(before), *tokenizer.encode(answer)]
        labels = [-100] * (len(ids) - len(answer.split())) + tokenizer.encode(answer)
        return model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()

    assert ratio == pytest.approx(loss("what is", "a red cat") / loss("", "a red cat"), rel=1e-4)


def test_questions_are_tagged_by_a_classifier_in_a_folder(tmp_path):
    from tests.inference.tiny_judges import tiny_bert

    path = str(tiny_bert(tmp_path / "bert"))
    rows = [{"query": "what is the red cat"}]
    (row,), models = run("query_topic_detection_mapper", rows, hf_model=path)
    classifier = models.classifier(path)
    (chances,) = classifier.classify_texts(["what is the red cat"])
    assert row["__dj__meta__"] == {
        "query_topic_label": classifier.labels[chances.index(max(chances))],
        "query_topic_score": pytest.approx(max(chances), abs=1e-6),
    }
