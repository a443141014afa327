"""`vlforge predict`: a model's answer to every row of a file."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.options import (
    Attention,
    BaseModel,
    Device,
    DeviceMap,
    LanguagePart,
    Precision,
    Quantise,
    VisionPart,
    loading_of,
)
from vlforge.cli.show import is_terminal, note_line, plain_line, progress, shown_path
from vlforge.types import Drawing, EndpointSpec, ProgressFn, RecipeError

if TYPE_CHECKING:
    from vlforge.serving.predict.run import Done

EXAMPLES = """\b
Examples:
  vlforge predict MODEL test.tsv captions.tsv          id, base64 in; id, caption out
  vlforge predict MODEL questions.jsonl answers.jsonl --images photos
  vlforge predict MODEL photos/ captions.jsonl --prompt "What is this?" --batch 64
  vlforge predict --url http://127.0.0.1:8000/v1 --model-name qwen test.tsv captions.tsv
Stopped or killed, the same command goes on. The key of a server is read from the environment
(OPENAI_API_KEY, or --key-env).
"""
First = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A model folder; left out with --url.", show_default=False
    ),
]
Second = Annotated[
    Path, typer.Argument(metavar="INPUT", help="What is asked about.", show_default=False)
]
Third = Annotated[
    Path | None,
    typer.Argument(metavar="OUTPUT", help="The file for the answers.", show_default=False),
]
Prompt = Annotated[
    str,
    typer.Option(
        help="Ask this of every row.", show_default="the row's question, or 请描述图片内容"
    ),
]
To = Annotated[str, typer.Option("--to", help="tsv or jsonl; auto: as OUTPUT's name ends.")]
From = Annotated[str, typer.Option("--from", help="INPUT's format; auto: by its content.")]
Images = Annotated[str, typer.Option(help="Where relative picture paths start.")]
Fallback = Annotated[
    str | None,
    typer.Option(
        help="Stands where there is no answer.", show_default="一张图片 in tsv, nothing in jsonl"
    ),
]
Damaged = Annotated[
    str, typer.Option(help="Cut-off pictures: answer to what is left, or fallback.")
]
Report = Annotated[Path | None, typer.Option(help="A jsonl of the rows that fell back, and why.")]
Longest = Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: the likeliest words.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest words of this share.")]
Beams = Annotated[int, typer.Option(min=1, help="Beams of a search; 1: none.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the drawing; each row has its own.")]
Batch = Annotated[int, typer.Option(min=1, help="Rows at once.")]
Template = Annotated[str, typer.Option(help="Conversation template; auto: the model's own.")]
Shared = Annotated[str, typer.Option(help="Processes that share the rows; auto: one per GPU.")]
Url = Annotated[str, typer.Option(help="A server in place of MODEL, its address up to /v1.")]
ModelName = Annotated[str, typer.Option(help="What the server calls the model.")]
KeyEnv = Annotated[str, typer.Option(help="Variable that holds the server's key.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests to a server at once.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget answers of a command that stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an OUTPUT that is there.")]


def predict(
    first: First,
    second: Second,
    third: Third = None,
    prompt: Prompt = "",
    to: To = "auto",
    from_format: From = "auto",
    images: Images = "",
    fallback: Fallback = None,
    damaged: Damaged = "answer",
    report: Report = None,
    max_new_tokens: Longest = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    beams: Beams = 1,
    seed: Seed = 0,
    batch: Batch = 32,
    processes: Shared = "auto",
    template: Template = "auto",
    url: Url = "",
    model_name: ModelName = "",
    key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 8,
    base: BaseModel = None,
    vision: VisionPart = None,
    language: LanguagePart = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: Quantise = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
    fresh: Fresh = False,
    overwrite: Overwrite = False,
) -> None:
    """Answer every row of a file, in its order.

    An ad-caption TSV (id, base64) becomes id and caption, line for line; any dataset of
    `vlforge list formats`, rows of JSON with an image and a question, and a folder of
    pictures become rows of JSON.
    """
    drawing = Drawing(max_new_tokens, temperature, _share(top_p), beams)
    model, source, output = _places([first, second, *filter(None, [third])], url)
    how = {
        "endpoint": _server(url, model_name, key_env, concurrency),
        "template": template, "parts": (base, vision, language), "drawing": drawing,
        "loading": loading_of(precision, quantise, attention, device_map),
        "seed": seed, "batch": batch, "keeps_damaged": _keeps(damaged),
    }  # fmt: skip
    plan = {
        "to": to, "fallback": fallback, "report": report, "processes": _shared(processes),
        "device": device, "fresh": fresh, "overwrite": overwrite,
    }  # fmt: skip
    _run(model, (source, from_format, images, prompt), output, how, plan)


def _run(
    model: Path | None,
    source: tuple[Path, str, str, str],
    output: Path,
    how: dict[str, Any],
    plan: dict[str, Any],
) -> None:
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.serving.predict.answering import Asking
    from vlforge.serving.predict.rows import Source
    from vlforge.serving.predict.run import Plan, find_model, predict

    base, vision, language = how.pop("parts")
    folder = "" if model is None else str(find_model(model))
    asking = Asking(folder, parts=Parts(base=base, vision=vision, language=language), **how)
    with progress("predict") as shown:
        tell = shown if is_terminal(sys.stderr) else _told(shown)
        done = predict(Plan(Source(*source), output, asking, **plan), tell)
    _show(done, output, plan["report"])


def _places(paths: list[Path], url: str) -> tuple[Path | None, Path, Path]:
    """Model, input and output."""
    wanted = ("INPUT", "OUTPUT") if url else ("MODEL", "INPUT", "OUTPUT")
    if len(paths) != len(wanted):
        with_url = "with --url a server answers, and " if url else ""
        raise RecipeError(f"{with_url}{len(wanted)} paths are wanted: {' '.join(wanted)}")
    return None if url else paths[0], paths[-2], paths[-1]


def _server(url: str, name: str, key_env: str, concurrency: int) -> EndpointSpec | None:
    if not url:
        return None
    if not name:
        raise RecipeError("--url needs --model-name, what the server calls the model")
    return EndpointSpec(name, url, key_env, concurrency=concurrency)


def _shared(typed: str) -> int | str:
    if typed != "auto" and not (typed.isdecimal() and int(typed) > 0):
        raise RecipeError(f"--processes is {typed!r}; give a number from 1, or auto")
    return typed if typed == "auto" else int(typed)


def _keeps(damaged: str) -> bool:
    if damaged not in ("answer", "fallback"):
        raise RecipeError(f"--damaged is {damaged!r}; give answer or fallback")
    return damaged == "answer"


def _share(top_p: float) -> float:
    if not 0 < top_p <= 1:
        raise RecipeError(f"--top-p is {top_p:g}; give a share above 0, at most 1")
    return top_p


def _told(shown: ProgressFn) -> ProgressFn:
    """The same with rate and time left in words; the rate counts from the first answers on."""
    before: list[int] = []
    begun: list[tuple[float, int]] = []

    def tell(done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        before[:] = before or [done]
        if not begun and done > before[0]:
            begun.append((now, done))
        words = [note] if note else []
        if begun and done > begun[0][1]:
            rate = (done - begun[0][1]) / max(now - begun[0][0], 1e-9)
            minutes, seconds = divmod(round(((total or done) - done) / rate), 60)
            left = f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left" if total else ""
            words.insert(0, f"{rate:,.1f} rows/s{left}")
        shown(done, total, ", ".join(words))

    return tell


def _show(done: Done, output: Path, report: Path | None) -> None:
    summary: Any = done.summary
    for note in done.notes:
        note_line(note)
    new = summary.rows - done.kept
    pace = f", {new / done.seconds:,.1f} a second" if new else ""
    kept = f" ({done.kept:,} answered before)" if done.kept else ""
    plain_line(f"Rows     {summary.rows:,}{kept} in {done.seconds:,.1f} s{pace}")
    if summary.damaged:
        plain_line(f"Damaged  {summary.damaged:,}, answered to what is left of the picture")
    if summary.fell_back:
        fell = summary.fell_back
        why = ", ".join(f"{reason} {count:,}" for reason, count in fell.most_common())
        plain_line(f"Fell back  {fell.total():,}: {why}")
        for one in summary.shown:
            detail = f": {one.detail}" if one.detail else ""
            plain_line(f"  row {one.number + 1} (id {one.id or '-'})  {one.reason}{detail}"[:200])
    for line in done.usage:
        plain_line(f"Server   {line}")
    if report is not None:
        plain_line(f"Report   {shown_path(report)}")
    plain_line(f"Answers  {shown_path(output)}")
