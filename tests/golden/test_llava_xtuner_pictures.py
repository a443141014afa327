"""LLaVA's pictures: pixels of every way to fit one, tiles, and the map without its border."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vlforge.models.parts.anyres import DEFAULT_TILES, Tiling, best_resolution
from vlforge.models.parts.image_processor import ImageProcessor

GOLDEN = {
    "pixels_golden": "llava_xtuner/image_preprocess/golden.safetensors",
    "numbers_golden": "llava_xtuner/image_preprocess/golden.json",
}
SIDE, PATCHES = 336, 24
PINPOINTS = tuple((w * SIDE, h * SIDE) for w, h in DEFAULT_TILES)


def pixels(processor: ImageProcessor, golden: Path, name: str) -> torch.Tensor:
    path = next(golden.parents[1].glob(f"images/**/{name.rsplit('/', 1)[-1]}"))
    with Image.open(path) as image:
        fitted = torch.tensor(processor.fit(image))
    return processor.normalise(fitted.reshape(-1, processor.size, processor.size, 3))


def test_pixels_are_the_references(pixels_golden: Path):
    golden = load_file(pixels_golden)
    modes = set()
    for key, wanted in golden.items():
        name, mode = key.rsplit(".", 1)
        size = wanted.shape[-1]
        pinpoints = tuple((w * size, h * size) for w, h in DEFAULT_TILES)
        processor = ImageProcessor(size=size, fit_mode=mode, pinpoints=pinpoints)
        found = pixels(processor, pixels_golden, name)
        wanted = wanted.reshape(-1, 3, size, size)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        modes.add(mode)
    assert modes == {"pad", "square", "anyres"}


def test_padded_pixels_at_full_size_are_the_references(numbers_golden: Path):
    for case in json.loads(numbers_golden.read_text(encoding="utf-8"))["files"]:
        processor = ImageProcessor(size=SIDE, fit_mode="pad")
        found = pixels(processor, numbers_golden, case["file"])[0].double()
        assert found.sum().item() == pytest.approx(case["pad336_sum"], rel=1e-4, abs=5)
        assert found.abs().sum().item() == pytest.approx(case["pad336_abs_sum"], rel=1e-5)
        step = round((found.numel() / 3 / (len(case["pad336_probe"]) / 3)) ** 0.5)
        probe = found[:, ::step, ::step].flatten().tolist()
        assert probe == pytest.approx(case["pad336_probe"], abs=1e-5)


def test_resolutions_and_grids_are_the_references(numbers_golden: Path):
    cases = json.loads(numbers_golden.read_text(encoding="utf-8"))["select_best_resolution"]
    tiling = Tiling(PINPOINTS, SIDE, PATCHES)
    for case in cases:
        size = tuple(case["size"])
        assert list(best_resolution(size, PINPOINTS)) == case["best"]
        assert list(tiling.grid(size)) == case["grid"]
    assert cases


def test_maps_without_their_border_are_the_references(numbers_golden: Path):
    cases = json.loads(numbers_golden.read_text(encoding="utf-8"))["unpad"]
    for case in cases:
        height, width = (side // PATCHES for side in case["feat_hw"])
        tiling = Tiling(((width * SIDE, height * SIDE),), SIDE, PATCHES)
        size = tuple(case["size"])
        rows, columns = case["out_hw"]
        assert tiling.tokens(size) == PATCHES**2 + rows * (columns + 1)
        tiles = torch.zeros(1 + width * height, PATCHES**2, 1)
        assert len(tiling.join(tiles, size, torch.zeros(1))) == tiling.tokens(size)
    assert cases
