"""Operators of ours that run classes written for Data-Juicer.

For each such class an operator is made whose keys are the arguments of the
class's `__init__`. The object itself is made when a recipe is read, so that its
complaints about parameters come before the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.json_lines import encode
from vlforge.ops.base import Dedup, Filter, Grown, Operator, RowMapper, Selector
from vlforge.ops.batch import Batch, Item
from vlforge.ops.custom.bases import DATA_KEYS
from vlforge.ops.custom.dataset import RowsDataset
from vlforge.ops.custom.stand_in import lent, use_tokens
from vlforge.ops.rows.tags import META
from vlforge.ops.rows.user_code import (
    STATS,
    Sample,
    UneditableError,
    UserCode,
    columns_of,
    copied,
    laid_over,
    names_of,
    new_row,
    rows_of,
)
from vlforge.types import Drop, RecipeError, Row

_INTERVAL = ("min_closed_interval", "max_closed_interval", "reversed_range")


@dataclass(frozen=True, kw_only=True)
class Foreign(Operator):
    """What all adapters share: the keys of Data-Juicer's operators, and the object behind."""

    audio_key: str = "audios"
    video_key: str = "videos"
    system_key: str = "system"
    instruction_key: str = "instruction"
    prompt_key: str = "prompt"
    query_key: str = "query"
    response_key: str = "response"
    history_key: str = "history"
    batch_size: int = 1000

    written_for: ClassVar[type[Any]]
    called: ClassVar[str]
    code: ClassVar[UserCode]
    own_keys: ClassVar[tuple[str, ...]] = ()
    common_keys: ClassVar[tuple[str, ...]] = (*DATA_KEYS, "batch_size")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RecipeError(f"{self.called}.batch_size is {self.batch_size}, not 1 or more")
        with lent(), self.complaints():
            object.__setattr__(self, "_made", self._make())

    @property
    def made(self) -> Any:
        """The user's object."""
        return self._made  # type: ignore[attr-defined]

    def _make(self) -> Any:
        takes = inspect.signature(self.written_for.__init__).parameters
        keys = [*self.common_keys, *(key for key in _INTERVAL if hasattr(self, key))]
        shared = {key: getattr(self, key) for key in keys}
        given = {key: copied(self.__dict__[key]) for key in self.own_keys}
        if any(p.kind == p.VAR_KEYWORD for p in takes.values()):
            return self.written_for(**{**shared, **given})
        made = self.written_for(**{k: v for k, v in {**shared, **given}.items() if k in takes})
        for key, value in shared.items():
            if key not in takes and key not in _INTERVAL and hasattr(made, key):
                setattr(made, key, value)
        return made

    @contextlib.contextmanager
    def complaints(self) -> Iterator[None]:
        """Errors of the user's code, where they cost the run, as one line."""
        try:
            yield
        except RecipeError:
            raise
        except Exception as error:  # a user's class may raise anything
            found = self.code.fault(error)
            said = f"{found.reason}: {found.value}" if found.value else found.reason
            raise RecipeError(f"{self.called}: {said}") from error

    @contextlib.contextmanager
    def working(self, batch: Batch) -> Iterator[None]:
        """The surroundings in which the user's methods are called."""
        use_tokens(batch.context.image_token, batch.context.eoc_token)
        with lent():
            yield


