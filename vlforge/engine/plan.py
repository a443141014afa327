"""Cutting a recipe's operators into passes over the rows, cheapest look first.

Filters that follow each other commute, so they are grouped by what they need
(text, headers, pixels, a model) and the cheapest group runs first; within a
group they keep the recipe's order. A filter that judges statistics measured
before stays behind what stands before it. A row that two filters would drop is thus
always charged to the one that needs less, and among equals to the first in the
recipe. Mappers and dedups stay where they are. What must see every row that
reaches it is a barrier and ends a pass: selectors, near dedups, groupers, and
mappers that learn from the whole corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import msgspec

from vlforge.engine.config import ProcessConfig
from vlforge.ops.base import (
    Chooser,
    CorpusMapper,
    Dedup,
    Filter,
    Grouper,
    Mapper,
    NearDedup,
    Operator,
    Selector,
)
from vlforge.ops.bind import Bound, bind
from vlforge.ops.index import want_custom
from vlforge.types import EndpointSpec, Need

TEXT_BLOCK, PIXEL_BLOCK, WRITING_BLOCK = 1000, 256, 128
"""Rows per block where nothing is decoded, where pictures are at work or models judge, and
where models write: a row may take them seconds, and what is done of a block is not yet safe."""
BARRIERS = (Selector, Chooser, NearDedup, Grouper, CorpusMapper)
KEYED = (NearDedup, Chooser)
"""Barriers that know rows by bytes of one width."""


class Step(msgspec.Struct, frozen=True):
    """Operators that look at the same rows: some filters of one need, or one other operator."""

    ops: tuple[Bound, ...]

    @property
    def stays_home(self) -> bool:
        """Whether a model is at work, so that it cannot run in a forked worker."""
        return self.ops[0].op.needs >= Need.EMBEDDING


class Leg(msgspec.Struct, frozen=True):
    """Steps of a tail that run one after another in one place.

    `is_modelled`: where the models are, blocks in any order. The others begin with a dedup,
    which sees the blocks in order, in the starting process.
    """

    steps: tuple[Step, ...]
    is_modelled: bool


class Pass(msgspec.Struct, frozen=True):
    """One streaming pass: `head` runs in forked workers, `tail` (models and what follows) not.

    `barrier` sees all rows at its end. A corpus mapper is the barrier of one
    pass and the first step of the next. `legs` are the tail cut where a dedup has to
    decide; the last one is modelled where the barrier's keys need a model.
    """

    head: tuple[Step, ...]
    tail: tuple[Step, ...]
    barrier: Bound | None = None
    legs: tuple[Leg, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in order."""
        return self.head + self.tail

    @property
    def has_dedup(self) -> bool:
        """Whether rows are compared with earlier ones on their way."""
        return any(isinstance(b.op, Dedup) for step in self.steps for b in step.ops)


class Plan(msgspec.Struct, frozen=True):
    """The passes of a recipe."""

    bounds: tuple[Bound, ...]
    passes: tuple[Pass, ...]

    @property
    def needs(self) -> Need:
        """The most that any operator needs."""
        return max((bound.op.needs for bound in self.bounds), default=Need.TEXT)

    @property
    def block_rows(self) -> int:
        """Rows per block; depends on the recipe alone, so that outputs never depend on workers."""
        if any(is_generative(bound.op) for bound in self.bounds):
            return WRITING_BLOCK
        return PIXEL_BLOCK if self.needs >= Need.PIXELS else TEXT_BLOCK

    @property
    def model_operators(self) -> list[Bound]:
        """The operators that name models."""
        return [bound for bound in self.bounds if bound.op.needs >= Need.EMBEDDING]

    @property
    def stats(self) -> list[str]:
        """Statistics in the order of the recipe."""
        found: dict[str, None] = {}
        for bound in self.bounds:
            found |= dict.fromkeys(getattr(bound.op, "stats", ()))
        return list(found)


def operators_of(config: ProcessConfig) -> list[Bound]:
    """The operators of a recipe, the user's own ones loaded first.

    Raises:
        RecipeError: operators or parameters that do not exist or do not fit.
    """
    want_custom(config.custom_operator_paths)
    return bind(config.process, **config.shared_keys())


