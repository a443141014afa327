"""`vlforge analyze`: what is in a dataset, and what a recipe's filters would make of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.cleaning import located, models_of, show_note, split_words
from vlforge.cli.recipes import find_recipe, says_stages
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import DataError, RecipeError, VLForgeError

if TYPE_CHECKING:
    from vlforge.engine.config import ProcessConfig
    from vlforge.reports.analysis_plan import AnalysisPlan
    from vlforge.reports.analysis_reading import Findings

EXAMPLES = """\b
Examples:
  vlforge analyze rows.jsonl                              everything that is cheap to measure
  vlforge analyze clean.yaml                              what the recipe's filters would drop
  vlforge analyze rows.parquet --recipe clean.yaml        the same of another dataset
  vlforge analyze clean.yaml --sample 10000 -o look.html  a first look at a large one
  vlforge analyze rows.jsonl --pictures                   near pictures too: decodes them all
  vlforge analyze --config clean.yaml --percentiles "[0.05, 0.95]"

\b
Then:
  vlforge process clean.yaml text_length_filter.min_len=12
"""
_ENDINGS = re.compile(r"(\.(jsonl|ndjson|json|parquet|csv|tsv|txt|gz|zst))+$", re.I)
_OF_THE_ANALYSER = ("percentiles", "export_original_dataset", "save_stats_in_one_file")


@dataclass(frozen=True)
class _Asked:
    """A dataset, a recipe over it if there is one, and where the page goes."""

    config: ProcessConfig
    recipe: Path | None
    title: str
    page: Path
    notes: tuple[str, ...] = ()


def analyze(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA_OR_RECIPE [KEY=VALUE | --KEY VALUE]",
            help="A dataset or a recipe, and settings to change.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page.", show_default="NAME.analysis/report.html"),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="The filters to ask about DATA.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The recipe, as Data-Juicer names it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N rows.", metavar="N")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="N rows drawn from all, in order.", metavar="N")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Decode every picture to find those that look alike.")
    ] = False,
    mapped: Annotated[
        bool, typer.Option("--mapped", help="Run the recipe's mappers first, then measure.")
    ] = False,
) -> None:
    """Measure a dataset and show it on one page, tables beside it.

    Nothing is dropped and nothing changed: every filter of the recipe measures
    every row, and the page shows what each would drop, with its bounds drawn in
    and others suggested. Without a recipe all cheap statistics are measured.
    """
    from vlforge.reports.analysis_plan import plan_analysis

    given, changes = split_words(words or [])
    changes += [(k, str(v)) for k, v in (("limit", limit), ("sample", sample)) if v is not None]
    if recipe is not None and config is not None:
        raise RecipeError(f"two recipes given, {recipe} and {config}; name one")
    asked = _resolve(given, recipe or config, _without_auto(dict(changes)), out)
    for note in asked.notes:
        note_line(note)
    plan = plan_analysis(asked.config, is_mapped=mapped, hashes_pictures=pictures)
    work = asked.page.with_name(f".{asked.page.stem}.work")
    was_there = asked.page.parent.exists()
    try:
        findings = _measure(plan, work)
        files = _write(plan, findings, work, asked)
    except VLForgeError:
        shutil.rmtree(work if was_there else asked.page.parent, ignore_errors=True)
        raise
    shutil.rmtree(work)
    _say(plan, findings, files, asked)


def _without_auto(changes: dict[str, str]) -> dict[str, str]:
    """`--auto --auto_num 500`, as Data-Juicer's analyser has it, is a look at the first rows."""
    number = changes.pop("auto_num", "1000")
    if changes.pop("auto", "false") == "true":
        changes.setdefault("limit", number)
    return changes


def _resolve(
    given: str | None, recipe: Path | None, changes: dict[str, str], out: Path | None
) -> _Asked:
    """What the words of the command line mean."""
    if given is None and recipe is None:
        given = changes.pop("dataset_path", None)
    if given is None and recipe is None:
        raise DataError("nothing to analyze; name a dataset or a recipe: vlforge analyze x.jsonl")
    if given is not None and recipe is None and _is_recipe(Path(given)):
        given, recipe = None, Path(given)
    notes: tuple[str, ...] = ()
    if recipe is not None:
        recipe = find_recipe(recipe)
        config, notes = _of_recipe(recipe, changes, None if given is None else _dataset(given))
    else:
        config = _of_dataset(_dataset(given or ""), changes)
    return _Asked(config, recipe, _title(config, recipe), _page(out, config, recipe), notes)


