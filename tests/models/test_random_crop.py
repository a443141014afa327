"""Boxes as torchvision draws them, and the picture in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vlforge.models.parts.random_crop import CroppingProcessor, random_box


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Boxes that torchvision cuts after torch.manual_seed(seed): left, top, width, height.
@pytest.mark.parametrize(
    ("size", "seed", "box"),
    [
        ((300, 200), 100, (62, 5, 200, 167)),
        ((300, 200), 101, (88, 7, 187, 192)),
        ((300, 200), 102, (11, 6, 188, 161)),
        ((97, 333), 110, (0, 102, 97, 129)),
    ],
)
def test_boxes_are_torchvisions(size, seed, box):
    assert random_box(size, seeded(seed)) == box


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_the_middle_is_taken_where_nothing_fits(size, box):
    assert random_box(size, seeded(0), scale=(0.9, 1.0)) == box


def test_boxes_lie_inside_and_have_the_asked_area():
    generator = seeded(3)
    for _ in range(200):
        left, top, width, height = random_box((64, 48), generator)
        assert 0 <= left <= 64 - width
        assert 0 <= top <= 48 - height
        assert 0.48 <= width * height / (64 * 48) <= 1.02
        assert 0.7 <= width / height <= 1.4


def test_the_same_state_gives_the_same_picture_and_the_next_another():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    processor = CroppingProcessor(24)
    generator = seeded(7)
    first, second = (processor.fit_random(picture, generator) for _ in range(2))
    assert first.shape == (24, 24, 3)
    assert np.array_equal(first, processor.fit_random(picture, seeded(7)))
    assert not np.array_equal(first, second)


def test_a_box_is_cut_and_stretched():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    left, top, width, height = random_box(picture.size, seeded(7))
    part = picture.crop((left, top, left + width, top + height))
    wanted = np.asarray(part.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(CroppingProcessor(24).fit_random(picture, seeded(7)), wanted)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_any_mode_are_made_rgb(mode):
    picture = Image.new("RGB", (30, 20), (200, 10, 10)).convert(mode)
    processor = CroppingProcessor(8)
    assert processor.fit_random(picture, seeded(0)).shape == (8, 8, 3)
    assert processor.fit(picture).shape == (8, 8, 3)
