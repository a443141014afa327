"""Which mean a gradient is of: ours against the references' own way to divide losses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.training.averaging import Cut, loss_weight, shown_weight
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train

TOKENS = (5, 40, 2, 11, 7, 30, 1, 9, 4, 22)
"""Supervised tokens of ten rows."""


def cut_up(devices: int, micro: int, rows: int = len(TOKENS)) -> list[list[list[int]]]:
    """Rows of each micro-batch of each device, as the loop deals them."""
    shares = [list(range(rank, rows, devices)) for rank in range(devices)]
    return [
        [share[at : at + micro] for at in range(0, len(share), micro)] for share in shares
    ]  # fmt: skip


def weights(rule: str, devices: int, micro: int, rows: int = len(TOKENS)) -> list[float]:
    """What each row's summed loss counts in the averaged gradient."""
    cut, found = Cut(rows, devices, micro), [0.0] * rows
    whole = sum(TOKENS[:rows])
    for share in cut_up(devices, micro, rows):
        for part in share:
            own = sum(TOKENS[row] for row in part)
            for row in part:
                found[row] = loss_weight(rule, cut, whole, own) / devices
    return found


def reference(rule: str, devices: int, micro: int) -> list[float]:
    """Each pass: a mean over tokens, divided by passes (not by LAVIS), averaged over devices."""
    found = [0.0] * len(TOKENS)
    for share in cut_up(devices, micro):
        for part in share:
            divided = len(share) if rule == "micro_batches" else 1
            for row in part:
                found[row] = 1 / sum(TOKENS[r] for r in part) / divided / devices
    return found


@pytest.mark.parametrize(("devices", "micro"), [(1, 10), (1, 5), (2, 5), (2, 1), (5, 1), (5, 2)])
@pytest.mark.parametrize("rule", ["micro_batches", "lavis"])
def test_means_of_micro_batches_are_the_references(rule, devices, micro):
    assert weights(rule, devices, micro) == pytest.approx(reference(rule, devices, micro))


@pytest.mark.parametrize(("devices", "micro"), [(1, 10), (1, 3), (3, 2), (16, 4)])
def test_tokens_count_the_same_however_the_batch_is_cut(devices, micro):
    assert weights("tokens", devices, micro) == pytest.approx([1 / sum(TOKENS)] * 10)


def test_lavis_gradients_grow_with_accumulation_and_its_loss_does_not():
    whole, parts = weights("lavis", 1, 10), weights("lavis", 1, 1)
    assert sum(w * t for w, t in zip(whole, TOKENS, strict=True)) == pytest.approx(1)
    assert sum(w * t for w, t in zip(parts, TOKENS, strict=True)) == pytest.approx(10)
    cut = Cut(10, 1, 1)
    shown = [
        shown_weight("lavis", cut, loss_weight("lavis", cut, sum(TOKENS), tokens)) * tokens
        for tokens in TOKENS
    ]
    assert sum(shown) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["tokens", "micro_batches"])
def test_of_a_short_batch_devices_without_rows_do_not_count(rule):
    made = weights(rule, 4, 2, rows=3)
    assert sum(w * t for w, t in zip(made, TOKENS, strict=False)) == pytest.approx(1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> TrainConfig:
    """One step of plain gradient descent on four rows, answers of unlike length."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder, rows=4)
    rows = json.loads(data.read_text())
    rows[0]["conversations"][1]["value"] = "It is red. It is red. It is red."
    data.write_text(json.dumps(rows))
    vision, language = write_parts(folder, data)
    still = Optimiser(type="sgd", lr=1.0, schedule="constant", max_grad_norm=0.0)
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=4,
        batch=4,
        template="vicuna",
        train="align",
        optimiser=still,
    )


def moved(stage: TrainConfig, out: Path, **changes) -> torch.Tensor:
    """How far a step moves a matrix of the connector."""
    config = replace(stage, **changes)
    train(config, out, device="cpu")
    torch.manual_seed(0)
    before = assemble(config.model).model.connector[0].weight.detach()
    return load_file(out / "model.safetensors")["connector.0.weight"] - before


def test_the_loop_divides_as_it_is_told(tmp_path, stage):
    names = ("tokens", "micro_batches", "lavis")
    whole = {n: moved(stage, tmp_path / f"{n}-whole", loss_mean=n) for n in names}
    parts = {n: moved(stage, tmp_path / f"{n}-parts", loss_mean=n, micro_batch=1) for n in names}
    for name in names:  # of one micro-batch all means are the same
        torch.testing.assert_close(whole[name], whole["tokens"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parts["tokens"], whole["tokens"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parts["lavis"], 4 * parts["micro_batches"], atol=1e-6, rtol=1e-5)
    assert (parts["micro_batches"] - parts["tokens"]).norm() > 1e-2 * parts["tokens"].norm()
