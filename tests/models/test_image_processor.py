import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlforge.models.parts.image_processor import (
    ImageProcessor,
    expand_to_square,
    small_processor,
)
from vlforge.types import ModelError


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(processor: ImageProcessor, image: Image.Image) -> torch.Tensor:
    return processor.normalise(torch.tensor(processor.fit(image))[None])[0]


@pytest.mark.parametrize("size", [(56, 56), (80, 57), (57, 80), (31, 200), (20, 33), (1, 9)])
def test_square_equals_transformers(size):
    processor = ImageProcessor(size=28)
    theirs = CLIPImageProcessorPil(**processor.to_json())(noise(*size), return_tensors="np")
    found = pixels(processor, noise(*size)).numpy()
    np.testing.assert_allclose(found, theirs["pixel_values"][0], atol=2e-6)


def test_an_edge_longer_than_the_crop_equals_transformers():
    processor = ImageProcessor(size=28, edge=40)
    theirs = CLIPImageProcessorPil(**processor.to_json())(noise(90, 61), return_tensors="np")
    found = pixels(processor, noise(90, 61)).numpy()
    np.testing.assert_allclose(found, theirs["pixel_values"][0], atol=2e-6)


def test_stretch_equals_transformers():
    processor = small_processor(32)
    theirs = CLIPImageProcessorPil(**processor.to_json())(noise(90, 61), return_tensors="np")
    found = pixels(processor, noise(90, 61)).numpy()
    np.testing.assert_allclose(found, theirs["pixel_values"][0], atol=2e-6)
    assert found.min() >= -1
    assert found.max() <= 1


def test_padding_puts_the_picture_in_the_middle_of_the_mean_colour():
    square = expand_to_square(noise(7, 4), (122, 116, 104))
    assert square.size == (7, 7)
    assert np.array_equal(np.asarray(square)[1:5], np.asarray(noise(7, 4)))
    assert np.asarray(square)[0, 0].tolist() == [122, 116, 104]
    padded = ImageProcessor(size=7, fit_mode="pad").fit(noise(7, 4))
    assert np.array_equal(padded, np.asarray(square))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_modes_become_rgb(mode):
    assert small_processor(8).fit(noise(9, 9).convert(mode)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(size=28),
        ImageProcessor(size=28, edge=40, fit_mode="pad"),
        small_processor(16),
    ],
)
def test_the_file_gives_the_processor_back(processor):
    fields = json.loads(json.dumps(processor.to_json()))
    back = ImageProcessor.from_json(fields, processor.fit_mode)
    assert np.array_equal(back.fit(noise(50, 30)), processor.fit(noise(50, 30)))
    assert torch.equal(pixels(back, noise(50, 30)), pixels(processor, noise(50, 30)))


def test_sides_that_are_not_equal_are_refused():
    fields = {"size": {"height": 8, "width": 9}, "do_center_crop": False}
    with pytest.raises(ModelError, match="do not give square pictures"):
        ImageProcessor.from_json(fields)
