"""`vlforge eval run`: ask a model, or a server, a benchmark's questions and score the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vlforge.cli.options import Attention, Device, DeviceMap, Precision, Quantise, loading_of
from vlforge.cli.show import plain_line, progress, shown_path
from vlforge.types import DataError, ModelError, RecipeError

EXAMPLES = """\b
Examples:
  vlforge eval run MODEL --benchmark textvqa --questions questions.jsonl \\
      --annotation TextVQA_0.5.1_val.json --images train_images --out scores
  vlforge eval run MODEL --benchmark mmbench --questions mmbench_dev.tsv --out scores
  vlforge eval run MODEL --benchmark seedbench --annotation SEED-Bench.json \\
      --images SEED-Bench-image --answer-by likelihood --likelihood sum
  vlforge eval run --url http://127.0.0.1:8000/v1 --model-name qwen --benchmark pope …
The key of a server is read from the environment (OPENAI_API_KEY, or --key-env).
"""
Model = Annotated[Path | None, typer.Argument(help="A model folder.", show_default=False)]
Benchmark = Annotated[
    str, typer.Option(help="One of `vlforge list benchmarks`.", show_default=False)
]
Questions = Annotated[Path | None, typer.Option(help="What it asks: question jsonl, TSV, …")]
Annotation = Annotated[
    Path | None,
    typer.Option("--annotation", "--annotations", help="The right answers, where apart."),
]
Images = Annotated[Path | None, typer.Option(help="The folder of the pictures.")]
Out = Annotated[Path, typer.Option(help="Where answers and scores go.")]
Rule = Annotated[str, typer.Option(help="How answers are read and scored.")]
Words = Annotated[str, typer.Option(help="Whose words ask, where systems differ.")]
Metric = Annotated[str, typer.Option(help="The metric of `custom`.")]
Ocr = Annotated[str, typer.Option(help="keep or remove the OCR tokens of TextVQA's questions.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask the first so many questions.")]
Template = Annotated[
    str,
    typer.Option(
        "--template", "--prompt-template", help="Conversation template; auto: the model's own."
    ),
]
Trained = Annotated[
    Path | None,
    typer.Option("--adapter", "--llava", help="What was trained on MODEL: LoRA, XTuner's LLaVA."),
]
Vision = Annotated[
    Path | None,
    typer.Option("--vision", "--visual-encoder", help="The encoder, where --adapter leaves it."),
]
SelectLayer = Annotated[
    int | None,
    typer.Option(
        "--visual-select-layer", help="Encoder layer that is looked at (XTuner).", show_default="-2"
    ),
]
StopWords = Annotated[
    list[str] | None,
    typer.Option("--stop-words", metavar="TEXT", help="Ends an answer, too (repeatable)."),
]
Batch = Annotated[str, typer.Option(help="Questions at once, or auto.")]
Longest = Annotated[str, typer.Option(help="Tokens of an answer; auto: as the benchmark needs.")]
AnswerBy = Annotated[str, typer.Option(help="generation, or likelihood of the options.")]
Likelihood = Annotated[str, typer.Option(help="letter; mean or sum of an option's text.")]
Shared = Annotated[str, typer.Option(help="Processes that share the questions; auto: GPUs.")]
Url = Annotated[str, typer.Option(help="A server in place of MODEL, its address up to /v1.")]
ModelName = Annotated[str, typer.Option(help="What the server calls the model.")]
KeyEnv = Annotated[str, typer.Option(help="Variable that holds the server's key.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests to a server at once.")]


def run(
    benchmark: Benchmark,
    model: Model = None,
    questions: Questions = None,
    annotation: Annotation = None,
    images: Images = None,
    out: Out = Path("eval"),
    protocol: Rule = "auto",
    prompt: Words = "auto",
    metric: Metric = "auto",
    ocr: Ocr = "keep",
    limit: Limit = None,
    template: Template = "auto",
    adapter: Trained = None,
    vision: Vision = None,
    visual_select_layer: SelectLayer = None,
    stop_words: StopWords = None,
    batch: Batch = "auto",
    max_new_tokens: Longest = "auto",
    answer_by: AnswerBy = "generation",
    likelihood: Likelihood = "letter",
    processes: Shared = "auto",
    url: Url = "",
    model_name: ModelName = "",
    key_env: KeyEnv = "OPENAI_API_KEY",
    concurrency: Concurrency = 8,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: Quantise = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
) -> None:
    """Ask every question of a benchmark and score the answers.

    Answers are kept as they come: the same command goes on where it was stopped.
    """
    spec = {
        "name": benchmark, "questions": str(questions or ""), "protocol": protocol,
        "annotation": annotation and str(annotation), "images": images and str(images),
        "ocr": ocr, "prompt": prompt, "metric": metric, "limit": limit,
    }  # fmt: skip
    settings = {
        "template": template, "answer_by": answer_by, "likelihood": likelihood,
        **_numbers(batch=batch, max_new_tokens=max_new_tokens, processes=processes),
        **vars(loading_of(precision, quantise, attention, device_map)),
        **_who(model, url, model_name, key_env, concurrency),
        **_beside(adapter=adapter, vision=vision), "stop": stop_words or [],
        "select_layer": visual_select_layer,
    }  # fmt: skip
    _ask_and_score(_config(spec, settings), out, device)


def _numbers(**typed: str) -> dict[str, int | str]:
    """Options that are a number from 1, or `auto`."""
    for name, text in typed.items():
        if text != "auto" and not (text.isdecimal() and int(text) > 0):
            raise RecipeError(
                f"--{name.replace('_', '-')} is {text!r}; give a number from 1, or auto"
            )
    return {name: text if text == "auto" else int(text) for name, text in typed.items()}


def _who(model: Path | None, url: str, name: str, key_env: str, concurrency: int) -> dict[str, Any]:
    """The model folder, or the server in its place."""
    if (model is None) == (not url):
        raise RecipeError("give MODEL, a folder, or --url and --model-name: one of the two")
    if model is not None:
        if not model.is_dir():
            raise ModelError(f"{model}: no such model folder; give a training stage of a run")
        return {"model": str(model)}
    if not name:
        raise RecipeError("--url needs --model-name, what the server calls the model")
    told = {"model": name, "url": url, "key_env": key_env, "concurrency": concurrency}
    return {"endpoint": told}


def _beside(**given: Path | None) -> dict[str, str]:
    """What is put into the model."""
    for name, path in given.items():
        if path is not None and not path.exists():
            raise ModelError(f"--{name} {path}: no such file or folder")
    return {name: str(path) for name, path in given.items() if path is not None}


def _config(spec: dict[str, Any], settings: dict[str, Any]) -> Any:
    """The stage that the options describe, its files looked up."""
    from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
    from vlforge.recipe.typed import build

    made = build(BenchmarkSpec, spec, option)
    if not made.questions and not made.annotation:
        raise DataError("give --questions or --annotation: the files of the benchmark")
    for path in (made.questions, made.annotation, made.images):
        if path and not Path(path).exists():
            raise DataError(f"{path}: no such file or folder")
    return build(EvalConfig, {**settings, "benchmarks": [made]}, option)


def option(*keys: object) -> str:
    """Where a setting was typed; the benchmark's `name` is `--benchmark` here."""
    if not keys:
        return "--benchmark"
    typed = "benchmark" if keys[-1] == "name" else str(keys[-1]).replace("_", "-")
    return f"--{typed}"


def _ask_and_score(config: Any, out: Path, device: str) -> None:
    from vlforge.cli.evaluate import show_scores
    from vlforge.evaluation.run import evaluate

    out.mkdir(parents=True, exist_ok=True)
    heads = {"warning": "Note   ", "usage": "Server "}
    told: list[str] = []

    def log(event: Mapping[str, Any]) -> None:
        if event["event"] in heads:
            told.append(f"{heads[event['event']]} {event['text']}")

    with progress("ask") as shown:
        metrics = evaluate(config, out, device=device, progress=shown, log=log)
    show_scores(metrics)
    for text in told:
        plain_line(text)
    plain_line(f"Scores  {shown_path(out / 'metrics.json')}")
