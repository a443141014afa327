"""Running an operator over rows with a model that says what a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Refusal, Row, Sample

PICTURES = Path(__file__).parents[1] / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"
Reply = Callable[[Sample, int], str | Refusal]


def row(text: str = f"{IMAGE}\na red bus {EOC}", *images: str, **more: Any) -> Row:
    """A dj row, of one picture unless others are named."""
    return {"text": text, "images": list(images) if images or IMAGE not in text else [A], **more}


def asked(
    op: str, given: Sequence[Row], reply: Reply | str, /, seed: int = 7, **params: Any
) -> Any:
    """(results, the writer that was asked); every model is the same writer."""
    told = reply if callable(reply) else lambda sample, times: reply
    writer = ScriptedWriter(told)
    (bound,) = bind([{op: params}])
    name = getattr(bound.op, "model_name", lambda: bound.op.model)()
    models = ScriptedModels(others={name: writer}, captioners={name: writer})
    items = [Item(f"u{n}", n, dict(one)) for n, one in enumerate(given)]
    batch = Batch(items, Context(seed=seed, models=models))
    if bound.op.kind == "filter":
        return bound.op.measure(batch)[0], writer
    return bound.op.apply(batch), writer


def new_rows(result: Any) -> list[Row]:
    """The rows that a mapper made of one."""
    return list(result.rows) if isinstance(result, Grown) else [result]


def last_words(sample: Sample) -> str:
    """What the user said last."""
    return sample.turns[-1].text