def _is_recipe(path: Path) -> bool:
    if path.suffix in (".yaml", ".yml"):
        return True
    return not path.exists() and not path.suffix and not path.parent.name


def _dataset(given: str) -> str:
    """The dataset's absolute path; of a folder that `process` wrote, the rows in it."""
    path = Path(given)
    if (path / "funnel.json").is_file() and (path / "data.jsonl").is_file():
        path = path / "data.jsonl"
    if not path.exists():
        raise DataError(f"{given}: no such dataset or recipe; name a file or a folder")
    return str(path.absolute())


def _of_dataset(path: str, changes: Mapping[str, str]) -> ProcessConfig:
    from vlforge.engine.config import ProcessConfig
    from vlforge.recipe.source import parse_value
    from vlforge.recipe.typed import build

    settings = {key: parse_value(text, "1.1") for key, text in changes.items()}
    extra = {key: settings.pop(key) for key in _OF_THE_ANALYSER if key in settings}
    if "text_keys" in settings:
        keys = settings.pop("text_keys")
        settings["text_key"] = keys[0] if isinstance(keys, list) and keys else keys
    settings |= {"dataset_path": path, "extra": extra}
    config: ProcessConfig = build(ProcessConfig, settings, lambda *keys: "command line")
    return config


def _of_recipe(
    recipe: Path, changes: Mapping[str, str], dataset: str | None
) -> tuple[ProcessConfig, tuple[str, ...]]:
    from vlforge.recipe.adopt.data_juicer import adopt

    if says_stages(recipe):
        config, notes = _of_stage(recipe, changes), ()
    else:
        adopted = adopt(recipe, changes)
        config, notes = adopted.config, adopted.notes
    if dataset is not None:
        return replace(config, dataset_path=dataset, dataset=None), notes
    if config.dataset_path.startswith("$"):
        raise RecipeError(
            f"{recipe}: reads {config.dataset_path}, which another stage makes; name the data: "
            f"vlforge analyze DATA --recipe {recipe}"
        )
    return located(config, recipe), notes


def _of_stage(recipe: Path, changes: Mapping[str, str]) -> ProcessConfig:
    """The first `process` stage of a recipe of ours."""
    from vlforge.engine.config import ProcessConfig
    from vlforge.recipe.load import load_recipe
    from vlforge.recipe.typed import build

    read = load_recipe(recipe, [f"{k}={v}" for k, v in changes.items() if k.startswith("stages.")])
    stages = [stage for stage in read.stages.values() if stage.kind == "process"]
    if not stages:
        raise RecipeError(f"{recipe}: no stage of kind process; name one that has")
    own = _of_dataset("", {k: v for k, v in changes.items() if not k.startswith("stages.")})
    settings = {k: v for k, v in stages[0].settings.items() if k != "seed" or v != "auto"}
    config: ProcessConfig = build(ProcessConfig, settings, lambda *keys: str(recipe))
    return replace(config, limit=own.limit, sample=own.sample, extra=own.extra)


def _names(config: ProcessConfig) -> list[str]:
    from vlforge.engine.inputs import named_parts

    return [Path(part.path).name for part in named_parts(config)]


def _title(config: ProcessConfig, recipe: Path | None) -> str:
    data = " + ".join(_names(config))
    return data if recipe is None else f"{data} · {recipe.name}"


def _page(out: Path | None, config: ProcessConfig, recipe: Path | None) -> Path:
    """Where the page goes; a name that does not end in .html is a folder."""
    if out is not None:
        return out if out.suffix.lower() in (".html", ".htm") else out / "report.html"
    if recipe is not None and config.export_path:
        export = Path(config.export_path)
        return export.with_name(f"{export.stem}.analysis") / "report.html"
    name = recipe.stem if recipe is not None else _ENDINGS.sub("", _names(config)[0])
    return Path(f"{name}.analysis") / "report.html"


