"""A model that two processes share out learns what one process learns, and goes on after a stop."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.side_by_side import run_stage, write_mixed

pytestmark = pytest.mark.slow
FSDP2 = {"parallel": "fsdp2"}


def assert_near(one, other, atol):
    """Two model files with the same tensors, within a bound."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=atol, rtol=0)


def test_shares_learn_what_one_process_learns(tmp_path):
    write_mixed(tmp_path / "made")
    alone = run_stage(tmp_path / "made", tmp_path / "alone", 1)
    shared = run_stage(tmp_path / "made", tmp_path / "shared", 2, **FSDP2)
    assert len(alone) == 9
    assert shared == pytest.approx(alone, abs=1e-4)
    weights = [tmp_path / name / "model.safetensors" for name in ("alone", "shared")]
    assert_near(*weights, atol=5e-3)
    packed = {"group": "balanced", "pack": "isolated"}
    packs = run_stage(tmp_path / "made", tmp_path / "packs", 2, **FSDP2, **packed)
    assert packs == pytest.approx(alone, abs=1e-4)


def test_a_process_with_texts_alone_takes_part(tmp_path):
    """One row a process: again and again one of them has a picture and the other has none."""
    write_mixed(tmp_path / "made")
    how = {"batch": 2, "micro_batch": 1, "samples": 16, "checkpointing": ["vision", "language"]}
    alone = run_stage(tmp_path / "made", tmp_path / "alone", 1, **how)
    shared = run_stage(tmp_path / "made", tmp_path / "shared", 2, **FSDP2, **how)
    assert shared == pytest.approx(alone, abs=1e-4)


def test_a_frozen_encoder_is_held_whole_and_texts_do_not_wait_for_it(tmp_path):
    write_mixed(tmp_path / "made")
    how = {"batch": 2, "micro_batch": 1, "samples": 16, "train": ["language"]}
    alone = run_stage(tmp_path / "made", tmp_path / "alone", 1, **how)
    shared = run_stage(tmp_path / "made", tmp_path / "shared", 2, **FSDP2, **how)
    assert shared == pytest.approx(alone, abs=1e-4)


def test_an_adapter_learns_in_shares(tmp_path):
    write_mixed(tmp_path / "made")
    how = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0}, "train": ["connector"], "samples": 20}
    alone = run_stage(tmp_path / "made", tmp_path / "alone", 1, **how)
    shared = run_stage(tmp_path / "made", tmp_path / "shared", 2, **FSDP2, **how)
    assert shared == pytest.approx(alone, abs=1e-4)
    adapters = [
        tmp_path / name / "adapter/adapter_model.safetensors" for name in ("alone", "shared")
    ]
    assert_near(*adapters, atol=5e-3)


def test_a_stopped_stage_goes_on_in_two_processes_and_in_one(tmp_path):
    made, stopped, taken = (tmp_path / name for name in ("made", "stopped", "taken"))
    write_mixed(made)
    whole = run_stage(made, tmp_path / "whole", 2, **FSDP2)
    run_stage(made, stopped, 2, until=4, **FSDP2)
    assert [place.name for place in (stopped / "checkpoint").glob("step-*")] == ["step-00000004"]
    shutil.copytree(stopped, taken)
    assert run_stage(made, stopped, 2, **FSDP2) == whole
    assert run_stage(made, taken, 1) == pytest.approx(whole, abs=1e-4)