@dataclass(frozen=True, kw_only=True)
class ForeignFilter(Foreign, Filter):
    """Runs `compute_stats_...` and `process_...`; statistics are noted under their own names."""

    @property
    def reads_stats(self) -> bool:
        """It may read what earlier filters measured, so it stays behind them."""
        return True

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        """True for a row that stays, its statistics for one that does not."""
        with self.working(batch):
            if not self.made.is_batched_op():
                names = {**names_of(batch.items), STATS: None}
                return ([self._judged(item, names) for item in batch.items],)
            found: list[Any] = []
            for at in range(0, len(batch.items), self.batch_size):
                found += self._judged_batch(batch.items[at : at + self.batch_size])
            return (found,)

    def keep(self, *values: Any) -> bool:
        return values[0] is True

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Names the statistic where there is only one."""
        found = values[0]
        if len(found) == 1:
            ((stat, value),) = found.items()
            return Drop(name, f"{stat} refused", stat, value)
        return Drop(name, "refused", None, found or None)

    def _judged(self, item: Item, names: Mapping[str, None]) -> Any:
        try:
            sample = self.code.sample(item, names)
            found = self.made.compute_stats_single(sample)
            if not isinstance(found, Mapping):
                raise UneditableError("compute_stats_single gave no row")
            is_kept = bool(self.made.process_single(found))
            return self._noted(item, sample, found, is_kept)
        except Exception as error:
            return self.code.fault(error)

    def _judged_batch(self, items: Sequence[Item]) -> list[Any]:
        try:
            names = {**names_of(items), STATS: None}
            columns = columns_of([self.code.sample(item, names) for item in items])
            found = self.made.compute_stats_batched(columns)
            marks = [bool(mark) for mark in self.made.process_batched(found)]
            rows = rows_of(found)
            if len(rows) != len(items) or len(marks) != len(items):
                raise UneditableError("a filter gave another number of rows")
            triples = zip(items, rows, marks, strict=True)
            return [self._noted(item, row, row, mark) for item, row, mark in triples]
        except Exception as error:
            if len(items) == 1:
                return [self.code.fault(error)]
            return [judged for item in items for judged in self._judged_batch([item])]

    def _noted(
        self, item: Item, sample: Mapping[str, Any], found: Mapping[str, Any], is_kept: bool
    ) -> Any:
        """Take over statistics, and what else the filter wrote into the row, such as tags."""
        before = dict(item.stats)
        lent_names = [name for name in sample if name not in item.row]
        item.row = laid_over(item, found, lent_names)
        if is_kept:
            return True
        return {name: v for name, v in item.stats.items() if name not in before}


@dataclass(frozen=True, kw_only=True)
class ForeignMapper(Foreign, RowMapper):
    """Runs `process_single`, or `process_batched` on columns."""

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        with self.working(batch):
            if self.made.is_batched_op():
                return self.code.call_batched(
                    self.made.process_batched, batch.items, self.batch_size
                )
            return self.code.call_each(self.made.process_single, batch.items)


_FAULT = "__vlforge_fault__"
"""Stands in the key of a row that cannot be shown to `process`; such a row is not selected."""


@dataclass(frozen=True, kw_only=True)
class ForeignSelector(Foreign, Selector):
    """Runs `process` on all rows at once, in memory."""

    def key(self, item: Item) -> Any:
        """The whole row, because nobody knows what `process` will look at."""
        with lent():
            try:
                return self.seen(item)
            except Exception as error:
                return {_FAULT: self.code.fault(error).reason}

    def seen(self, item: Item) -> dict[str, Any]:
        """A row as `process` sees it."""
        return dict(self.code.sample(item, {**names_of([item]), STATS: None}))

    def rank(self, keys: Sequence[Any]) -> list[int]:
        usable = [at for at, key in enumerate(keys) if _FAULT not in key]
        with lent(), self.complaints():
            found = self.written_for.process(self.made, RowsDataset([keys[at] for at in usable]))
            found = found[0] if isinstance(found, tuple) else found
            if not isinstance(found, RowsDataset):
                raise UneditableError("process gave no dataset made of the one it got")
            if len(set(found.places)) < len(found):
                raise UneditableError("process chose a row twice")
            return [usable[at] for at in found.places]


@dataclass(frozen=True, kw_only=True)
class ForeignDeduplicator(ForeignSelector):
    """Runs `compute_hash` on each row and the class's own `process` on all, in memory."""

    kind: ClassVar[str] = "dedup"

    def seen(self, item: Item) -> dict[str, Any]:
        """The whole row with its hash."""
        return hashed(self, item)


