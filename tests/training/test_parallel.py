"""What `parallel` may say, and a DeepSpeed JSON held against its stage."""

import json
import sys
from pathlib import Path

import pytest

from vlforge.training import devices
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.deepspeed_json import deepspeed_settings
from vlforge.training.devices import open_devices, own_gpu
from vlforge.training.parallel import Parallel, settle_parallel
from vlforge.types import RecipeError


def stage(**how) -> TrainConfig:
    settings = {"batch": 16, "micro_batch": 4, "precision": "bf16"} | how
    return TrainConfig(model="m", data="d", samples=1, **settings)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("auto", Parallel("ddp")),
        ("fsdp2", Parallel("fsdp2")),
        ("fsdp2_offload", Parallel("fsdp2", offload=True)),
        ("zero1", Parallel("zero", 1)),
        ("deepspeed_zero2", Parallel("zero", 2)),
        ("deepspeed_zero3_offload", Parallel("zero", 3, offload=True)),
    ],
)
def test_names_mean_ways_of_sharing(text, means):
    assert settle_parallel(text, {}) == means


@pytest.mark.parametrize("text", ["fsdp", "zero4", "deepspeed_fsdp2", "none.json"])
def test_other_names_are_refused(text):
    with pytest.raises(RecipeError, match="parallel: "):
        settle_parallel(text, {})


def test_auto_is_what_accelerate_was_told():
    told = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}  # fmt: skip
    assert settle_parallel("auto", told) == Parallel("zero", 3, offload=True)
    assert settle_parallel("ddp", told) == Parallel("ddp")
    assert settle_parallel("auto", {"ACCELERATE_USE_FSDP": "true"}) == Parallel("fsdp2")


def written(folder: Path, **blocks) -> Parallel:
    path = folder / "ds.json"
    path.write_text(json.dumps(blocks))
    return settle_parallel(str(path), {})


def test_auto_in_a_json_is_what_the_stage_says(tmp_path):
    parallel = written(
        tmp_path,
        train_batch_size="auto",
        gradient_clipping="auto",
        steps_per_print=1e9,
        bf16={"enabled": "auto"},
        fp16={"enabled": "auto", "loss_scale": 0},
        optimizer={"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        scheduler={"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        zero_optimization={
            "stage": 3,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    )
    made = deepspeed_settings(parallel, stage(), 2, 64)
    assert made["train_batch_size"] == 16
    assert made["train_micro_batch_size_per_gpu"] == 4
    assert made["gradient_accumulation_steps"] == 2
    assert made["gradient_clipping"] == 1.0
    assert made["bf16"] == {"enabled": True}
    assert made["fp16"] == {"enabled": False}
    assert made["steps_per_print"] == 1e9
    assert "optimizer" not in made
    assert "scheduler" not in made
    zero = made["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 640
    assert zero["reduce_bucket_size"] == 4096


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32 and the stage says 16"),
        ({"gradient_clipping": 0.5}, "optimiser.max_grad_norm"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is True and the stage says False"),
        ({"optimizer": {"type": "Lion"}}, "stages take AdamW"),
        ({"optimizer": {"params": {"lr": 1e-4}}}, "optimizer.params.lr is 0.0001"),
        ({"scheduler": {"params": {"warmup_num_steps": 9}}}, "warmup_num_steps is set"),
    ],
)
def test_a_json_that_contradicts_its_stage_is_refused(tmp_path, blocks, line):
    with pytest.raises(RecipeError, match=line):
        deepspeed_settings(written(tmp_path, **blocks), stage(), 2, 64)


def test_a_json_may_say_the_same(tmp_path):
    blocks = {"train_batch_size": 16, "optimizer": {"params": {"lr": "1e-3", "betas": [0.9, 0.95]}}}
    config = stage(optimiser=Optimiser(lr=1e-3, betas=(0.9, 0.95)))
    assert deepspeed_settings(written(tmp_path, **blocks), config, 1, 8)["train_batch_size"] == 16


def test_an_engine_gets_a_product_also_of_a_batch_that_is_none():
    made = deepspeed_settings(Parallel("zero", 2), stage(batch=5, micro_batch=2), 1, 8)
    assert (made["train_batch_size"], made["gradient_accumulation_steps"]) == (6, 3)


def test_offload_says_where():
    made = deepspeed_settings(Parallel("zero", 3, offload=True), stage(), 1, 8)
    zero = made["zero_optimization"]
    assert zero["offload_param"] == zero["offload_optimizer"] == {"device": "cpu"}
    made = deepspeed_settings(Parallel("zero", 2, offload=True), stage(), 1, 8)
    assert "offload_param" not in made["zero_optimization"]


def test_a_process_takes_its_own_gpu_or_the_only_one_it_sees():
    assert [own_gpu(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [own_gpu(rank, 1) for rank in range(4)] == [0, 0, 0, 0]
    with pytest.raises(RecipeError, match="as many processes as GPUs"):
        own_gpu(4, 4)


def test_one_process_on_a_cpu_does_without_deepspeed_where_it_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert type(open_devices("cpu", "fp32", "zero2_offload")) is devices.Devices
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(RecipeError, match="needs it"):
        open_devices("cpu", "fp32", str(tmp_path / "mine.json"))
