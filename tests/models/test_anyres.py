"""Tiles against a plain restatement of LLaVA's steps, and against transformers' classes."""

import math

import pytest
import torch
from PIL import Image
from transformers import LlavaOnevisionConfig, LlavaOnevisionModel

from tests.checkpoints import tiny_llava as tiny
from tests.inference.tiny import picture
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts.anyres import (
    BLANK,
    Tiling,
    best_resolution,
    cut_tiles,
    read_pinpoints,
)
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.types import ModelError

PINPOINTS = ((8, 16), (16, 8), (16, 16), (24, 8), (8, 24))
SIZES = [(20, 14), (14, 20), (9, 40), (40, 9), (16, 16), (1, 1), (200, 3), (37, 23)]
CONFIG = {
    "image_aspect_ratio": "anyres",
    "patch_merge": "spatial_unpad",
    "image_grid_pinpoints": list(PINPOINTS),
}


def joined_by_hand(tiles, size, merge, newline, grid):
    """LLaVA's steps, one token after another."""
    side = math.isqrt(tiles.shape[1])
    if merge == "flat":
        return torch.cat(list(tiles))
    across, down = grid
    rows = []
    for y in range(down * side):
        row = []
        for x in range(across * side):
            tile = tiles[1 + (y // side) * across + x // side]
            row.append(tile[(y % side) * side + x % side])
        rows.append(row)
    if merge == "spatial_unpad":
        height, width = len(rows), len(rows[0])
        if size[0] / size[1] > width / height:
            cut = (height - int(size[1] * (width / size[0]))) // 2
            rows = rows[cut : height - cut]
        else:
            cut = (width - int(size[0] * (height / size[1]))) // 2
            rows = [row[cut : width - cut] for row in rows]
        rows = [[*row, newline] for row in rows]
    return torch.stack([*tiles[0], *(token for row in rows for token in row)])


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_joined_as_llava_joins_them(size, merge):
    tiling = Tiling(PINPOINTS, side=8, patches=4, merge=merge)
    torch.manual_seed(0)
    tiles = torch.randn(tiling.tiles(size), 16, 3)
    newline = torch.randn(3) if tiling.has_newline else None
    found = tiling.join(tiles, size, newline)
    assert torch.equal(found, joined_by_hand(tiles, size, merge, newline, tiling.grid(size)))
    assert len(found) == tiling.tokens(size)


def test_a_blank_is_one_tile_and_its_newline():
    tiling = Tiling(PINPOINTS, side=8, patches=4)
    assert (tiling.tiles(BLANK), tiling.tokens(BLANK)) == (1, 17)
    assert len(tiling.join(torch.zeros(1, 16, 3), BLANK, torch.ones(3))) == 17


def test_the_class_token_stays_where_tiles_are_flat_and_is_refused_elsewhere():
    tiling = Tiling(PINPOINTS, 8, 4, merge="flat", extra=1)
    assert tiling.tokens((20, 14)) == tiling.tiles((20, 14)) * 17
    with pytest.raises(ModelError, match="cls_patch does not go with"):
        Tiling(PINPOINTS, 8, 4, extra=1)


def test_of_equal_resolutions_the_first_wins_and_less_black_goes_before():
    assert best_resolution((10, 10), ((8, 16), (16, 8))) == (8, 16)
    assert best_resolution((10, 10), ((16, 8), (8, 16))) == (16, 8)
    assert best_resolution((8, 8), ((16, 16), (8, 16))) == (8, 16)


@pytest.mark.parametrize(
    ("given", "count", "last"),
    [
        ("(1x1),...,(6x6)", 36, (48, 48)),
        ("[(8, 16), [16, 8]]", 2, (16, 8)),
        ([[8, 16]], 1, (8, 16)),
    ],
)
def test_pinpoints_are_read_in_every_form(given, count, last):
    found = read_pinpoints(given, 8)
    assert (len(found), found[-1]) == (count, last)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("(1x2),(2x1)", "no whole number"),  # a range that ends before it begins
        ([[8, 12]], r"\[8, 12\] is no whole number of 8-pixel tiles"),
        ("all", "no pairs of pixels"),
        ([8, 16], "no pairs of pixels"),
        (None, "no pairs of pixels"),
    ],
)
def test_other_pinpoints_are_refused(given, words):
    with pytest.raises(ModelError, match=words):
        read_pinpoints(given, 8)


