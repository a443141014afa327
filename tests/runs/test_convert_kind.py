"""The `convert` stage: what it writes opens as the layout that it was asked for."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_qwen import folder
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.models.folder import write_folder
from vlforge.runs.job import Job
from vlforge.runs.kinds.convert import run
from vlforge.training.config import ConvertConfig
from vlforge.types import ModelError


def test_weights_of_paddle_come_back_the_same(tmp_path):
    ours = tmp_path / "ours"
    write_folder(folder(), ours)
    paddle, back = tmp_path / "paddle", tmp_path / "back"
    for out in (paddle, back):
        out.mkdir()
    run(ConvertConfig(str(ours), "paddle"), Job("there", paddle, tmp_path))
    assert detect(paddle).name == "paddle"
    run(ConvertConfig(str(paddle), "vlforge"), Job("back", back, tmp_path))
    before, after = (load_file(place / "model.safetensors") for place in (ours, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    told = json.loads((back / "convert.json").read_text())
    assert (told["from"], told["layout"], told["tensors"]) == ("paddle", "vlforge", len(before))


def test_a_stage_asks_for_a_precision(tmp_path):
    write_folder(folder(), tmp_path / "ours")
    (tmp_path / "paddle").mkdir()
    find("paddle").write(read_checkpoint(tmp_path / "ours"), tmp_path / "paddle", Writing())
    (tmp_path / "half").mkdir()
    run(
        ConvertConfig(str(tmp_path / "paddle"), "vlforge", "bf16"),
        Job("half", tmp_path / "half", tmp_path),
    )
    (kind,) = {weight.dtype for weight in load_file(tmp_path / "half/model.safetensors").values()}
    assert kind == torch.bfloat16


def test_a_layout_that_cannot_hold_the_model_is_refused(tmp_path):
    write_folder(folder(), tmp_path / "ours")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"LLaVA.s layout holds no qwen_vl"):
        run(
            ConvertConfig(str(tmp_path / "ours"), "llava"), Job("wrong", tmp_path / "out", tmp_path)
        )
    assert not list((tmp_path / "out").iterdir())
