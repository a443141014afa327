"""Reads a Data-Juicer recipe (1.x) as a `ProcessConfig`.

Every key is used, or known to change nothing in the result here, or refused:
`data_juicer_keys.py` says which. None is dropped without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.recipe.adopt.data_juicer_keys import KEYS, asks_for_nothing
from vlforge.recipe.adopt.data_juicer_operators import PASSED_OVER, why_not
from vlforge.recipe.adopt.printed_table import is_printed_table, read_printed_table
from vlforge.recipe.nearest import nearest
from vlforge.recipe.source import Source, parse_value, read_source
from vlforge.recipe.typed import build
from vlforge.types import RecipeError

_GROUPS = ("checkpoint", "dataset", "event_logging", "partition", "resource_optimization")
"""Keys whose settings may be written with a dot."""
_LISTS = (
    """custom_operator_paths op_list_to_trace suffixes text_keys trace_keys validators""".split()
)
_TYPES = ("jsonl", "json", "parquet")
_LOADING = {"delimiter", "sep", "columns", "num_proc"}
_PARQUET = {"compression", "row_group_size"}


@dataclass(frozen=True)
class Adopted:
    """A recipe of Data-Juicer, read; `notes` are worth telling its user."""

    config: ProcessConfig
    notes: tuple[str, ...] = ()


def read_data_juicer(path: Path, changes: Mapping[str, str]) -> ProcessConfig:
    """The recipe at `path`, with `changes` (dotted key -> text) from the command line.

    Raises:
        RecipeError: as `adopt` does.
    """
    return adopt(path, changes).config


def adopt(path: Path, changes: Mapping[str, str]) -> Adopted:
    """The recipe at `path`, with `changes` (dotted key -> text) from the command line.

    `OPERATOR.PARAMETER` changes that parameter wherever the operator stands. The
    file is YAML by 1.1 rules (`off` is false), or the table that Data-Juicer prints.

    Raises:
        RecipeError: with file and line: unknown keys and operators (nearest
            named), wrong types, and what is not supported.
    """
    source = read_data_juicer_source(path)
    tree = _grouped(source.plain())
    words = {field.name for field in dataclasses.fields(ProcessConfig) if field.type == "str"}
    for key, text in changes.items():
        _change(tree, key, text if key in words else parse_value(text, "1.1"))
    settings, extra, notes = _sorted_out(tree, source)
    settings = {**_renamed(settings, source, notes), "extra": extra}
    _refuse_parts(settings, source)
    _load_custom(settings)
    settings["process"] = _operators(settings.get("process"), source, notes, settings)
    config: ProcessConfig = build(ProcessConfig, settings, source.where)
    if len(config.text_keys) > 1:
        others = ", ".join(map(repr, config.text_keys[1:]))
        notes.append(f"{config.text_key!r} is the text; rows without {others} are dropped")
    return Adopted(config, tuple(notes))


def read_data_juicer_source(path: Path) -> Source:
    """The file as keys with their lines: YAML by 1.1 rules, or the printed table."""
    if not is_printed_table(path):
        return read_source(path, "1.1")
    text = path.read_text(encoding="utf-8")
    return Source(path, read_printed_table(text), text)


def _grouped(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Keys written as `partition.mode` put into their group."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        group, dot, name = key.partition(".")
        if dot and group in _GROUPS:
            inner = out.setdefault(group, {})
            out[group] = {**(inner if isinstance(inner, dict) else {}), name: value}
        else:
            out[key] = value
    return out


def _change(tree: dict[str, Any], key: str, value: Any) -> None:
    operator, dot, parameter = key.partition(".")
    if not dot:
        tree[key] = value
        return
    if operator in _GROUPS:
        given = tree.get(operator)
        tree[operator] = {**(given if isinstance(given, dict) else {}), parameter: value}
        return
    entries = tree.get("process")
    entries = entries if isinstance(entries, list) else []
    found = False
    for number, entry in enumerate(entries):
        given = {entry: None} if isinstance(entry, str) else entry
        if isinstance(given, dict) and operator in given:
            entries[number] = {operator: {**(given[operator] or {}), parameter: value}}
            found = True
    if not found:
        names = [name for e in entries if e for name in ([e] if isinstance(e, str) else e)]
        hint = nearest(operator, names)
        raise RecipeError(f"{key}: the recipe has no operator {operator!r}{hint}")


def _sorted_out(
    tree: Mapping[str, Any], source: Source
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The settings that are used, those without effect, and what to say of them."""
    own = {field.name for field in dataclasses.fields(ProcessConfig)} - {"extra"}
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    idle: list[str] = []
    for name, value in tree.items():
        key = KEYS.get(name)
        if key is None:
            known = [k.name for k in KEYS.values()]
            raise RecipeError(f"{source.where(name)}: unknown key {name!r}{nearest(name, known)}")
        if key.status == "refused" and not asks_for_nothing(key, value):
            raise RecipeError(
                f"{source.where(name)}: {name} is {value!r}, which VLForge does not do; "
                f"{key.remark}, and remove the key"
            )
        if key.status != "no effect" and name in own:
            settings[name] = value
            continue
        extra[name] = value
        if key.status == "no effect" and not asks_for_nothing(key, value):
            idle.append(name)
    notes = [f"without effect here: {', '.join(idle)}"] if idle else []
    return settings, extra, notes


