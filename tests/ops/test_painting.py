"""Drawn variants: words, seeds, refusals with a bound, sizes, files and provenance."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.engine.made import config, contents, lines, write_picture, write_rows
from vlforge.data.images import load_rgb
from vlforge.engine.local import run_process
from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.image.copies import SOURCE_FILES
from vlforge.types import Caption, Drop, RecipeError, Refusal

OP = "image_diffusion_mapper"


class Painter:
    """Fills a picture with a colour made of its key; refuses words for some tries."""

    def __init__(self, refuses: int = 0):
        self.refuses = refuses
        self.asked: list[tuple[str, int]] = []
        self.how: dict = {}

    def paint(self, images, prompts, keys, **how):
        """One picture or refusal each."""
        self.how = how
        found = []
        for image, prompt, key in zip(images, prompts, keys, strict=True):
            self.asked.append((prompt, key))
            times = sum(prompt == words for words, _ in self.asked)
            if "naked" in prompt and times <= self.refuses:
                found.append(Refusal("refused by the safety checker"))
            else:
                found.append(Image.new("RGB", image.size, (key & 255, key >> 8 & 255, 7)))
        return found


class Captioner:
    """Says how wide a picture is."""

    def caption(self, images, prompts, count, keys):
        """One caption each."""
        assert set(prompts) == {"A photo of a"}
        return [
            Refusal("no words") if image.width > 90 else [Caption(f"thing {image.width} wide", 0.0)]
            for image in images
        ]


def painted(tmp_path, rows, painter=None, seed=0, **keys):
    painter = painter or Painter()
    models = ScriptedModels(captioners={"cap": Captioner()}, others={"sd": painter})
    (bound,) = bind([{OP: {"hf_diffusion": "sd", "hf_img2seq": "cap", **keys}}])
    items = [Item(f"u{row.get('id', n)}", n, row) for n, row in enumerate(rows)]
    context = Context(models=models, produced=str(tmp_path / "produced"), seed=seed)
    return bound.op.apply(Batch(items, context)), painter, items


@pytest.fixture
def picture(tmp_path):
    return str(write_picture(tmp_path / "a.png", (50, 40)))


def test_variants_follow_the_row_with_their_files_sizes_and_provenance(tmp_path, picture):
    row = {"id": 1, "text": "<__dj__image> x", "images": [picture]}
    (grown,), painter, _ = painted(tmp_path, [row], aug_num=2, strength=0.5)
    assert isinstance(grown, Grown)
    assert grown.keeps_original
    for new in grown.rows:
        assert load_rgb(new["images"][0]).size == (50, 40)
        assert Path(new["images"][0]).parent == tmp_path / "produced" / OP
        assert new[SOURCE_FILES] == [picture]
        assert new["text"] == row["text"]
        assert new["provenance"] == [{"op": OP, "source": "u1", "model": "sd", "seed": 0,
                                      "words": ["A photo of a thing 50 wide"],
                                      "strength": 0.5}]  # fmt: skip
    assert len({new["images"][0] for new in grown.rows}) == 2
    assert painter.how == {"strength": 0.5, "guidance_scale": 7.5, "steps": 50, "dtype": "fp32",
                           "is_square": False}  # fmt: skip


def test_captions_of_the_row_tell_what_to_draw_and_missing_ones_cost_the_row(tmp_path, picture):
    rows = [{"images": [picture], "c": "one"}, {"images": [picture] * 2, "c": ["two", "three"]},
            {"images": [picture] * 2, "c": ["four"]}, {"images": [picture]}, {"images": []},
            {"images": ["gone.png"], "c": "five"}]  # fmt: skip
    found, painter, _ = painted(tmp_path, rows, caption_key="c")
    assert [words for words, _ in painter.asked] == ["one", "two", "three"]
    assert [one.reason for one in found if isinstance(one, Drop)] == [
        "no caption for each picture", "no caption for each picture", "missing image"]  # fmt: skip
    assert found[4] == {"images": []}
    assert len(found[1].rows[0]["images"]) == 2


def test_a_picture_without_a_caption_costs_its_row(tmp_path, picture):
    wide = str(write_picture(tmp_path / "wide.png", (99, 40)))
    rows = [{"images": [picture, wide]}, {"images": [picture]}]
    (dropped, grown), painter, _ = painted(tmp_path, rows)
    assert dropped.reason == "no words"
    assert len(grown.rows) == len(painter.asked) == 1


def test_noise_depends_on_seed_row_variant_and_picture_alone(tmp_path, picture):
    rows = [{"id": n, "images": [picture] * 2} for n in range(4)]
    _, all_, _ = painted(tmp_path, rows, aug_num=2)
    _, some, _ = painted(tmp_path, rows[2:3], aug_num=2)
    assert len({key for _, key in all_.asked}) == 16
    assert {key for _, key in some.asked} < {key for _, key in all_.asked}
    _, other, _ = painted(tmp_path, rows, aug_num=2, seed=1)
    assert not {key for _, key in other.asked} & {key for _, key in all_.asked}


def test_refused_pictures_are_tried_again_with_a_bound(tmp_path, picture):
    rows = [{"images": [picture], "c": "naked truth"}, {"images": [picture], "c": "a cup"}]
    found, painter, items = painted(tmp_path, rows, Painter(2), caption_key="c")
    assert len(found[0].rows) == len(found[1].rows) == 1
    assert len({key for words, key in painter.asked if words == "naked truth"}) == 3
    found, painter, items = painted(tmp_path, rows, Painter(99), caption_key="c", try_num=4)
    assert found[0] == Grown(True)
    assert items[0].stats == {"diffusion_refused": 1}
    assert items[1].stats == {}
    assert len(painter.asked) == 5
    found, _, _ = painted(tmp_path, rows, Painter(99), caption_key="c", keep_original_sample=False)
    assert found[0].reason == "refused by the safety checker"
    assert not found[1].keeps_original


def test_workers_change_nothing_and_rows_without_pictures_stay(tmp_path, picture):
    rows = [{"id": str(n), "text": "x", "images": [picture] * (n % 3)} for n in range(12)]
    keys = {"hf_diffusion": "sd", "hf_img2seq": "cap", "save_dir": str(tmp_path / "made")}
    settings = config(write_rows(tmp_path / "a.jsonl", rows), {OP: keys})
    found = []
    for workers in (1, 2):
        models = ScriptedModels(captioners={"cap": Captioner()}, others={"sd": Painter()})
        run_process(settings, tmp_path / f"o{workers}", models=models, workers=workers)
        found.append(contents(tmp_path / f"o{workers}"))
    assert found[0] == found[1]
    assert len(lines(tmp_path / "o1" / "data.jsonl")) == 12 + 8


@pytest.mark.parametrize(("keys", "said"), [
    ({"strength": 0.0}, "strength is 0"),
    ({"strength": 0.1, "steps": 5}, "draw nothing"),
    ({"aug_num": 0}, "1 or more"),
])  # fmt: skip
def test_keys_that_make_no_sense_are_refused(keys, said):
    with pytest.raises(RecipeError, match=said):
        bind([{OP: keys}])
