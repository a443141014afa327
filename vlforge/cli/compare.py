"""`vlforge compare` for whole runs, `vlforge eval compare` for two evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.cli import ask
from vlforge.cli.show import plain_line, shown_path, table
from vlforge.types import DataError

if TYPE_CHECKING:
    from vlforge.evaluation.config import BenchmarkSpec

EXAMPLES = """\b
Examples:
  vlforge compare runs/raw runs/clean
  vlforge compare runs/a runs/b runs/c -o c.html
"""
EVAL_EXAMPLES = """\b
Examples:
  vlforge eval compare scores_7b scores_13b -o compared.html
  vlforge eval compare runs/raw runs/clean/score --json
  vlforge eval compare llava.jsonl mgm.jsonl --benchmark pope \\
      --questions llava_pope_test.jsonl --annotations coco -o compared.html
"""


def compare_answers(
    a: Annotated[Path, typer.Argument(help="An evaluation, or a run's stage.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The other one.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the page here.", show_default="none")
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Other prompts or data: only what both were asked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
    benchmark: Annotated[
        str, typer.Option(help="Whose answers they are, where A or B is a file of answers.")
    ] = "",
    questions: Annotated[Path | None, typer.Option(help="Its questions.")] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", "--annotation", help="Its right answers.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of its pictures.")] = None,
    protocol: Annotated[str, typer.Option(help="How answers are read and scored.")] = "auto",
    metric: Annotated[str, typer.Option(help="The metric of `custom`.")] = "auto",
) -> None:
    """Compare two evaluations question by question.

    Paired bootstrap over pictures, McNemar's test, every category, and the questions that
    changed sides. Scores of other protocols, prompts or data are refused.
    """
    from vlforge.evaluation.pairing import compare_folders, evaluation_folder
    from vlforge.reports.answers_compared import HEAD, headline, table_rows, write_comparison

    files = {"questions": questions, "annotation": annotations, "images": images}
    settings = {key: str(path) for key, path in files.items() if path}
    spec = _spec({"name": benchmark, "protocol": protocol, "metric": metric, **settings})
    a, b = (one if spec and one.is_file() else evaluation_folder(one) for one in (a, b))
    found = compare_folders(a, b, common=common, spec=spec)
    if out is not None:
        write_comparison(found, a, b, out)
    if as_json:
        sides = {"a": str(a), "b": str(b)}
        print(json.dumps({**sides, "benchmarks": {c.key: c.as_json() for c in found}}))
        return
    plain_line(f"A  {shown_path(a)}")
    plain_line(f"B  {shown_path(b)}")
    plain_line("")
    table(HEAD, table_rows(found), right=tuple(range(1, len(HEAD))))
    plain_line("")
    plain_line(headline(found).replace("\u00a0", " "))
    for one in found:
        for note in one.notes:
            plain_line(f"{one.key}: {note}")
    plain_line(f"Page  {shown_path(out)}" if out else "With -o PAGE.html: the questions too")


def _spec(settings: dict[str, str]) -> BenchmarkSpec | None:
    """What files of answers are scored by; None where no benchmark was named."""
    from vlforge.evaluation.config import BenchmarkSpec
    from vlforge.recipe.typed import build

    if not settings["name"]:
        return None
    spec: BenchmarkSpec = build(BenchmarkSpec, settings, ask.option)
    if not spec.questions and not spec.annotation:
        raise DataError("give --questions or --annotations: the files of the benchmark")
    return spec


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN [RUN…]", help="Folders.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the page here.", show_default="none")
    ] = None,
) -> None:
    """Compare whole runs: recipes, data, curves, scores, cost.

    Scores stand with what each run had seen; runs that have not finished are shown as far as
    they are.
    """
    from vlforge.reports import runs_compared as pages

    values = pages.compare_runs(runs)
    if out is not None:
        pages.write_runs_page(values, out)
    letters = [side.letter for side in values["sides"]]
    labels = [one.label for one in values["series"]]
    table(("", "run", "state"), pages.run_rows(values["sides"]))
    head, rows = pages.score_table(values)
    plain_line("")
    table(head, rows, right=range(1, len(head)))
    if values["settings"]:
        plain_line("")
        table(("setting", *letters), pages.setting_rows(values["settings"]))
    if values["unequal"]:
        plain_line("")
        plain_line(f"Not at equal budget: {'; '.join(values['unequal'])}")
        if values["equal"]:
            heads = ("at equal samples", "samples", *labels)
            table(heads, pages.equal_rows(values), right=range(1, len(heads)))
    plain_line("")
    plain_line(values["headline"].replace("\u00a0", " "))
    for panel in values["panels"]:
        for line in (*(row.against for row in panel.rows), panel.warning):
            if line:
                plain_line(f"{panel.name}: {line}")
    plain_line(f"Page  {shown_path(out)}" if out else "With -o PAGE.html: data and curves too")
