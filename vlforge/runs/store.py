"""The store of finished stages: `runs/.store/<key>`, shared by all runs beside it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vlforge.types import DataError

DONE = "done.json"
BEGUN = ".begun"
_LOOKS_S = 0.5
"""How long a lock is tried for: `vlforge watch` holds it for a moment whenever it looks."""


class Store:
    """Finished stages by content key; a stage appears whole or not at all."""

    def __init__(self, root: Path):
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the stage with this key lies once it is done."""
        return self.root / key

    def partial(self, key: str) -> Path:
        """Where it is being made; survives a kill."""
        return self.root / f"{key}.partial"

    def is_done(self, key: str) -> bool:
        """Whether the stage is finished and has lost no file but what was freed."""
        return read_done(self.folder(key)) is not None

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the key: two runs never make the same stage at once."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / key).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def begin(self, key: str, record: Mapping[str, Any]) -> None:
        """Note whose stage this is, so that a later try with other settings finds it."""
        write_json(self.root / BEGUN / f"{key}.json", record)

    def unfinished(self, node: str, run_dir: Path) -> list[tuple[str, dict[str, Any]]]:
        """Keys and notes of stages of this node and run that were begun and not finished."""
        found = []
        for file in sorted((self.root / BEGUN).glob("*.json")):
            try:
                note = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            is_theirs = note.get("node") == node and note.get("run_dir") == str(run_dir)
            if is_theirs and self.partial(file.stem).is_dir():
                found.append((file.stem, note))
        return found

    def finish(self, key: str, record: Mapping[str, Any]) -> Path:
        """Write `done.json` and give the stage its final name."""
        partial = self.partial(key)
        outputs = {name: digest_file(partial / name) for name in list_files(partial)}
        write_json(partial / DONE, {**record, "key": key, "outputs": outputs})
        final = self.folder(key)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        (self.root / BEGUN / f"{key}.json").unlink(missing_ok=True)
        return final


def hold(folder: Path) -> IO[str]:
    """A run's lock, held by this command until it is closed.

    Raises:
        DataError: another command holds it.
        OSError: the folder cannot be written.
    """
    lock = (folder / ".lock").open("w")
    until = time.monotonic() + _LOOKS_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > until:
                lock.close()
                raise DataError(f"{folder}: another command is running here; wait for it") from None
        time.sleep(0.02)


FREED = "freed"
"""In `done.json`: outputs that `vlforge clean` has removed, by name, with their sums."""


def done_since(folder: Path, time: float) -> bool:
    """Whether a stage is finished and nothing of it freed, not before `time` (since 1970)."""
    done = read_done(folder)
    return done is not None and not done.get(FREED) and (folder / DONE).stat().st_mtime >= time


def read_done(folder: Path) -> dict[str, Any] | None:
    """A finished stage's record; None when it is unfinished or has lost a file.

    Files that were freed are not lost: `freed` names them.
    """
    try:
        done: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = all((folder / name).is_file() for name in done.get("outputs", {}))
    return done if whole else None


def list_files(folder: Path) -> list[str]:
    """Files below `folder`, relative, sorted."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(str(p.relative_to(folder)) for p in found)


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def link(path: Path, target: Path) -> None:
    """Make `path` a relative link to `target`, replacing a link that is there."""
    relative = os.path.relpath(target, path.parent)
    if path.is_symlink() and os.readlink(path) == relative:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(relative, target_is_directory=True)
    os.replace(temporary, path)
