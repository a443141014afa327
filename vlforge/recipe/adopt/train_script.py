"""Launch scripts and argument lists of Mini-Gemini and LLaVA, and Better Synth's, as recipes.

A script is read as text: each `deepspeed … train_mem.py ARGS` in it becomes a `train` stage.
`train_mem.py` itself, with its arguments as changes, is a script of one such command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign, Unused
from vlforge.recipe.adopt.mgm_arguments import System, arguments_of, read_arguments
from vlforge.recipe.adopt.mgm_stage import NAMES, TrainCommand, put_stage
from vlforge.recipe.adopt.shell_launch import Started, started
from vlforge.recipe.adopt.shell_words import ShellCommand, Word, read_script
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

SYSTEM = "Mini-Gemini and LLaVA"
_PROGRAM = re.compile(r"(^|/|\.)train(_mem|_xformers)?(\.py)?$")
_STARTS = re.compile(r"\btrain(_mem|_xformers)?\.py\b|\b\w+\.train\.train(_mem|_xformers)?\b")
_PACKAGES: Mapping[str, System] = {"mgm": "mgm", "minigemini": "mgm", "llava": "llava"}
_OURS = ("--vision_tower", "--mm_projector_type", "--model_name_or_path")
"""Arguments that tell a train.py of these systems from others'."""
_GPUS = ("num_gpus", "nproc_per_node")


def recognises(foreign: Foreign) -> bool:
    """Whether a script starts their train.py, or is that train.py itself."""
    if foreign.path.suffix == ".py":
        return _system_of(str(foreign.path)) is not None and _is_train(str(foreign.path))
    if not _STARTS.search(foreign.text):
        return False
    return any(name in foreign.text for name in _OURS)


def built_in(name: str) -> Foreign | None:
    """`mgm/train/train_mem.py` and the like, whose arguments are the changes."""
    is_program = name.endswith(".py") or ".train.train" in name
    if is_program and _is_train(name) and _system_of(name) is not None:
        return Foreign(Path(name), "")
    return None


def adopt_foreign(foreign: Foreign) -> AdoptedRecipe:
    """The script's training as stages; Better Synth's with its data, scores and rules.

    Raises:
        RecipeError: with file and line: what is unknown, wrong or cannot be done here.
    """
    from vlforge.recipe.adopt import better_synth_script as kit

    if foreign.path.suffix == ".sh" and kit.is_kit(foreign.text):
        return kit.adopt_kit(foreign)
    commands = list(train_commands(foreign))
    if not commands:
        raise RecipeError(f"{foreign.path}: starts no train.py of Mini-Gemini or LLaVA")
    last = commands[-1]
    name = foreign.path.stem if foreign.text else Path(last.path("output_dir")).name
    out = AdoptedRecipe(NAMES[last.system], foreign.path, tidy_name(name or last.system))
    put_stages(out, commands)
    out.put("stages.report.kind", "report", "the run's page")
    out.put("stages.report.needs", [last.stage], "the last stage")
    return out


def put_stages(out: AdoptedRecipe, commands: Sequence[TrainCommand]) -> None:
    """One stage for each command."""
    for number, command in enumerate(commands):
        put_stage(out, command, commands[:number])
        if command.processes is None and command.told:
            out.note(f"{command.told} is not there: batch is auto, by the GPUs that are")
    say_once(out)


def say_once(out: AdoptedRecipe) -> None:
    """What is left out in several stages for one reason becomes one line."""
    merged: dict[tuple[str, str], list[Unused]] = {}
    for one in out.unused:
        merged.setdefault((one.key, one.why), []).append(one)
    out.unused[:] = [
        Unused(key, _one_of([one.value for one in held]), ", ".join(_short(held)), why)
        for (key, why), held in merged.items()
    ]


def _one_of(values: Sequence[Any]) -> Any:
    """A value that is the same everywhere; else all of them."""
    texts = [*dict.fromkeys(str(value) for value in values)]
    return values[0] if len(texts) == 1 else ", ".join(texts)


