"""Prompts are files one can read and edit: those of this folder, or the user's own.

A file is the user's turn. It may begin with a system text under the line `[system]`; the
user's turn then begins under `[user]`. `{name}` stands for a field that the operator fills
in; other braces mean themselves.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vlforge.types import RecipeError

HOME = Path(__file__).parent / "prompts"
_FIELD = re.compile(r"\{([a-z][a-z_0-9]*)\}")


class Prompt(NamedTuple):
    """A system text, which may be empty, and the user's turn, both with `{fields}`."""

    system: str
    user: str

    @property
    def hash(self) -> str:
        """Names the words, not the file: 12 hex digits of their SHA-256."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:12]

    def fill(self, **fields: str) -> Prompt:
        """Both texts with the fields in place; what a field holds is taken as it is."""
        return Prompt(_filled(self.system, fields), _filled(self.user, fields))

    def fields(self) -> set[str]:
        """Names in braces."""
        return {*_FIELD.findall(self.system), *_FIELD.findall(self.user)}


@functools.lru_cache(maxsize=256)
def read_prompt(name: str, file: str = "", fields: Sequence[str] = ()) -> Prompt:
    """The prompt in `file`, else the one of this folder called `name`.

    Args:
        fields: what the operator fills in.

    Raises:
        RecipeError: no such file, no words in it, or a field nobody fills in.
    """
    path = Path(file) if file else HOME / f"{name}.txt"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no UTF-8 text"
        raise RecipeError(f"prompt {path}: {why}; `vlforge list prompts` shows ours") from None
    found = parse(text)
    if not found.user.strip():
        raise RecipeError(f"prompt {path} says nothing to the model; write the user's turn")
    unknown = sorted(name for name in found.fields() if fields and name not in fields)
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in fields)
        raise RecipeError(f"prompt {path}: nothing fills in {{{unknown[0]}}}; there are {known}")
    return found


def parse(text: str) -> Prompt:
    """The two texts of a file."""
    lines = text.strip("\n").split("\n")
    if lines[0].strip() != "[system]" or "[user]" not in (marks := list(map(str.strip, lines))):
        return Prompt("", text.strip())
    at = marks.index("[user]")
    return Prompt("\n".join(lines[1:at]).strip(), "\n".join(lines[at + 1 :]).strip())


def _filled(text: str, fields: dict[str, str]) -> str:
    return _FIELD.sub(lambda found: fields.get(found[1], found[0]), text)