@dataclass(frozen=True, kw_only=True)
class ForeignHashDedup(Foreign, Dedup):
    """Runs `compute_hash` and keeps the first row of each hash, for a class without `process`."""

    def keys(self, batch: Batch) -> list[bytes | Drop | None]:
        with self.working(batch):
            return [self._key(item) for item in batch.items]

    def _key(self, item: Item) -> bytes | Drop | None:
        try:
            found = hashed(self, item)
        except Exception as error:
            return self.code.fault(error)
        added = [[name, v] for name, v in found.items() if name not in (*item.row, STATS, META)]
        return hashlib.blake2b(encode(added), digest_size=16).digest() if added else None


def hashed(op: Foreign, item: Item) -> dict[str, Any]:
    """The row with what `compute_hash` added to it."""
    sample = op.code.sample(item, {**names_of([item]), STATS: None})
    is_batched = op.made.is_batched_op()
    given: Any = columns_of([sample]) if is_batched else Sample(sample)
    found = op.written_for.compute_hash(op.made, given)
    if not isinstance(found, Mapping):
        raise UneditableError("compute_hash gave no row")
    (row,) = rows_of(found) if is_batched else [found]
    return new_row(Item(item.uid, item.line, sample), row) | {STATS: sample[STATS]}


def adapted(cls: type[Any], name: str, file: str, bases: Any, *, has_tags: bool) -> type[Operator]:
    """The operator that runs a class of Data-Juicer's kind.

    Args:
        bases: the module of the base classes that `cls` was built on.
        has_tags: whether rows get a table of tags before the class sees them.

    Raises:
        RecipeError: a kind of operator that cannot be run here.
    """
    where = f"{os.path.basename(file)}: {name}"
    base = _adapter_of(cls, bases)
    if base is None:
        raise RecipeError(
            f"{where} is no Filter, Mapper, Deduplicator or Selector of Data-Juicer's"
        )
    keys = _parameters(cls)
    fields: list[Any] = [(key, Any, _field(default)) for key, default in keys.items()]
    namespace = {
        "__doc__": _documentation(cls, file),
        "written_for": cls,
        "called": name,
        "code": UserCode(file, extra=(META,) if has_tags else ()),
        "own_keys": tuple(keys),
    }
    title = re.sub(r"\W", "", name.title().replace("_", ""))
    made = dataclasses.make_dataclass(
        title, fields, bases=(base,), namespace=namespace, frozen=True, kw_only=True
    )
    made.__module__ = cls.__module__
    shared = {field.name for field in dataclasses.fields(base)}
    for key in keys:
        if key not in shared and hasattr(base, key):
            setattr(made, key, _Both(base, key))
    return made


class _Both:
    """A method of the adapter whose name is also a parameter of the class behind it.

    What is set is kept aside, where `Foreign` finds it; what is read is the method.
    """

    def __init__(self, base: type[Any], name: str):
        self._method, self._name = inspect.getattr_static(base, name), name

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        binds = hasattr(self._method, "__get__")
        return self._method.__get__(instance, owner) if binds else self._method

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value


def _adapter_of(cls: type[Any], bases: Any) -> type[Foreign] | None:
    if issubclass(cls, bases.Filter):
        return ForeignFilter
    if issubclass(cls, bases.Mapper):
        return ForeignMapper
    if issubclass(cls, bases.Deduplicator):
        has_own = cls.process is not bases.Deduplicator.process
        return ForeignDeduplicator if has_own else ForeignHashDedup
    return ForeignSelector if issubclass(cls, bases.Selector) else None


def _parameters(cls: type[Any]) -> dict[str, Any]:
    """The named arguments of `__init__` with their defaults."""
    found = inspect.signature(cls.__init__).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {n: p.default for n, p in found.items() if p.kind in named and n != "self"}


def _field(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return dataclasses.field()
    return dataclasses.field(default_factory=lambda: copied(default))


def _documentation(cls: type[Any], file: str) -> str:
    said = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return said or f"A custom operator of {os.path.basename(file)}."
