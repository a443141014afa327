"""Paddle's own files: weights in torch's layout, and its LoRA's arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vlforge.checkpoints.paddle import PaddleLora, in_torch_layout, read_weights
from vlforge.checkpoints.pdparams import read_pdparams, write_pdparams

GOLDEN = {"expected_file": "minigpt4_qwenvl/paddle*/expected_torch_layout.npz"}
FILES = {"base/": "fp32.pdparams", "bf16/": "bf16.pdparams"}


def recorded(path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    with np.load(path) as file:
        names = [name for name in file.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): torch.from_numpy(file[name]) for name in names}


def test_weights_are_torchs_to_the_bit(expected_file: Path):
    for prefix, name in FILES.items():
        found = read_weights(expected_file.with_name(name))
        wanted = recorded(expected_file, prefix)
        assert set(found) == set(wanted)
        for key, tensor in wanted.items():
            assert torch.equal(found[key].read().float(), tensor), key
            assert found[key].shape == tuple(tensor.shape)
    kinds = {lazy.dtype for lazy in found.values()}
    assert kinds == {torch.bfloat16}


def test_weights_written_again_are_the_same_arrays(expected_file: Path, tmp_path: Path):
    for name in FILES.values():
        write_pdparams(
            in_torch_layout(read_weights(expected_file.with_name(name))), tmp_path / name
        )
        first = read_pdparams(expected_file.with_name(name))
        again = read_pdparams(tmp_path / name)
        assert list(again) == list(first)
        for key, lazy in first.items():
            assert again[key].dtype == lazy.dtype
            assert torch.equal(again[key].read(), lazy.read())


def test_the_lora_is_merged_as_paddle_merges_it(expected_file: Path):
    base = read_weights(expected_file.with_name(FILES["base/"]))
    merged = PaddleLora.read(expected_file.parent).onto(base)
    for name, tensor in recorded(expected_file, "merged/").items():
        torch.testing.assert_close(merged[name].read(), tensor, atol=1e-5, rtol=1e-5)
    facts = recorded(expected_file)
    made = torch.nn.functional.linear(
        facts["x"], merged["attn.c_attn.weight"].read(), merged["attn.c_attn.bias"].read()
    )
    torch.testing.assert_close(made, facts["y_c_attn"], atol=1e-4, rtol=1e-5)
