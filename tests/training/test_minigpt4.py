"""Both of MiniGPT-4's stages through the loop, from its published files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints.test_minigpt4 import laid_out
from tests.tiny_model import write_data
from vlforge.models.config import ModelSpec
from vlforge.training.config import Optimiser, TokenizerConfig, TrainConfig
from vlforge.training.loop import train
from vlforge.training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> TrainConfig:
    """The first stage over a dozen pictures of one colour."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
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
    return TrainConfig(
        model=spec,
        data=str(data),
        samples=120,
        batch=4,
        template="minigpt4_pretrain",
        train=("connector",),
        optimiser=Optimiser(lr=3e-2, warmup_ratio=0.1),
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_stages_learn_and_move_the_connector_alone(tmp_path, stage):
    first, second = tmp_path / "align", tmp_path / "instruct"
    train(stage, first, device="cpu")
    train(replace(stage, model=str(first), template="minigpt4"), second, device="cpu")
    for out in (first, second):
        assert sum(losses(out)[-5:]) < 0.98 * sum(losses(out)[:5])
    before, after = (load_file(out / "model.safetensors") for out in (first, second))
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert moved == {"connector.weight", "connector.bias"}
    assert json.loads((second / "vlforge.json").read_text())["template"] == "minigpt4"
    processor = json.loads((first / "preprocessor_config.json").read_text())
    assert not processor["do_center_crop"]
