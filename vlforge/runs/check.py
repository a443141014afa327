"""Reads the data before an hour is spent: missing files, broken rows, labels lost, budgets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlforge.recipe.graph import Node
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.references import split_reference
from vlforge.recipe.source import Source
from vlforge.recipe.typed import build
from vlforge.runs.plan import plan_nodes
from vlforge.runs.prepare import Choice, Prepared, check_settings, prepare
from vlforge.types import Sample, VLForgeError

_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing seen. `where` is the node; `text` names file, row, value and remedy."""

    level: Literal["ok", "note", "warning", "error"]
    where: str
    text: str


def check_recipe(path: Path | Source, choice: Choice = Choice()) -> list[Finding]:
    """Every finding, errors included; RecipeError only where the recipe cannot be read."""
    prepared = prepare(path, choice)
    findings = list(_check_room(prepared))
    for node in prepared.nodes:
        findings.extend(_check_node(node, prepared))
    return findings


def _check_room(prepared: Prepared) -> Iterator[Finding]:
    """Whether the run folder can be written and has room for what the plan says."""
    folder = prepared.run_dir
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Finding("error", "run", f"{folder}: no permission to write; choose --out FOLDER")
        return
    wanted = sum(row.disk_gib for row in plan_nodes(prepared) if not row.cached)
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize / 2**30
    level: Literal["ok", "error"] = "ok" if free > wanted * 1.2 else "error"
    yield Finding(level, "run", f"{folder}: {free:.1f} GiB free, the plan needs {wanted:.2f}")


def _check_node(node: Node, prepared: Prepared) -> Iterator[Finding]:
    try:
        check_settings(node)
    except VLForgeError as error:
        yield Finding("error", node.name, str(error))
    else:
        if node.kind == "train":
            yield _check_batch(node)
    missing = list(_missing_paths(node))
    for text in missing:
        yield Finding("error", node.name, f"{text}: no such file or folder")
    if missing:
        return
    settings = prepared.settings(node)
    waiting = [name for name in node.inputs.values() if not prepared.folder(name).exists()]
    if waiting:
        made = ", ".join(waiting)
        yield Finding("note", node.name, f"data is checked once these have run: {made}")
        return
    config = build(find_kind(node.kind).config_class(), settings, lambda *keys: node.name)
    try:
        if node.kind == "process":
            yield from _check_dataset(node, config.dataset_path)
        elif node.kind == "train":
            yield from _check_training(node, config)
        elif node.kind == "evaluate":
            yield from _check_benchmarks(node, config)
    except VLForgeError as error:
        yield Finding("error", node.name, str(error))


def _check_batch(node: Node) -> Finding:
    """The global batch, on one device."""
    from vlforge.training.budget import settle_batch

    config = build(find_kind("train").config_class(), node.settings, lambda *keys: node.name)
    try:
        batch = settle_batch(config, 1).batch
    except VLForgeError as error:
        # More devices may make it right.
        level = "warning" if "devices" in str(error) else "error"
        return Finding(level, node.name, str(error))
    return Finding("ok", node.name, f"global batch {batch}")


def _missing_paths(node: Node) -> Iterator[str]:
    """Settings that must be files and are not."""
    from vlforge.data.detect import files_of_pattern

    usual = ("dataset_path", "data", "questions", "annotation", "model", "path")
    for key in (*usual, *_OF_KIND.get(node.kind, ())):
        value = node.settings.get(key)
        values = value if isinstance(value, list) else [value]
        for text in [text for one in values for text in _paths_of(key, one)]:
            outside = isinstance(text, str) and text and not split_reference(text)
            if outside and not Path(text).exists() and not files_of_pattern(text):
                yield text


_OF_KIND = {
    "evaluate": ("benchmarks",),
    "merge": ("adapter", "base", "vision"),
    "predict": ("input",),
    "tool": ("source",),
}
"""Settings of a kind that must be there besides; other kinds may mean no path by such a name."""
_BENCHMARK_PATHS = ("questions", "annotation", "images", "groups")
_MODEL_PATHS = ("vision", "vision_high", "qformer", "language", "tokenizer", "connector_weights")


def _paths_of(key: str, value: Any) -> list[Any]:
    """What of a setting's value must be a path: the value, or some of a table's."""
    if not isinstance(value, dict):
        return [value]
    inner = {"model": _MODEL_PATHS, "benchmarks": _BENCHMARK_PATHS}
    names = inner.get(key, ("path", "questions", "prompts"))
    return [value.get(name) for name in names]


