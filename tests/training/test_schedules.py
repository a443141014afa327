import pytest
import torch
from transformers import get_scheduler

from vlforge.training.schedules import lr_factor
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


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "ratio"), [(50, 0.03), (37, 0.2), (10, 0.0), (1, 0.0), (5, 1.0)])
def test_schedules_are_transformers(name, steps, ratio):
    theirs = {"constant": "constant_with_warmup"}.get(name, name)
    warmup = torch.tensor(steps * ratio).double().ceil().int().item()
    wanted = followed(
        steps,
        lambda o: get_scheduler(theirs, o, num_warmup_steps=warmup, num_training_steps=steps),
    )
    assert [lr_factor(name, s, steps, ratio) for s in range(steps)] == pytest.approx(wanted)


@pytest.mark.parametrize(("steps", "ratio"), [(50, 0.3), (37, 0.2), (100, 0.05)])
def test_one_cycle_is_torchs(steps, ratio):
    wanted = followed(
        steps,
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=steps, pct_start=ratio, cycle_momentum=False
        ),
    )
    assert [lr_factor("one_cycle", s, steps, ratio) for s in range(steps)] == pytest.approx(wanted)


def test_an_unknown_schedule_is_named():
    with pytest.raises(RecipeError, match="'cosin' is unknown"):
        lr_factor("cosin", 0, 10, 0.0)
