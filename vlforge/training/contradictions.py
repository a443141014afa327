"""What is wrong with a train stage's settings whatever its data and its model are.

Known without torch, so that a run tells it before its first stage begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlforge.data.formats.index import find as find_format
from vlforge.text.templates import find_template
from vlforge.training.budget import check_budget
from vlforge.training.config import TrainConfig
from vlforge.training.mixture import check_mixing, mixtures
from vlforge.training.schedules import Schedule
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.training.grouping import Group

_POSITIVE = (
    "batch", "micro_batch", "accumulation", "expect_global_batch", "max_length",
    "samples", "epochs", "steps", "iters_per_epoch", "pack_length", "keep_last",
)  # fmt: skip


def check_settings(config: TrainConfig) -> None:
    """Raise for what contradicts itself or other settings, and for names that nobody knows.

    Raises:
        RecipeError: says which, and what to give.
        DataError: no format has the name of a dataset's.
    """
    check_budget(config)
    parts = mixtures(config.data)
    check_mixing(parts, config.mixing, config.group_by_length)
    for format_name in {part.format for part in parts} - {"auto"}:
        find_format(format_name)
    _check_batching(config)
    Schedule(config.optimiser, 1)
    if config.template != "auto":  # the model's own
        find_template(config.template)
    for name in _POSITIVE:
        value = getattr(config, name)
        if isinstance(value, int | float) and value <= 0:
            raise RecipeError(f"{name} is {value}; give at least 1")


def group_of(config: TrainConfig) -> Group:
    """The rule that a stage names, in either of the two ways."""
    return "length" if config.group_by_length else config.group


def _check_batching(config: TrainConfig) -> None:
    if config.group_by_length and config.group not in ("none", "length"):
        raise RecipeError(
            f"group_by_length and group: {config.group} are both given: take one of them"
        )
    rule = group_of(config)
    if config.mixing.draw == "per_batch" and rule not in ("none", "balanced"):
        raise RecipeError(
            f"group: {rule} moves rows between batches, draw: per_batch keeps a dataset's rows "
            "together: take one of the two"
        )
    if rule == "balanced" and config.loss_mean != "tokens":
        raise RecipeError(
            f"group: balanced changes which rows share a micro-batch, which loss_mean: "
            f"{config.loss_mean} weighs: take loss_mean: tokens"
        )
    if config.pack == "off" and config.pack_length != "auto":
        raise RecipeError("pack_length is given and pack is off: set pack: isolated")
    if config.random_crop is True and config.augment is not False:
        raise RecipeError("random_crop and augment are both given: take one of them")
