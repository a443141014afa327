"""Writes predictions as the files that benchmark servers and other tools take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import Export, benchmark, questions_of
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import read_json, read_lines, write_lines
from vlforge.evaluation.vlmevalkit_table import SHAPE as VLMEVALKIT
from vlforge.evaluation.vlmevalkit_table import write_table
from vlforge.types import DataError


def export_answers(folder: Path, name: str, target: Path, shape: str = "auto") -> Path:
    """Predictions of an evaluation folder as another tool's file; gives its path.

    Args:
        shape: one of the benchmark's own (`upload`, `predictions`, …), `llava` for an
            answer file as LLaVA writes it, `vlmevalkit` for its table of predictions; auto
            is `llava` for a target that ends in `.jsonl`, else the benchmark's first own.

    Raises:
        DataError: the folder does not hold that benchmark, or there is no such shape;
            names those that are.
    """
    settings = read_json(folder / "settings.json")
    specs = {one.key: one for one in (BenchmarkSpec(**spec) for spec in settings["benchmarks"])}
    if name not in specs:
        raise DataError(f"{folder}: holds no {name!r}; it has: {', '.join(specs)}")
    spec = specs[name]
    rows = read_lines(folder / f"predictions.{name}.jsonl")
    said = {row["id"]: row["text"] for row in rows}
    shape = _shape(spec, target, shape)
    if shape != "llava":
        _shapes(spec)[shape](questions_of(spec), said, target)
        return target
    prompts = {row["id"]: row for row in read_lines(folder / f"prompts.{name}.jsonl")}
    model = str(settings.get("model", ""))
    rows = [llava_answer(prompts[key], text, model) for key, text in said.items() if key in prompts]
    write_lines(target, rows)
    return target


def export_file(spec: BenchmarkSpec, answers: Path, target: Path, shape: str = "auto") -> Path:
    """The same for answers that some tool wrote."""
    module = benchmark(spec.name)
    questions = questions_of(spec)
    said = read_answers(answers, questions, module).said
    shape = _shape(spec, target, shape)
    if shape == "llava":
        asked = {q.id: {"id": q.id, "question_id": q.id, "prompt": q.text} for q in questions}
        rows = (llava_answer(asked[key], text, answers.stem) for key, text in said.items())
        write_lines(target, rows)
    else:
        _shapes(spec)[shape](questions, said, target)
    return target


def _shapes(spec: BenchmarkSpec) -> dict[str, Export]:
    """The benchmark's own shapes, then those that every benchmark has."""
    return {**getattr(benchmark(spec.name), "EXPORTS", {}), VLMEVALKIT: write_table}


def _shape(spec: BenchmarkSpec, target: Path, asked: str) -> str:
    shapes = _shapes(spec)
    if asked == "auto":
        asked = "llava" if target.suffix.lower() == ".jsonl" else next(iter(shapes))
        if asked == VLMEVALKIT:
            raise DataError(
                f"{target}: {spec.name} has no upload file; name a .jsonl file, "
                f"or say --as {VLMEVALKIT}"
            )
    if asked != "llava" and asked not in shapes:
        known = ", ".join(("llava", *shapes))
        raise DataError(f"{target}: {spec.name} has no export {asked!r}; it has: {known}")
    return asked


def llava_answer(prompt: Mapping[str, Any], text: str, model: str) -> dict[str, Any]:
    """One line of LLaVA's answer file; the answer's id follows from its content."""
    key = f"{prompt['id']}\0{prompt['prompt']}\0{text}"
    return {
        "question_id": prompt["question_id"],
        "prompt": prompt["prompt"],
        "text": text,
        "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
        "model_id": model,
        "metadata": {},
    }
