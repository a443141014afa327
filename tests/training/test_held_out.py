"""Rows that are looked at and not learned: what the looks say, and that they leave no trace."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small_stage import stopped_before
from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.training.config import HeldOut, LoraSpec, Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.training.unseen import some_of, unseen
from vlforge.types import RecipeError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration that is looked at every 8 samples, over rows that it does not learn."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    rows = json.loads(data.read_text())
    for row in rows:
        row["conversations"][0]["value"] = "<image>\nIt is?"
    held = folder / "held.json"
    held.write_text(json.dumps(rows))
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=28,
        batch=4,
        template="vicuna",
        train=("vision", "connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
        evaluate=HeldOut(data=str(held), rows=8, every_samples=8),
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_look_has_its_line_and_the_last_is_in_the_summary(tmp_path, made):
    said = []
    summary = train(made, tmp_path, device="cpu", log=said.append)
    looks = lines(tmp_path / "eval.jsonl")
    assert [(look["step"], look["samples"]) for look in looks] == [
        (2, 8),
        (4, 16),
        (6, 24),
        (7, 28),
    ]
    assert {look["eval_rows"] for look in looks} == {8}
    assert looks[-1]["eval_loss"] < looks[0]["eval_loss"]
    assert summary["eval_loss"] == looks[-1]["eval_loss"]
    assert not [event for event in said if event["event"] == "warning"]


def test_without_an_interval_the_end_alone_is_looked_at(tmp_path, made):
    train(replace(made, evaluate=replace(made.evaluate, every_samples=0)), tmp_path, device="cpu")
    assert [look["step"] for look in lines(tmp_path / "eval.jsonl")] == [7]


def test_the_loss_of_a_look_is_that_of_the_rows_in_training(tmp_path, made):
    """With a rate of zero nothing moves: the held-out loss is the mean of an epoch over them."""
    still = replace(made, optimiser=Optimiser(lr=0.0), samples=12)
    whole = replace(made.evaluate, rows=100)
    train(replace(still, evaluate=whole), tmp_path / "looked", device="cpu")
    on_held = replace(still, data=str(made.evaluate.data), batch=12, evaluate=None)
    train(on_held, tmp_path / "trained", device="cpu")
    (trained,) = lines(tmp_path / "trained/metrics.jsonl")
    losses = [look["eval_loss"] for look in lines(tmp_path / "looked/eval.jsonl")]
    assert losses == pytest.approx([trained["loss"]] * len(losses), abs=1e-5)


@pytest.mark.parametrize("change", ["plain", "dropout", "augment"])
def test_looking_changes_no_byte_of_what_is_learned(tmp_path, made, change):
    changes = {
        "plain": {},
        "dropout": {"train": ("connector",), "lora": LoraSpec(rank=2, dropout=0.5)},
        "augment": {"augment": True},
    }[change]
    config = replace(made, **changes)
    train(config, tmp_path / "looked", device="cpu")
    train(replace(config, evaluate=None), tmp_path / "not", device="cpu")
    for file in ("metrics.jsonl", "model.safetensors", "non_lora_trainables.safetensors"):
        if (tmp_path / "not" / file).exists():
            looked, plain = ((tmp_path / name / file).read_bytes() for name in ("looked", "not"))
            assert looked == plain, file
    adapter = Path("adapter/adapter_model.safetensors")
    if change == "dropout":
        assert (tmp_path / "looked" / adapter).read_bytes() == (
            tmp_path / "not" / adapter
        ).read_bytes()


def test_looks_do_not_depend_on_where_a_stage_was_cut(tmp_path, made):
    config = replace(made, save_every_samples=8)
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(5):
        train(config, tmp_path / "cut", device="cpu")
    train(config, tmp_path / "cut", device="cpu")
    for file in ("eval.jsonl", "model.safetensors", "summary.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_held_out_row_that_is_trained_on_is_told(tmp_path, made):
    rows = json.loads(Path(str(made.data)).read_text())
    held = json.loads(Path(str(made.evaluate.data)).read_text())
    home = Path(str(made.data)).parent
    shutil.copytree(home / "images", tmp_path / "copies")
    for row in rows:  # the same pictures under other names
        row["image"] = f"copies/{Path(row['image']).name}"
    leaking = tmp_path / "leaking.json"
    for row in held:
        row["image"] = str(home / row["image"])
    leaking.write_text(json.dumps([rows[3], *held[:5]]))
    said = []
    config = replace(made, evaluate=HeldOut(data=str(leaking)), samples=12)
    train(config, tmp_path / "out", device="cpu", log=said.append)
    (warning,) = [event["text"] for event in said if event["event"] == "warning"]
    assert warning.startswith("1 of 6 held-out rows are also trained on (leaking.json:3)")


def test_rows_that_are_looked_at_are_the_same_for_the_same_seed():
    assert some_of(100, 10, 3).tolist() == some_of(100, 10, 3).tolist()
    assert some_of(100, 10, 3).tolist() != some_of(100, 10, 4).tolist()
    assert some_of(5, 10, 3).tolist() == [0, 1, 2, 3, 4]


def test_the_best_of_the_looks_is_what_a_stage_leaves(tmp_path, made, monkeypatch):
    """The rate is wild at the end, so that the last weights are not the best."""
    factor = "vlforge.training.schedules.Schedule.factor"
    monkeypatch.setattr(factor, lambda self, step: 1.0 if step < 4 else 60.0)
    summary = train(replace(made, keep_best=True), tmp_path, device="cpu")
    looks = lines(tmp_path / "eval.jsonl")
    best = min(looks, key=lambda look: look["eval_loss"])
    assert best["step"] < 7
    assert summary["best"] == {"step": best["step"], "eval_loss": best["eval_loss"]}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"evaluate": HeldOut()}, "neither data nor benchmarks"),
        ({"evaluate": None, "keep_best": True}, "keep_best needs evaluate.data"),
        ({"evaluate": HeldOut(data="x", rows=0)}, "evaluate.rows is 0"),
    ],
)
def test_settings_that_cannot_work_are_told_first(tmp_path, made, changes, match):
    with pytest.raises(RecipeError, match=match):
        train(replace(made, **changes), tmp_path, device="cpu")


def test_a_look_puts_every_module_back_as_it_was():
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2))
    module[1].eval()
    state = torch.get_rng_state()
    with unseen(module, torch.device("cpu")):
        assert not any(part.training for part in module.modules())
        torch.rand(3)
        assert not module(torch.ones(1, 2)).requires_grad
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), state)
