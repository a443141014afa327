"""A contestant's folder: where the kit's files lie, and what was recorded of them at `init`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.challenges.better_synth.config import (
    CODE,
    CONVERTER,
    EVAL_SCRIPTS,
    MMBENCH_TABLE,
    MODELS,
    NOT_CODE,
    ROUNDS,
    SCRIPTS,
    TEXTVQA_ANSWERS,
    TEXTVQA_IMAGES,
    TEXTVQA_QUESTIONS,
    Round,
    Trainer,
)
from vlforge.challenges.better_synth.script import TrainScript, read_script
from vlforge.types import RecipeError

RECORD = "better_synth.json"
COMMAND = "vlforge challenge better-synth"
Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class Kit:
    """A folder in the kit's layout. `recorded` is what `init` wrote down of the given files."""

    folder: Path
    round: Round
    recorded: dict[str, Any] = field(default_factory=dict)

    def at(self, place: str) -> Path:
        """A place below the folder, absolute."""
        return self.folder / place

    @property
    def named(self) -> str:
        """The folder as a command names it: from the working folder, where it lies below."""
        here = Path.cwd()
        inside = self.folder.is_relative_to(here) and self.folder != here
        return str(self.folder.relative_to(here) if inside else self.folder)

    def shown(self, path: Path) -> str:
        """A path as seen from the folder."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    @property
    def script_path(self) -> Path | None:
        """The train script under one of its names; None where none is there."""
        return next((path for name in SCRIPTS if (path := self.at(name)).is_file()), None)

    def script(self) -> TrainScript | None:
        """The train script, read; None where there is none."""
        path = self.script_path
        return None if path is None else read_script(path)

    @property
    def usual_trainer(self) -> Trainer:
        """The kit's own where its script and its code are there."""
        has_code = any(True for _ in code_files(self.at(CODE)))
        return "kit" if self.script_path is not None and has_code else "vlforge"

    @property
    def questions(self) -> Path:
        """The file with the original questions: as the script says, else the round's."""
        script = self.script()
        said = script.assigned("ORIGINAL_DATASET_ALL") if script else None
        return _normal(said) if said else self.at(f"{self.round.seed}/stage_1.json")

    @property
    def finetuning(self) -> Path:
        """The fixed finetuning rows: the last data that the script trains on."""
        script = self.script()
        said = script.given("--data_path") if script else []
        return _normal(said[-1]) if len(said) > 1 else self.at(self.round.finetuning)

    @property
    def finetuning_images(self) -> Path:
        """Where their pictures are."""
        script = self.script()
        said = script.given("--image_folder") if script else []
        return _normal(said[-1]) if len(said) > 1 else self.finetuning.parent

    def model(self, part: str) -> Path:
        """The folder of `language`, `vision` or `vision_high`."""
        option = {"language": "--model_name_or_path", "vision": "--vision_tower"}
        script = self.script()
        said = script.given(option.get(part, "--vision_tower_aux")) if script else []
        return _normal(said[0]) if said else self.at(MODELS[part])

    @property
    def seed_rows(self) -> Path:
        """The seed's rows."""
        return self.at(f"{self.round.seed}/{self.round.rows}")

    def sources(self) -> dict[str, list[Path]]:
        """Groups of given files whose hashes are recorded."""
        textvqa = (TEXTVQA_QUESTIONS, TEXTVQA_ANSWERS, TEXTVQA_IMAGES)
        code = [*code_files(self.at(CODE)), *map(self.at, (*EVAL_SCRIPTS, CONVERTER))]
        return {
            "finetuning-data": [self.finetuning, *self._finetuning_pictures()],
            "training-code": [path for path in code if path.is_file()],
            "evaluation-files": [self.at(p) for p in (*textvqa, MMBENCH_TABLE)],
        }

    def _finetuning_pictures(self) -> list[Path]:
        folder = self.finetuning_images
        found = [path for path in sorted(folder.glob("*")) if path.is_dir()]
        return found if folder.is_dir() else []


def open_kit(folder: Path) -> Kit:
    """The folder that `init` made.

    Raises:
        RecipeError: no such folder, or one that was not set up; says what to type.
    """
    record = folder / RECORD
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder; begin with `{COMMAND} init {folder}`")
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        return Kit(folder.absolute(), ROUNDS[kept["round"]], kept["recorded"])
    except FileNotFoundError:
        raise RecipeError(
            f"{folder}: has no {RECORD}; `{COMMAND} init {folder}` makes it and loses nothing"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise RecipeError(
            f"{record}: is not what init writes; move it away and give `{COMMAND} init {folder}`"
        ) from None


def code_files(folder: Path) -> Iterable[Path]:
    """The code below the kit's training folder: no data, no weights, nothing that is made."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in NOT_CODE and not path.name.startswith("."):
            yield from (file for file in sorted(path.rglob("*")) if _is_code(file))
        elif _is_code(path):
            yield path


def _is_code(path: Path) -> bool:
    made = path.suffix in (".pyc", ".so", ".log") or "__pycache__" in path.parts
    return path.is_file() and not made and not any(p.endswith(".egg-info") for p in path.parts)


def fingerprint(path: Path) -> Fingerprint | None:
    """What a file or a folder is known by; None where nothing is.

    A file by its bytes; a folder, which may hold thousands of pictures, by the names and
    sizes of its files.
    """
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": path.stat().st_size}
    if not path.is_dir():
        return None
    files = sorted(one for one in path.rglob("*") if one.is_file())
    sizes = [one.stat().st_size for one in files]
    names = [str(one.relative_to(path)) for one in files]
    told = "".join(f"{name}:{size}\n" for name, size in zip(names, sizes, strict=True))
    digest = hashlib.sha256(told.encode()).hexdigest()
    return {"files": len(files), "bytes": sum(sizes), "names_and_sizes": digest}


def bytes_below(*paths: Path) -> int:
    """Bytes of files and folders, links not followed."""
    files = (one for path in paths for one in ([path] if path.is_file() else path.rglob("*")))
    return sum(one.stat().st_size for one in files if one.is_file() and not one.is_symlink())


def _normal(path: str) -> Path:
    """A path that the shell would take, without its `..`."""
    import os

    return Path(os.path.normpath(path))


def has_content(path: Path) -> bool:
    """Whether a file is there and not empty."""
    return path.is_file() and path.stat().st_size > 0
