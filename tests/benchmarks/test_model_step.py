"""The parts of `benchmarks/model_step.py` and `gpu_model_step.py`, on a CPU at tiny sizes."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.model_parts.cases import Case, build, enter_stage, lean_loss, make_batch
from benchmarks.model_parts.comparing import Disagreement, agreement, compare, orders_of
from benchmarks.model_parts.measuring import Order, flops, peak_mib
from benchmarks.model_parts.published import checkpointed, published_loss
from benchmarks.model_parts.real import REAL, measure_all, peak_of, product_peak, rows_that_fit
from benchmarks.model_parts.small import LLAVA, MGM, MINIGPT4, SMALL

ROOT = Path(__file__).resolve().parents[2]
SHALLOW = {"num_hidden_layers": 2}
TINY_TEXT = SHALLOW | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 300}
CONFIGS = {
    "llava": LLAVA,
    "mgm": MGM | {"vision_high_config": MGM["vision_high_config"] | {"depths": [1, 1, 2, 1]}},
    "minigpt4": MINIGPT4 | {"qformer_config": MINIGPT4["qformer_config"] | SHALLOW},
}
TINY = {
    name: config
    | {
        "vision_config": config["vision_config"] | {"num_hidden_layers": 3},
        "text_config": config["text_config"] | TINY_TEXT,
    }
    for name, config in CONFIGS.items()
}


def tiny(family: str, stage: int, **changes) -> Case:
    """A case of a few hundred thousand weights, its rows of three lengths."""
    return replace(Case(family, TINY[family], stage, 12, 5, ragged=True), **changes)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("family", TINY)
def test_both_orders_agree_in_fp64_and_ours_runs_fewer_products(family, stage):
    case = tiny(family, stage)
    model = build(case.config, "cpu", torch.float64)
    names = enter_stage(model, stage)
    orders = orders_of(model, make_batch(model, case, 3))
    # Logits are widened to fp32 in both, so this is as near as they get.
    off = agreement(model, case, orders, names, {"loss": 1e-6, "worst_gradient": 1e-5})
    assert off["gradient"] < 1e-6
    assert flops(model, orders["lean"]) < flops(model, orders["published"])
    assert all("connector." in name for name in names) == (stage == 1 or family == "minigpt4")


@pytest.mark.parametrize("family", TINY)
def test_a_case_is_told_with_its_ratios(family):
    case = tiny(family, 1)
    told = compare(build(case.config, "cpu", torch.float32), case, rows=3, repeats=2)
    json.dumps(told)
    assert ("lean_checkpointed" in told["ratios"]) == (family != "minigpt4")
    low, middle, high = told["ratios"]["lean"]["cpu"]
    assert 0 < low <= middle <= high
    # Three rows of 9, 12 and 15 words and a picture's tokens each.
    pictures = {"llava": 64, "mgm": 64, "minigpt4": 32}
    assert told["tokens"] == 3 * 12 + 3 * pictures[family]
    assert told["supervised"] == 15


def test_orders_that_differ_are_not_timed():
    case = tiny("llava", 1)
    model = build(case.config, "cpu", torch.float32)
    names = enter_stage(model, 1)
    batch = make_batch(model, case, 2)
    orders = orders_of(model, batch)
    orders["published"] = Order(lambda: 1.001 * published_loss(model, batch))
    with pytest.raises(Disagreement, match="llava stage 1"):
        agreement(model, case, orders, names)
    halves = Order(lambda: (published_loss(model, batch).detach() + lean_loss(model, batch)) / 2)
    orders["published"] = halves
    with pytest.raises(Disagreement, match=r"'gradient': (0\.99|1\.0)"):
        agreement(model, case, orders, names)


def test_checkpointing_costs_products_saves_memory_and_is_undone():
    case = tiny(
        "llava",
        2,
        config=TINY["llava"] | {"text_config": LLAVA["text_config"] | {"num_hidden_layers": 8}},
    )
    model = build(case.config, "cpu", torch.float32)
    enter_stage(model, 1)
    plain = orders_of(model, make_batch(model, case, 3))["lean"]
    setting = functools.partial(checkpointed, model)
    modes = [module.training for module in model.modules()]
    assert flops(model, Order(plain.loss, setting)) > 1.2 * flops(model, plain)
    assert peak_mib(model, Order(plain.loss, setting), "cpu") < peak_mib(model, plain, "cpu")
    assert modes == [module.training for module in model.modules()]
    assert flops(model, plain) == flops(model, plain)


def test_products_of_a_step_are_those_of_its_layers():
    weight = torch.nn.Linear(8, 16, bias=False)
    given = torch.randn(5, 8, requires_grad=True)
    # One product forward, two backward.
    assert flops(weight, Order(lambda: weight(given).sum())) == 3 * 2 * 5 * 8 * 16
    heads = [torch.randn(2, count, 7, 4, requires_grad=True) for count in (6, 6, 6)]
    attend = torch.nn.functional.scaled_dot_product_attention
    square = 2 * 2 * 6 * 7 * 7 * 4
    assert flops(weight, Order(lambda: attend(*heads).sum())) == (2 + 5) * square


def test_memory_of_a_step_is_what_the_allocator_saw():
    weight = torch.nn.Linear(512, 512, bias=False)
    given = torch.randn(512, 512)  # 1 MiB, as are the weight, its gradient, each result
    order = Order(lambda: weight(weight(given)).sum())
    assert 3 <= peak_mib(weight, order, "cpu") <= 4.1


def test_scaled_down_cases_keep_the_real_ones_proportions():
    names = {case.title.split("/")[0] for case in SMALL}
    assert names == {case.title.split(" ")[0] for case in REAL}
    for small in SMALL:
        real = next(c for c in REAL if c.title == f"{small.name.split('/')[0]} stage {small.stage}")
        for part in ("vision_config", "text_config"):
            depths = [c.config[part]["num_hidden_layers"] for c in (small, real)]
            assert depths[0] == depths[1]


@pytest.mark.parametrize(
    ("one", "two", "free", "most", "rows"),
    [(10, 14, 100, 48, 19), (10, 14, 100, 8, 8), (10, 14, 5, 48, 1), (10, 10, 100, 48, 48)],
)
def test_rows_are_as_many_as_fit(one, two, free, most, rows):
    assert rows_that_fit(one, two, free, most) == rows


def test_makers_peaks_are_found_by_the_longer_name_first():
    assert peak_of("NVIDIA H200") == peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_of("NVIDIA L40S") != peak_of("NVIDIA L4")
    assert peak_of("Radeon") is None
    assert product_peak("cpu", side=64, seconds=0.0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_real_sizes_are_measured_like_this_in_bf16(family):
    cases = [tiny(family, stage, ragged=False) for stage in (1, 2)]
    peaks = {"maker": 1e9, "product": None}
    ends = math.inf
    found = list(measure_all(cases, "cpu", 0.0, 3, peaks, ends, free=1e6))
    for case, told in zip(cases, found, strict=True):
        assert told["case"] == case.title
        assert told["published"]["rows"] == told["lean"]["rows"] == 3
        assert told["lean"]["steps"] == 2
        assert 0 < told["lean"]["mfu_of_maker"] <= told["lean"]["hfu_of_maker"] * 1.01
        assert "mfu_of_product" not in told["lean"]
        assert told["ratio"] > 0
    late = list(measure_all(cases, "cpu", 0.0, 3, peaks, time.perf_counter() - 1, free=1e6))
    assert [one["not_measured"] for one in late] == ["no time left"] * 2


def test_a_case_without_memory_says_so(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 3 GiB")

    monkeypatch.setattr("benchmarks.model_parts.real.agreement", full)
    ends = math.inf
    (told,) = measure_all([tiny("llava", 1)], "cpu", 0.0, 3, {}, ends, free=1e6)
    assert told["not_measured"] == "CUDA out of memory. Tried to allocate 3 GiB"


@pytest.mark.slow
def test_without_a_gpu_one_line_says_that_nothing_was_measured():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_model_step.py")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    told = json.loads(done.stdout)
    assert told["benchmark"] == "gpu_model_step"
    assert "no CUDA device" in told["not_measured"]
