"""MiniGPT-4's learning rates, of its schedule and of its merged configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlforge.training.config import Optimiser
from vlforge.training.schedules import Schedule

GOLDEN = {
    "rates_file": "minigpt4_qwenvl/minigpt4/lr_schedule*.json",
    "merged_file": "minigpt4_qwenvl/minigpt4/config/config_merge*.json",
}


def schedule(how: dict[str, Any]) -> Schedule:
    """Ours for the settings of theirs."""
    warmup_lr = how.get("warmup_start_lr", how.get("warmup_lr"))
    settings = Optimiser(
        lr=how["init_lr"],
        min_lr=how["min_lr"],
        warmup_lr=warmup_lr,
        warmup_steps=how["warmup_steps"],
        schedule="lavis",
    )
    epoch = how["iters_per_epoch"]
    return Schedule(settings, how["max_epoch"] * epoch, epoch)


def test_rates_are_the_references(rates_file: Path):
    for case in json.loads(rates_file.read_text(encoding="utf-8")):
        ours = schedule(case["cfg"])
        for epoch, step, rate in case["points"]:
            found = ours.settings.lr * ours.factor(epoch * ours.epoch + step)
            assert found == pytest.approx(rate, rel=1e-12), (case["name"], epoch, step)


def test_merged_configurations_give_the_schedules_of_their_numbers(merged_file: Path):
    runs = [
        case["merged"]["run"] | {"yaml": case["yaml"], "options": case["options"]}
        for case in json.loads(merged_file.read_text(encoding="utf-8"))
        if "lr_sched" in case["merged"].get("run", {})
    ]
    assert runs
    for run in runs:
        ours = schedule(run)
        rates = [run["init_lr"] * ours.factor(step) for step in range(ours.steps)]
        first = min(run["init_lr"], run["warmup_lr"])
        assert rates[0] == pytest.approx(first)
        assert rates[-1] == pytest.approx(run["min_lr"], rel=1e-4)
        assert max(rates) <= run["init_lr"]
