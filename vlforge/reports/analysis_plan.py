"""What an analysis measures: a recipe's filters, or every cheap one where there is no recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.plan import make_plan, operators_of
from vlforge.ops.base import Dedup, Filter, Mapper
from vlforge.ops.bind import Bound
from vlforge.types import Need, RecipeError

QUARTILES = (0.25, 0.5, 0.75)
LANGUAGE = "language_id_score_filter"
_GIVEN: Mapping[str, Mapping[str, Any]] = {
    "stopwords_filter": {"stopwords_dir": "builtin"},
    # Tokens such as <__dj__image> are taken for words of some language.
    LANGUAGE: {"ignore_special_tokens": True},
}
"""What filters of the default set are told."""


@dataclass(frozen=True)
class AnalysisPlan:
    """What is asked of a dataset, and the `process` stage that measures it.

    `filters` are the filters as the recipe has them. `order` are their places in
    the order in which a run asks them. `left_out` are operators that an analysis
    does not run.
    """

    config: ProcessConfig
    filters: tuple[Bound, ...]
    order: tuple[int, ...]
    is_recipe: bool
    left_out: tuple[str, ...] = ()
    is_mapped: bool = False
    has_hashes: bool = False
    percentiles: tuple[float, ...] = ()

    @property
    def stats(self) -> dict[str, Bound]:
        """The statistics in the filters' order, each with the first filter that measures it."""
        found: dict[str, Bound] = {}
        for bound in self.filters:
            for stat in getattr(bound.op, "stats", ()):
                found.setdefault(stat, bound)
        return found

    @property
    def needs_models(self) -> bool:
        """Whether a filter asks a model."""
        return any(bound.op.needs >= Need.EMBEDDING for bound in self.filters)


def plan_analysis(
    config: ProcessConfig, *, is_mapped: bool = False, hashes_pictures: bool = False
) -> AnalysisPlan:
    """How to measure what the recipe's filters measure, or, without filters, all that is cheap.

    Mappers run where `is_mapped` is set. Dedups, selectors and groupers, which
    compare rows, never do; a recipe that compares pictures has them hashed.

    Raises:
        RecipeError: operators that do not fit, `percentiles` that are none.
    """
    percentiles = read_percentiles(setting(config, "percentiles"))
    bounds = operators_of(config)
    is_recipe = any(isinstance(bound.op, Filter) for bound in bounds)
    if not is_recipe:
        config = replace(config, process=(*config.process, *default_filters()))
        bounds = operators_of(config)
    filters = tuple(b for b in bounds if isinstance(b.op, Filter))
    kept = {b.place for b in filters} | {b.place for b in bounds if is_mapped and _maps(b)}
    hashes_pictures |= any(isinstance(b.op, Dedup) and b.op.needs == Need.PIXELS for b in bounds)
    process = [_entry(b, config.process[b.place]) for b in bounds if b.place in kept]
    order = [
        bound.place
        for this in make_plan(filters).passes
        for step in this.steps
        for bound in step.ops
    ]
    return AnalysisPlan(
        config=_measuring(config, [*process, *_extras(filters, hashes_pictures)]),
        filters=filters,
        order=tuple(order),
        is_recipe=is_recipe,
        left_out=tuple(b.name for b in bounds if b.place not in kept),
        is_mapped=is_mapped and any(b.place in kept for b in bounds if _maps(b)),
        has_hashes=hashes_pictures,
        percentiles=percentiles,
    )


def default_filters() -> tuple[dict[str, dict[str, Any] | None], ...]:
    """Every filter that reads texts or headers of pictures and can do so here and now."""
    from vlforge.ops.index import find, places

    found = []
    for name in places():
        cls = find(name)
        is_cheap = issubclass(cls, Filter) and cls.needs <= Need.HEADER and bool(cls.stats)
        if is_cheap and _is_ready(cls, _GIVEN.get(name, {})):
            found.append((cls.needs, name))
    return tuple({name: dict(_GIVEN.get(name, {}))} for _, name in sorted(found))


def setting(config: ProcessConfig, key: str) -> Any:
    """A key of Data-Juicer's analyser, wherever the recipe's reader put it."""
    return getattr(config, key, None) or config.extra.get(key)


def read_percentiles(given: Any) -> tuple[float, ...]:
    """The quartiles and what is given, in order.

    Raises:
        RecipeError: not a list of numbers from 0 to 1.
    """
    values = given if isinstance(given, list | tuple) else [] if given is None else [given]
    for value in values:
        is_share = (
            isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        )
        if not is_share:
            raise RecipeError(
                f"percentiles: {value!r} is no share; write numbers from 0 to 1, as [0.05, 0.95]"
            )
    return tuple(sorted({*QUARTILES, *map(float, values)}))


def _is_ready(cls: type[Filter], given: Mapping[str, Any]) -> bool:
    """Whether it can be made without further settings, libraries or downloads."""
    try:
        op = cls(**given)
    except (TypeError, ValueError, RecipeError):
        return False
    return not op.reads_stats and bool(op.bounds())


def _maps(bound: Bound) -> bool:
    return isinstance(bound.op, Mapper)


def _entry(bound: Bound, given: Any) -> dict[str, Any]:
    from vlforge.ops.measured import measuring

    if isinstance(bound.op, Mapper):
        return given if isinstance(given, dict) else {bound.name: None}
    return {measuring(bound.name): {**bound.params, "place": bound.place}}


def _extras(filters: tuple[Bound, ...], hashes_pictures: bool) -> list[dict[str, Any]]:
    """What every analysis wants to know besides."""
    from vlforge.ops.index import find
    from vlforge.ops.measured import measuring

    extras: list[dict[str, Any]] = [{measuring("RowFacts"): None}]
    if hashes_pictures:
        extras.append({measuring("PictureHashes"): None})
    has_language = any("lang" in getattr(bound.op, "stats", ()) for bound in filters)
    if not has_language and _is_ready(find(LANGUAGE), {}):
        extras.append({measuring(LANGUAGE): {**_GIVEN[LANGUAGE], "place": -1}})
    return extras


def _measuring(config: ProcessConfig, process: list[dict[str, Any]]) -> ProcessConfig:
    """The same rows, with these operators, and nothing exported but measurements."""
    return replace(
        config,
        process=tuple(process),
        export_path="",
        export_type="",
        export_shard_size=0,
        keep_stats_in_res_ds=False,
        keep_hashes_in_res_ds=False,
        open_tracer=False,
        op_list_to_trace=(),
        strict=False,
        skip_op_error=True,
    )
