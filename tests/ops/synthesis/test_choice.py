"""The better of an old text and new captions, by a scorer."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlforge.inference.scripted import ScriptedCaptioner, ScriptedModels, ScriptedScorer
from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.choice import CaptionChoiceMapper
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Caption, Drop, RecipeError, Refusal

PICTURES = Path(__file__).parents[1] / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"


def run(text, images, scores, captions=None, **params):
    captions = captions or {A: ["new a", "other a"], B: ["new b"]}
    models = ScriptedModels(
        {"captioner": ScriptedCaptioner.of_files(captions)}, {"judge": ScriptedScorer(scores)}
    )
    batch = Batch([Item("u", 1, {"text": text, "images": images})], Context(models=models))
    op = CaptionChoiceMapper(hf_img2seq="captioner", scorer="judge", **params)
    (result,) = op.apply(batch)
    return result


def test_the_caption_replaces_a_text_that_agrees_less():
    grown = run(f"{IMAGE} old {EOC}", [A], {"old": 0.2, "new a": 0.3})
    (row,) = grown.rows
    assert row["text"] == f"{IMAGE} new a {EOC}"
    assert grown.stats == ({"caption_agreement": [0.3], "caption_confidence": [0.0]},)
    assert row[PROVENANCE][0]["scorer"] == "judge"


def test_the_old_text_stays_where_it_agrees_as_well():
    grown = run(f"{IMAGE} old {EOC}", [A], {"old": 0.3, "new a": 0.3})
    assert grown.rows[0] == {"text": f"{IMAGE} old {EOC}", "images": [A]}
    assert grown.stats[0]["caption_agreement"] == [0.3]


def test_a_caption_has_to_win_by_min_gain():
    scores = {"old": 0.2, "new a": 0.3, "other a": 0.9}
    assert "old" in run(f"{IMAGE} old", [A], scores, min_gain=0.2).rows[0]["text"]
    best = run(f"{IMAGE} old", [A], scores, min_gain=0.2, caption_num=2)
    assert best.rows[0]["text"] == f"{IMAGE} other a "
    # The surest caption is told of, whichever text won.
    assert best.stats == ({"caption_agreement": [0.9], "caption_confidence": [0.0]},)


def test_the_old_text_need_not_compete():
    grown = run(f"{IMAGE} old", [A], {"old": 0.9}, keep_original=False)
    assert grown.rows[0]["text"] == f"{IMAGE} new a "


def test_each_chunk_has_its_own_choice_and_several_pictures_stay():
    text = f"{IMAGE} first {EOC}words{EOC}{IMAGE}{IMAGE} both {EOC}{IMAGE} last "
    scores = {"first": 0.9, "new b": 0.5, "last": 0.1}
    grown = run(text, [A, A, B, B], scores)
    assert grown.rows[0]["text"] == (
        f"{IMAGE} first {EOC}words{EOC}{IMAGE}{IMAGE} both {EOC}{IMAGE} new b "
    )
    assert grown.stats[0]["caption_agreement"] == [0.9, 0.5]


def test_rows_without_a_picture_stay():
    assert run("words", [], {}) == {"text": "words", "images": []}


def test_what_cannot_be_captioned_is_dropped():
    drop = run(f"{IMAGE} a", ["gone.jpg"], {})
    assert isinstance(drop, Drop)
    assert "gone.jpg" in drop.value
    drop = run(f"{IMAGE}{IMAGE} a", [A], {})
    assert drop.reason == "image tokens do not match images"


def test_no_caption_is_refused():
    with pytest.raises(RecipeError, match="caption_num is 0"):
        CaptionChoiceMapper(hf_img2seq="c", scorer="s", caption_num=0)
    assert isinstance(run(f"{IMAGE} old", [A], {}), Grown)


def test_a_picture_that_a_server_refuses_costs_its_row():
    class Refusing:
        def caption(self, images, prompts, count, keys):
            refused = Refusal("unsafe", "400")
            return [refused if i.width == 300 else [Caption("new", 0.0)] for i in images]

    models = ScriptedModels({"captioner": Refusing()}, {"judge": ScriptedScorer({"new": 1.0})})
    both = {"text": f"{IMAGE} old {EOC}{IMAGE} old", "images": [A, B]}
    rows = [both, {"text": f"{IMAGE} old {EOC}", "images": [A]}]
    items = [Item(str(n), n, row) for n, row in enumerate(rows)]
    op = CaptionChoiceMapper(hf_img2seq="captioner", scorer="judge")
    drop, grown = op.apply(Batch(items, Context(models=models)))
    assert drop == Drop("", "unsafe", None, "400", None)
    assert grown.rows[0]["text"] == f"{IMAGE} new {EOC}"
