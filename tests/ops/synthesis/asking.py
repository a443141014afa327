"""Runs one operator of a recipe over a few rows with a model that says what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind


class AnyName(dict):
    """One writer under every name."""

    def __init__(self, writer: ScriptedWriter):
        super().__init__()
        self.writer = writer

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> ScriptedWriter:
        return self.writer


def replies(*texts: str) -> Callable[[Any, int], str]:
    """The n-th text at the n-th try of a request, then the last one."""
    return lambda sample, times: texts[min(times, len(texts) - 1)]


def run(
    op: str, rows: list[dict[str, Any]], reply: Any, **params: Any
) -> tuple[list[Any], ScriptedWriter]:
    """What the operator makes of each row, and the writer that was asked."""
    (bound,) = bind([{op: params}])
    writer = ScriptedWriter(reply)
    models = ScriptedModels(others=AnyName(writer))
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    return bound.op.apply(Batch(items, Context(seed=7, models=models))), writer  # type: ignore
