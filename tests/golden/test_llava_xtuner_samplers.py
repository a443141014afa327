"""Orders of LLaVA's and XTuner's samplers, and XTuner's packer."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from vlforge.training.grouping import (
    length_groups,
    modality_groups,
    xtuner_order,
    xtuner_window,
)
from vlforge.training.packing import ChunkPacker

GOLDEN = {
    "llava_file": "llava_xtuner/samplers/llava_length_grouped*.json",
    "xtuner_file": "llava_xtuner/samplers/xtuner_length_grouped*.json",
    "packer_file": "llava_xtuner/samplers/xtuner_packer*.json.gz",
}


def test_llava_groups(llava_file: Path):
    for case in json.loads(llava_file.read_text()):
        lengths, sizes = case["lengths"], (case["batch_size"], case["world_size"])
        torch.manual_seed(1234)
        made = modality_groups(lengths, *sizes)
        assert made == case["group_by_modality_global_seed1234"]
        torch.manual_seed(99)
        made = modality_groups(lengths, *sizes, torch.Generator().manual_seed(5))
        assert made == case["group_by_modality_generator5_global99"]
        torch.manual_seed(99)
        made = length_groups([abs(length) for length in lengths], *sizes)
        assert made == case["plain_abs_global_seed99"]


def test_xtuner_groups(xtuner_file: Path):
    for case in json.loads(xtuner_file.read_text()):
        lengths, world = case["modality_length"], case["world_size"]
        batch = case["per_device_batch_size"]
        for share in case["ranks"]:
            assert xtuner_window(len(lengths), batch * world) == share["group_batch_size"]
            epochs = [key for key in share if key.startswith("epoch")]
            assert epochs
            for key in epochs:
                epoch = int(key.removeprefix("epoch"))
                made = xtuner_order(lengths, batch, world, case["seed"], epoch)
                mine = made[share["rank"] :: world]
                assert mine == share[key]
                assert len(mine) == share["num_samples"]


def test_xtuner_packer(packer_file: Path):
    for case in json.loads(gzip.decompress(packer_file.read_bytes())):
        packer = ChunkPacker(case["chunk_size"], drop_last=case["drop_last"])
        for call in case["calls"]:
            chunks = packer.pack(call["in"]["input_ids"], call["in"]["labels"])
            wanted = call["out"]
            assert [list(chunk.ids) for chunk in chunks] == wanted["input_ids"]
            assert [list(chunk.labels) for chunk in chunks] == wanted["labels"]
            if not case["use_varlen_attn"]:
                continue
            assert [list(chunk.bounds) for chunk in chunks] == wanted["cumulative_len"]
            assert [chunk.positions for chunk in chunks] == wanted["position_ids"]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_llava_xtuner_row_is_met(world: int):
    lengths = [(-1) ** n * (n + 1) for n in range(23)]
    assert sorted(modality_groups(lengths, 2, world)) == list(range(23))
    assert set(xtuner_order(lengths, 2, world, 0, 0)) == set(range(23))
