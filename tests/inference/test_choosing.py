"""Choosing by a tiny CLIP that is opened by path: the same rows whatever the processes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.engine.made import config, contents, lines, write_rows
from tests.inference.tiny_judges import tiny_clip
from vlforge.engine.local import run_process
from vlforge.inference.local import LocalModels

COUNT = 40


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A folder with a CLIP and rows whose pictures are those of ten, some with other noise."""
    folder = tmp_path_factory.mktemp("pool")
    tiny_clip(folder / "clip")
    rows = []
    for at in range(COUNT):
        draw = np.random.default_rng(at % 10)
        coarse = draw.integers(0, 255, size=(4, 4, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((40, 40), Image.Resampling.NEAREST)
        if at >= 20:
            image = image.point(lambda level: min(255, level + 1))
        image.save(folder / f"{at}.png")
        rows.append({"id": at, "text": f"<__dj__image> cat {at}", "images": [f"{at}.png"]})
    write_rows(folder / "pool.jsonl", rows)
    return folder


def kept(pool, out, *process, **how):
    settings = config(pool / "pool.jsonl", *process, **how)
    run_process(settings, out, models=LocalModels(device="cpu"), workers=2)
    return [row["id"] for row in lines(out / "data.jsonl")]


def test_near_copies_go_and_the_budget_is_met_with_any_number_of_model_processes(pool, tmp_path):
    clip = {"hf_clip": str(pool / "clip")}
    process = (
        {"image_text_similarity_filter": {**clip, "min_score": -1.0}},
        {"semantic_deduplicator": {**clip, "eps": 0.001, "which_to_keep": "first"}},
        {"k_center_selector": {**clip, "num": 6}},
    )
    found = kept(pool, tmp_path / "one", *process)
    assert len(found) == 6
    assert set(found) <= set(range(10))
    assert kept(pool, tmp_path / "two", *process, model_workers=2) == found
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_quality_that_a_model_measured_weighs_and_balances(pool, tmp_path):
    clip = {"hf_clip": str(pool / "clip")}
    quality = "__dj__stats__.image_text_similarity"
    found = kept(
        pool,
        tmp_path / "out",
        {"image_text_similarity_filter": {**clip, "min_score": -1.0}},
        {"cluster_balanced_selector": {**clip, "num": 10, "n_clusters": 10, "pick": "quality",
                                       "quality_key": quality}},
    )  # fmt: skip
    assert len(found) == 10
    assert len({at % 10 for at in found}) >= 8
