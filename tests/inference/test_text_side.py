"""A model without its weights counts and encodes as the model with them does."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoints.test_minigpt4 import laid_out
from tests.models.tiny_native import qwen
from tests.tiny_mgm import mgm, write_towers
from tests.tiny_model import write_data, write_parts
from tests.tiny_qwen import published
from vlforge.data.detect import read_samples
from vlforge.inference.text_side import open_text_side
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble, write_folder
from vlforge.training.config import TokenizerConfig
from vlforge.training.tokenizer import train_tokenizer
from vlforge.types import DataError, ModelError, RecipeError


def llava(folder: Path, data: Path) -> tuple[ModelSpec, str]:
    vision, language = write_parts(folder, data)
    return ModelSpec(vision=str(vision), language=str(language)), "vicuna"


def tiles(folder: Path, data: Path) -> tuple[ModelSpec, str]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from tests.tiny_model import CLIP

    _, language = write_parts(folder, data)
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(folder / "clip")
    how = {"image_aspect_ratio": "anyres", "patch_merge": "spatial_unpad"}
    grids = ((8, 16), (16, 8), (16, 16))
    parts = {"vision": str(folder / "clip"), "language": str(language)}
    return ModelSpec(**parts, **how, image_grid_pinpoints=grids), "vicuna"


def minigpt4(folder: Path, data: Path) -> tuple[ModelSpec, str]:
    words = folder / "words"
    facts = train_tokenizer(TokenizerConfig(data=(str(data),), extra_words=("Human",)), words)
    files = laid_out(folder / "files", vocab_size=facts["vocabulary"])
    spec = ModelSpec(
        family="minigpt4",
        vision=str(files / "eva_vit_g.pth"),
        qformer=str(files / "blip2_pretrained_flant5xxl.pth"),
        language=str(files / "vicuna"),
        tokenizer=str(words),
    )
    return spec, "minigpt4"


def qwen_vl(folder: Path, data: Path) -> tuple[ModelSpec, str]:
    path = str(published(folder / "qwen"))
    return ModelSpec(vision=path, language=path, family="qwen_vl"), "mgen_vl"


def mini_gemini(folder: Path, data: Path) -> tuple[ModelSpec, str]:
    low, high = write_towers(folder, mgm())
    _, language = write_parts(folder, data)
    parts = {"vision": str(low), "vision_high": str(high), "language": str(language)}
    return ModelSpec(family="mgm", **parts, image_size_high=64), "vicuna"


FAMILIES = {
    "llava": llava, "tiles": tiles, "mgm": mini_gemini, "minigpt4": minigpt4, "qwen_vl": qwen_vl,
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def made(request, tmp_path):
    data = write_data(tmp_path, rows=2)
    Image.new("RGB", (40, 12)).save(tmp_path / "images/1.png")  # of another shape
    (tmp_path / "qwen").mkdir()
    return tmp_path, data, *FAMILIES[request.param](tmp_path, data)


def test_parts_encode_as_the_model_that_they_make(made):
    folder, data, spec, template = made
    samples = list(read_samples(data))
    side = open_text_side(spec, template)
    whole = assemble(spec)
    found = [side.encode(sample, 700) for sample in samples]
    wanted = [
        whole.model.encode(sample, side.template, whole.tokenizer, 700, sizes=side.sizes(sample))
        for sample in samples
    ]
    assert found == wanted
    assert all(row.image_spans and not row.problem for row in found)
    write_folder(whole, folder / "out")
    again = open_text_side(folder / "out", template)
    assert [again.encode(sample, 700) for sample in samples] == wanted


def test_a_native_model_encodes_with_its_own_template(tmp_path):
    folder = qwen(tmp_path / "qwen")
    data = write_data(tmp_path, rows=1)
    (folder / "model.safetensors").unlink()
    side = open_text_side(folder)
    (sample,) = read_samples(data)
    row = side.encode(sample)
    assert side.is_native
    assert row.image_spans
    assert row.text.startswith("<|im_start|>user\n<|vision_start|>")
    with pytest.raises(RecipeError, match="compat 'llava' is for our families"):
        side.encode(sample, compat="llava")


def test_what_is_no_model_is_named(tmp_path):
    data = write_data(tmp_path)
    vision, _ = write_parts(tmp_path, data)
    with pytest.raises(ModelError, match="a vision encoder alone"):
        open_text_side(vision)
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelError, match="no model that reads conversations"):
        open_text_side(tmp_path / "clip")


def test_mgen_vls_records_have_their_picture_in_the_text(tmp_path):
    path = published(tmp_path)
    record = {
        "id": "identity_0",
        "conversations": [["描述图片", "写实风格"]],
        "image": base64.b64encode((write_data(tmp_path).parent / "images/0.png").read_bytes()),
    }
    data = tmp_path / "train.json"
    data.write_text(json.dumps([record | {"image": record["image"].decode()}]))
    (sample,) = read_samples(data)
    spec = ModelSpec(vision=str(path), language=str(path), family="qwen_vl")
    side = open_text_side(spec, "mgen_vl")
    row = side.encode(sample)
    ((first, end),) = row.image_spans
    assert end - first == 256
    at = row.ids.index(-200)
    assert side.tokenizer.decode([row.ids[at - 1], row.ids[at + 1]]) == "<img></img>"
    learned = [label for label in row.labels if label >= 0]
    assert side.tokenizer.decode(learned) == "写实风格<|im_end|>"
    with pytest.raises(DataError, match="compat mgen-vl shows 0 of the row's 1 images"):
        side.encode(sample, compat="mgen-vl")
