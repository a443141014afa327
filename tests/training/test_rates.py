"""Rates over the last steps, and the peak they are a share of."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny_model import llava
from vlforge.training.batches import TokenRows
from vlforge.training.peaks import device_peak, gpu_peak
from vlforge.training.rates import Rates
from vlforge.training.work import Work


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_rate_is_over_the_last_steps_alone():
    clock = Clock()
    rates = Rates(peak_flops=1000.0, window=4, clock=clock)
    for seconds in (60.0, 60.0, 1.0, 1.0, 1.0, 1.0):  # a slow start is forgotten
        clock.now += seconds
        rates.waited(seconds / 4)
        rates.add(samples=8, tokens=80, flops=500.0)
    now, whole = rates.now(), rates.whole()
    assert (now.samples_per_second, now.tokens_per_second) == (8.0, 80.0)
    assert (now.wait_share, now.mfu) == (0.25, 0.5)
    assert whole.samples_per_second == pytest.approx(48 / 124)


def test_time_set_aside_is_in_no_rate():
    clock = Clock()
    rates = Rates(clock=clock)
    clock.now += 1
    rates.add(10, 100)
    with rates.aside():
        clock.now += 1000
    clock.now += 1
    rates.add(10, 100)
    assert rates.now().samples_per_second == 10.0


def test_without_a_peak_there_is_no_mfu():
    clock = Clock()
    rates = Rates(peak_flops=0.0, clock=clock)
    clock.now += 1
    rates.add(1, 1, 1e9)
    assert rates.now().mfu is None
    assert "mfu" not in rates.now().fields()


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla V100-SXM2-16GB", 125),
        ("AMD Instinct MI300X", 1307),
    ],
)
def test_peaks_go_by_name(name, tflops):
    assert gpu_peak(name).flops == tflops * 1e12


def test_an_unknown_gpu_is_said_to_be_unknown():
    assert gpu_peak("NVIDIA Foo 1").flops == 0
    assert "NVIDIA Foo 1" in gpu_peak("NVIDIA Foo 1").how


def test_the_peak_of_a_cpu_is_measured_once_and_moves_no_random_number():
    before = torch.get_rng_state()
    first = device_peak(torch.device("cpu"))
    assert first.flops > 1e8
    assert device_peak(torch.device("cpu")) == first
    assert torch.equal(torch.get_rng_state(), before)


def test_the_work_of_rows_is_the_models_cost_of_them(tmp_path):
    model = llava("clip")
    cost = model.cost()
    shown = ([5] * 9, [-100] * 6 + [5] * 3, (0,), 9 - 1 + cost.image_tokens)
    words = ([5] * 7, [-100] * 5 + [5] * 2, (), 7)
    data = SimpleNamespace(rows=TokenRows.of([shown, words]))
    names = ["connector.0.weight"]
    work = Work.of(model, data, names, has_features=False)
    alone = cost.sample_flops(8, 3, 1, {"connector"}), cost.sample_flops(7, 2, 0, {"connector"})
    rows = np.asarray([0, 1])
    assert work(rows) == pytest.approx(sum(alone))
    kept = Work.of(model, data, names, has_features=True)
    assert kept(rows) == pytest.approx(sum(alone) - cost.vision.flops)
    assert Work.of(SimpleNamespace(), data, names, False) is None
