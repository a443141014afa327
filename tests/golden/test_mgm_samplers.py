"""The order in which Mini-Gemini's Trainer sees its rows."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from vlforge.training.grouping import length_groups, modality_groups

GOLDEN = {"sampler_file": "mgm/misc/sampler*.json"}


def test_modality_groups(sampler_file: Path):
    cases = json.loads(sampler_file.read_text())
    for case in cases if isinstance(cases, list) else [cases]:
        lengths, sizes = case["lengths"], (case["batch_size"], case["world_size"])
        torch.manual_seed(case["torch_manual_seed"])
        assert modality_groups(lengths, *sizes) == case["modality_indices"]
        torch.manual_seed(case["torch_manual_seed"])
        plain = length_groups([abs(length) for length in lengths], *sizes)
        assert plain == case["plain_indices_on_abs"]