def _short(held: Sequence[Unused]) -> list[str]:
    """`a.sh:3 --x`, then `:9` for the same of another line."""
    places = [one.where.replace(",", "").split()[0] for one in held]
    begun = places[0].rpartition(":")[0]
    return [*dict.fromkeys([places[0], *(place.removeprefix(begun) for place in places[1:])])]


def train_commands(foreign: Foreign) -> Iterator[TrainCommand]:
    """Each start of a train.py, with its arguments, in the order of the script.

    Raises:
        RecipeError: an argument is unknown or wrong, or a change means nothing.
    """
    found = list(_started(foreign))
    used: set[str] = set()
    stages: list[str] = []
    for system, one in found:
        words, changes = one.words, dict(foreign.changes)
        mine = {key: text for key, text in changes.items() if key in arguments_of(system)}
        given = read_arguments(words, system, foreign.path.name, mine)
        stage = "align" if given["tune_mm_mlp_adapter"].value else "instruct"
        own = {key.partition(".")[2]: text for key, text in changes.items()
               if key.startswith(f"{stage}.")}  # fmt: skip
        if own:
            given = read_arguments(words, system, foreign.path.name, {**mine, **own})
        used |= {*mine, *(f"{stage}.{key}" for key in own if key in given)}
        count, told = _count(one, changes)
        number = stages.count(stage) + 1
        stages.append(stage)
        name = stage if number == 1 else f"{stage}_{number}"
        yield TrainCommand(system, given, name, one.folder, count, told)
    _check_changes(foreign, used, [system for system, _ in found])


def tidy_name(text: str) -> str:
    """A recipe's name of any text."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "adopted"


def _started(foreign: Foreign) -> Iterator[tuple[System, Started]]:
    if not foreign.text or foreign.path.suffix == ".py":
        system = _system_of(str(foreign.path))
        if system is not None:
            yield system, Started(Word(str(foreign.path), 1), (), 1, "")
        return
    script = read_script(foreign.text, foreign.path, foreign.changes)
    yield from (found for command in script.commands for found in _train(command))


def _train(command: ShellCommand) -> Iterator[tuple[System, Started]]:
    """The train.py that a command starts, if it does."""
    one = started(command)
    if one is None or not _is_train(one.program.text):
        return
    texts = {word.text.partition("=")[0] for word in one.words}
    system = _system_of(one.program.text)
    if system is None and not texts.intersection(_OURS):
        return
    has_high = bool(texts.intersection(("--vision_tower_aux", "--image_size_aux")))
    yield system or ("mgm" if has_high else "llava"), one


def _is_train(program: str) -> bool:
    return _PROGRAM.search(program) is not None


def _system_of(program: str) -> System | None:
    """Whose train.py it is, by the folders of its path or the packages of its module."""
    parts = re.split(r"[/.]", program)
    return next((_PACKAGES[part] for part in reversed(parts) if part in _PACKAGES), None)


def _count(one: Started, changes: Mapping[str, str]) -> tuple[int | None, str]:
    for name in _GPUS:
        if changes.get(name, "").isdigit():
            return int(changes[name]), f"{name}={changes[name]}"
    return one.processes, one.told


def _check_changes(foreign: Foreign, used: set[str], systems: Sequence[System]) -> None:
    """Every change has to mean an argument, or a variable of the script."""
    known = {name for system in systems for name in arguments_of(system)} | set(_GPUS)
    variables = set(re.findall(r"\b([A-Za-z_]\w*)\+?=", foreign.text))
    variables |= set(re.findall(r"\$\{?(\w+)", foreign.text))
    for name in foreign.changes:
        if name not in used and name not in _GPUS and name not in variables:
            hint = nearest(name, known | variables)
            raise RecipeError(
                f"{name}: neither an argument of train.py nor a variable of "
                f"{os.path.basename(foreign.path)}{hint}"
            )