def test_tiles_cover_the_picture_and_what_is_beside_it_is_black():
    image = Image.new("RGB", (40, 10), (200, 200, 200))
    whole, *tiles = cut_tiles(image, ((16, 8),), 8, Image.Resampling.BICUBIC)
    assert whole.size == (8, 8)
    assert whole.getpixel((0, 0)) == (200, 200, 200)
    assert len(tiles) == 2
    assert tiles[0].getpixel((4, 0)) == (0, 0, 0)
    assert tiles[1].getpixel((4, 4)) == (200, 200, 200)


def test_a_processor_gives_all_tiles_and_reads_its_own_file():
    processor = ImageProcessor(size=8, fit_mode="anyres", pinpoints=PINPOINTS)
    assert processor.fit(picture(0, (30, 9))).shape == (4, 8, 8, 3)
    assert ImageProcessor.from_json(processor.to_json(), "anyres") == processor.__class__(
        size=8, fit_mode="anyres", edge=8, pinpoints=PINPOINTS
    )
    with pytest.raises(ModelError, match="needs image_grid_pinpoints"):
        ImageProcessor(size=8, fit_mode="anyres").fit(picture(0))


def test_gradients_reach_the_newline_and_every_tile():
    model = tiny.model(**CONFIG)
    sizes = [(20, 14), (9, 40)]
    pixels = torch.randn(sum(model.tiling.tiles(size) for size in sizes), 3, 8, 8)
    pixels.requires_grad_(True)
    tokens = model.encode_images(pixels, sizes)
    assert [len(part) for part in tokens] == model.count(sizes)
    torch.cat(tokens).square().sum().backward()
    assert model.image_newline.grad.abs().sum() > 0
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()


def test_sizes_are_asked_for():
    model = tiny.model(**CONFIG)
    with pytest.raises(ModelError, match="give sizes"):
        model(tiny.ids(), torch.randn(4, 3, 8, 8))
    with pytest.raises(ModelError, match="ask count"):
        _ = model.image_tokens
    assert model.needs_sizes
    assert not tiny.model().needs_sizes


def test_a_model_with_tiles_comes_back_from_its_folder(tmp_path):
    model = tiny.model(**CONFIG)
    model.save_pretrained(tmp_path)
    back = LlavaModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(model.tiling.tiles((20, 14)), 3, 8, 8)
    wanted = tiny.logits(model, pixels, [(20, 14)])
    assert torch.equal(tiny.logits(back, pixels, [(20, 14)]), wanted)


def test_a_model_without_tiles_writes_nothing_of_them():
    fields = tiny.model().config.to_dict()
    assert not {"patch_merge", "image_grid_pinpoints", "rounds_tiles", "max_tiles"} & set(fields)


@pytest.mark.parametrize("size", [(24, 24), (47, 31), (9, 40), (31, 8)])
def test_long_maps_are_scaled_down_as_in_transformers_onevision(size):
    pinpoints = [(8 * w, 8 * h) for w in range(1, 4) for h in range(1, 4)]
    theirs = LlavaOnevisionModel(
        LlavaOnevisionConfig(
            vision_config=tiny.TOWERS["siglip"](),
            text_config=tiny.LANGUAGES["llama"](),
            image_grid_pinpoints=[[h, w] for w, h in pinpoints],
            vision_aspect_ratio="anyres_max_2",
        )
    )
    tiling = Tiling(tuple(pinpoints), 8, 2, rounds=True, max_tiles=2)
    torch.manual_seed(0)
    tiles, newline = torch.randn(tiling.tiles(size), 4, 16), torch.randn(16)
    (wanted,), _ = theirs.pack_image_features(
        [tiles], [size[::-1]], newline, vision_aspect_ratio="anyres_max_2"
    )
    found = tiling.join(tiles, size, newline)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert len(found) == tiling.tokens(size)


def test_tiles_need_an_encoder_of_patches():
    from tests.tiny_model import SPEC
    from vlforge.models.parts.small_vision import SmallVisionConfig

    small = SmallVisionConfig.of(SPEC)
    config = LlavaConfig(
        vision_config=small, text_config=tiny.LANGUAGES["llama"](), image_aspect_ratio="anyres"
    )
    with pytest.raises(ModelError, match="needs CLIP or SigLIP"):
        LlavaModel(config)
