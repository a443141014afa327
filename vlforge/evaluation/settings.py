"""What predictions were made with: `settings.json`, and what of it must not change."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlforge import __version__
from vlforge.evaluation.benchmarks import longest_answer
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.files import model_identity, read_json, read_lines
from vlforge.evaluation.questions import Question
from vlforge.types import DataError

Sets = Sequence[tuple[BenchmarkSpec, Sequence[Question]]]
"""Benchmarks with their questions."""


def settings_of(config: EvalConfig, sets: Sets) -> dict[str, Any]:
    """What `settings.json` holds.

    A model behind an endpoint is known by its name alone: servers move.
    """
    spec = config.endpoint
    where = {} if spec is None else {"endpoint": spec.url}
    return {
        "model": spec.model if spec else _model(config),
        **where,
        "benchmarks": [asdict(spec) for spec in config.benchmarks],
        "generation": {
            "template": config.template,
            "max_new_tokens": config.max_new_tokens,
            "sampling": "greedy",
            "precision": "the server's" if spec else config.precision,
        }
        | ({} if config.quantise == "none" else {"quantise": config.quantise})
        | ({"stop": list(config.stop)} if config.stop else {}),
        "asked": {spec.key: _asked(config, spec, questions) for spec, questions in sets},
        "note": config.note,
        "versions": _versions(),
    }


def _model(config: EvalConfig) -> str:
    """Equal for equal weights: of the model, and of what is put into it."""
    paths = [Path(one) for one in (config.model, config.adapter, config.vision) if one]
    layer = [] if config.select_layer is None else [str(config.select_layer)]
    return "+".join([*map(model_identity, paths), *layer])


def _asked(
    config: EvalConfig, spec: BenchmarkSpec, questions: Sequence[Question]
) -> dict[str, Any]:
    """What one benchmark's answers were made with, where that is its own."""
    found: dict[str, Any] = {"max_new_tokens": longest_answer(spec, config.max_new_tokens)}
    if config.answer_by == "likelihood" and any(len(q.options) > 1 for q in questions):
        found["answer_by"] = f"likelihood/{config.likelihood}"
    return found


def generation_of(settings: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """How the answers of one benchmark were made; None where nobody knows."""
    if settings.get("generation") is None:
        return None
    return {**settings["generation"], **settings.get("asked", {}).get(key, {})}


def told_fields(settings: Mapping[str, Any], spec: BenchmarkSpec) -> dict[str, Any]:
    """What of the asking stands in `metrics.json` beside a score."""
    found: dict[str, Any] = {"generation": generation_of(settings, spec.key)}
    if spec.limit is not None:
        found["limit"] = spec.limit
    agreement = settings.get("agreement", {}).get(spec.key)
    return found | ({"agreement": agreement} if agreement else {})


def protocol_of(protocol: str, settings: Mapping[str, Any], key: str) -> str:
    """A protocol's name with how options were chosen, where likelihoods chose."""
    way = (generation_of(settings, key) or {}).get("answer_by", "")
    return protocol + ("+" + way.removesuffix("/letter") if way else "")


def failed_fields(out: Path, key: str) -> dict[str, int]:
    """How many questions were asked in vain; they count as missing too."""
    path = out / f"failed.{key}.jsonl"
    return {"failed": len(read_lines(path))} if path.is_file() else {}


def guard_answers(out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Answers of another model or with other settings are neither kept as ours nor lost.

    Returns:
        What was noted of the answers that are there.

    Raises:
        DataError: such answers are in `out`.
    """
    path = out / "settings.json"
    keys = [key for key in settings["asked"] if any(out.glob(f"predictions.{key}.*"))]
    if not path.is_file() or not keys:
        return {}
    before: dict[str, Any] = read_json(path)
    changed = {
        "model": before.get("model") != settings["model"],
        "generation": any(_differs(before, settings, key) for key in keys),
    }
    for part in (name for name, is_other in changed.items() if is_other):
        raise DataError(
            f"{out}: holds answers made with another {part}; give another folder, "
            "or delete its predictions to ask again"
        )
    return {key: before[key] for key in ("agreement",) if key in before}


def _differs(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    """Whether a benchmark that was asked is asked otherwise now."""
    is_known = key in before.get("asked", {})
    return is_known and generation_of(before, key) != generation_of(now, key)


def _versions() -> dict[str, str]:
    found = {"vlforge": __version__}
    for name in ("torch", "transformers", "pillow"):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
