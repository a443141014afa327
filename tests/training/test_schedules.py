import itertools
import math

import pytest
import torch
from transformers import get_scheduler

from vlforge.training.config import Optimiser
from vlforge.training.schedules import Schedule, lr_factor
from vlforge.types import RecipeError


def followed(steps: int, make) -> list[float]:
    """Rates that a scheduler of torch gives for a base rate of 1."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


def factors(steps: int, epoch: int = 0, passes: int = 1, **settings) -> list[float]:
    run = Schedule(Optimiser(**({"lr": 1.0} | settings)), steps, epoch, passes)
    return [run.factor(step) for step in range(steps)]


SPECIFIC = {
    "cosine_with_restarts": ({"cycles": 3}, {"num_cycles": 3}),
    "polynomial": ({"power": 2.0, "min_lr": 0.01}, {"power": 2.0, "lr_end": 0.01}),
    "cosine_with_min_lr": ({"min_lr": 0.1}, {"min_lr_rate": 0.1}),
}


@pytest.mark.parametrize(
    "name",
    ["cosine", "linear", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial",
     "cosine_with_restarts", "cosine_with_min_lr"],
)  # fmt: skip
@pytest.mark.parametrize(("steps", "ratio"), [(50, 0.03), (37, 0.2), (10, 0.0), (1, 0.0), (5, 1.0)])
def test_schedules_are_transformers(name, steps, ratio):
    ours, theirs = SPECIFIC.get(name, ({}, {}))
    warmup = torch.tensor(steps * ratio).double().ceil().int().item()
    wanted = followed(
        steps,
        lambda o: get_scheduler(
            name, o, warmup, steps, scheduler_specific_kwargs=theirs or None
        ),
    )  # fmt: skip
    assert factors(steps, schedule=name, warmup_ratio=ratio, **ours) == pytest.approx(wanted)
    if not ours:
        assert [lr_factor(name, s, steps, ratio) for s in range(steps)] == pytest.approx(wanted)


def test_defaults_of_their_own_are_transformers():
    wanted = followed(20, lambda o: get_scheduler("polynomial", o, 2, 20))
    assert factors(20, schedule="polynomial", warmup_steps=2) == pytest.approx(wanted)
    wanted = followed(20, lambda o: get_scheduler("cosine_with_restarts", o, 2, 20))
    assert factors(20, schedule="cosine_with_restarts", warmup_steps=2) == pytest.approx(wanted)


def test_a_stable_phase_decays_at_its_end_as_transformers():
    how = {"num_decay_steps": 5}
    wanted = followed(
        40,
        lambda o: get_scheduler("warmup_stable_decay", o, 4, 40, scheduler_specific_kwargs=how),
    )
    ours = factors(40, schedule="warmup_stable_decay", warmup_steps=4, decay_ratio=0.125)
    assert ours == pytest.approx(wanted)


@pytest.mark.parametrize(("steps", "ratio"), [(50, 0.3), (37, 0.2), (100, 0.05)])
def test_one_cycle_is_torchs(steps, ratio):
    wanted = followed(
        steps,
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=steps, pct_start=ratio, cycle_momentum=False
        ),
    )
    assert [lr_factor("one_cycle", s, steps, ratio) for s in range(steps)] == pytest.approx(wanted)


def mmengine(steps: int, warmup: int, lr: float) -> list[float]:
    """mmengine's two schedulers in their chained form, one after the other."""
    begin, last = 1e-5, warmup - 1
    rates, rate = [], lr * begin
    for step in range(steps):
        if 0 < step < warmup:
            rate *= 1.0 + (1 - begin) / (last * begin + (step - 1) * (1 - begin))
        elif step > warmup:
            wave = [1 + math.cos(math.pi * s / (steps - warmup)) for s in (step - warmup, -1)]
            wave[1] = 1 + math.cos(math.pi * (step - warmup - 1) / (steps - warmup))
            rate *= wave[0] / wave[1]
        rates.append(rate)
    return rates


@pytest.mark.parametrize(("steps", "ratio"), [(2181, 0.03), (5198, 0.03), (100, 0.05), (40, 0.1)])
def test_xtuners_warmup_and_cosine_are_mmengines(steps, ratio):
    wanted = mmengine(steps, int(ratio * steps), 2e-4)
    ours = factors(steps, lr=2e-4, schedule="xtuner", warmup_ratio=ratio)
    assert [2e-4 * factor for factor in ours] == pytest.approx(wanted, rel=1e-6, abs=1e-16)


