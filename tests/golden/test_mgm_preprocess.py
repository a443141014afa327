"""Mini-Gemini's pictures: the high-resolution pixels, the views made of them, ids and labels."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from vlforge.models.mgm import low_views
from vlforge.models.parts.image_processor import CLIP_MEAN, CLIP_STD, ImageProcessor
from vlforge.text.encode import encode_turns
from vlforge.text.templates import find_template
from vlforge.text.tokenizers import load_tokenizer
from vlforge.types import Turn

GOLDEN = {
    "whole_file": "mgm/preprocess/*_g[0-9]*.safetensors",
    "strided_file": "mgm/preprocess/*strided*.safetensors",
    "meta_file": "mgm/preprocess/meta.json",
}
ROLES = {"human": "user", "gpt": "assistant"}


def fitted(folder: Path, name: str, size: int, ratio: str) -> np.ndarray:
    """The picture as the processor leaves it, uint8."""
    with Image.open(next(folder.glob(f"images/{name}.*"))) as image:
        return ImageProcessor(size=size, edge=size, fit_mode=ratio).fit(image)


def pixels_of(picture: np.ndarray) -> torch.Tensor:
    processor = ImageProcessor(size=picture.shape[0])
    return processor.normalise(torch.tensor(picture)[None])


def exact_pixels(picture: np.ndarray) -> torch.Tensor:
    """The same numbers rounded where the reference's processor rounds them."""
    scaled = (picture.astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(values, dtype=np.float32) for values in (CLIP_MEAN, CLIP_STD))
    return torch.tensor(((scaled - mean) / std).transpose(2, 0, 1))[None].contiguous()


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def near(found: torch.Tensor, wanted: torch.Tensor):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def settings(case: str, meta: dict) -> dict:
    """What a case was made with; the cases of real sizes say it in their names."""
    if f"{case}/config" in meta:
        return meta[f"{case}/config"]
    low, high, ratio, grid = re.fullmatch(r"real_(\d+)_(\d+)_([a-z]+)(?:_g(\d+))?.*", case).groups()
    grid = int(grid or 1)
    return {
        "image_size_raw": int(low) // grid,
        "image_size_aux": int(high),
        "image_aspect_ratio": ratio,
        "image_grid": grid,
        "image_global": case.endswith("_global"),
    }


def both(folder: Path, name: str, how: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Views and high-resolution pixels of a picture."""
    high = pixels_of(fitted(folder, name, how["image_size_aux"], how["image_aspect_ratio"]))
    return views_of(high, how), high[0]


def views_of(high: torch.Tensor, how: dict) -> torch.Tensor:
    views = low_views(high, how["image_size_raw"], how["image_grid"], how["image_global"])[0]
    return views[0] if len(views) == 1 else views


def test_pixels_are_the_references(whole_file: Path):
    meta = json.loads(whole_file.with_name("meta.json").read_text(encoding="utf-8"))
    golden, how = load_file(whole_file), settings(whole_file.stem, meta)
    names = [key.removesuffix(".image") for key in golden if key.endswith(".image")]
    assert names
    for name in names:
        if golden[f"{name}.image"].numel() == 1:
            continue  # a sample without a picture
        views, high = both(whole_file.parent, name, how)
        near(views, golden[f"{name}.image"])
        if f"{name}.image_aux" in golden:
            near(high, golden[f"{name}.image_aux"])


def test_pixels_of_real_sizes_are_the_references(strided_file: Path):
    golden = load_file(strided_file)
    meta = json.loads(strided_file.with_name("meta.json").read_text(encoding="utf-8"))
    for key, wanted in golden.items():
        case, name, which = key.split(".")
        views, high = both(strided_file.parent, name, settings(case, meta))
        near((views[..., 5::37, 3::37] if which == "image" else high[..., 7::97, 11::97]), wanted)
    assert golden


def test_pictures_are_the_references_to_the_bit(meta_file: Path):
    meta = json.loads(meta_file.read_text(encoding="utf-8"))
    seen = 0
    for key, facts in meta.items():
        case, _, name = key.partition("/")
        if not isinstance(facts, dict) or "aux_sha256" not in facts:
            continue
        how = settings(case, meta)
        found = list(meta_file.parent.glob(f"images/{name}.*"))
        if not found:
            side = how["image_size_aux"]
            assert digest(torch.zeros(3, side, side)) == facts["aux_sha256"]
            continue
        picture = fitted(meta_file.parent, name, how["image_size_aux"], how["image_aspect_ratio"])
        high = exact_pixels(picture)
        assert digest(high[0]) == facts["aux_sha256"], key
        assert digest(views_of(high, how)) == facts["image_sha256"], key
        seen += 1
    assert seen


def test_ids_labels_and_their_batch_are_the_references(whole_file: Path):
    golden, folder = load_file(whole_file), whole_file.parent
    tokenizer = load_tokenizer(folder.parent / "tokenizers" / "gemma_spm")
    rows = []
    for row in json.loads((folder / "data.json").read_text(encoding="utf-8")):
        turns = tuple(Turn(ROLES[t["from"]], t["value"]) for t in row["conversations"])
        images = len(np.atleast_1d(row["image"])) if "image" in row else 0
        got = encode_turns(
            find_template("gemma"), tokenizer, turns, max_length=None, compat="mgm", images=images
        )
        assert got.ids == golden[f"{row['id']}.input_ids"].tolist()
        assert got.labels == golden[f"{row['id']}.labels"].tolist()
        rows.append((torch.tensor(got.ids), torch.tensor(got.labels)))
    if "collated.input_ids" not in golden:
        return
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    chosen = [rows[number] for number in meta["collated"]["items"]]
    for name, place, filler in (("input_ids", 0, tokenizer.pad_token_id), ("labels", 1, -100)):
        padded = torch.nn.utils.rnn.pad_sequence([r[place] for r in chosen], True, filler)
        assert torch.equal(padded, golden[f"collated.{name}"])
