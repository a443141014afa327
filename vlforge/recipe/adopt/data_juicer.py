"""Reads a Data-Juicer recipe (1.x) as a `ProcessConfig`.

Every key of Data-Juicer is either used, or known to change nothing in the result
here, or refused: none is dropped without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.recipe.nearest import nearest
from vlforge.recipe.source import Source, parse_value, read_source
from vlforge.recipe.typed import build
from vlforge.types import RecipeError

RENAMED = {"text_keys": "text_key"}
"""Data-Juicer's name -> ours. Of several text keys Data-Juicer uses the first, as we do."""

WITHOUT_EFFECT = frozenset((
    "adaptive_batch_size", "audio_key", "audio_special_token", "auto", "auto_op_parallelism",
    "cache_compress", "config", "dataset_dir", "debug", "ds_cache_dir", "event_logging",
    "export_in_parallel", "export_original_dataset", "fusion_strategy", "image_bytes_key",
    "job_id", "load_dataset_kwargs", "op_list_to_trace", "open_monitor", "percentiles",
    "ray_address", "resume", "save_stats_in_one_file", "strict_preflight", "suffixes", "temp_dir",
    "timestamp", "trace_keys", "turbo", "use_cache", "use_checkpoint", "video_key",
    "video_special_token", "work_dir",
))  # fmt: skip
"""Caches, bookkeeping and other media: the kept rows are the same whatever they say."""

ONLY_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "executor_type": ("default",),
    "export_type": ("jsonl",),
    "export_shard_size": (0,),
    "keep_hashes_in_res_ds": (False,),
    "add_suffix": (False,),
    "dataset": (None, {}, []),
    "validators": (None, {}, []),
    "custom_operator_paths": (None, []),
    "load_jsonl_lenient": (False,),
    "override_num_blocks": (None,),
    "encrypt_before_export": (False,),
    "decrypt_after_reading": (False,),
}
"""Keys that would change the result and are not here yet, with the values that do not."""


def read_data_juicer(path: Path, changes: Mapping[str, str]) -> ProcessConfig:
    """The recipe at `path`, with `changes` (dotted key -> text) from the command line.

    `OPERATOR.PARAMETER` changes that parameter wherever the operator stands.

    Raises:
        RecipeError: with file and line: unknown keys and operators (nearest
            named), wrong types, and what is not supported yet.
    """
    source = read_source(path)
    tree = source.plain()
    for key, text in changes.items():
        _change(tree, key, parse_value(text))
    settings = _ours(tree, source)
    settings["process"] = _operators(settings.get("process"), source)
    config: ProcessConfig = build(ProcessConfig, settings, source.where)
    return config


def _change(tree: dict[str, Any], key: str, value: Any) -> None:
    operator, dot, parameter = key.partition(".")
    if not dot:
        tree[key] = value
        return
    entries = tree.get("process")
    entries = entries if isinstance(entries, list) else []
    for number, entry in enumerate(entries):
        given = {entry: None} if isinstance(entry, str) else entry
        if isinstance(given, dict) and operator in given:
            entries[number] = {operator: {**(given[operator] or {}), parameter: value}}
            return
    names = [
        name
        for entry in entries
        if entry
        for name in ([entry] if isinstance(entry, str) else entry)
    ]
    raise RecipeError(f"{key}: the recipe has no operator {operator!r}{nearest(operator, names)}")


def _ours(tree: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The settings under our names; keys without effect collected in `extra`."""
    own = {field.name for field in dataclasses.fields(ProcessConfig)} - {"extra"}
    known = [*own, *RENAMED, *WITHOUT_EFFECT, *ONLY_DEFAULT]
    settings: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in tree.items():
        if key in RENAMED:
            settings[RENAMED[key]] = value[0] if isinstance(value, list) and value else value
        elif key in own:
            settings[key] = value
        elif key in WITHOUT_EFFECT or value in ONLY_DEFAULT.get(key, ()):
            extra[key] = value
        elif key in ONLY_DEFAULT:
            works = f"only {ONLY_DEFAULT[key][0]!r} works yet"
            raise RecipeError(f"{source.where(key)}: {key} is {value!r}, {works}; remove the key")
        else:
            raise RecipeError(f"{source.where(key)}: unknown key {key!r}{nearest(key, known)}")
    if not settings.get("dataset_path"):
        raise RecipeError(f"{source.path}: dataset_path is missing; name the jsonl file to read")
    return {**settings, "extra": extra}


def _operators(entries: Any, source: Source) -> list[dict[str, Any]]:
    """Every entry as `{operator: parameters}`, checked against the operator's signature."""
    from vlforge.ops.bind import bind

    if entries is None:
        return []
    if not isinstance(entries, list):
        raise RecipeError(f"{source.where('process')}: `process` is a list of operators")
    problems = []
    for number, entry in enumerate(entries):
        try:
            bind([entry])
        except RecipeError as error:
            said = str(error).removeprefix("process[0]").removeprefix(":").strip()
            problems.append(f"{source.where('process', number)}: {said}")
    if problems:
        raise RecipeError("\n".join(problems))
    return [{entry: {}} if isinstance(entry, str) else entry for entry in entries]