def _renamed(settings: dict[str, Any], source: Source, notes: list[str]) -> dict[str, Any]:
    """Data-Juicer's ways of saying nothing, one, or several, as ours."""
    out = {key: value for key, value in settings.items() if value is not None}
    for key in _LISTS:
        if isinstance(out.get(key), str | dict):
            out[key] = [out[key]]
    if out.get("text_keys"):
        out["text_key"] = out["text_keys"][0]
    elif "text_key" in out:
        out["text_keys"] = [out["text_key"]]
    if not out.get("dataset"):
        out.pop("dataset", None)
    if out.get("dataset_path") and "dataset" in out:
        notes.append("dataset is not read: dataset_path is given, and comes first")
        del out["dataset"]
    if not out.get("dataset_path") and "dataset" not in out:
        raise RecipeError(f"{source.path}: dataset_path is missing; name the file to read")
    if isinstance(out.get("export_type"), str):
        out["export_type"] = out["export_type"].lower()
    if "export_path" in out:
        out["export_path"] = _filled(str(out["export_path"]), settings, source)
    for key in ("export_shard_size", "limit", "sample"):
        if isinstance(out.get(key), float) and out[key] == int(out[key]):
            out[key] = int(out[key])
    return out


def _filled(path: str, settings: Mapping[str, Any], source: Source) -> str:
    """`export_path` with `{work_dir}` and `{job_id}` put in."""
    plain = source.plain()
    for name in ("work_dir", "job_id"):
        mark = f"{{{name}}}"
        if mark in path and not plain.get(name):
            where = source.where("export_path")
            raise RecipeError(f"{where}: export_path holds {mark}; set {name} or write the path")
        path = path.replace(mark, str(plain.get(name)))
    return path


def _refuse_parts(settings: Mapping[str, Any], source: Source) -> None:
    """Refuse values of used keys that are not there, each with its place."""
    kind = settings.get("export_type") or ""
    if kind and str(kind).lower() not in _TYPES:
        where = source.where("export_type")
        raise RecipeError(f"{where}: export_type is {kind!r}; known: {', '.join(_TYPES)}")
    for key in ("dataset_path", "export_path"):
        if "://" in str(settings.get(key) or ""):
            where = source.where(key)
            raise RecipeError(f"{where}: {key} is {settings[key]!r}; name a local path")
    for key, known in (("load_dataset_kwargs", _LOADING), ("export_extra_args", _PARQUET)):
        for name in settings.get(key) or {}:
            if name not in known:
                where = source.where(key, name)
                raise RecipeError(f"{where}: {key}.{name} is not there; known: {sorted(known)}")
    mix = settings.get("dataset")
    if mix is None:
        return
    if not isinstance(mix, dict) or not isinstance(mix.get("configs"), list):
        raise RecipeError(f"{source.where('dataset')}: dataset needs `configs`, a list of datasets")
    for number, part in enumerate(mix["configs"]):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (None, "local"):
            where = source.where("dataset", "configs", number)
            raise RecipeError(
                f"{where}: dataset type {kind!r} is not there; download it and name the file"
            )


def _load_custom(settings: Mapping[str, Any]) -> None:
    from vlforge.ops.index import want_custom

    want_custom(settings.get("custom_operator_paths"))


def _operators(
    entries: Any, source: Source, notes: list[str], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Every entry as `{operator: parameters}`, checked against the operator's signature."""
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise RecipeError(f"{source.where('process')}: `process` is a list of operators")
    problems: list[str] = []
    kept: list[dict[str, Any]] = []
    idle: list[str] = []
    for number, given in enumerate(entries):
        try:
            kept += _operator(given, idle, notes, settings)
        except RecipeError as error:
            problems.append(f"{source.where('process', number)}: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    if idle:
        notes.append(f"without effect on operators: {', '.join(dict.fromkeys(idle))}")
    return kept


def _operator(
    entry: Any, idle: list[str], notes: list[str], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """One entry with the parameters that matter; none where the operator has nothing to do."""
    from vlforge.ops.bind import bind, effective

    given = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(given, dict) or len(given) != 1:
        raise RecipeError(f"{entry!r} is not one `operator: parameters`")
    ((name, params),) = given.items()
    params = {} if params is None else params
    if name in PASSED_OVER:
        notes.append(f"{name} has no effect: {PASSED_OVER[name]}")
        return []
    why = why_not(str(name))
    if why is not None:
        raise RecipeError(why)
    used, without = effective(name, params)
    if params.get("skip_op_error") is False and settings.get("skip_op_error", True):
        settings["strict"] = True
        without.remove("skip_op_error")
        notes.append(f"{name}.skip_op_error is false: the first bad row of any operator ends it")
    if "num_proc" in without and params["num_proc"] == settings.get("np"):
        without.remove("num_proc")
    try:
        bind([{name: used}])
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix("process[0]: ")) from None
    idle += without
    return [{name: used}]
