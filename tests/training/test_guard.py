"""Losses that are no number or leap: found, told with their rows, left out, and resumed over."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.small_stage import small_stage, stopped_before
from vlforge.training import fit
from vlforge.training.config import Guard, Optimiser
from vlforge.training.guard import Finding, Judge, judge_from, spike_line, worst
from vlforge.training.loop import train
from vlforge.training.watch import Watch
from vlforge.types import ModelError

ALONE = SimpleNamespace(count=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration whose loss falls slowly."""
    return small_stage(
        tmp_path_factory.mktemp("made"),
        samples=48,
        train=("connector", "language"),
        optimiser=Optimiser(lr=1e-3, warmup_ratio=0.1),
        guard=Guard(spike=3.0, window=4, on_spike="skip", nan_steps=2),
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spoil(monkeypatch, factors: dict[int, float]) -> None:
    """Multiply the losses of some steps, and their gradients with them."""
    gradients = fit._Loop._gradients

    def spoilt(self, rows, start):
        loss = gradients(self, rows, start)
        factor = factors.get(start // self.plan.batch + 1, 1.0)
        for parameter in self.trainable:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss * factor

    monkeypatch.setattr(fit._Loop, "_gradients", spoilt)


def test_a_leap_is_held_against_the_median_of_the_window():
    judge = Judge(Guard(spike=2.0, window=3))
    assert [judge.judge(n, x) for n, x in enumerate([1.0, 9.0, 1.0, 2.0])] == [None] * 4
    assert judge.judge(5, 4.1) == Finding("spike", 5, 4.1, 2.0, "warn")
    assert judge.judge(6, 4.1) == Finding("spike", 6, 4.1, 2.0, "warn")
    assert judge.judge(7, 4.2) is None  # the window has come to know it


def test_no_leap_is_seen_before_ten_steps_lie_behind():
    judge = Judge(Guard(spike=2.0, window=100, on_spike="stop"))
    assert [judge.judge(n, 1.0 if n % 2 else 9.0) for n in range(10)] == [None] * 10
    assert judge.judge(10, 11.0).action == "stop"


def test_losses_that_are_no_number_are_counted_in_a_row():
    judge = Judge(Guard(nan_steps=2))
    assert [judge.judge(n, math.nan).action for n in range(3)] == ["skip", "skip", "stop"]
    judge = Judge(Guard(nan_steps=1))
    assert judge.judge(1, math.inf).action == "skip"
    assert judge.judge(2, 1.0) is None
    assert judge.judge(3, 1.0, has_bad_gradient=True).action == "skip"
    assert judge.judge(4, 1.0, has_bad_gradient=True).action == "stop"


def test_a_judge_goes_on_from_the_file_as_if_it_had_seen_the_steps():
    guard = Guard(spike=2.0, window=3, on_spike="skip", nan_steps=2)
    seen = [1.0, 1.5, math.nan, 5.0, 1.2, math.nan]
    whole, written = Judge(guard), []
    for step, loss in enumerate(seen, 1):
        finding = whole.judge(step, loss)
        line = {"step": step, "loss": round(loss, 6) if math.isfinite(loss) else None}
        skips = finding is not None and finding.action == "skip"
        written.append(line | ({"skipped": finding.kind} if skips else {}))
    again = judge_from(written, guard, ALONE)
    assert again.state().tolist() == whole.state().tolist()
    copy = Judge(guard)
    copy.restore(whole.state().tolist())
    assert copy.judge(7, math.nan) == whole.judge(7, math.nan) == again.judge(7, math.nan)


def test_a_message_names_the_worst_rows():
    finding = Finding("nan", 7, math.nan, None, "stop")
    line = spike_line(
        finding, ["a.json:1", "a.json:2", "b.json:3", "b.json:4"], [1, math.nan, 3, 2]
    )
    assert line["rows"][1] == {"row": "a.json:2", "loss": None}
    assert worst(line) == "a.json:2 (no number), b.json:3 (3), b.json:4 (2), …"
    assert worst(spike_line(finding, ["a.json:1"], None)) == "a.json:1"
    json.loads(json.dumps(line, allow_nan=False))


def test_a_step_that_leaps_is_left_out_and_told_with_its_rows(tmp_path, made, monkeypatch):
    spoil(monkeypatch, {7: 100.0})
    said = []
    summary = train(made, tmp_path, device="cpu", log=said.append)
    (spike,) = lines(tmp_path / "spikes.jsonl")
    assert (spike["step"], spike["kind"], spike["action"]) == (7, "spike", "skip")
    assert spike["loss"] > 3 * spike["median"]
    assert len(spike["rows"]) == 4
    assert all(row["row"].startswith("data.json:") and row["loss"] > 0 for row in spike["rows"])
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in metrics if "skipped" in line] == [7]
    assert summary["skipped_steps"] == 1
    (warning,) = [event["text"] for event in said if "times the median" in event.get("text", "")]
    assert "at step 7, with data.json:" in warning
    assert warning.endswith("its update is left out, see spikes.jsonl")


def test_a_step_left_out_moves_no_weight_and_no_moment(tmp_path, made, monkeypatch):
    """With a rate that is constant, leaving out the last step is not taking it."""
    steady = replace(made, optimiser=Optimiser(lr=1e-3, schedule="constant", warmup_ratio=0))
    train(replace(steady, samples=44), tmp_path / "short", device="cpu")
    spoil(monkeypatch, {12: math.nan})
    train(steady, tmp_path / "long", device="cpu")
    short, long = (load_file(tmp_path / name / "model.safetensors") for name in ("short", "long"))
    assert all(torch.equal(short[name], long[name]) for name in short)


def test_a_guard_that_finds_nothing_changes_nothing(tmp_path, made):
    train(replace(made, guard=Guard()), tmp_path / "plain", device="cpu")
    train(made, tmp_path / "guarded", device="cpu")
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "plain" / file).read_bytes() == (
            tmp_path / "guarded" / file
        ).read_bytes()
    assert not (tmp_path / "guarded/spikes.jsonl").exists()