def _check_dataset(node: Node, path: str) -> Iterator[Finding]:
    from vlforge.data.detect import read_samples

    bad: list[str] = []
    yield from _check_samples(node, path, read_samples(path, on_bad=_keep(bad)), bad)


def _check_samples(
    node: Node, path: str, samples: Iterable[Sample], bad: list[str]
) -> Iterator[Finding]:
    """Rows read, images there and readable by their header; adds to `bad`."""
    from vlforge.data.images import header_size

    rows = images = 0
    seen: set[str] = set()
    for sample in samples:
        rows += 1
        for image in sample.images:
            if isinstance(image, str) and image in seen:
                continue
            seen.update([image] if isinstance(image, str) else [])
            images += 1
            try:
                header_size(image)
            except (VLForgeError, OSError) as error:
                bad.append(f"row {sample.id}: {error}")
    yield Finding("ok" if rows else "error", node.name, f"{path}: {rows:,} rows, {images:,} images")
    yield from _bad_rows(node, bad)


def _check_training(node: Node, config: Any) -> Iterator[Finding]:
    """The data, and how many tokens and labels its rows have under the template."""
    from vlforge.training.mixture import mixtures, samples_of

    for part in mixtures(config.data):
        bad: list[str] = []
        samples = samples_of(part, config.image_root, _keep(bad))
        yield from _check_samples(node, part.path, samples, bad)
    yield from _check_labels(node, config)


def _check_labels(node: Node, config: Any) -> Iterator[Finding]:
    """What the stage makes of its rows: lengths with pictures, those cut, those left out."""
    from vlforge.data.images import ImageError
    from vlforge.runs.row_lengths import stage_rows
    from vlforge.text.doubts import template_doubts
    from vlforge.training.mixture import mixtures, samples_of
    from vlforge.training.rows import Sieve

    stage = stage_rows(config)
    if stage.doubt:
        yield Finding("note", node.name, stage.doubt)
    if stage.template is not None:
        for doubt in template_doubts(stage.template, stage.tokenizer, *_language(config.model)):
            yield Finding("warning", node.name, doubt)
    sieve = Sieve(config.max_length, config.on_too_long, config.on_no_labels)
    longest = 0
    lost: list[str] = []
    for part in mixtures(config.data):
        for sample in samples_of(part, config.image_root, _skip):
            try:
                row = stage.encode(sample, config.max_length)
            except ImageError:
                continue  # told of where the pictures were looked at
            except VLForgeError as error:
                lost.append(f"row {sample.id}: {error}")
                continue
            longest = max(longest, row.whole)
            sieve.keeps(row, f"row {sample.id}")
    told = f"{sieve.rows:,} rows, the longest has {longest} tokens, pictures included"
    yield Finding("ok", node.name, told)
    for line in sieve.told():
        yield Finding("warning", node.name, line)
    try:
        sieve.check()
    except VLForgeError as error:
        yield Finding("error", node.name, str(error))
    yield from _bad_rows(node, lost)


def _language(model: Any) -> tuple[dict[str, Any], str]:
    """The language model's `config.json` and the name of its folder; empty where unreadable."""
    folder = Path(model if isinstance(model, str) else model.language)
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, folder.name
    fields = fields.get("text_config", fields)
    return (fields if isinstance(fields, dict) else {}), folder.name


def _check_benchmarks(node: Node, config: Any) -> Iterator[Finding]:
    for bench in config.benchmarks:
        for path in (bench.questions, bench.annotation, bench.images, bench.groups):
            if path and not Path(path).exists():
                yield Finding("error", node.name, f"{bench.name}: {path}: no such file or folder")
        yield Finding("ok", node.name, f"{bench.name}: {bench.questions}")


def _bad_rows(node: Node, bad: list[str]) -> Iterator[Finding]:
    for text in bad[:_SHOWN]:
        yield Finding("warning", node.name, text)
    if len(bad) > _SHOWN:
        yield Finding("warning", node.name, f"and {len(bad) - _SHOWN} more rows like these")


def _keep(bad: list[str]) -> Any:
    return lambda line, problem: bad.append(f"line {line}: {problem}")


def _skip(line: int, problem: Any) -> None:
    """Leave a row out here that `_check_dataset` has told of."""
