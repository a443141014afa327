"""What was fetched into a folder: `fetched.json`, and the files of each item beside its parts.

An item counts as being there when each of its files still has the size it had; its sums
are computed again only on request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.data.fetch.transfer import sums_of
from vlforge.types import DataError

NAME = "fetched.json"
STATE = ".fetch"


@dataclass(frozen=True, slots=True)
class Held:
    """A file of an item, relative to the user's folder; its sum where it was computed."""

    path: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of an item is as the receipt says."""

    files: int
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """A line for each file that is another one now."""


class Receipts:
    """The receipts of one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._path = folder / NAME

    def of(self, key: str) -> dict[str, Any] | None:
        """The receipt of an item.

        Raises:
            DataError: the file with the receipts is damaged.
        """
        found = self._all().get(key)
        return found if isinstance(found, dict) else None

    def add(self, key: str, receipt: dict[str, Any], files: Iterable[Held]) -> None:
        """Write the receipt of an item that is complete."""
        held = sorted(files, key=lambda one: one.path)
        place = self._list(key)
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{one.size}\t{one.sha256}\t{json.dumps(one.path)}\n" for one in held)
        _replace(place, "".join(lines))
        total = sum(one.size for one in held)
        entry = receipt | {"files": len(held), "bytes": total}
        every = self._all() | {key: entry}
        _replace(self._path, json.dumps(every, indent=2, ensure_ascii=False) + "\n")

    def files(self, key: str) -> Iterator[Held]:
        """The files of an item."""
        place = self._list(key)
        if not place.is_file():
            return
        for line in place.read_text(encoding="utf-8").splitlines():
            size, sha256, path = line.split("\t", 2)
            yield Held(json.loads(path), int(size), sha256)

    def standing(self, key: str, *, with_sums: bool = False) -> Standing | None:
        """What of an item is still there; None without a receipt."""
        if self.of(key) is None:
            return None
        missing, changed, count = [], [], 0
        for one in self.files(key):
            count += 1
            path = self.folder / one.path
            size = path.stat().st_size if path.is_file() else -1
            if size < 0:
                missing.append(one.path)
            elif size != one.size:
                changed.append(f"{one.path} has {size} bytes, it had {one.size}")
            elif with_sums and one.sha256 and (now := sums_of(path)["sha256"]) != one.sha256:
                changed.append(f"{one.path}: sha256 is {now}, it was {one.sha256}")
        return Standing(count, tuple(missing), tuple(changed))

    def _list(self, key: str) -> Path:
        return self.folder / STATE / "files" / (re.sub(r"[^\w.-]", "+", key) + ".tsv")

    def _all(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._path} cannot be read ({error}): remove it, what is there is then "
                "compared with its sources"
            ) from None
        return found if isinstance(found, dict) else {}


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