def _measure(plan: AnalysisPlan, work: Path) -> Findings:
    from vlforge.engine.local import run_process
    from vlforge.engine.outputs import cannot_write
    from vlforge.reports.analysis_reading import read_findings

    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(work, error) from None
    with progress("measure") as shown:
        run_process(
            replace(plan.config, extra={}),
            work,
            models=models_of(plan.config, work),
            seed=plan.config.seed,
            workers=plan.config.np,
            progress=shown,
            log=show_note,
        )
    with progress("sum up") as shown:
        return read_findings(plan, work, shown)


def _write(plan: AnalysisPlan, findings: Findings, work: Path, asked: _Asked) -> list[Path]:
    """The page, then the tables; every file that was written."""
    from vlforge.engine.outputs import cannot_write
    from vlforge.reports.analysis import write_analysis
    from vlforge.reports.analysis_plan import setting
    from vlforge.reports.analysis_tables import write_charts, write_rows, write_stats, write_tables

    page, folder = asked.page, asked.page.parent
    try:
        write_analysis(plan, findings, work, page, title=asked.title, scope=_scope(asked.config))
        files = [page, *write_tables(findings, plan, folder)]
        files.append(page.with_name(f"{page.stem}_stats.jsonl"))
        write_stats(work, plan, files[-1])
        if setting(asked.config, "save_stats_in_one_file") is False:
            files += write_charts(findings, plan, folder)
        if setting(asked.config, "export_original_dataset"):
            files.append(_rows_file(asked))
            write_rows(work, plan, files[-1])
    except OSError as error:
        raise cannot_write(page, error) from None
    return files


def _rows_file(asked: _Asked) -> Path:
    """Where the rows with their statistics go: never onto the dataset."""
    from vlforge.engine.inputs import named_parts

    if not asked.config.export_path:
        return asked.page.with_name(f"{asked.page.stem}_data.jsonl")
    export = Path(asked.config.export_path).absolute()
    if any(export == Path(part.path) for part in named_parts(asked.config)):
        raise DataError(f"{export}: export_path is the dataset itself; name another file")
    return export


def _scope(config: ProcessConfig) -> str:
    if config.sample is not None:
        return f"{config.sample:,} rows drawn at random" if config.sample > 1 else "one row"
    if config.limit is None:
        return ""
    return f"the first {config.limit:,} rows" if config.limit > 1 else "the first row"


def _say(plan: AnalysisPlan, findings: Findings, files: Sequence[Path], asked: _Asked) -> None:
    from vlforge.reports.analysis import headline
    from vlforge.reports.numbers import count, percent

    if plan.is_recipe:
        rows = [
            (b.name, count((n := findings.filters[b.place]).alone), percent(n.alone, findings.rows),
             count(n.only))
            for b in plan.filters
        ]  # fmt: skip
        table(("filter", "would drop", "share", "this one only"), rows, right=(1, 2, 3))
        plain_line("")
    table(("statistic", "values", "min", "25%", "median", "75%", "max"), _quartiles(findings),
          right=range(1, 7))  # fmt: skip
    plain_line("")
    plain_line(headline(plan, findings))
    for reason, number in findings.bad.most_common():
        plain_line(f"Bad     {number} x {reason}")
    for reason, number in findings.pictures.faults.most_common():
        plain_line(f"Picture {number} x {reason}")
    if plan.left_out:
        plain_line(f"Not run {', '.join(plan.left_out)}: they change or compare rows")
    plain_line(f"Page    {shown_path(files[0])}")
    others = ", ".join(path.name for path in files[1:4])
    plain_line(f"Tables  {others} beside it")
    for path in files[4:]:
        plain_line(f"Also    {shown_path(path)}")
    if asked.recipe is not None and not says_stages(asked.recipe):
        plain_line(f"Next    vlforge process {shown_path(asked.recipe)}")


def _quartiles(findings: Findings) -> list[Sequence[Any]]:
    from vlforge.reports.numbers import count, figures

    rows = []
    for stat, found in findings.numbers.items():
        shares = (found.quantile(q) for q in (0.25, 0.5, 0.75))
        ends = (found.low, *shares, found.high)
        rows.append((stat, count(found.count), *map(figures, ends)))
    return rows
