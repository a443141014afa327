"""Operators with a model: captions go where they belong, scores per chunk, seeds per row."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Caption, Drop

PICTURES = Path(__file__).parent / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"


class Told:
    """A captioner and scorer that notes what it is asked."""

    def __init__(self):
        self.keys = []
        self.prompts = []
        self.sizes = []
        self.texts = []

    def captioner(self, path):
        return self

    def scorer(self, path):
        return self

    def caption(self, images, prompts, count, keys):
        self.keys += keys
        self.prompts += prompts
        self.sizes.append(len(images))
        return [[Caption(f"{i.width} {'abc'[k]}", -k) for k in range(count)] for i in images]

    def score(self, images, texts):
        self.texts += texts
        return [image.width / 1000 for image in images]


def run(op: str, rows, seed: int = 0, **params):
    (bound,) = bind([{op: params}])
    told = Told()
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    batch = Batch(items, Context(seed=seed, models=told))
    kind = bound.op.kind
    return (bound.op.apply(batch) if kind == "mapper" else bound.op.measure(batch)[0]), told


def row(text: str, *images: str, **more):
    return {"text": text, "images": list(images), **more}


def test_each_caption_follows_its_own_picture():
    rows = [row(f"{IMAGE}{IMAGE} both {EOC} no picture {EOC}{IMAGE} x", A, B, A)]
    (grown,), _ = run("image_captioning_mapper", rows, keep_original_sample=False)
    assert isinstance(grown, Grown)
    assert not grown.keeps_original
    text = grown.rows[0]["text"]
    assert text == f"{IMAGE} 200 a {IMAGE} 300 a {EOC}{EOC}{IMAGE} 200 a {EOC}"
    assert grown.stats[0] == {"caption_confidence": [0, 0, 0]}


def test_a_mode_that_takes_all_makes_a_row_of_each():
    (grown,), _ = run("image_captioning_mapper", [row(IMAGE, A)], caption_num=3,
                      keep_candidate_mode="all")  # fmt: skip
    assert [r["text"] for r in grown.rows] == [f"{IMAGE} 200 {c} {EOC}" for c in "abc"]


def test_choice_and_keys_depend_on_seed_and_row_not_on_neighbours():
    rows = [row(IMAGE, A) for _ in range(12)]
    texts = {}
    for seed in (0, 0, 1):
        grown, told = run("image_captioning_mapper", rows, seed, caption_num=3, gpu_batch_size=5)
        again = [g.rows[0]["text"] for g in grown]
        assert texts.setdefault(seed, (again, told.keys)) == (again, told.keys)
        assert told.sizes == [5, 5, 2]
    assert len(set(texts[0][1])) == 12
    assert texts[0][1] != texts[1][1]
    assert texts[0][0] != texts[1][0]


def test_a_row_asks_with_its_own_prompt_or_the_common_one():
    rows = [row(IMAGE, A, q="Why?"), row(IMAGE, A, q=3)]
    _, told = run("image_captioning_mapper", rows, prompt="Say:", prompt_key="q")
    assert told.prompts == ["Why?", "Say:"]


def test_rows_that_cannot_be_captioned_say_why():
    rows = [row(IMAGE), row(IMAGE, "gone.jpg"), row("no picture"),
            row(IMAGE, str(PICTURES / "truncated.jpg")), row(IMAGE, A)]  # fmt: skip
    found, told = run("image_captioning_mapper", rows, keep_original_sample=False)
    assert [f.reason for f in found if isinstance(f, Drop)] == [
        "image tokens do not match images", "missing image", "no image to caption",
        "truncated image"]  # fmt: skip
    assert isinstance(found[4], Grown)
    assert told.sizes == [1]


def test_a_row_without_pictures_stays_beside_captions():
    (grown,), _ = run("image_captioning_mapper", [row("no picture")])
    assert grown == Grown(True)


@pytest.mark.parametrize(("mode", "score"), [("avg", 0.25), ("max", 0.3), ("min", 0.2)])
def test_scores_are_per_chunk_without_special_tokens(mode, score):
    rows = [row(f"{IMAGE}{IMAGE} two things {EOC}alone {EOC}{IMAGE}\none {EOC}{IMAGE} {EOC}", A, B,
                B, A), row("nothing")]  # fmt: skip
    found, told = run("image_text_matching_filter", rows, reduce_mode=mode)
    assert found == [[pytest.approx(score), 0.3], []]
    assert told.texts == ["two things", "two things", "one"]


def test_a_pair_that_cannot_be_scored_costs_its_row_only():
    rows = [row(f"{IMAGE} x", "gone.jpg"), row(f"{IMAGE} y", A), row(f"{IMAGE} z")]
    found, told = run("image_text_agreement_filter", rows, model="m", min_score=0.1)
    assert [getattr(f, "reason", f) for f in found] == [
        "missing image", [0.2], "image tokens do not match images"]  # fmt: skip
    assert told.texts == ["y"]
