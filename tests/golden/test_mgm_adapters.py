"""Mini-Gemini's LoRA targets are those that `all_linear` finds."""

from __future__ import annotations

from pathlib import Path

from tests.golden.test_mgm_model import Case
from vlforge.training.adapters import attach
from vlforge.training.config import LoraSpec, TrainConfig
from vlforge.training.loop import choose

GOLDEN = {"info_file": "mgm/model/*/info.json"}


def test_all_linear_is_mini_geminis(info_file: Path, tmp_path: Path):
    case = Case(info_file.parent, tmp_path)
    model = case.model()
    wanted = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    if model.config.text_config.model_type == "mixtral":  # its experts lie in one tensor
        wanted = ["k_proj", "o_proj", "q_proj", "v_proj"]
    wanted = case.info.get("lora_targets", wanted)
    config = TrainConfig(model="", data="", lora=LoraSpec(rank=2), train=("connector",))
    adapters = attach(model, config, seed=0)
    assert sorted(adapters[0].config.target_modules) == wanted
    names = choose(config, model, adapters)
    assert {name.partition(".")[0] for name in names} == {"connector", "language"}
    assert all(".lora_" in name for name in names if not name.startswith("connector."))
