"""TextVQA and MMBench as the kit has them: whole or not, and what a file of answers scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.challenges.better_synth.config import (
    MMBENCH_TABLE,
    SPLIT_NAME,
    TEXTVQA_ANSWERS,
    TEXTVQA_IMAGES,
    TEXTVQA_QUESTIONS,
)
from vlforge.challenges.better_synth.folder import Kit
from vlforge.types import VLForgeError

if TYPE_CHECKING:
    from vlforge.evaluation.config import BenchmarkSpec


def specs_of(kit: Kit) -> dict[str, BenchmarkSpec]:
    """Both benchmarks with the kit's files; TextVQA's right answers only where they are there."""
    from vlforge.evaluation.config import BenchmarkSpec

    answers = kit.at(TEXTVQA_ANSWERS)
    return {
        "textvqa": BenchmarkSpec(
            name="textvqa",
            questions=str(kit.at(TEXTVQA_QUESTIONS)),
            annotation=str(answers) if answers.is_file() else None,
            images=str(kit.at(TEXTVQA_IMAGES)),
        ),
        "mmbench": BenchmarkSpec(name="mmbench", questions=str(kit.at(MMBENCH_TABLE))),
    }


def faults_of(kit: Kit) -> tuple[list[str], str]:
    """What is wrong with the benchmarks' files, and what there is of them in a line."""
    from vlforge.evaluation.benchmarks import questions_of

    faults, told = [], []
    specs = specs_of(kit)
    for name, spec in specs.items():
        try:
            questions = questions_of(spec)
        except VLForgeError as error:
            faults.append(_nearer(kit, str(error)))
            continue
        told.append(f"{name} {len(questions):,} questions")
        pictures = {image: one.id for one in questions for image in one.images}
        files = {image: asked for image, asked in pictures.items() if isinstance(image, str)}
        faults += [f"{name} {_nearer(kit, fault)}" for fault in _unreadable(files)]
    if specs["textvqa"].annotation is None:
        told.append("TextVQA is asked and not scored: no TextVQA_0.5.1_val.json")
    return faults, ", ".join(told)


def _unreadable(files: Mapping[str, str]) -> Iterator[str]:
    """Pictures, with the question that shows each, whose header cannot be read."""
    from vlforge.data.images import header_size

    for path, asked in files.items():
        try:
            header_size(path)
        except (VLForgeError, OSError) as error:
            yield f"{asked}: {error}"


def answer_files(results: Path, name: str) -> dict[str, Path]:
    """Where the kit's evaluation scripts leave each benchmark's answers, all chunks joined."""
    textvqa = results / "textvqa"
    joined = [textvqa / "bm1.jsonl", textvqa / "answers" / "merge.jsonl"]
    return {
        "textvqa": next((path for path in joined if path.is_file()), joined[0]),
        "mmbench": results / "mmbench" / "answers" / SPLIT_NAME / f"{name}.jsonl",
    }


def scores_of(kit: Kit, results: Path, name: str) -> dict[str, Any]:
    """Scores of the answers below a results folder, by benchmark; why there is none, if so."""
    from vlforge.evaluation.scoring import score_answers

    found: dict[str, Any] = {}
    specs = specs_of(kit)
    for key, path in answer_files(results, name).items():
        try:
            fields = score_answers(specs[key], path)
        except VLForgeError as error:
            found[key] = {"score": None, "why": _nearer(kit, str(error))}
            continue
        wanted = ("score", "interval", "n", "missing", "protocol")
        found[key] = {one: fields[one] for one in wanted if one in fields}
    return found


def _nearer(kit: Kit, text: str) -> str:
    """A message with paths as seen from the kit's folder."""
    return text.replace(f"{kit.folder}/", "")
