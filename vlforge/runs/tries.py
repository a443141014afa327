"""Earlier tries of a stage: a checkpoint that is not gone on with is told with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.recipe.kinds import find_kind
from vlforge.runs.store import Store
from vlforge.training.identity import difference, flat
from vlforge.types import LogFn

if TYPE_CHECKING:
    from vlforge.runs.worker import Order


def say_unused(store: Store, order: Order, log: LogFn) -> None:
    """Note what this try is, and warn where an earlier one left a checkpoint for nothing.

    A stage with other settings is another stage: it has a place of its own, and begins anew.
    """
    unkeyed = getattr(find_kind(order.kind).module(), "UNKEYED", ())
    settings = {name: value for name, value in order.settings.items() if name not in unkeyed}
    note = {
        "node": order.node,
        "run_dir": str(order.run_dir),
        "settings": _told(settings, store.root),
        "inputs": dict(order.inputs),
    }
    earlier = [] if _step(store.partial(order.key)) else store.unfinished(order.node, order.run_dir)
    for key, other in earlier:
        step = _step(store.partial(key))
        if key == order.key or not step:
            continue
        log(
            {
                "event": "warning",
                "text": f"begins anew: the checkpoint of step {step} is not used, "
                f"{_why(other, note)}; with what was before, it goes on",
            }
        )
    store.begin(order.key, note)


def _why(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    settings = difference(flat("", then.get("settings", {})), flat("", now["settings"]))
    if settings:
        return settings
    inputs = [name for name, key in now["inputs"].items() if then["inputs"].get(name) != key]
    return f"{inputs[0]} is another" if inputs else "the data, VLForge or a library changed"


def _told(settings: Any, root: Path) -> Any:
    """Settings as a user knows them: what an earlier stage made has no path of its own."""
    if isinstance(settings, Mapping):
        return {key: _told(value, root) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_told(value, root) for value in settings]
    if isinstance(settings, str) and settings.startswith(f"{root}/"):
        return "an earlier stage"
    return settings


def _step(partial: Path) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    found = sorted((partial / "checkpoint").glob("step-*"))
    return int(found[-1].name.rpartition("-")[2]) if found else 0