@pytest.mark.parametrize(
    ("guard", "factor", "message"),
    [
        (Guard(), math.nan, r"the loss is nan at step 7, with data\.json:\d+.*spikes.*lower optim"),
        (Guard(nan_steps=2), math.inf, None),
        (Guard(spike=3, window=4, on_spike="stop"), 50.0, r"the loss is .* times the median"),
        (Guard(spike=3, window=4), 50.0, None),
    ],
)  # fmt: skip
def test_what_a_guard_does_is_said_in_the_settings(
    tmp_path, made, monkeypatch, guard, factor, message
):
    spoil(monkeypatch, {7: factor})
    config = replace(made, guard=guard)
    if message:
        with pytest.raises(ModelError, match=message):
            train(config, tmp_path, device="cpu")
        assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 7))
    else:
        train(config, tmp_path, device="cpu")
    assert [line["step"] for line in lines(tmp_path / "spikes.jsonl")] == [7]


def test_a_stage_that_skips_ends_with_the_same_bytes_after_a_kill(tmp_path, made, monkeypatch):
    config = replace(made, save_every_samples=8)
    spoil(monkeypatch, {6: 100.0, 7: math.nan, 9: 100.0, 11: math.nan})
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(9):
        train(config, tmp_path / "cut", device="cpu")
    train(config, tmp_path / "cut", device="cpu")
    for file in ("model.safetensors", "metrics.jsonl", "spikes.jsonl", "summary.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert [line["step"] for line in lines(tmp_path / "cut/spikes.jsonl")] == [6, 7, 9, 11]


class _Halves:
    """Devices with a scaler, as fp16 has one."""

    device, count, is_main, scaler = torch.device("cpu"), 1, True, object()

    def total(self, values):
        return values


def test_a_scale_of_fp16_that_was_too_large_is_no_fault(tmp_path):
    watch = Watch(tmp_path, 0, _Halves(), 1e-3)
    rows = np.arange(2)
    assert watch.takes(1, rows, torch.tensor(2.0), torch.tensor(math.inf))
    watch.add({"step": 1, "samples": 2, "loss": 0.0, "lr": 1e-3})
    with pytest.raises(ModelError, match="the loss is inf at step 2"):
        watch.takes(2, rows, torch.tensor(math.inf), torch.tensor(math.inf))


def test_a_gradient_that_is_no_number_ends_a_stage(tmp_path):
    devices = _Halves()
    devices.scaler = None
    watch = Watch(tmp_path, 0, devices, 1e-3)
    with pytest.raises(ModelError, match="a gradient is no number at step 1, with row 3"):
        watch.takes(1, np.asarray([3]), torch.tensor(2.0), torch.tensor(math.nan))
