"""Operators over a dataset, from a Data-Juicer recipe or one of ours: what `process` does.

Imports nothing of the command line's parser, which takes a third of a short run.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.cli.dropped import say_dropped
from vlforge.cli.recipes import find_recipe, says_stages
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.engine.config import ProcessConfig

_MANY = "custom_operator_paths"
"""The one option of Data-Juicer that several words may follow."""


def clean(
    words: Sequence[str],
    *,
    config: Path | None = None,
    out: Path | None = None,
    limit: int | None = None,
    sample: int | None = None,
) -> None:
    """Run the recipe that `words` or `config` names, with the settings that `words` change."""
    given, changes = split_words(words)
    changes += [(k, str(v)) for k, v in (("limit", limit), ("sample", sample)) if v is not None]
    if given is not None and config is not None:
        raise RecipeError(f"two recipes given, {given} and {config}; name one")
    if given is None and config is None:
        raise RecipeError(
            "no recipe given; e.g. vlforge process clean.yaml, or --config clean.yaml"
        )
    path = find_recipe(Path(config or given or ""))
    if says_stages(path):
        _run_stages(path, changes, out)
    else:
        _process_plain(path, dict(changes), out)


def split_words(words: Sequence[str]) -> tuple[str | None, list[tuple[str, str]]]:
    """The recipe, if named, and the changed settings in order.

    `key=value`, `--key value` and `--key=value` mean the same; `--key` before
    another option or at the end means `true`.
    """
    recipe: str | None = None
    changes: list[tuple[str, str]] = []
    waiting: str | None = None
    for word in [*words, "--"]:
        is_option = word.startswith("--")
        if waiting is not None:
            changes.append((waiting, "true" if is_option else word))
            waiting = None
            if not is_option:
                continue
        key, equals, value = word.removeprefix("--").partition("=")
        if is_option and not equals:
            waiting = key.replace("-", "_")
        elif equals:
            changes.append((key.replace("-", "_") if is_option else key, value))
        elif changes and changes[-1][0] == _MANY and not word.endswith((".yaml", ".yml")):
            changes[-1] = (_MANY, _appended(changes[-1][1], word))
        elif recipe is None:
            recipe = word
        else:
            raise RecipeError(f"{word!r} is neither key=value nor an option; recipe: {recipe}")
    return recipe, changes


def _appended(words: str, word: str) -> str:
    """One more word in a YAML list."""
    held = words.removeprefix("[").removesuffix("]")
    return f"[{held}, {word}]"


def _run_stages(path: Path, changes: Sequence[tuple[str, str]], out: Path | None) -> None:
    from vlforge.cli.options import choose
    from vlforge.cli.run import run_and_say
    from vlforge.recipe.graph import expand
    from vlforge.recipe.load import load_recipe

    first_look = [(key, value) for key, value in changes if key in ("limit", "sample")]
    overrides = [f"{key}={value}" for key, value in changes if (key, value) not in first_look]
    nodes = expand(load_recipe(path, overrides))
    last = [node.stage for node in nodes if node.kind == "process"]
    if not last:
        raise RecipeError(f"{path}: no stage of kind process; try `vlforge run {path}`")
    overrides += [f"stages.{last[0]}.{key}={value}" for key, value in first_look]
    run_and_say(path, choose(overrides, run_dir=out, until=last[-1]))


def _process_plain(path: Path, changes: dict[str, str], out: Path | None) -> None:
    from vlforge.engine.local import run_process
    from vlforge.recipe.adopt.data_juicer import adopt

    adopted = adopt(path, changes)
    config = located(adopted.config, path)
    if config.export_path:
        config = replace(config, export_path=str(Path(config.export_path).absolute()))
    export = Path(config.export_path) if config.export_path else None
    _check_export(export, config)
    work = out or _work_folder(export, path)
    for note in adopted.notes:
        note_line(note)
    _save_settings(config, work)
    with progress("process") as shown:
        funnel = run_process(
            replace(config, export_path="", extra={}),
            work,
            models=models_of(config, work),
            seed=config.seed,
            workers=config.np,
            progress=shown,
            log=show_note,
        )
    files = _exported(work, export, config)
    if config.open_tracer is True:
        from vlforge.engine.tracing import write_traces

        write_traces(work, funnel, config)
    _say(funnel, files, work)


def _save_settings(config: ProcessConfig, work: Path) -> None:
    from vlforge.cli.resolved import RECIPE, show_settings, write_settings
    from vlforge.engine.outputs import cannot_write

    try:
        work.mkdir(parents=True, exist_ok=True)
        write_settings(config, work / RECIPE)
    except OSError as error:
        raise cannot_write(work, error) from None
    show_settings(config, shown_path(work / RECIPE))


def _exported(work: Path, export: Path | None, config: ProcessConfig) -> list[Path]:
    """Where the kept rows are."""
    if export is None:
        return [work / "data.jsonl"]
    from vlforge.engine.export import export as write
    from vlforge.engine.source import open_source

    roots = [] if config.absolute_paths else open_source(config).roots()
    return write(work, export, config, roots)


def show_note(event: Mapping[str, Any]) -> None:
    """A `LogFn` that says what is worth a note."""
    if "note" in event:
        note_line(str(event["note"]))


def _check_export(export: Path | None, config: ProcessConfig) -> None:
    from vlforge.engine.export import export_type
    from vlforge.engine.inputs import named_parts

    if export is None:
        if config.export_type not in ("", "jsonl"):
            raise RecipeError(f"export_type is {config.export_type}: name the file by export_path")
        return
    if export.is_dir():
        example = shown_path(export / "kept.jsonl")
        raise DataError(
            f"{shown_path(export)}: export_path is a folder; name a file, e.g. {example}"
        )
    if export.exists() and not export.is_file():
        raise DataError(f"{export}: export_path is no regular file; name another")
    for part in map(Path, (part.path for part in named_parts(config))):
        if export.absolute() == part:
            raise DataError(f"{export}: export_path is the dataset itself; name another file")
        if part.is_dir() and export.absolute().is_relative_to(part):
            note_line(f"{export} lies in the dataset's folder: the next run would read it too")
    export_type(config)


def located(config: ProcessConfig, recipe: Path) -> ProcessConfig:
    """The recipe with its datasets' paths absolute."""
    from vlforge.engine.inputs import named_parts

    def place(given: str) -> str:
        for path in (Path(given), recipe.parent / given):
            if path.exists():
                return str(path.absolute())
        raise DataError(f"{given}: no such dataset (named in {recipe}); give the file or folder")

    if config.dataset_path:
        named = named_parts(config)
        if len(named) == 1 and named[0].path == config.dataset_path:
            return replace(config, dataset_path=place(config.dataset_path))
        words = [f"{part.weight:g} {shlex.quote(place(part.path))}" for part in named]
        return replace(config, dataset_path=" ".join(words))
    mix = config.dataset
    if mix is None or not mix.configs:
        raise RecipeError(f"{recipe}: dataset_path is missing; name the file to read")
    parts = tuple(replace(part, path=place(part.path)) for part in mix.configs)
    return replace(config, dataset=replace(mix, configs=parts))


