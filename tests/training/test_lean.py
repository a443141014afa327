"""Switches of speed and memory change no number that a stage learns."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.families import made as family
from tests.models.test_lean import PARTS, apart, batch, learns, step
from tests.small_stage import small_stage
from vlforge.models.config import Lean
from vlforge.models.cost import model_cost
from vlforge.models.lean import apply_lean
from vlforge.models.sizes import SIZES
from vlforge.training import lean
from vlforge.training.config import LoraSpec, Optimiser
from vlforge.training.lean import compile_layers, missing_compiler
from vlforge.training.loop import train
from vlforge.training.parallel import Parallel
from vlforge.training.room import Pass, cache_advice, choose_twice, rows_of_pass
from vlforge.types import RecipeError

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NO_COMPILER = missing_compiler(CPU)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A stage that trains everything for six steps."""
    return small_stage(
        tmp_path_factory.mktemp("stage"),
        samples=24,
        train=PARTS,
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def trained(config, out):
    """The weights as bytes, the losses, and what the stage said of its switches."""
    events = []
    train(config, out, device="cpu", log=events.append)
    (said,) = [event for event in events if event["event"] == "lean"]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    losses = torch.tensor([json.loads(line)["loss"] for line in lines])
    return (out / "model.safetensors").read_bytes(), losses, said


def test_layers_computed_twice_leave_the_same_bytes(tmp_path, stage):
    once, _, said = trained(stage, tmp_path / "once")
    assert said["checkpointing"] == {}
    assert said["why"].startswith("nothing is computed twice: ")
    twice, _, said = trained(replace(stage, checkpointing=PARTS[::2]), tmp_path / "twice")
    assert said["checkpointing"] == {"vision": 2, "language": 2}
    assert twice == once


def test_auto_computes_twice_where_memory_is_short(tmp_path, stage, monkeypatch):
    passes, choose = [], lean.choose_twice

    def note(asked, cost, largest, *others):
        passes.append([largest.needs(cost, twice) for twice in ((), ("language",))])
        return choose(asked, cost, largest, *others)

    monkeypatch.setattr(lean, "choose_twice", note)
    once, _, _ = trained(stage, tmp_path / "once")
    between = sum(passes[0]) / 2 / 0.85
    for memory, parts in ((between, ["language"]), (1000, ["language", "vision"])):
        monkeypatch.setattr(lean, "machine_memory", lambda memory=memory: memory)
        found, _, said = trained(stage, tmp_path / "-".join(parts))
        assert sorted(said["checkpointing"]) == parts
        assert "instead of" in said["why"]
        assert found == once


@pytest.mark.parametrize(
    "switches",
    [
        Lean(supervised_head=False),
        Lean(unused_layers=False),
        Lean(frozen_graph=False),
        Lean(last_layer_rows=True),
        Lean(False, False, False, True),
    ],
)
def test_a_stage_learns_the_same_whatever_is_left_out(tmp_path, stage, switches):
    part = replace(stage, train=("connector",), cache="off")
    _, usual, said = trained(part, tmp_path / "usual")
    assert not said["last_layer_rows"]
    _, other, said = trained(replace(part, lean=switches), tmp_path / "other")
    assert said["last_layer_rows"] == (switches.last_layer_rows is True)
    assert (usual - other).abs().max() < 2e-5


def test_adapters_that_drop_out_see_what_they_saw(tmp_path, stage):
    part = replace(stage, train=(), lora=LoraSpec(rank=2, dropout=0.3), cache="off")
    weights = []
    for rows in (True, False):
        out = tmp_path / str(rows)
        train(replace(part, lean=Lean(last_layer_rows=rows)), out, device="cpu")
        weights.append(load_file(out / "adapter/adapter_model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def largest(rows, learning=("connector",), text=64, state=20e9, number=2):
    return Pass(rows, text, 30, 1, learning, state, number)


def test_auto_takes_the_quickest_that_fits():
    cost = model_cost(SIZES["llava-1.5-7b"])
    chosen = {rows: choose_twice("auto", cost, largest(rows), 141e9) for rows in (16, 48, 400)}
    assert {rows: room.twice for rows, room in chosen.items()} == {
        16: (), 48: ("language",), 400: ("language",),
    }  # fmt: skip
    assert chosen[48].needed < 0.85 * 141e9 < chosen[48].without
    assert "layers of language are computed twice" in chosen[48].said()
    assert chosen[400].said().endswith("lower micro_batch or set parallel: zero3")
    assert choose_twice(("language",), cost, largest(1), 141e9).twice == ("language",)
    assert choose_twice((), cost, largest(400), 141e9).twice == ()


def test_what_learns_needs_more_than_what_gradients_pass():
    cost = model_cost(SIZES["llava-1.5-7b"])
    needs = [largest(8, PARTS[1 : 1 + n]).needs(cost) for n in (1, 2)]
    needs += [largest(8, PARTS).needs(cost), largest(8, PARTS).needs(cost, ("vision",))]
    assert needs[0] < needs[1] < needs[2] > needs[3]
    assert largest(8, number=4, state=0).needs(cost) == 2 * largest(8, state=0).needs(cost)


def test_what_processes_share_out_weighs_less_on_each():
    model = family("llava").model
    learns(model, PARTS[2:])
    ways = (Parallel(), Parallel("zero", 2), Parallel("zero", 3), Parallel("fsdp2"))
    found = [lean.state_bytes(model, way, 4) for way in ways]
    weights = sum(p.numel() for p in model.parameters())
    learned = sum(p.numel() for p in model.language.parameters())
    wanted = [4 * weights + 12 * learned, 4 * weights + 3 * learned, weights + 3 * learned]
    assert found == [*wanted, wanted[-1]]


def test_a_pass_that_can_be_halved_is_asked_for_a_few_rows():
    assert rows_of_pass("auto", 256, halves=True) == 8
    assert rows_of_pass("auto", 256, halves=False) == 256
    assert rows_of_pass("auto", 4, halves=True) == 4
    assert rows_of_pass(32, 256, halves=True) == 32


def test_a_cache_is_advised_where_it_pays():
    small = cache_advice(558_000, 1.18e6, 0.3, 300, seen=3)
    assert small.startswith("cache: on is advised: 0.66 TB, read at 506 MB/s, spares 30%")
    assert "off is advised (pictures are looked at once)" in cache_advice(10, 1e6, 0.3, 300, 1)
    assert cache_advice(558_000, 1.18e6, 0.02, 25, 3).startswith("cache: off is advised: 0.66 TB")


def config(**changes):
    fields = {
        "compile": "auto", "pack": "off", "pack_length": "auto", "group": "none",
        "group_by_length": False,
    }  # fmt: skip
    return SimpleNamespace(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "device", "count"),
    [
        ({}, GPU, 0),
        ({"group": "llava"}, GPU, 4),
        ({"group": "balanced"}, GPU, 0),
        ({"pack": "isolated"}, GPU, 0),
        ({"pack": "isolated", "pack_length": 64}, GPU, 4),
        ({"pack": "isolated", "pack_length": 64}, CPU, 0),
        ({"group": "llava", "compile": "off"}, GPU, 0),
        ({"compile": "on"}, CPU, 4),
    ],
)
def test_auto_compiles_where_batches_have_few_shapes(monkeypatch, changes, device, count):
    monkeypatch.setattr(lean, "missing_compiler", lambda _: None)
    model = family("llava").model
    apply_lean(model, Lean(last_layer_rows=True))
    assert compile_layers(config(**changes), model, device) == count


def test_layers_computed_twice_are_not_compiled(monkeypatch):
    monkeypatch.setattr(lean, "missing_compiler", lambda _: None)
    model = family("llava").model
    assert compile_layers(config(compile="on"), model, CPU, ("language",)) == 3


def test_without_a_compiler_on_is_refused_and_auto_goes_without(monkeypatch):
    monkeypatch.setattr(lean, "missing_compiler", lambda _: "a C++ compiler (g++ or clang++)")
    model = family("llava").model
    with pytest.raises(RecipeError, match=r"compile: on needs a C\+\+ compiler"):
        compile_layers(config(compile="on"), model, CPU)
    assert compile_layers(config(group="llava"), model, GPU) == 0


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER is not None, reason="no C++ compiler")
def test_compiled_layers_compute_the_same():
    model = family("llava").model
    learns(model, PARTS)
    given = batch(model)
    apply_lean(model, Lean(last_layer_rows=True))
    plain = step(model, given)
    assert compile_layers(config(compile="on"), model, CPU) == 4
    assert apart(step(model, given), plain) < 2e-5
