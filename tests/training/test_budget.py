from dataclasses import replace

import pytest

from vlforge.training.budget import check_budget, samples_to_see, settle_batch, steps_per_epoch
from vlforge.training.config import TrainConfig
from vlforge.types import RecipeError

STAGE = TrainConfig(model="m", data="d.json", epochs=1.0)


def settled(devices=1, **changes):
    made = settle_batch(replace(STAGE, **changes), devices)
    return made.batch, made.micro_batch


@pytest.mark.parametrize(
    ("devices", "given", "wanted"),
    [
        (1, {"batch": 256}, (256, "auto")),
        (8, {"batch": 256, "micro_batch": 4}, (256, 4)),
        (1, {"batch": 256, "accumulation": 64}, (256, 4)),
        (4, {"batch": 256, "accumulation": 16}, (256, 4)),
        (2, {"batch": 256, "micro_batch": 4, "accumulation": 32}, (256, 4)),
        (1, {"batch": "auto", "micro_batch": 4, "accumulation": 64}, (256, 4)),
        (8, {"batch": "auto", "micro_batch": 32}, (256, 32)),
    ],
)
def test_a_global_batch_comes_of_what_is_given(devices, given, wanted):
    assert settled(devices, **given, expect_global_batch=256) == wanted


@pytest.mark.parametrize(
    ("devices", "given", "match"),
    [
        (2, {"batch": "auto", "micro_batch": 4, "accumulation": 64, "expect_global_batch": 256},
         r"^the global batch is 512 = 4 x 64 x 2 .* expect_global_batch is 256: set accumulation "
         "to 32$"),
        (3, {"batch": "auto", "micro_batch": 4, "accumulation": 1, "expect_global_batch": 256},
         "choose a micro_batch that divides 256 over 3 devices"),
        (1, {"batch": 128, "expect_global_batch": 256}, "is 128, .* 256: set batch to 256"),
        (2, {"batch": 256, "micro_batch": 4, "accumulation": 64}, "is 512, and batch is 256"),
        (3, {"batch": 256, "accumulation": 2}, "256 does not fall into 2 x 3 equal parts"),
        (1, {"batch": "auto"}, "batch: auto needs micro_batch"),
    ],
)  # fmt: skip
def test_sizes_that_contradict_each_other_are_one_line(devices, given, match):
    with pytest.raises(RecipeError, match=match) as caught:
        settled(devices, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        ({"epochs": 1.0}, 105),
        ({"epochs": 1.5}, 158),
        ({"epochs": 1.0, "drop_last": True}, 100),
        ({"epochs": None, "samples": 33}, 33),
        ({"epochs": None, "steps": 7}, 70),
        ({"epochs": 3.0, "iters_per_epoch": 5}, 150),
        ({"epochs": 3.0, "iters_per_epoch": 4, "accumulation": 2}, 60),
    ],
)
def test_a_budget_is_samples_or_steps_or_epochs(given, samples):
    config = replace(STAGE, **given)
    check_budget(config)
    assert samples_to_see(config, [100, 5], 10) == samples


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"steps": 3}, "steps and epochs are given"),
        ({"samples": 3}, "samples and epochs are given: take samples or epochs or steps"),
        ({"epochs": None}, "takes samples or epochs or steps"),
        ({"epochs": None, "steps": 3, "iters_per_epoch": 5}, "give epochs with it"),
    ],
)
def test_budgets_that_contradict_each_other_are_refused(given, match):
    with pytest.raises(RecipeError, match=match):
        check_budget(replace(STAGE, **given))


def test_dropping_the_last_batch_may_not_drop_all():
    with pytest.raises(RecipeError, match="leaves nothing of 5 rows in batches of 10"):
        samples_to_see(replace(STAGE, drop_last=True), [5], 10)


def test_an_epoch_of_a_schedule_is_the_datas_or_the_recipes():
    assert steps_per_epoch(STAGE, 105, 10) == 10
    assert steps_per_epoch(replace(STAGE, iters_per_epoch=200), 105, 10) == 200
    assert steps_per_epoch(replace(STAGE, iters_per_epoch=200, accumulation=4), 105, 10) == 50