def make_plan(bounds: Sequence[Bound]) -> Plan:
    """The passes of some operators, in their order."""
    passes: list[Pass] = []
    pending: list[Bound] = []
    opening: tuple[Step, ...] = ()
    for bound in bounds:
        if not isinstance(bound.op, BARRIERS):
            pending.append(bound)
            continue
        passes.append(_cut(opening, pending, bound))
        pending = []
        opening = (Step((bound,)),) if isinstance(bound.op, CorpusMapper) else ()
    passes.append(_cut(opening, pending, None))
    return Plan(tuple(bounds), tuple(passes))


def _cut(opening: tuple[Step, ...], bounds: Sequence[Bound], barrier: Bound | None) -> Pass:
    steps = list(opening)
    for kind, run in groupby(bounds, key=_filter_kind):
        members = list(run)
        steps += _filter_steps(members) if kind else [Step((b,)) for b in members]
    if barrier is not None and has_key_step(barrier.op):
        steps.append(Step((barrier,)))
    first = next((at for at, step in enumerate(steps) if step.stays_home), len(steps))
    tail = tuple(steps[first:])
    return Pass(tuple(steps[:first]), tail, barrier, tuple(_legs(tail, barrier)))


def _legs(tail: Sequence[Step], barrier: Bound | None) -> list[Leg]:
    """The tail cut before each dedup, and behind it where a model is wanted again."""
    legs: list[Leg] = []
    for step in tail:
        is_ordered = isinstance(step.ops[0].op, Dedup)
        last = legs[-1] if legs else None
        if last is None or (is_ordered and last.is_modelled):
            legs.append(Leg((step,), not is_ordered))
        elif not is_ordered and not last.is_modelled and step.stays_home:
            legs.append(Leg((step,), True))
        else:
            legs[-1] = Leg((*last.steps, step), last.is_modelled)
    needs_model = barrier is not None and barrier.op.needs >= Need.EMBEDDING
    if needs_model and not (legs and legs[-1].is_modelled):
        legs.append(Leg((), True))
    return legs


def has_key_step(op: Any) -> bool:
    """Whether the barrier's keys are a step of their own, done where the models are."""
    return isinstance(op, KEYED) and op.needs >= Need.PIXELS


def _filter_kind(bound: Bound) -> str:
    """Filters of one kind commute; those that read statistics stay behind those that measure."""
    if not isinstance(bound.op, Filter):
        return ""
    return "reads statistics" if bound.op.reads_stats else "measures"


def _filter_steps(run: list[Bound]) -> list[Step]:
    by_need = sorted(run, key=lambda b: (_look(b.op.needs), b.place))
    steps: list[Step] = []
    for need, group in groupby(by_need, key=lambda b: _look(b.op.needs)):
        members = tuple(group)
        steps += [Step((b,)) for b in members] if need >= Need.EMBEDDING else [Step(members)]
    return steps


def _look(need: Need) -> Need:
    """Headers and whole files count as one look: both cost one opened file."""
    return Need.HEADER if need == Need.BYTES else need


def is_generative(op: Any) -> bool:
    """Whether a model writes or paints what the operator puts into rows."""
    return isinstance(op, Mapper) and op.needs >= Need.MODEL


def opens_models(config: ProcessConfig, plan: Plan) -> bool:
    """Whether any operator names a model that is no server."""
    return not all(asks_endpoint(bound, config.endpoints) for bound in plan.model_operators)


def asks_endpoint(bound: Bound, endpoints: Mapping[str, EndpointSpec]) -> bool:
    """Whether an operator asks a server."""
    op = bound.op
    values = [getattr(op, field.name) for field in fields(op)]
    if any(isinstance(value, str) and value in endpoints for value in values):
        return True
    told = [getattr(op, name, None) for name in ("is_api", "server")]
    return any(one is not None and one() for one in told)


def kind_of(op: Any) -> str:
    """filter, mapper, dedup, grouper or selector."""
    return op.kind if isinstance(op, Operator) else "operator"
