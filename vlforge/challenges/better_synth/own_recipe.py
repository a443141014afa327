"""The kit's folder as a recipe of ours: its script's stages, or the published ones, behind the
solution's, with this folder's paths and this machine's split of the batch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlforge.challenges.better_synth.benchmark_files import specs_of
from vlforge.challenges.better_synth.config import MODELS, Stage
from vlforge.challenges.better_synth.folder import Kit
from vlforge.challenges.better_synth.rules import fitting_split
from vlforge.challenges.better_synth.script import TrainScript
from vlforge.challenges.better_synth.solution import Solution
from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.types import RecipeError

SYSTEM = "Better Synth"
STAGES: dict[Stage, str] = {"pretrain": "align", "finetune": "instruct"}
"""The kit's stages by our names."""
_KEPT = ("align", "instruct", "score", "report")
_PLAIN = re.compile(r"[^\w.-]+")


def own_recipe(
    kit: Kit,
    published: Path,
    solution: Solution | None,
    gpus: int,
    data: Path | None = None,
    experiment: str | None = None,
) -> AdoptedRecipe:
    """The recipe of the whole way, from the seed to both scores.

    Args:
        published: whose stages are taken where the folder has no train script.
        solution: processes the seed; None where `data` was processed already.
        gpus: that train side by side.
        data: rows that are trained on as they are.
        experiment: the name; by default as the script says.

    Raises:
        RecipeError: a value of the script that cannot be, or neither solution nor data.
    """
    script = kit.script()
    out = _of_script(script) if script else _of_published(kit, published)
    name = experiment or (script.values["EXP_NAME"] if script else "default")
    out.put("name", _PLAIN.sub("_", name), "the experiment's name")
    training = out.tree.pop("stages")
    if data is None:
        if solution is None:
            raise RecipeError(f"{kit.folder}: neither a recipe nor data to train on")
        _put_processing(out, kit, solution)
    out.tree["stages"] = {**out.tree.get("stages", {}), **training}
    rows = str(data) if data else f"${solution.last}/data.jsonl" if solution else ""
    _put_places(out, kit, rows)
    if script is not None:
        _put_split(out, script, gpus)
    return out


def _of_script(script: TrainScript) -> AdoptedRecipe:
    from vlforge.recipe.adopt.systems import adopt_file

    return adopt_file(script.path)


def _of_published(kit: Kit, published: Path) -> AdoptedRecipe:
    from vlforge.recipe.source import read_source

    source = f"recipes/better_synth/{published.name}"
    out = AdoptedRecipe(SYSTEM, kit.folder, "better_synth")
    read = read_source(published)
    stages = read.plain()["stages"]
    for name in _KEPT:
        for key, value in stages[name].items():
            line = read.where("stages", name, key).rpartition(":")[2]
            _put_all(out, f"stages.{name}.{key}", value, f"{source}:{line}")
    return out


def _put_processing(out: AdoptedRecipe, kit: Kit, solution: Solution) -> None:
    """The solution's stages; what is about the export is left to the kit's trainer."""
    where = kit.shown(solution.path)
    for name, body in solution.stages.items():
        out.put(f"stages.{name}.kind", "process", f"{where} is an operator list")
        for key, value in body.items():
            if key not in ("kind", "export_path"):
                _put_all(out, f"stages.{name}.{key}", value, where)


def _put_all(out: AdoptedRecipe, dotted: str, value: Any, origin: str) -> None:
    """A value in place of what was there, its parts too, with one origin for all of them."""
    for key in [key for key in out.origins if key.startswith(f"{dotted}.")]:
        del out.origins[key]
    out.put(dotted, value, origin)
    waiting = [(dotted, value)] if isinstance(value, dict | list) else []
    while waiting:
        place, held = waiting.pop()
        parts = dict(enumerate(held)) if isinstance(held, list) else held
        for part, inner in parts.items():
            out.origins[f"{place}.{part}"] = origin
            if isinstance(inner, dict | list):
                waiting.append((f"{place}.{part}", inner))


def _put_places(out: AdoptedRecipe, kit: Kit, rows: str) -> None:
    """Paths of this folder in place of the published ones."""
    here = "where it lies in this folder"
    places = {f"stages.align.model.{part}": kit.model(part) for part in MODELS}
    places["stages.instruct.data"] = kit.finetuning
    places["stages.instruct.image_root"] = kit.finetuning_images
    for dotted, path in places.items():
        if out.get(dotted) != str(path):
            out.put(dotted, str(path), here)
    entry: dict[str, Any] = {
        "path": rows,
        "at_most": kit.round.most_rows,
        "questions": str(kit.questions),
    }
    limit = f"{kit.round.name} round: {kit.round.most_rows:,} samples; questions are restored"
    _put_all(out, "stages.align.data", [entry], limit)
    specs = []
    for spec in specs_of(kit).values():
        fields = {key: getattr(spec, key) for key in ("name", "questions", "annotation", "images")}
        specs.append({key: value for key, value in fields.items() if value})
    _put_all(out, "stages.score.benchmarks", specs, here)


def _put_split(out: AdoptedRecipe, script: TrainScript, gpus: int) -> None:
    """The rows at once and the passes that give the global batch on the GPUs that are here."""
    gpus = script.visible_gpus or gpus
    for stage, name in STAGES.items():
        split = fitting_split(script, stage, gpus)
        for (key, value), setting in zip(
            split.items(), ("micro_batch", "accumulation"), strict=True
        ):
            was = script.values[key]
            why = "" if value == was else f"={was}, {value} for {gpus} GPUs here"
            out.put(f"stages.{name}.{setting}", int(value), f"{script.where(key)} {key}{why}")
