"""What a stage that trains says of itself, in lines and in files."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.small_stage import small_stage, stopped_before
from vlforge.training import watch
from vlforge.training.config import Guard, Optimiser
from vlforge.training.loop import train
from vlforge.training.watch import Sight, Watch, short
from vlforge.types import ModelError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration of ten steps."""
    return small_stage(
        tmp_path_factory.mktemp("made"),
        samples=40,
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def test_the_log_has_a_line_now_and_then_and_at_the_end(tmp_path, made, monkeypatch):
    monkeypatch.setattr(watch, "LOG_STEPS", 4)
    said = []
    train(made, tmp_path, device="cpu", log=said.append)
    steps = [event for event in said if event["event"] == "step"]
    assert [step["step"] for step in steps] == [4, 8, 10]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [step["loss"] for step in steps] == [metrics[n - 1]["loss"] for n in (4, 8, 10)]
    last = steps[-1]
    assert (last["samples"], last["of"], last["eta_s"]) == (40, 40, 0.0)
    assert last["samples_per_second"] > 0
    assert last["tokens_per_second"] > last["samples_per_second"]
    assert 0 <= last["mfu"] < 1  # rounded: a slow machine comes to nothing here
    assert 0 <= last["wait_share"] <= 1
    assert last["peak_gib"] > 0.05
    assert last["grad_norm"] > 0
    (peak,) = [event for event in said if event["event"] == "peak"]
    assert "measured fp32 product" in peak["how"]
    json.dumps(said, allow_nan=False)


def test_the_terminals_line_says_what_matters(tmp_path, made):
    notes = []
    train(made, tmp_path, device="cpu", progress=lambda done, total, note: notes.append(note))
    pattern = r"loss \d\.\d{3}  mfu \d+%  wait \d+%  [\d.]+k? tok/s  \d\.\d GiB"
    assert re.fullmatch(pattern, notes[-1])


def test_a_resumed_stage_says_where_it_begins_and_rates_what_it_does(tmp_path, made, monkeypatch):
    config = replace(made, save_every_samples=16)
    with stopped_before(9):
        train(config, tmp_path, device="cpu")
    seen, rated = [], []
    add = watch.Rates.add
    monkeypatch.setattr(watch.Rates, "add", lambda *a: rated.append(a[1:3]) or add(*a))
    train(config, tmp_path, device="cpu", progress=lambda done, *_: seen.append(done))
    trained = [done for done in seen if done >= 32]
    assert trained[0] == 32
    assert [samples for samples, _ in rated] == [4, 4]


class Ahead:
    """A device that computes ahead of the loop, as a GPU does."""

    device, count, is_main, scaler = SimpleNamespace(type="cuda"), 1, True, None

    def __init__(self):
        self.fetched = 0

    def total(self, values):
        self.fetched += 1
        return values


def steps_of(seen, losses):
    """Steps with these losses, as the loop tells them; whether each update was made."""
    taken = []
    for step, loss in enumerate(losses, 1):
        rows = np.asarray([10 * step, 10 * step + 1])
        taken.append(seen.takes(step, rows, torch.tensor(loss), torch.tensor(1.0)))
        seen.add({"step": step, "samples": 2 * step, "lr": 1e-3})
    return taken


def test_losses_of_a_device_that_is_ahead_are_fetched_together(tmp_path):
    devices = Ahead()
    seen = Watch(tmp_path, 0, devices, 1e-3)
    assert steps_of(seen, [1.0] * 25) == [True] * 25
    assert devices.fetched == 2
    seen.flush()
    assert devices.fetched == 3
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 26))


def test_a_bad_loss_of_a_device_that_is_ahead_names_its_own_step_and_rows(tmp_path):
    seen = Watch(tmp_path, 0, Ahead(), 1e-3)
    with pytest.raises(ModelError, match=r"the loss is nan at step 3, with row 30, row 31"):
        steps_of(seen, [1.0, 1.0, math.nan, *[1.0] * 20])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_with_a_guard_every_loss_is_waited_for(tmp_path):
    devices = Ahead()
    guard = Guard(spike=2.0, window=2, on_spike="skip")
    seen = Watch(tmp_path, 0, devices, 1e-3, sight=Sight(guard=guard))
    assert steps_of(seen, [1.0, 1.0, 5.0, 1.0]) == [True, True, False, True]
    assert devices.fetched == 4


@pytest.mark.parametrize(
    ("value", "words"), [(12.3, "12"), (999, "999"), (12_345, "12.3k"), (1_234_000, "1.23M")]
)
def test_large_numbers_are_short(value, words):
    assert short(value) == words
