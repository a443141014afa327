"""The operators. A recipe's name is the class: `image_shape_filter` is `ImageShapeFilter`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`ops.find`, `ops.names` and `ops.OpInfo`, looked up when they are asked for."""
    if name in ("find", "names", "OpInfo"):
        from vlforge.ops import index

        return getattr(index, name)
    raise AttributeError(f"module 'vlforge.ops' has no {name!r}")
