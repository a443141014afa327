"""Pairs of pictures for pairs of captions: files, provenance, seeds and refusals."""

from __future__ import annotations

import pytest
from PIL import Image

from vlforge.data.images import load_rgb
from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop, RecipeError, Refusal

OP = "sdxl_prompt2prompt_mapper"


class Painter:
    """A red half and a blue half; holds back as often as told."""

    def __init__(self, refuses: int = 0):
        self.refuses = refuses
        self.asked: list = []

    def paint(self, images, prompts, keys, **how):
        """One picture of two halves."""
        self.asked.append((prompts[0], how["second"], keys[0]))
        if len(self.asked) <= self.refuses:
            return [Refusal("held back")]
        both = Image.new("RGB", (40, 10), "red")
        both.paste("blue", (20, 0, 40, 10))
        return [both]


def made(tmp_path, rows, painter, **keys):
    (bound,) = bind([{OP: {"hf_diffusion": "xl", "text_key_second": "other", **keys}}])
    items = [Item(f"u{n}", n, row) for n, row in enumerate(rows)]
    models = ScriptedModels(others={"xl": painter})
    return bound.op.apply(Batch(items, Context(models=models, produced=str(tmp_path))))


def test_a_row_gets_the_paths_of_both_pictures(tmp_path):
    painter = Painter()
    rows = [{"text": "<__dj__image> a cake <|__dj__eoc|>", "other": "a pie"}, {"text": "x"}]
    row, dropped = made(tmp_path, rows, painter)
    assert painter.asked[0][:2] == ("a cake", "a pie")
    for name, colour in (("image_path1", (254, 0, 0)), ("image_path2", (0, 0, 254))):
        image = load_rgb(row[name])
        assert image.size == (20, 10)
        assert image.getpixel((3, 3)) == pytest.approx(colour, abs=3)
    assert row["provenance"] == [{"op": OP, "source": "u0", "model": "xl", "seed": 0}]
    assert isinstance(dropped, Drop)
    assert (dropped.reason, dropped.stat) == ("no pair of captions", "other")


def test_what_is_held_back_is_tried_again_with_a_bound(tmp_path):
    rows = [{"text": "a", "other": "b"}]
    painter = Painter(refuses=2)
    (row,) = made(tmp_path, rows, painter)
    assert "image_path1" in row
    assert len({key for *_, key in painter.asked}) == 3
    (dropped,) = made(tmp_path, rows, Painter(refuses=9))
    assert dropped.reason == "held back"


def test_the_second_field_must_be_named():
    with pytest.raises(RecipeError, match="needs text_key_second"):
        bind([{OP: {}}])
