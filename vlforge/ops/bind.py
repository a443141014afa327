"""From a recipe's `{operator: parameters}` to operators, every mistake named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from vlforge.ops.base import Operator
from vlforge.ops.index import find
from vlforge.types import RecipeError

WITHOUT_EFFECT = frozenset(
    {
        "accelerator",
        "audio_key",
        "auto_op_parallelism",
        "batch_mode",
        "batch_size",
        "cpu_required",
        "ctx",
        "gpu_required",
        "history_key",
        "index_key",
        "instruction_key",
        "mem_required",
        "memory",
        "num_cpus",
        "num_gpus",
        "num_proc",
        "prompt_field_key",
        "query_key",
        "ray_execution_mode",
        "response_key",
        "runtime_env",
        "skip_op_error",
        "stats_export_path",
        "system_key",
        "trust_remote_code",
        "turbo",
        "video_key",
        "work_dir",
    }
)
"""Data-Juicer's keys about how to run: accepted, and without effect on a result."""


@dataclass(frozen=True)
class Bound:
    """An operator of a recipe: its name, place, parameters as given, and notes on them."""

    name: str
    place: int
    params: Mapping[str, Any]
    op: Operator
    notes: tuple[str, ...] = ()


def bind(
    process: Sequence[str | Mapping[str, Any]],
    text_key: str = "text",
    image_key: str = "images",
    *,
    image_bytes_key: str = "image_bytes",
    compat: str = "",
) -> list[Bound]:
    """The operators of a recipe's `process` list, in order.

    The keys are the recipe's, for operators that do not say otherwise.

    Raises:
        RecipeError: unknown operators, unknown keys (nearest one named) or values
            of a wrong type, a line each.
    """
    shared = {
        "text_key": text_key,
        "image_key": image_key,
        "image_bytes_key": image_bytes_key,
        "compat": compat,
    }
    bound, problems = [], []
    for place, entry in enumerate(process):
        if isinstance(entry, str):
            entry = {entry: None}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            problems.append(f"process[{place}] is {entry!r}, not one `operator: parameters`")
            continue
        ((name, params),) = entry.items()
        try:
            bound.append(_bind(name, place, params, shared))
        except RecipeError as error:
            problems.append(f"process[{place}]: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    return bound


def _bind(name: str, place: int, params: Any, shared: Mapping[str, str]) -> Bound:
    cls = find(name)
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise RecipeError(f"{name} is given {params!r}, not a table of keys")
    own = {f.name for f in fields(cls)}
    without_effect = [key for key in params if key in WITHOUT_EFFECT and key not in own]
    values = {key: value for key, value in params.items() if key not in without_effect}
    for key in values:
        if key not in own:
            raise RecipeError(f"{name}: unknown key {key!r}{_nearest(key, own)}")
    defaults = {key: value for key, value in shared.items() if key in own}
    op = _validated(name, cls, defaults | values)
    notes = tuple(f"{name}.{key} has no effect here" for key in without_effect)
    return Bound(name, place, dict(params), op, notes)


def _validated(name: str, cls: type[Any], values: dict[str, Any]) -> Operator:
    from pydantic import TypeAdapter, ValidationError

    try:
        op: Operator = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "its keys"
        raise RecipeError(f"{name}.{at} is {first['input']!r}: {first['msg'].lower()}") from None
    return op


def _nearest(key: str, known: set[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else f"; it takes {', '.join(sorted(known))}"
