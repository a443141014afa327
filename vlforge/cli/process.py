"""`vlforge process`: operators over a dataset, from a Data-Juicer recipe or one of ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vlforge.cli.options import choose
from vlforge.cli.recipes import find_recipe
from vlforge.cli.run import run_and_say
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import DataError, RecipeError

FREE_OPTIONS = {"ignore_unknown_options": True}
EXAMPLES = """\b
Examples:
  vlforge process clean.yaml
  vlforge process clean.yaml np=8 image_shape_filter.min_width=64
  vlforge process --config clean.yaml --np 8 --dataset_path in.jsonl --export_path out.jsonl
  vlforge process recipes/photos.yaml     up to the last `process` stage of a recipe
"""


def process(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [KEY=VALUE | --KEY VALUE]",
            help="The recipe and settings to change.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The recipe, as Data-Juicer names it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for statistics, dropped rows and trace.", show_default="beside the export"
        ),
    ] = None,
) -> None:
    """Clean and rewrite a dataset; no row is lost without a reason."""
    given, changes = split_words(words or [])
    if given is not None and config is not None:
        raise RecipeError(f"two recipes given, {given} and {config}; name one")
    if given is None and config is None:
        raise RecipeError(
            "no recipe given; e.g. vlforge process clean.yaml, or --config clean.yaml"
        )
    path = find_recipe(Path(config or given or ""))
    if _is_ours(path):
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
        elif recipe is None:
            recipe = word
        else:
            raise RecipeError(f"{word!r} is neither key=value nor an option; recipe: {recipe}")
    return recipe, changes


def _is_ours(path: Path) -> bool:
    from vlforge.recipe.source import read_source

    tree = read_source(path).plain()
    return "stages" in tree or "kind" in tree


def _run_stages(path: Path, changes: Sequence[tuple[str, str]], out: Path | None) -> None:
    from vlforge.recipe.graph import expand
    from vlforge.recipe.load import load_recipe

    overrides = [f"{key}={value}" for key, value in changes]
    nodes = expand(load_recipe(path, overrides))
    last = [node.stage for node in nodes if node.kind == "process"]
    if not last:
        raise RecipeError(f"{path}: no stage of kind process; try `vlforge run {path}`")
    run_and_say(path, choose(overrides, run_dir=out, until=last[-1]))


def _process_plain(path: Path, changes: dict[str, str], out: Path | None) -> None:
    from vlforge.recipe.adopt.data_juicer import read_data_juicer

    config = read_data_juicer(path, changes)
    config = replace(config, dataset_path=str(_dataset(config.dataset_path, path)))
    export = Path(config.export_path) if config.export_path else None
    if export is not None:
        _check_export(export, Path(config.dataset_path))
    work = out or _work_folder(export, path)
    if config.extra:
        note_line(f"without effect here: {', '.join(config.extra)}")
    from vlforge.engine.export import export_stats
    from vlforge.engine.local import run_process

    with progress("process") as shown:
        funnel = run_process(
            replace(config, export_path=""),
            work,
            models=_models(config),
            workers=config.np,
            progress=shown,
            log=_show_note,
        )
    if export is not None:
        _place(work / "data.jsonl", export)
        export_stats(work / "stats.jsonl", export.with_name(f"{export.stem}_stats.jsonl"))
    _say(funnel, export or work / "data.jsonl", work)


def _show_note(event: Mapping[str, Any]) -> None:
    if "note" in event:
        note_line(str(event["note"]))


def _check_export(export: Path, dataset: Path) -> None:
    if export.is_dir():
        raise DataError(f"{export}: export_path is a folder; name a file, e.g. {export}/kept.jsonl")
    if export.exists() and not export.is_file():
        raise DataError(f"{export}: export_path is no regular file; name another")
    if export.absolute() == dataset:
        raise DataError(f"{export}: export_path is the dataset itself; name another file")


def _dataset(given: str, recipe: Path) -> Path:
    """The dataset from the working folder, as Data-Juicer finds it, else beside the recipe."""
    for path in (Path(given), recipe.parent / given):
        if path.exists():
            return path.absolute()
    raise DataError(f"{given}: no such dataset (dataset_path of {recipe}); give the jsonl file")


def _work_folder(export: Path | None, recipe: Path) -> Path:
    if export is None:
        return Path("runs") / recipe.stem
    return export.with_name(f"{export.stem}.process")


def _models(config: Any) -> Any:
    """The models' source, only where an operator asks for a model: torch is slow to start."""
    from vlforge import ops
    from vlforge.types import Need

    names = [name for entry in config.process for name in entry]
    if all(ops.find(name).needs < Need.EMBEDDING for name in names):
        return None
    from vlforge.inference.local import LocalModels

    return LocalModels(device="auto", threads=os.cpu_count() or 1)


def _place(source: Path, target: Path) -> None:
    """A copy of `source` at `target`, there in whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    os.replace(part, target)


def _say(funnel: dict[str, Any], data: Path, work: Path) -> None:
    from vlforge.reports.numbers import seconds

    rows = [
        (op["op"], op["rows_in"], op["dropped"], op["changed"], op["rows_out"])
        for op in funnel["ops"]
    ]
    table(("operator", "rows in", "dropped", "changed", "rows out"), rows, right=(1, 2, 3, 4))
    bad = f", {funnel['bad_lines']} unreadable lines" if funnel.get("bad_lines") else ""
    kept = f"{funnel['rows_out']} of {funnel['rows_in']} rows{bad}"
    plain_line(f"Kept    {kept}, {seconds(funnel['seconds'])}")
    plain_line(f"Data    {shown_path(data)}")
    plain_line(f"Dropped {shown_path(work / 'dropped.jsonl')}, each row with its reason")
    plain_line(f"Next    vlforge report {shown_path(work)}")
