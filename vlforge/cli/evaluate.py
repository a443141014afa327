"""`vlforge eval`: ask a model a benchmark's questions, or score answers again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vlforge.cli import ask, compare
from vlforge.cli.show import plain_line, progress, shown_path, table
from vlforge.types import DataError

SCORE_EXAMPLES = """\b
Examples:
  vlforge eval score scores               extract and score again, no model needed
  vlforge eval score --benchmark pope --answers answers.jsonl \\
      --questions llava_pope_test.jsonl --annotations coco --json
"""
JUDGE_EXAMPLES = """\b
Examples:
  vlforge eval judge scores --model gpt-4-0613 --dry-run     how many, what it may cost
  vlforge eval judge scores --model qwen --url http://127.0.0.1:8000/v1
The key is read from the environment (OPENAI_API_KEY, or --key-env) and written nowhere.
"""
EXPORT_EXAMPLES = """\b
Examples:
  vlforge eval export scores mmbench upload.xlsx    MMBench's upload sheet
  vlforge eval export scores textvqa answers.jsonl  LLaVA's answer file
  vlforge eval export answers.jsonl vizwiz upload.json --questions llava_test.jsonl
"""


def build_app() -> typer.Typer:
    """`eval run`, `eval score`, `eval judge`, `eval export` and `eval compare`."""
    app = typer.Typer(help="Ask benchmarks and score the answers.", no_args_is_help=True)
    app.command("run", epilog=ask.EXAMPLES)(ask.run)
    app.command("score", epilog=SCORE_EXAMPLES)(score)
    app.command("judge", epilog=JUDGE_EXAMPLES)(judge)
    app.command("export", epilog=EXPORT_EXAMPLES)(export)
    app.command("compare", epilog=compare.EVAL_EXAMPLES)(compare.compare_answers)
    return app


def score(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder `eval run` wrote.", show_default=False)
    ] = None,
    benchmark: Annotated[
        str, typer.Option(help="Whose answers --answers are.", show_default=False)
    ] = "",
    answers: Annotated[
        Path | None, typer.Option(help="Answers that any tool wrote.", show_default=False)
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", "--annotation", help="The right answers."),
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The questions.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures.")] = None,
    protocol: Annotated[str, typer.Option(help="How answers are read and scored.")] = "auto",
    metric: Annotated[str, typer.Option(help="The metric of `custom`.")] = "auto",
    judged: Annotated[Path | None, typer.Option(help="Verdicts that `eval judge` wrote.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse missing answers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Scores as JSON.")] = False,
) -> None:
    """Score the answers that are there, without a model."""
    if (folder is None) == (answers is None):
        raise DataError("give a folder that `eval run` wrote, or --benchmark and --answers")
    if answers is not None:
        # LLaVA's answers to TextVQA carry the questions, which are all that its own scorer reads.
        asked = questions or (answers if benchmark == "textvqa" else "")
        spec = {
            "name": benchmark,
            "questions": str(asked),
            "annotation": annotations and str(annotations),
            "images": images and str(images),
            "protocol": protocol,
            "metric": metric,
        }
        metrics = _score_answers(spec, answers, strict, judged)
    else:
        assert folder is not None
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give one that `vlforge eval run` wrote")
        from vlforge.evaluation.scoring import score_folder

        metrics = score_folder(folder, protocol=protocol, strict=strict)
    if as_json:
        print(json.dumps(metrics, ensure_ascii=False))
        return
    show_scores(metrics)
    if folder is not None:
        plain_line(f"Scores  {shown_path(folder / 'metrics.json')}")


def _score_answers(
    settings: dict[str, Any], answers: Path, strict: bool, judged: Path | None
) -> dict[str, Any]:
    from vlforge.evaluation.config import BenchmarkSpec
    from vlforge.evaluation.scoring import score_answers
    from vlforge.recipe.typed import build

    if not settings["name"]:
        raise DataError("--answers needs --benchmark; `vlforge list benchmarks` names them")
    spec = build(BenchmarkSpec, settings, ask.option)
    if not spec.questions and not spec.annotation:
        raise DataError("give --questions or --annotations: the files of the benchmark")
    return {spec.key: score_answers(spec, answers, strict=strict, judged=judged)}


def judge(
    folder: Annotated[Path, typer.Argument(help="A folder `eval run` wrote.", show_default=False)],
    model: Annotated[str, typer.Option(help="The judge.", show_default=False)],
    url: Annotated[str, typer.Option(help="Its address, up to /v1.")] = "https://api.openai.com/v1",
    benchmark: Annotated[str, typer.Option(help="Whose answers; default: all it can judge.")] = "",
    protocol: Annotated[str, typer.Option(help="How answers are read and scored.")] = "auto",
    key_env: Annotated[str, typer.Option(help="Variable that holds the key.")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    price_in: Annotated[float, typer.Option(help="Of a million tokens asked.")] = 0.0,
    price_out: Annotated[float, typer.Option(help="Of a million tokens replied.")] = 0.0,
    max_cost: Annotated[float, typer.Option(help="Stop when so much is spent; 0: never.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask nobody, tell the cost.")] = False,
) -> None:
    """Ask a judge about answers that rules cannot read, then score them.

    What it says is kept: the same command goes on where it was stopped and pays nothing twice.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one that `vlforge eval run` wrote")
    from vlforge.data.folder_lock import alone
    from vlforge.evaluation.scoring import judge_folder, score_folder
    from vlforge.inference.endpoint.client import Endpoint
    from vlforge.types import EndpointSpec

    spec = EndpointSpec(
        model, url, key_env, concurrency=concurrency, price_in=price_in, price_out=price_out,
        max_cost=max_cost,
    )  # fmt: skip
    endpoint = Endpoint(spec, folder / "replies.jsonl")
    held = nullcontext() if dry_run else alone(folder, "", "another evaluation")
    with held, progress("judge") as shown:
        lines = judge_folder(
            folder, endpoint, only=benchmark, protocol=protocol, dry_run=dry_run, progress=shown
        )
    for line in lines:
        plain_line(line)
    if not dry_run:
        plain_line(f"Judge   {endpoint.usage.line()}")
        show_scores(score_folder(folder, protocol=protocol))


