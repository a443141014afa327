"""A Data-Juicer recipe as a recipe of ours with one `process` stage."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.data_juicer import adopt, read_data_juicer_source
from vlforge.recipe.adopt.data_juicer_keys import KEYS
from vlforge.recipe.adopt.printed_table import is_printed_table

SYSTEM = "Data-Juicer"
STAGE = "stages.process"
_TOLD = re.compile(r"^(process|dataset_path|dataset|export_path)\s*:", re.MULTILINE)
_RENAMED = {"text_keys": "text_key"}


def recognises(foreign: Foreign) -> bool:
    """Whether it is a recipe of Data-Juicer: its keys at the top, or its printed table."""
    if is_printed_table(foreign.path):
        return True
    if foreign.path.suffix == ".txt":
        return False
    return len(set(_TOLD.findall(foreign.text))) >= 2


def adopt_foreign(foreign: Foreign) -> AdoptedRecipe:
    """The recipe as one stage; every key is used, known to do nothing here, or refused.

    Raises:
        RecipeError: as `data_juicer.adopt`.
    """
    read = adopt(foreign.path, foreign.changes)
    source = read_data_juicer_source(foreign.path)
    given = source.plain()
    name = str(given.get("project_name") or foreign.path.stem)
    out = AdoptedRecipe(SYSTEM, foreign.path, re.sub(r"[^\w.-]+", "_", name))
    out.put(f"{STAGE}.kind", "process", "an operator list is a `process` stage")
    for note in read.notes:
        out.note(note)

    def origin(*keys: str | int) -> str:
        name = str(keys[-1] if isinstance(keys[-1], str) else keys[0])
        changed = name if len(keys) == 1 else ".".join(map(str, keys[-2:]))
        if changed in foreign.changes:
            return f"{changed}, changed on the command line"
        return f"{source.where(*keys).rpartition('/')[2]} {name}"

    plain = ProcessConfig(process=())
    for field in dataclasses.fields(ProcessConfig):
        value = getattr(read.config, field.name)
        if field.name in ("extra", "process", "project_name") or value == getattr(
            plain, field.name
        ):
            continue
        key = field.name if field.name in given else _RENAMED.get(field.name, field.name)
        out.put(f"{STAGE}.{field.name}", _plain(value), origin(key))
    _put_operators(out, read.config, given, origin)
    for name, value in read.config.extra.items():
        out.leave(name, value, origin(name), KEYS[name].remark)
    return out


def _put_operators(out: AdoptedRecipe, config: ProcessConfig, given: Any, origin: Any) -> None:
    """The operators and their parameters, each with the line that it stands on."""
    places: dict[str, list[int]] = {}
    for number, entry in enumerate(given.get("process") or []):
        places.setdefault(entry if isinstance(entry, str) else next(iter(entry), ""), []).append(
            number
        )
    out.put(f"{STAGE}.process", [_plain(op) for op in config.process], origin("process"))
    for number, op in enumerate(config.process):
        ((name, params),) = _plain(op).items()
        here = f"{STAGE}.process.{number}"
        at = places[name].pop(0)
        out.origins[here] = origin("process", at, name)
        for key in params:
            out.origins[f"{here}.{name}.{key}"] = origin("process", at, name, key)


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as mappings and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) is not None
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
