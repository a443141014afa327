"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vlforge.types import DataError


class NewFolder:
    """A new folder, filled under a hidden name beside it; gone again after an error."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path:
        """The hidden folder.

        Raises:
            DataError: the name is taken by a file or by a folder that is not empty.
        """
        try:
            if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
                raise DataError(f"{self.path} exists already: remove it or name another target")
            if self.part.is_dir():
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from None
        return self.part

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        try:
            self.part.rename(self.path)
        except OSError as failure:
            shutil.rmtree(self.part, ignore_errors=True)
            raise DataError(f"cannot write {self.path}: {failure.strerror or failure}") from None