def export(
    answers: Annotated[
        Path,
        typer.Argument(
            help="A folder `eval run` wrote, or answers of any tool.", show_default=False
        ),
    ],
    name: Annotated[str, typer.Argument(help="The benchmark.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(help="The file; its ending chooses the format.", show_default=False)
    ],
    shape: Annotated[
        str, typer.Option("--as", help="llava, vlmevalkit, or the benchmark's own: upload, …")
    ] = "auto",
    questions: Annotated[Path | None, typer.Option(help="The questions of such answers.")] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", "--annotation", help="Their right answers.")
    ] = None,
) -> None:
    """Write the answers as another tool's file."""
    from vlforge.evaluation.export import export_answers, export_file

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None
    if answers.is_dir():
        written = export_answers(answers, name, target, shape)
    elif not answers.is_file():
        raise DataError(f"{answers}: no such folder or file; give what `vlforge eval run` wrote")
    else:
        from vlforge.evaluation.config import BenchmarkSpec
        from vlforge.recipe.typed import build

        if questions is None and annotations is None:
            raise DataError("a file of answers needs --questions or --annotations")
        spec = {
            "name": name,
            "questions": str(questions or ""),
            "annotation": annotations and str(annotations),
        }
        written = export_file(build(BenchmarkSpec, spec, ask.option), answers, target, shape)
    plain_line(f"Answers {shown_path(written)}")


def show_scores(metrics: dict[str, Any]) -> None:
    """A table: score in percent with its interval, per benchmark and group."""
    rows = []
    for name, found in metrics.items():
        rows.append((name, *_score_cells(found), found.get("protocol", "")))
        for group, part in found.get("groups", {}).items():
            rows.append((f"  {group}", *_score_cells(part), ""))
    table(("benchmark", "score", "interval", "n", "protocol"), rows, right=(1, 2, 3))


def _score_cells(found: dict[str, Any]) -> tuple[str, str, str]:
    """Score, interval and n; of points where the benchmark's scale is no share."""
    low, high = found.get("interval") or (None, None)
    is_points = "scale" in found or (found["score"] or 0) > 1
    times, unit = (1, "") if is_points else (100, " %")
    interval = "" if low is None else f"{times * low:.1f}–{times * high:.1f}"
    score = "no answers known" if found["score"] is None else f"{times * found['score']:.1f}{unit}"
    return score, interval, str(found.get("n", ""))
