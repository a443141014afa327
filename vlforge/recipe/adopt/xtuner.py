"""XTuner's LLaVA configurations, files or names, as recipes of ours.

What the command line says beside the configuration comes as changes too: `deepspeed`, and
NPROC_PER_NODE and NNODES, by which XTuner's global batch grows.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.xtuner_built_in import BUILT_INS, NOT_READ, sections_of, values_of
from vlforge.recipe.adopt.xtuner_config import Config, Said, changed, read_config, read_value
from vlforge.recipe.adopt.xtuner_keys import SECTIONS
from vlforge.recipe.adopt.xtuner_reading import Reading
from vlforge.recipe.adopt.xtuner_stage import ALIGN, INSTRUCT, Machine, Stage
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

SYSTEM = "XTuner"
BESIDE = ("deepspeed", "NPROC_PER_NODE", "NNODES")
"""Words of the command line that are no keys of the configuration."""
GRAPH = "graph.json"
_TOLD = re.compile(r"^\s*(from|import)\s+xtuner\b|\bxtuner\.|LLaVAModel", re.MULTILINE)
_GPUS = re.compile(r"_gpu(\d+)(_|$)")


def recognises(foreign: Foreign) -> bool:
    """Whether it is a configuration of XTuner: what it imports, or its model."""
    return bool(_TOLD.search(foreign.text)) or "read_base" in foreign.text


def built_in(name: str) -> Foreign | None:
    """A configuration that XTuner ships, by its name.

    Raises:
        RecipeError: it is one that is not read here, or nearly the name of one.
    """
    stem = name.removesuffix(".py")
    if stem in NOT_READ:
        raise RecipeError(f"{stem}: {NOT_READ[stem]}")
    if stem in BUILT_INS:
        return Foreign(Path(f"{stem}.py"), "")
    meant = nearest(stem, BUILT_INS)
    if stem.startswith("llava_") and "/" not in stem and meant:
        raise RecipeError(f"{name}: neither a file nor a configuration of XTuner{meant}")
    return None


def adopt_foreign(foreign: Foreign) -> AdoptedRecipe:
    """The recipe: one train stage, with the one before it where that has not been run.

    Raises:
        RecipeError: with file and line, what cannot be read or is not known.
    """
    out = AdoptedRecipe(SYSTEM, foreign.path, re.sub(r"[^\w.-]+", "_", foreign.path.stem))
    _put(out, foreign, {k: v for k, v in foreign.changes.items() if k in BESIDE})
    return out


def _put(out: AdoptedRecipe, foreign: Foreign, beside: dict[str, str]) -> str:
    """The stages of one configuration; the name of its last."""
    changes = {key: value for key, value in foreign.changes.items() if key not in BESIDE}
    reading = Reading(_config(foreign, changes))
    kind = reading.names("model.type")
    if kind != "LLaVAModel":
        where = reading.origin("model.type", "model") if kind else foreign.path.name
        raise RecipeError(
            f"{where}: a LLaVAModel is read here, not {kind or 'a configuration without a model'}"
        )
    stage = Stage(out, reading, _machine(foreign, beside))
    model = stage.model()
    _begin(stage, model, foreign, beside)
    stage.write()
    _tell_ignored(out, changes)
    reading.tell_rest(out)
    return stage.name


def _config(foreign: Foreign, changes: dict[str, str]) -> Config:
    row = BUILT_INS.get(foreign.path.stem) if not foreign.text else None
    if row is None:
        return read_config(foreign.path, foreign.text, changes, _known)
    top = changed(values_of(row), {k: v for k, v in changes.items() if "." not in k})
    rest = {k: v for k, v in changes.items() if k not in top.values}
    made = changed(sections_of(row, top.values), rest)
    return Config({**top.values, **made.values}, made.extra, made.used | top.used)


def _known(name: str) -> dict[str, Said] | None:
    """The values of a shipped configuration, as a base."""
    row = BUILT_INS.get(name)
    if row is None:
        return None
    top = values_of(row)
    return {**top, **sections_of(row, top)}


def _tell_ignored(out: AdoptedRecipe, changes: dict[str, str]) -> None:
    """XTuner changes names of the top after they went into the sections, so to no effect."""
    for key in changes:
        head = key.partition(".")[0]
        if head not in SECTIONS:
            out.note(
                f"{key} is changed wherever it is used; XTuner would change the name alone, "
                "which nothing reads any more"
            )


def _machine(foreign: Foreign, beside: dict[str, str]) -> Machine:
    """How many GPUs: the command line's, those of the name, or XTuner's 8 of LLaVA 1.5."""
    deepspeed = beside.get("deepspeed", "")
    named = {key: read_value(beside[key]) for key in ("NPROC_PER_NODE", "NNODES") if key in beside}
    for key, value in named.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"{key}={beside[key]}: give a number from 1")
    if "NPROC_PER_NODE" in named:
        count = named["NPROC_PER_NODE"] * named.get("NNODES", 1)
        text = " x ".join(f"{key}={value}" for key, value in named.items())
        return Machine(count, text, deepspeed)
    match = _GPUS.search(foreign.path.stem)
    if match:
        return Machine(int(match.group(1)), "of its name", deepspeed)
    row = BUILT_INS.get(foreign.path.stem)
    if row is not None:
        return Machine(row.gpus, "as XTuner runs it", deepspeed)
    return Machine(1, "XTuner's default; NPROC_PER_NODE=8 says otherwise", deepspeed)


def _begin(
    stage: Stage, model: dict[str, tuple[Any, str]], foreign: Foreign, beside: dict[str, str]
) -> None:
    """What the stage begins with: parts, or what `pretrained_pth` (or `load_from`) names."""
    parts = {key: value for key, (value, _) in model.items()}
    said = stage.reading.take("model.pretrained_pth") or stage.reading.take("load_from")
    before = None if said is None else Path(str(said.plain()))
    if said is None or before is None:
        _put_parts(stage, model)
        return
    if before.exists():
        _put_parts(stage, model)
        stage.say("model.connector_weights", str(before), said.origin)
        return
    ours = run_model(before)
    if ours is not None:
        stage.begin()
        stage.say("model", str(ours), f"{said.origin}: {before.parent} is a run of VLForge")
        return
    first = None if stage.name == ALIGN else _pretraining(before, foreign)
    if first is None:
        _put_parts(stage, model)
        stage.say("model.connector_weights", str(before), said.origin)
        stage.out.note(f"{before} is not there yet; it is what the pretraining leaves")
        return
    stage.out.note(f"{before} is not there, so its pretraining comes first: {first.path.stem}")
    name = _put(stage.out, first, beside)
    if name != ALIGN or _parts_of(stage.out, name) != parts:
        raise RecipeError(
            f"{said.origin}: {first.path.name} does not train a connector between these models"
        )
    stage.begin()
    stage.say("model", f"${ALIGN}", f"{said.origin}: what {first.path.stem} leaves")


def _put_parts(stage: Stage, model: dict[str, tuple[Any, str]]) -> None:
    stage.begin()
    for key, (value, origin) in model.items():
        stage.say(f"model.{key}", value, origin)


def _parts_of(out: AdoptedRecipe, name: str) -> Any:
    return dict(out.get(f"stages.{name}.model", {}))


def run_model(path: Path) -> Path | None:
    """The model of the last train stage where `path` stands for a file of a run of ours."""
    graph = path.parent / GRAPH
    if not graph.is_file():
        return None
    nodes = json.loads(graph.read_text(encoding="utf-8"))["nodes"]
    folders = [path.parent / node["folder"] for node in nodes if node["kind"] == "train"]
    return next((one for one in reversed(folders) if one.exists()), None)


def _pretraining(path: Path, foreign: Foreign) -> Foreign | None:
    """The configuration whose run leaves the checkpoint `path`: its folder has its name."""
    stem = path.parent.name
    beside = foreign.path.parent
    for file in (beside / f"{stem}.py", beside.parent / "pretrain" / f"{stem}.py"):
        if file.is_file() and file.resolve() != foreign.path.resolve():
            return Foreign(file, file.read_text(encoding="utf-8"))
    return Foreign(Path(f"{stem}.py"), "") if stem in BUILT_INS else None


__all__ = ["INSTRUCT", "adopt_foreign", "built_in", "recognises", "run_model"]
