"""From a recipe's `{operator: parameters}` to operators, every mistake named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from vlforge.ops.base import Operator
from vlforge.ops.exact import exactly
from vlforge.ops.index import find
from vlforge.types import RecipeError

_ANY = object()
NO_EFFECT: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        """accelerator adaptive_batching batch_mode cpu_required ctx gpu_required
        input_columns mem_required memory num_cpus num_gpus output_columns ray_execution_mode
        runtime_env use_actor""".split(),
        (None, 0, 1),
    ),
    "audio_key": ("audios",),
    "auto_op_parallelism": (True, False),
    "batch_size": (None, 10, 1000),
    "history_key": ("history",),
    "instruction_key": ("instruction",),
    "num_proc": (None, -1),
    "prompt_field_key": (_ANY,),
    "prompt_key": (None, "prompt"),
    "query_key": ("query",),
    "response_key": ("response",),
    "skip_op_error": (True,),
    "system_key": ("system",),
    "trust_remote_code": (None, False),
    "turbo": (False,),
    "video_key": ("videos",),
    "work_dir": (_ANY,),
}
"""Data-Juicer's keys of every operator that are about how it runs, or other media.

The values are those that stand there anyway; another one is worth a note.
"""
REFUSED: Mapping[str, str] = {
    "index_key": "add the field before, e.g. with python_lambda_mapper",
    "stats_export_path": "every row's statistics are in stats.jsonl and dropped.jsonl",
}
"""Keys of every operator that would write something else, and what to do instead."""


class Bound(msgspec.Struct, frozen=True):
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


def effective(name: str, params: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """The parameters that an operator uses, and the other keys that ask for something.

    Raises:
        RecipeError: no such operator, no table of keys, or a key that is refused.
    """
    own = {field.name for field in fields(find(name))}
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise RecipeError(f"{name} is given {params!r}, not a table of keys")
    used: dict[str, Any] = {}
    idle: list[str] = []
    for key, value in params.items():
        if key not in own and key in REFUSED:
            if value is not None:
                raise RecipeError(f"{name}.{key} is {value!r}; remove it: {REFUSED[key]}")
        elif key in own or key not in NO_EFFECT:
            used[key] = value
        elif not _stands_there_anyway(key, value):
            idle.append(key)
    return used, idle


def _stands_there_anyway(key: str, value: Any) -> bool:
    return any(known is _ANY or known == value for known in NO_EFFECT[key])


def _bind(name: str, place: int, params: Any, shared: Mapping[str, str]) -> Bound:
    values, idle = effective(name, params)
    cls = find(name)
    own = {f.name for f in fields(cls)}
    for key in values:
        if key not in own:
            raise RecipeError(f"{name}: unknown key {key!r}{_nearest(key, own)}")
    defaults = {key: value for key, value in shared.items() if key in own}
    given = {key: value for key, value in values.items() if value is not None or key not in shared}
    op = _validated(name, cls, defaults | given)
    notes = [f"without effect here: {', '.join(idle)}"] if idle else []
    notes += getattr(op, "notes", ())
    return Bound(name, place, dict(params or {}), op, tuple(f"{name}: {n}" for n in notes))


def _validated(name: str, cls: type[Any], values: dict[str, Any]) -> Operator:
    made: Operator | None = exactly(cls, values)
    if made is not None:
        return made
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
