"""Runs of ours in a kit's folder: processing for both trainers, and all stages for our own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vlforge.challenges.better_synth.check import RUN_FOLDER, Asked, gpus_here
from vlforge.challenges.better_synth.config import SPLIT_NAME
from vlforge.challenges.better_synth.data_rules import asked_ids
from vlforge.challenges.better_synth.folder import Kit
from vlforge.challenges.better_synth.kit_log import LOGS
from vlforge.challenges.better_synth.own_recipe import STAGES, own_recipe
from vlforge.challenges.better_synth.solution import Solution, read_solution
from vlforge.data.json_lines import decode, encode, read_values
from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.runs.prepare import Choice
from vlforge.runs.run import RunResult, run_recipe
from vlforge.runs.store import digest_file, write_text
from vlforge.types import IMAGE_TOKEN, LLAVA_IMAGE_TOKEN, DataError, VLForgeError

TRAINED = "output/vlforge.results"
"""Where a run of ours leaves what a package takes, laid out as the kit's output."""


def write_recipe(kit: Kit, asked: Asked) -> tuple[Path, AdoptedRecipe, Solution | None]:
    """The folder's recipe, written with the origin of each line.

    Raises:
        RecipeError: what is wrong in the solution or in the script.
    """
    solution = None if asked.data else read_solution(kit.folder, asked.recipe)
    recipe = own_recipe(
        kit, asked.published, solution, gpus_here(), asked.data, asked.experiment
    )  # fmt: skip
    path = kit.at(RUN_FOLDER) / f"{recipe.tree['name']}.yaml"
    write_text(path, recipe.text())
    return path, recipe, solution


def train_own(kit: Kit, asked: Asked, overrides: Sequence[str], *, fresh: bool) -> RunResult:
    """All stages by our trainer; what a package takes is laid out as the kit's output.

    Raises:
        RecipeError: the recipe or an override is wrong.
        StageFailed: a stage failed; the same call goes on.
        Stopped: Ctrl-C.
    """
    path, recipe, _ = write_recipe(kit, asked)
    choice = Choice(overrides=tuple(overrides), run_dir=_run_dir(path), fresh=fresh)
    result = run_recipe(path, choice)
    _lay_out(kit, str(recipe.tree["name"]), result.run_dir, path)
    return result


def process_for_kit(kit: Kit, asked: Asked, *, fresh: bool) -> tuple[Path, float, str]:
    """The rows that the kit trains on, processed if need be; seconds, and a remark if any.

    Both trainers share the work: what one has captioned the other reuses.

    Raises:
        RecipeError: the recipe is wrong.
        DataError: no row has a question in the original file, or rows are in the export's
            place that were not made here.
    """
    begun = time.monotonic()
    if asked.data is not None:
        source, target = asked.data.absolute(), kit.at(f"output/{asked.data.stem}.kit.jsonl")
        _guard(kit, target, fresh)
    else:
        path, _, solution = write_recipe(kit, asked)
        assert solution is not None
        _guard(kit, solution.export, fresh)
        choice = Choice(run_dir=_run_dir(path), until=solution.last, fresh=fresh)
        result = run_recipe(path, choice)
        source, target = _stage(result.run_dir, solution.last) / "data.jsonl", solution.export
    remark = export_rows(source, target, asked_ids(kit.questions), kit.round.most_rows)
    return target, time.monotonic() - begun, remark


def export_rows(source: Path, target: Path, asked: set[str], most: int) -> str:
    """Rows as the kit's converter takes them all: absolute pictures, its own image token.

    Rows without a question in the original file are left out, which would end the kit's
    conversion; no more than `most` are drawn, as the kit draws. The remark says so.

    Raises:
        DataError: nothing is left.
    """
    total, numbers = 0, []
    for total, row in enumerate(_rows(source), 1):
        if str(row.get("id")) in asked:
            numbers.append(total - 1)
    if not numbers:
        raise DataError(f"{source}: no row's id is among the original questions")
    remarks = [f"{total - len(numbers):,} rows have no question"] if len(numbers) < total else []
    if len(numbers) > most:
        drawn = random.Random(1024).sample(range(len(numbers)), most)
        remarks.append(f"{most:,} of {len(numbers):,} rows are drawn")
        numbers = sorted(numbers[n] for n in drawn)
    wanted = set(numbers)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as out:
        for number, row in enumerate(_rows(source)):
            if number in wanted:
                out.write(encode(_as_kit(row, source.parent)) + b"\n")
    _replace_if_new(part, target)
    return "; ".join(remarks)


def _mark(target: Path) -> Path:
    """Says which bytes at `target` were written here."""
    return target.with_name(f".{target.name}.vlforge")


