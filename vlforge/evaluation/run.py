"""Asks and scores benchmarks in four steps with files between them.

prompts -> predictions (append-only while asking) -> extracted -> metrics. Each
step reads the file before it, so scoring again needs no model. An answer counts
only for the model, the settings and the prompt that it was given to.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlforge import __version__
from vlforge.evaluation.asking import Asking, place_pictures, prompt_rows
from vlforge.evaluation.benchmarks import benchmark
from vlforge.evaluation.config import EvalConfig
from vlforge.evaluation.files import model_identity, read_json, write_json, write_lines
from vlforge.evaluation.scoring import check_specs, score_folder
from vlforge.types import Chat, DataError, LogFn, ProgressFn, no_log, no_progress


def evaluate(
    config: EvalConfig,
    out: Path,
    *,
    chat: Chat,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Ask every question that has no prediction yet, then score; give what `metrics.json` holds.

    Raises:
        DataError: a benchmark file that cannot be used, a picture that is not there,
            answers of another model in `out`; with `strict`, missing predictions.
        RecipeError: two benchmarks under one name, or a protocol nobody knows.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_specs(config.benchmarks)
    sets = [(spec, benchmark(spec.name).read(spec)) for spec in config.benchmarks]
    settings = _settings(config)
    _guard_answers(out, [spec.key for spec, _ in sets], settings)
    places = {spec.key: place_pictures(questions, out) for spec, questions in sets}
    write_json(out / "settings.json", settings)
    asking = Asking(chat, config, out, progress, sum(len(questions) for _, questions in sets))
    for spec, questions in sets:
        write_lines(out / f"prompts.{spec.key}.jsonl", prompt_rows(questions, places[spec.key]))
        new = asking.ask(spec, questions, places[spec.key])
        log({"event": "asked", "benchmark": spec.key, "questions": len(questions), "new": new})
    return score_folder(out, strict=config.strict)


def _guard_answers(out: Path, keys: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Answers of another model or with other settings are neither kept as ours nor lost."""
    path = out / "settings.json"
    if not path.is_file() or not any((out / f"predictions.{key}.jsonl").is_file() for key in keys):
        return
    before = read_json(path)
    for part in ("model", "generation"):
        if before.get(part) != settings[part]:
            raise DataError(
                f"{out}: holds answers made with another {part}; give another folder, "
                "or delete its predictions to ask again"
            )


def _settings(config: EvalConfig) -> dict[str, Any]:
    """What predictions were made with."""
    return {
        "model": model_identity(Path(config.model)),
        "benchmarks": [asdict(spec) for spec in config.benchmarks],
        "generation": {
            "template": config.template,
            "max_new_tokens": config.max_new_tokens,
            "sampling": "greedy",
            "precision": config.precision,
        }
        | ({} if config.quantise == "none" else {"quantise": config.quantise}),
        "note": config.note,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"vlforge": __version__}
    for name in ("torch", "transformers", "pillow"):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