def test_xtuner_counts_forward_passes():
    whole = factors(40, schedule="xtuner", warmup_ratio=0.1)
    assert factors(10, passes=4, schedule="xtuner", warmup_ratio=0.1) == whole[3::4]


PADDLES_LOG = [
    9.755e-06, 9.045e-06, 7.939e-06, 6.545e-06, 5e-06, 3.455e-06, 2.061e-06, 9.549e-07,
    2.447e-07, 0.0,
]  # fmt: skip
"""Learning rates of the ten steps that the ad-caption baseline logged: after each step."""


def test_paddles_ten_logged_rates_are_those_of_the_steps_to_come():
    settings = Optimiser(lr=1e-5, schedule="paddle_cosine", warmup_ratio=0.01)
    run = Schedule(settings, 10)
    assert run.warmup == 0
    rates = [1e-5 * run.factor(step) for step in range(11)]
    assert rates[0] == 1e-5
    assert rates[1:] == pytest.approx(PADDLES_LOG, rel=5e-4, abs=1e-12)


@pytest.mark.parametrize(("steps", "ratio", "warmup"), [(199, 0.01, 1), (250, 0.03, 7), (30, 0, 0)])
def test_paddles_warmup_is_rounded_down(steps, ratio, warmup):
    settings = Optimiser(lr=1.0, schedule="paddle_linear", warmup_ratio=ratio)
    assert Schedule(settings, steps).warmup == warmup
    wanted = followed(steps, lambda o: get_scheduler("linear", o, warmup, steps))
    assert factors(steps, schedule="paddle_linear", warmup_ratio=ratio) == pytest.approx(wanted)


def test_lavis_falls_where_warmup_meets_the_cosine_and_the_right_one_does_not():
    stage = {"lr": 1e-4, "warmup_lr": 1e-6, "min_lr": 8e-5, "warmup_steps": 5000}
    rates = [1e-4 * f for f in factors(20_000, 5000, schedule="lavis", **stage)]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[4999] == pytest.approx(9.99802e-5)
    assert rates[5000] == pytest.approx(9.707106781e-5)
    assert rates[9999] == pytest.approx(9.000157e-5)
    right = [1e-4 * f for f in factors(20_000, schedule="cosine", **stage)]
    assert right[4999] == pytest.approx(9.99802e-5)
    assert right[5000] == pytest.approx(1e-4)
    assert min(right[5000:]) == pytest.approx(8e-5, rel=1e-4)
    assert all(a >= b for a, b in itertools.pairwise(right[5000:]))


def test_lavis_saws_where_warmup_is_longer_than_an_epoch():
    rates = factors(30, 10, schedule="lavis", warmup_lr=0.1, warmup_steps=20)
    assert rates[9] == pytest.approx(0.1 + 0.9 * 9 / 20)
    assert rates[10] == rates[0] == pytest.approx(0.1)
    assert rates[19] == rates[9]


def test_a_floor_and_a_start_of_warmup_hold_for_every_schedule():
    for name in ("cosine", "linear", "polynomial", "cosine_with_restarts"):
        made = factors(50, lr=1e-3, schedule=name, warmup_steps=5, warmup_lr=1e-4, min_lr=2e-4)
        assert made[0] == pytest.approx(0.1)
        assert made[5] == pytest.approx(1.0)
        assert min(made[5:]) == pytest.approx(0.2, abs=0.02)
        assert min(made[5:]) >= 0.2


def test_steps_of_warmup_come_before_their_ratio():
    assert factors(100, warmup_steps=10, warmup_ratio=0.5)[10] == 1.0


@pytest.mark.parametrize("change", [{"warmup_steps": -1}, {"warmup_ratio": 1.5}])
def test_a_warmup_that_makes_no_sense_is_refused(change):
    with pytest.raises(RecipeError, match="give steps from 0 and a ratio from 0 to 1"):
        Schedule(Optimiser(**change), 10)


def test_an_unknown_schedule_is_named():
    with pytest.raises(RecipeError, match="'cosin' is unknown"):
        lr_factor("cosin", 0, 10, 0.0)