def _guard(kit: Kit, target: Path, fresh: bool) -> None:
    """Refuse to write over rows that somebody else made, perhaps in hours.

    Raises:
        DataError: there are such rows; says how to train on them.
    """
    if fresh or not target.is_file():
        return
    mark = _mark(target)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest_file(target):
        raise DataError(
            f"{kit.shown(target)} is there and was not made by this command: train on it with "
            f"--data {target}, or write over it with --fresh"
        )


def _replace_if_new(part: Path, target: Path) -> None:
    """An equal file keeps its time: nothing that was made of it is older then."""
    if target.is_file() and digest_file(target) == digest_file(part):
        part.unlink()
    else:
        os.replace(part, target)
    write_text(_mark(target), digest_file(target))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for _, value in read_values(path):
        if isinstance(value, dict) and "conversations" in value:
            raise DataError(
                f"{path}: the kit takes Data-Juicer's rows; `vlforge convert {path} rows.jsonl "
                "--to dj` makes them"
            )
        if isinstance(value, dict):
            yield value


def _as_kit(row: dict[str, Any], home: Path) -> dict[str, Any]:
    images = [os.path.normpath(home / image) for image in row.get("images") or ()]
    text = str(row.get("text") or "")
    if images and IMAGE_TOKEN not in text:
        text = text.replace(LLAVA_IMAGE_TOKEN, IMAGE_TOKEN)
    return {**row, "text": text, "images": images}


def _run_dir(recipe: Path) -> Path:
    return recipe.with_suffix("")


def _stage(run_dir: Path, name: str) -> Path:
    """The folder of a stage of a run that has ended there.

    Raises:
        DataError: the run has no such stage.
    """
    from vlforge.runs.prepare import stage_of_run

    found = stage_of_run(run_dir / name)
    if found is None:
        raise DataError(f"{run_dir}: has no stage {name}")
    return found


def _lay_out(kit: Kit, name: str, run_dir: Path, recipe: Path) -> None:
    """Answers, logs and the recipe under the names that the kit's output has."""
    from vlforge.evaluation.export import export_answers

    final = kit.at(TRAINED) / name
    draft = final.with_name(f".{name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    model = f"MGM-2B-Finetune-{name}"
    results = draft / "eval_results" / model
    answers = results / "mmbench" / "answers" / SPLIT_NAME / f"{model}.jsonl"
    (results / "textvqa").mkdir(parents=True)
    answers.parent.mkdir(parents=True)
    score = _stage(run_dir, "score")
    export_answers(score, "textvqa", results / "textvqa" / "bm1.jsonl", "llava")
    export_answers(score, "mmbench", answers, "llava")
    upload = results / "mmbench" / "answers_upload" / SPLIT_NAME / f"{model}.xlsx"
    upload.parent.mkdir(parents=True)
    with contextlib.suppress(VLForgeError):  # the library for it is not installed
        export_answers(score, "mmbench", upload, "upload")
    shutil.copyfile(score / "metrics.json", results / "metrics.json")
    for part, stage in STAGES.items():
        title = "Pretrain" if part == "pretrain" else "Finetune"
        folder = draft / "training_dirs" / f"MGM-2B-{title}-{name}"
        folder.mkdir(parents=True)
        (folder / LOGS[part]).write_text(_as_log(_stage(run_dir, stage)), encoding="utf-8")
    (draft / "train.sh").write_text(_as_script(recipe), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, final)


def _as_script(recipe: Path) -> str:
    """What stands in the place of the kit's script: the command, and the recipe as comments."""
    text = recipe.read_text(encoding="utf-8")
    told = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
    return (
        "#!/bin/sh\n# Not the contest's trainer: VLForge trained this, by this recipe.\n"
        f"{told}\nexec vlforge challenge better-synth run . --trainer vlforge\n"
    )


def _as_log(stage: Path) -> str:
    """A stage's steps as lines that the kit's trainer prints; the first says whose they are."""
    lines = ["# trained by VLForge, not by the contest's code"]
    steps = [decode(line) for line in (stage / "metrics.jsonl").read_bytes().splitlines()]
    losses = [float(step["loss"]) for step in steps if "loss" in step]
    for step in steps:
        fields = {"loss": step.get("loss"), "learning_rate": step.get("lr")}
        lines.append(str({key: value for key, value in fields.items() if value is not None}))
    seconds = float(msgspec.json.decode((stage / "done.json").read_bytes()).get("seconds") or 0.0)
    end = {
        "train_runtime": max(round(seconds, 4), 0.0001),
        "train_loss": sum(losses) / len(losses) if losses else 0.0,
    }
    return "\n".join([*lines, str(end), ""])
