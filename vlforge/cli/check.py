"""`vlforge check`: reads a recipe or a dataset for what would fail later."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.cli.options import Arms, Maps, Overrides, Seeds, Size, Until, choose
from vlforge.cli.recipes import is_other_systems, our_recipe
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.data.checking.check import Report, Training, Wanted
    from vlforge.data.checking.findings import Found
    from vlforge.data.records import Format
    from vlforge.runs.prepare import Choice

EXAMPLES = """\b
Examples:
  vlforge check recipes/photos.yaml
  vlforge check recipe.yaml stages.align.data=other.jsonl
  vlforge check rows.jsonl --decode
  vlforge check llava.json --recipe recipe.yaml --image-root images
  vlforge check train.json --against test.json --against textvqa.jsonl=train_images
  vlforge check rows.jsonl --tokenizer vicuna-7b --template v1 --max-length 2048
"""
_YAML = (".yaml", ".yml")
_DATA = (".json", ".jsonl", ".tsv", ".csv", ".parquet", ".tar", ".gz", ".zst")
_SHOWN = 2
_VALUE = 88


RecipeOrData = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|DATA", help="A recipe's YAML file, or a dataset.", show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="The run's folder; for a dataset where the report goes.",
        show_default="runs/<name>; NAME.check",
    ),
]
UsedIn = Annotated[
    Path | None, typer.Option("--recipe", help="Count DATA's labels as its train stages do.")
]
From = Annotated[
    str, typer.Option("--from", metavar="FORMAT", help="DATA's format.", show_default="by content")
]
ImageRoot = Annotated[Path | None, typer.Option(help="Where DATA's relative picture paths start.")]
Decode = Annotated[bool, typer.Option("--decode", help="Decode every picture.")]
Near = Annotated[bool, typer.Option("--near", help="Also find pictures that look alike (decodes).")]
Headers = Annotated[
    bool, typer.Option("--headers", help="Read pictures' headers only: no repeated files.")
]
Against = Annotated[
    list[str] | None,
    typer.Option(metavar="OTHER[=IMAGES]", help="Another split or a benchmark (repeatable)."),
]
Most = Annotated[int, typer.Option(min=0, help="The most rows allowed.", show_default="any")]
Tokenizer = Annotated[
    Path | None, typer.Option(help="A model's folder: count labels with its tokenizer.")
]
Template = Annotated[str, typer.Option(help="The template for --tokenizer.")]
MaxLength = Annotated[int, typer.Option(min=1, help="Its length in tokens.")]


def check(
    recipe: RecipeOrData,
    overrides: Overrides = None,
    out: Out = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    until: Until = None,
    maps: Maps = None,
    used_in: UsedIn = None,
    from_: From = "",
    image_root: ImageRoot = None,
    decode: Decode = False,
    near: Near = False,
    headers: Headers = False,
    against: Against = None,
    max_samples: Most = 0,
    tokenizer: Tokenizer = None,
    template: Template = "v1",
    max_length: MaxLength = 2048,
) -> None:
    """Look for what would fail later: files, labels, budgets, leaks.

    Of a recipe the exit code is 2 where something is wrong, of a dataset 1.
    What is found in a dataset is also written as check.json and check.html.
    """
    choice = choose(overrides, maps, arms=arms, seeds=seeds, size=size, until=until)
    if not _is_data(recipe):
        _check_recipe(recipe, choose(overrides, maps, run_dir=out, arms=arms, seeds=seeds,
                                     size=size, until=until))  # fmt: skip
        return
    if headers and (decode or near or against):
        raise RecipeError("--headers reads no pixels: leave it out for --decode, --near, --against")
    from vlforge.data.checking.check import Wanted
    from vlforge.data.checking.pictures import Looking
    from vlforge.data.formats.index import detect, find
    from vlforge.runs.data_check import guesser, known_set, phash

    reader = find(from_) if from_ else detect(recipe)
    note_line(f"{shown_path(recipe)} is read as {reader.name}")
    looking = Looking(not headers, decode, phash() if near or against else None)
    trainings, root = _trainings(used_in, choice, tokenizer, template, max_length)
    guess = guesser()
    if guess is None:
        note_line("languages are not told: pip install 'vlforge[ops]'")
    known = tuple(known_set(other, looking) for other in against or ())
    wanted = Wanted(looking, guess, tuple(trainings), known, max_samples, near)
    _check_data(recipe, reader, image_root or root, wanted, out)


def _is_data(given: Path) -> bool:
    """Whether what was named is a dataset and no recipe."""
    if given.suffix in _YAML:
        return False
    is_named_so = given.suffix in _DATA or any(mark in str(given) for mark in "{*")
    return (is_named_so or given.exists()) and not is_other_systems(given)


def _check_recipe(recipe: Path, choice: Choice) -> None:
    from vlforge.runs.check import check_recipe

    path = our_recipe(recipe)
    findings = check_recipe(path, choice)
    for found in findings:
        plain_line(f"{found.level:<8}{found.where}: {found.text}")
    levels = Counter(found.level for found in findings)
    plain_line(f"{path}: {levels['error']} errors, {levels['warning']} warnings")
    if levels["error"]:
        raise typer.Exit(2)
    plain_line(f"Next    {shlex.join(['vlforge', 'run', str(path), *_said(choice)])}")


def _said(choice: Choice) -> list[str]:
    """The choice as it was typed, for the command that comes next."""
    options = {
        "--out": choice.run_dir, "--arms": choice.arms, "--seeds": choice.seeds,
        "--size": choice.size, "--until": choice.until,
    }  # fmt: skip
    words = [word for o, value in options.items() if value is not None for word in (o, str(value))]
    moved = [word for pair in (choice.maps or {}).items() for word in ("--map", "=".join(pair))]
    return [*choice.overrides, *words, *moved]


def _trainings(
    recipe: Path | None, choice: object, tokenizer: Path | None, template: str, max_length: int
) -> tuple[list[Training], Path | None]:
    """Whose labels are counted: a recipe's train stages, or the command line's; their pictures."""
    from vlforge.runs.data_check import training, trainings_of

    found: list[Training] = []
    root = None
    if recipe is not None:
        found, notes, root = trainings_of(our_recipe(recipe), choice)  # type: ignore[arg-type]
        for note in notes:
            note_line(note)
    if tokenizer is not None:
        found.append(training(f"{template}/{max_length}", str(tokenizer), template, max_length))
    return found, root


def _check_data(
    data: Path, reader: Format, root: Path | None, wanted: Wanted, out: Path | None
) -> None:
    from vlforge.data.checking.check import check_records
    from vlforge.data.checking.writing import as_values, write_values
    from vlforge.reports.check_page import write_check
    from vlforge.runs.data_check import read_records

    name = data.name.split(".")[0] or "data"
    folder = out or Path(f"{name}.check")
    with progress("check") as shown:
        report = check_records(read_records(data, reader, root), wanted, shown)
    write_values(as_values(report, wanted, str(data), reader.name), folder / "check.json")
    page = folder / "check.html"
    write_check(
        report, wanted, page, title=data.name, format_name=reader.name, links=["check.json"]
    )
    _say(data, report, wanted, page)
    if report.findings.has_errors:
        raise typer.Exit(1)


def _say(data: Path, report: Report, wanted: Wanted, page: Path) -> None:
    """The findings in the terminal: a table, the first places of errors and warnings, the end."""
    findings = report.findings.ordered()
    if findings:
        rows = [(one.kind.level, one.kind.title, f"{one.count:,}") for one in findings]
        table(("level", "what", "times"), rows, right=(2,))
    for one in findings:
        if one.kind.level != "note":
            _say_examples(one)
    for one in wanted.trainings:
        mean = one.tokens / one.rows if one.rows else 0
        plain_line(
            f"Labels  {one.name}: {one.rows:,} rows, {mean:.0f} tokens on average, longest "
            f"{one.longest:,}, {one.cut:,} over {one.max_length:,}"
        )
    if report.languages:
        whole = report.languages.total()
        top = (f"{k or '?'} {100 * n / whole:.0f} %" for k, n in report.languages.most_common(5))
        plain_line(f"Words   {', '.join(top)}")
    errors = sum(one.count for one in report.findings.of("error"))
    warnings = sum(one.count for one in report.findings.of("warning"))
    plain_line(
        f"{shown_path(data)}: {report.records:,} rows, {report.pictures:,} pictures, "
        f"{errors:,} errors, {warnings:,} warnings"
    )
    plain_line(f"Page    {shown_path(page)}")


def _say_examples(found: Found) -> None:
    from vlforge.data.checking.findings import shortened

    plain_line(f"{found.kind.level}: {found.kind.title}: {found.kind.remedy}")
    for example in found.examples[:_SHOWN]:
        where = f"line {example.line}" if example.line else ""
        name = f"id {shortened(str(example.id), 40)}" if example.id not in (None, "") else ""
        head = ", ".join(filter(None, (where, name)))
        plain_line(f"  {head + ': ' if head else ''}{example.value[:_VALUE]}")
