"""Shell scripts of Mini-Gemini and LLaVA: training is adopted, evaluation taken command by command.

A script is read, never executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vlforge.cli.familiar.asking import Command, evaluation, is_evaluation
from vlforge.cli.familiar.old import OldCommand, Ours
from vlforge.types import RecipeError

_FILES = (
    "--model-path", "--model-base", "--model_path", "--question-file", "--questions-file",
    "--image-folder", "--answers-file", "--result-file", "--annotation-file", "--annotation-dir",
    "--base-dir", "--data_path", "--result-dir", "--upload-dir", "--result-upload-file", "--src",
    "--dst", "--dir",
)  # fmt: skip
"""Options that name files, which begin in the folder that the script is in then."""


def starts_training(path: str) -> bool:
    """Whether a shell script starts a train.py of theirs."""
    from vlforge.recipe.adopt import train_script
    from vlforge.recipe.adopt.adopted import read_foreign

    if not path.endswith((".sh", ".bash")) or not Path(path).is_file():
        return False
    return train_script.recognises(read_foreign(Path(path), {}))


def run_script(old: OldCommand) -> Ours:
    """`vlforge run` of a training script."""
    return Ours((("run", old.program),))


def evaluated(old: OldCommand, package: str) -> Ours:
    """Each command of an evaluation script that is known here, in its order.

    Raises:
        RecipeError: the script is not there, or holds none of their commands.
    """
    from vlforge.cli.familiar import converters
    from vlforge.recipe.adopt.adopted import read_foreign
    from vlforge.recipe.adopt.shell_launch import started
    from vlforge.recipe.adopt.shell_words import read_script

    path = Path(old.program)
    foreign = read_foreign(path, {})
    arguments = {str(number): word for number, word in enumerate(old.words, 1)}
    commands: list[Command] = []
    notes: list[str] = []
    for command in read_script(foreign.text, path, arguments).commands:
        program = started(command)
        bare = OldCommand(program.program.text, ()) if program is not None else None
        if program is None or bare is None:
            continue
        if not (is_evaluation(bare) or converters.is_converter(bare)):
            continue
        inner = replace(bare, words=tuple(_words(program.words, program.folder)))
        is_asked = is_evaluation(inner)
        ours = evaluation(inner, package) if is_asked else converters.converted(inner)
        commands += [one for one in ours.commands if one not in commands]
        notes += [note for note in ours.notes if note not in notes]
    if not commands:
        raise RecipeError(f"{path}: holds no evaluation that is known here")
    return Ours(tuple(commands), tuple(notes))


def _words(words: tuple[object, ...], folder: str) -> Iterator[str]:
    """Words of a command within a script: one process asks all, and writes the merged file."""
    from vlforge.recipe.adopt.shell_words import Word

    name = ""
    for word in words:
        assert isinstance(word, Word)
        text = word.text
        if name in ("--num-chunks", "--chunk-idx"):
            text = {"--num-chunks": "1", "--chunk-idx": "0"}[name]
        elif word.unknown and name == "--answers-file":
            text = os.path.join(os.path.dirname(text), "merge.jsonl")
        elif word.unknown:
            raise RecipeError(f"line {word.line}: {name or 'a word'} is made of {word.unknown}")
        if name in _FILES and folder:
            text = os.path.normpath(os.path.join(folder, text))
        yield text
        name = text if text.startswith("--") else ""


def on_devices(ours: Ours, listed: str) -> Ours:
    """The same on the GPUs that a script's argument lists."""
    from vlforge.data.machine import visible_gpus

    named = [one for one in listed.split(",") if one.strip()]
    if not visible_gpus() or len(named) != 1:
        return ours
    device = ("--device", f"cuda:{named[0].strip()}")
    commands = tuple(
        (*one, *device) if one[:2] == ("eval", "run") else one for one in ours.commands
    )
    return replace(ours, commands=commands)
