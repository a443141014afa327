"""What `vlforge plan MODEL` says, against what the references published."""

import pytest
from typer.testing import CliRunner

from tests.tiny_model import folder_of, write_data, write_parts
from vlforge.models.folder import write_folder
from vlforge.runs.model_plan import Lora, SampleShape, is_model, plan_model
from vlforge.types import ModelError


def stage(planned, name):
    (found,) = [stage for stage in planned.stages if stage.name == name]
    return found


def test_published_stages_train_the_published_weights():
    assert stage(plan_model("minigpt4-7b"), "align").trained == 3_149_824
    assert stage(plan_model("minigpt4-13b"), "instruct").trained == 3_937_280
    targets = (r".*attn.c_attn.*", r".*attn.c_proj.*", r".*mlp.w1.*", r".*mlp.w2.*")
    ads = plan_model("qwen-vl-7b", lora=Lora(64, targets))
    assert stage(ads, "lora").trained == 112_197_632
    llava = stage(plan_model("llava-1.5-7b"), "instruct")
    assert llava.trained == 6_738_415_616 + 20_979_712  # Vicuna-7B and mlp2x_gelu


def test_a_sample_of_ones_own_is_what_costs_are_told_for():
    short, long = (plan_model("mgm-2b", SampleShape(n, n)).stages[0] for n in (10, 500))
    assert long.flops > 1.5 * short.flops
    assert long.tokens == 500 + 576
    assert long.kept_bytes_checkpointed < long.kept_bytes


def test_a_folder_is_planned_like_a_name(tmp_path):
    data = write_data(tmp_path)
    folder = folder_of(*write_parts(tmp_path, data))
    write_folder(folder, tmp_path / "model")
    planned = plan_model(tmp_path / "model")
    assert planned.cost.parameters == sum(p.numel() for p in folder.model.parameters())


def test_names_that_are_nearly_right_are_told():
    assert is_model("mgm-2x")
    assert not is_model("quickstart")
    with pytest.raises(ModelError, match="did you mean mgm-2b"):
        plan_model("mgm-2x")
    with pytest.raises(ModelError, match="no linear layer is called like nothing"):
        plan_model("mgm-2b", lora=Lora(8, ("nothing",)))


def test_the_command_prints_parts_and_stages():
    from vlforge.cli.start import build_app

    result = CliRunner().invoke(build_app(), ["plan", "minigpt4-7b"])
    assert result.exit_code == 0, result.output
    for said in ("7,832,625,024", "3,149,824", "32 tokens", "align", "instruct"):
        assert said in result.output
