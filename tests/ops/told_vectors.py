"""Rows whose texts say their vectors, and the encoder that reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind


class Told:
    """An encoder: a text is its numbers, a picture its mean colour."""

    def embed_texts(self, texts):
        """[N, D] unit vectors."""
        return _units([[float(word) for word in text.split()] for text in texts])

    def embed_images(self, images):
        """[N, 3] unit vectors."""
        return _units([np.asarray(i.convert("RGB"), float).mean((0, 1)) - 128 for i in images])


def _units(vectors: Any) -> Any:
    found = np.asarray(vectors, np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


class Models:
    """A source of that encoder; not a word about anything else."""

    def embedder(self, path):
        """Always the same."""
        return Told()


def said(vectors: Any, **more: Any) -> list[dict[str, Any]]:
    """Rows that say vectors; `more` holds a list of values per field."""
    texts = [" ".join(f"{number:.4f}" for number in vector) for vector in vectors]
    rows = [{"id": str(at), "text": text} for at, text in enumerate(texts)]
    for name, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def chosen(rows: list[dict[str, Any]], op: str, seed: int = 0, **keys: Any) -> list[int]:
    """The places of the rows that an operator keeps."""
    from vlforge.engine.in_memory import run_in_memory

    items = [Item(f"u{at}", at + 1, dict(row)) for at, row in enumerate(rows)]
    context = Context(seed=seed, models=Models())  # type: ignore[arg-type]
    ran = run_in_memory(bind([{op: {"by": "texts"} | keys}]), items, context)
    return [item.line - 1 for item in ran.kept]
