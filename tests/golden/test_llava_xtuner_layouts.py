"""LLaVA's layouts: recorded key names of every version, and checkpoints bit by bit."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlforge.checkpoints import llava_fields, llava_hf
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.types import ModelError

GOLDEN = {
    "names_golden": "llava_xtuner/llava_model/hf_layouts*.json",
    "model_golden": "llava_xtuner/llava_model/*/golden.json",
}


def names_in(entry) -> list[str]:
    return entry["keys"] if isinstance(entry, dict) else entry


def test_key_names_of_every_version_mean_the_same_weights(names_golden: Path):
    recorded = json.loads(names_golden.read_text(encoding="utf-8"))
    flat = names_in(recorded["4x_flat"])
    ours = {llava_hf.our_name(name) for name in flat}
    assert None not in ours
    assert {llava_hf.their_name(name, llava_hf.FLAT) for name in ours} == set(flat)
    for key in ("save_pretrained_writes", "in_memory_5x", "450_model_nested"):
        assert {llava_hf.our_name(name) for name in names_in(recorded[key])} == ours, key
    nested = {llava_hf.their_name(name, llava_hf.NESTED) for name in ours}
    assert nested == set(names_in(recorded["450_model_nested"]))
    original = names_in(recorded["orig"])
    assert {llava_fields.our_name(name) for name in original} == ours
    assert {llava_fields.their_name(name) for name in ours} == set(original)


@pytest.mark.parametrize("layout", ["llava", "llava_hf", "llava_hf_nested", "vlforge"])
def test_checkpoints_come_back_bit_by_bit(model_golden: Path, tmp_path: Path, layout: str):
    source = read_checkpoint(model_golden.parent)
    assert source.layout == "llava"
    assert source.unused == ()
    out = tmp_path / "out"
    out.mkdir()
    writer = find(layout)
    if layout.startswith("llava_hf") and source.config.connector != "mlp2x_gelu":
        with pytest.raises(ModelError, match="a connector mlp2x_gelu"):
            writer.write(source, out, Writing())
        return
    writer.write(source, out, Writing())
    assert detect(out).name == layout
    found = read_checkpoint(out)
    found.check()
    assert set(found.weights) == set(source.weights)
    for name, lazy in source.weights.items():
        wanted = lazy.read()
        assert torch.equal(found.weights[name].read()[: len(wanted)], wanted), name


def test_an_export_answers_in_plain_transformers_as_the_reference(
    model_golden: Path, tmp_path: Path
):
    numbers = json.loads(model_golden.read_text(encoding="utf-8"))
    source = read_checkpoint(model_golden.parent)
    if source.config.connector != "mlp2x_gelu":
        with pytest.raises(ModelError, match="a connector mlp2x_gelu"):
            find("llava_hf").write(source, tmp_path, Writing())
        return
    words = tmp_path / "words"
    shutil.copytree(model_golden.parents[2] / "tokenizers" / numbers["tokenizer"], words)
    out = tmp_path / "out"
    out.mkdir()
    find("llava_hf").write(replace(source, tokenizer=words, template="v1"), out, Writing())
    processor = AutoProcessor.from_pretrained(out)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    image_id, compared = model.config.image_token_id, 0
    for case in numbers["greedy"]:
        asked = re.search(r"USER: <image>\n(.*) ASSISTANT:$", case["prompt"])
        if asked is None or not case.get("image"):
            continue
        words = {"type": "text", "text": asked.group(1)}
        message = {"role": "user", "content": [{"type": "image"}, words]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        with Image.open(model_golden.parents[2] / "images" / case["image"]) as image:
            inputs = processor(images=image.convert("RGB"), text=text, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        once = [id_ for n, id_ in enumerate(ids) if id_ != image_id or ids[n - 1] != image_id]
        assert once == [image_id if id_ == -200 else id_ for id_ in case["input_ids"]]
        answer = case["output_ids"][1:]
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=len(answer), do_sample=False)
        assert made[0, len(ids) :].tolist()[: len(answer)] == answer
        compared += 1
    assert compared
