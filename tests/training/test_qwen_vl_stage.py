"""Qwen-VL through a stage of training, its folder, and a chat."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from tests.tiny_model import write_data
from tests.tiny_qwen import published
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.prompts import pixels_of
from vlforge.models.config import ModelSpec
from vlforge.text.qwen_templates import QWEN_VL
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.types import Sample, Turn


def test_a_stage_trains_the_connector_and_the_language_model_then_chats(tmp_path):
    path = str(published(tmp_path, dtype=torch.float32))
    spec = ModelSpec(vision=path, language=path, family="qwen_vl", connector_weights=path)
    config = TrainConfig(
        model=spec,
        data=str(write_data(tmp_path)),
        samples=40,
        batch=4,
        template="qwen_vl",
        train=(r"connector\.attn_pool\.", "language"),
        max_length=400,
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )
    out = tmp_path / "out"
    train(config, out, device="cpu")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    before = load_file(tmp_path / "ours" / "model.safetensors")
    after = load_file(out / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == {"connector", "language"}
    kept = {"connector.attn_pool.pos_embed", "connector.proj", "connector.ln_post.weight"}
    assert not kept & moved
    loaded = load_model(out, device="cpu")
    question = Turn("user", "<image>\nWhat colour is it?")
    sample = Sample(id="0", images=(str(tmp_path / "images/0.png"),), turns=(question,))
    (answer,) = LocalChat(loaded).answer([sample], max_new_tokens=12)
    prompt = loaded.model.encode(sample, QWEN_VL, loaded.tokenizer, generation=True)
    made = loaded.model.generate(
        torch.tensor([prompt.ids]), pixels_of(loaded, sample.images), max_new_tokens=12
    )
    assert answer.text == loaded.tokenizer.decode(made[0], skip_special_tokens=True).strip()
    assert "".join(LocalChat(loaded).stream(sample, max_new_tokens=12)) == answer.text
