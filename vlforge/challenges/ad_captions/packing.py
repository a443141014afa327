"""`submission.zip`: what is in it, in which order, and its manifest."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge import __version__
from vlforge.challenges.ad_captions.layout import is_model
from vlforge.challenges.ad_captions.shell import faults_of
from vlforge.challenges.archive import Member, write_archive
from vlforge.runs.store import write_text
from vlforge.types import DataError, ProgressFn, no_progress

Holds = Literal["all", "weights", "code"]
NAMES: dict[Holds, str] = {
    "all": "submission.zip",
    "weights": "submission_weights.zip",
    "code": "submission_without_weights.zip",
}
VENDORED = (
    "__init__.py", "types.py", "data", "text", "kernels", "models", "checkpoints", "inference",
    "serving",
)  # fmt: skip
"""What of this package predict.py needs: serving, and what it may import."""
NEEDED = (
    "torch", "transformers", "tokenizers", "safetensors", "accelerate", "pillow", "numpy",
    "msgspec", "regex", "jinja2",
)  # fmt: skip
_ALONE = Path(__file__).with_name("alone")
_PACKAGE = Path(__file__).resolve().parents[2]
_STORED_FROM = 1 << 20
"""Larger files are stored as they are: weights do not shrink."""
_LEFT_OUT = frozenset(
    ("__pycache__", ".git", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache", ".DS_Store")
)


@dataclass(frozen=True)
class Package:
    """What was written: its members with their sums, and whether it is of the contest's kind."""

    path: Path
    manifest: Path
    bytes: int
    sha256: str
    members: int
    official: bool


def members(weights: Path | None, source: Path | None, holds: Holds) -> list[Member]:
    """The files of a package, sorted by name.

    Args:
        weights: the model's folder.
        source: the user's own `src/`; None packs ours.

    Raises:
        DataError: no predict.py, no config.json, or a run.sh that is no plain `sh`.
    """
    found: list[Member] = []
    if holds != "code":
        if weights is None or not is_model(weights):
            raise DataError(f"{weights}: no model with config.json there")
        found += _weights(weights)
    if holds != "weights":
        found += _own(source) if source is not None else _ours()
    return sorted(found, key=lambda member: member.name)


def _weights(folder: Path) -> Iterator[Member]:
    """The model's files; what a stage notes of itself stays here."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in _OF_STAGES:
            yield Member(f"weights/{path.name}", path.resolve())


_OF_STAGES = frozenset(("done.json", "merge.json", "convert.json", "summary.json", "timing.json"))


def _ours() -> list[Member]:
    """predict.py, the part of this package that it needs, run.sh and requirements.txt."""
    found = [
        Member("run.sh", _ALONE / "run.sh", is_program=True),
        Member("src/predict.py", _ALONE / "predict.py"),
        Member("requirements.txt", text=requirements()),
    ]
    for name in VENDORED:
        place = _PACKAGE / name
        files = [place] if place.is_file() else _files(place)
        found += [Member(f"src/vlforge/{file.relative_to(_PACKAGE)}", file) for file in files]
    licence = _PACKAGE.parent / "LICENSE"
    return [*found, *([Member("src/vlforge/LICENSE", licence)] if licence.is_file() else [])]


def _own(source: Path) -> list[Member]:
    """The user's source, with the run.sh and requirements.txt that lie in it or beside it."""
    if not (source / "predict.py").is_file():
        raise DataError(f"{source / 'predict.py'}: not there; the contest runs src/predict.py")
    beside = (source, source.absolute().parent)
    script = next((at / "run.sh" for at in beside if (at / "run.sh").is_file()), _ALONE / "run.sh")
    faults = faults_of(script)
    if faults:
        raise DataError(f"{script}: is no plain sh: {'; '.join(faults[:3])}")
    needs = [at / "requirements.txt" for at in beside if (at / "requirements.txt").is_file()]
    if not needs:
        raise DataError(
            f"{source / 'requirements.txt'}: not there; the contest installs it: pip freeze"
        )
    taken = {script.resolve(), needs[0].resolve()}
    files = [file for file in _files(source) if file.resolve() not in taken]
    return [
        Member("run.sh", script, is_program=True),
        Member("requirements.txt", needs[0]),
        *(Member(f"src/{file.relative_to(source)}", file) for file in files),
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not _LEFT_OUT & set(path.relative_to(folder).parts)
    )


def requirements() -> str:
    """What predict.py needs, in the versions that are installed here."""
    lines = [f"# For src/predict.py; made by vlforge {__version__}, Python 3.11 or newer."]
    for name in NEEDED:
        try:
            version = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            raise DataError(
                f"{name} is not installed, so its version is unknown: pip install vlforge[train]"
            ) from None
        lines.append(f"{name}=={version}")
    return "\n".join(lines) + "\n"


def write_package(
    files: list[Member], out: Path, facts: dict[str, object], progress: ProgressFn = no_progress
) -> Package:
    """Write the zip and its manifest `NAME.json`; a package of that name gives way to it.

    Raises:
        DataError: too little room, asked before; or the disk refuses.
    """
    check_room(out, sum(member.size for member in files))
    made = write_archive(out, files, stored_from=_STORED_FROM, progress=progress)
    manifest = out.with_suffix(".json")
    told = {"archive": out.name, "bytes": made.bytes, "sha256": made.sha256, **facts,
            "members": made.members}  # fmt: skip
    write_text(manifest, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    official = bool(facts.get("official"))
    return Package(out, manifest, made.bytes, made.sha256, len(made.members), official)


def check_room(out: Path, total: int) -> None:
    """Refuse what the disk cannot hold.

    Raises:
        DataError: fewer bytes are free than the package takes.
    """
    folder = next(path for path in out.absolute().parents if path.is_dir())
    free = shutil.disk_usage(folder).free
    if free < total:
        raise DataError(
            f"{out} takes {total / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB left; "
            "vlforge clean frees what runs no longer need, --without-weights packs the code alone"
        )