def _work_folder(export: Path | None, recipe: Path) -> Path:
    if export is None:
        return Path("runs") / recipe.stem
    return export.with_name(f"{export.stem}.process")


def models_of(config: Any, work: Path) -> Any:
    """The models' source, only where an operator asks for a model: torch is slow to start.

    What endpoints answer is kept beside `work`, where the recipe names no file for it.
    """
    from vlforge import ops
    from vlforge.types import Need

    names = [name for entry in config.process for name in entry]
    if all(ops.find(name).needs < Need.EMBEDDING for name in names):
        return None
    from vlforge.inference.local import LocalModels

    return LocalModels(
        device="auto",
        threads=os.cpu_count() or 1,
        loading=config.models,
        seed=config.seed,
        endpoints=config.endpoints,
        replies=config.replies or str(work.absolute().with_name(f"{work.name}.replies.jsonl")),
    )


def _say(funnel: dict[str, Any], files: Sequence[Path], work: Path) -> None:
    from vlforge.reports.numbers import seconds

    rows = [
        (op["op"], op["rows_in"], op["dropped"], op["changed"], op["rows_out"])
        for op in funnel["ops"]
    ]
    table(("operator", "rows in", "dropped", "changed", "rows out"), rows, right=(1, 2, 3, 4))
    say_dropped(funnel, work / "dropped.jsonl")
    reasons = funnel.get("bad_reasons") or {}
    bad = "".join(f", {count} {reason}" for reason, count in reasons.items())
    kept = f"{funnel['rows_out']} of {funnel['rows_in']} rows{bad}"
    plain_line(f"Kept    {kept}, {seconds(funnel['seconds'])}")
    shards = f" and {len(files) - 1} more shards" if len(files) > 1 else ""
    plain_line(f"Data    {shown_path(files[0])}{shards}")
    plain_line(f"Dropped {shown_path(work / 'dropped.jsonl')}, each row with its reason")
    plain_line(f"Next    vlforge report {shown_path(work)}")
