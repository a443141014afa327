"""Rows as the dataset that Data-Juicer's selectors and deduplicators expect, all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from vlforge.types import Row


class RowsDataset:
    """The part of Hugging Face's `Dataset` that choosing rows takes.

    Every method gives a new dataset. `places` says where its rows stood in the
    first one, and is all that counts in the end: changed columns are for looking
    at only.
    """

    def __init__(self, rows: Sequence[Row], places: Sequence[int] | None = None):
        self._rows = list(rows)
        self.places = list(range(len(self._rows)) if places is None else places)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return (self._row(row) for row in self._rows)

    def __getitem__(self, key: Any) -> Any:
        """A column by its name, a row by its number, columns of some rows by a slice or list."""
        if isinstance(key, str):
            if key not in self.column_names:
                raise KeyError(key)
            return [row.get(key) for row in self._rows]
        if isinstance(key, int):
            return self._row(self._rows[key])
        chosen = self._rows[key] if isinstance(key, slice) else [self._rows[at] for at in key]
        return {name: [row.get(name) for row in chosen] for name in self.column_names}

    @cached_property
    def column_names(self) -> list[str]:
        """All fields, in order of appearance."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    @property
    def features(self) -> dict[str, None]:
        """The fields; their types are not known."""
        return dict.fromkeys(self.column_names)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self)

    def select(self, indices: Iterable[int], **_: Any) -> RowsDataset:
        """The rows at some places, in that order."""
        return self._at([int(at) for at in indices])

    def take(self, n: int) -> RowsDataset:
        """The first rows."""
        return self._at(range(min(n, len(self))))

    def skip(self, n: int) -> RowsDataset:
        """All but the first rows."""
        return self._at(range(min(n, len(self)), len(self)))

    def filter(
        self,
        function: Callable[..., Any],
        with_indices: bool = False,
        input_columns: str | Sequence[str] | None = None,
        batched: bool = False,
        fn_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> RowsDataset:
        """The rows for which the function says yes."""
        extra = fn_kwargs or {}
        if batched:
            several = [self[:]] if input_columns is None else self._columns(input_columns)
            marks = list(function(*several, *([list(range(len(self)))] * with_indices), **extra))
        else:
            marks = [
                function(*self._given(row, input_columns), *([at] * with_indices), **extra)
                for at, row in enumerate(self._rows)
            ]
        return self._at([at for at, mark in enumerate(marks) if mark])

    def map(
        self,
        function: Callable[..., Any],
        with_indices: bool = False,
        fn_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> RowsDataset:
        """Each row with what the function gives laid over it."""
        if others.get("batched"):
            raise NotImplementedError("map with batched=True on a selector's rows")
        extra = fn_kwargs or {}
        rows = [
            {**row, **(function(self._row(row), *([at] * with_indices), **extra) or {})}
            for at, row in enumerate(self._rows)
        ]
        return RowsDataset(rows, self.places)

    def sort(
        self, column_names: str | Sequence[str], reverse: bool = False, **_: Any
    ) -> RowsDataset:
        """Rows in order of some columns; equal ones keep theirs."""
        names = [column_names] if isinstance(column_names, str) else list(column_names)
        order = sorted(
            range(len(self)), key=lambda at: [self._rows[at][n] for n in names], reverse=reverse
        )
        return self._at(order)

    def shuffle(self, seed: int | None = None, generator: Any = None, **_: Any) -> RowsDataset:
        """Rows in an order that is drawn as Hugging Face does; without a seed, by seed 0."""
        import numpy as np

        draw = np.random.default_rng(seed or 0) if generator is None else generator
        return self._at(draw.permutation(len(self)).tolist())

    def unique(self, column: str) -> list[Any]:
        """The different values of a column, in order of appearance."""
        return list(dict.fromkeys(self[column]))

    def add_column(self, name: str, column: Iterable[Any], **_: Any) -> RowsDataset:
        """With one more column."""
        rows = [{**row, name: v} for row, v in zip(self._rows, column, strict=True)]
        return RowsDataset(rows, self.places)

    def remove_columns(self, column_names: str | Sequence[str], **_: Any) -> RowsDataset:
        """Without some columns."""
        gone = {column_names} if isinstance(column_names, str) else set(column_names)
        rows = [{name: v for name, v in row.items() if name not in gone} for row in self._rows]
        return RowsDataset(rows, self.places)

    def to_list(self) -> list[Row]:
        """All rows."""
        return list(self)

    def to_dict(self) -> dict[str, list[Any]]:
        """All columns."""
        columns: dict[str, list[Any]] = self[:]
        return columns

    def _at(self, order: Sequence[int]) -> RowsDataset:
        return RowsDataset([self._rows[at] for at in order], [self.places[at] for at in order])

    def _row(self, row: Row) -> Row:
        return {name: row.get(name) for name in self.column_names}

    def _given(self, row: Row, names: str | Sequence[str] | None) -> list[Any]:
        if names is None:
            return [self._row(row)]
        return [row.get(name) for name in ([names] if isinstance(names, str) else names)]

    def _columns(self, names: str | Sequence[str]) -> list[list[Any]]:
        return [self[name] for name in ([names] if isinstance(names, str) else names)]
