"""The tree under test: its files and what can be read off them without importing."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vlforge"
SKIPPED_FOLDERS = {"__pycache__", "build", "dist"}


@cache
def source_files() -> tuple[Path, ...]:
    """Files of the tree as git sees them (tracked or not yet), or all in a copy without git.

    Without git, or where git does not trust the folder's owner, hidden folders are tools' own.
    """
    # A hook of git's names its own repository in the environment.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    git = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "-c", "-o", "--exclude-standard"],
        capture_output=True,
        check=False,
        env=own,
    )
    if git.returncode == 0:
        found = [ROOT / name for name in git.stdout.decode().split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not _is_made(p.relative_to(ROOT).parts[:-1])]
    return tuple(sorted(p for p in found if p.is_file()))


def _is_made(folders: tuple[str, ...]) -> bool:
    is_skipped = any(name in SKIPPED_FOLDERS or name.startswith(".") for name in folders)
    return is_skipped or folders[:1] == ("runs",)


def python_files(*folders: str) -> list[Path]:
    """Python files under the named folders of the tree."""
    return [
        path
        for path in source_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


@cache
def parsed(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def by_folder(paths: Iterable[Path]) -> list[Any]:
    """The paths of each folder of the first two levels, as one parameter by its name."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        name = "/".join(path.relative_to(ROOT).parts[:-1][:2]) or "."
        found.setdefault(name, []).append(path)
    return [pytest.param(some, id=name) for name, some in found.items()]


def faults(paths: Iterable[Path], find: Callable[[Path], list[str]]) -> dict[str, list[str]]:
    """What is found in files, by their names; files without a fault are left out."""
    told = ((shown(path), find(path)) for path in paths)
    return {name: some for name, some in told if some}


def module_name(path: Path) -> str:
    """`vlforge/data/images.py` -> `vlforge.data.images`; a package's own name for `__init__`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def shown(path: Path) -> str:
    """The path as a reader types it."""
    return path.relative_to(ROOT).as_posix()
