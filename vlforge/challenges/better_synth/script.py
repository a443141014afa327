"""The kit's train script: its editable block is read and written, the rest is compared.

Nothing of it is executed here.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.challenges.better_synth.config import EDITABLE
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

_BEGINS, _ENDS = "Editable Part Begins", "Editable Part Ends"
_ASSIGNMENT = re.compile(r"^(export\s+)?([A-Za-z_]\w*)=(.*)$")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The one variable of the environment that the block may set."""


@dataclass(frozen=True)
class TrainScript:
    """A train script's lines; `first` and `last` are the banners around the editable block."""

    path: Path
    lines: tuple[str, ...]
    first: int
    last: int

    @property
    def fixed(self) -> tuple[str, ...]:
        """All lines that nobody may change, the banners included."""
        return (*self.lines[: self.first + 1], *self.lines[self.last :])

    @property
    def fixed_digest(self) -> str:
        """sha256 of the fixed lines."""
        return hashlib.sha256("\n".join(self.fixed).encode()).hexdigest()

    @property
    def values(self) -> dict[str, str]:
        """The block's values without their quotes; those that it lacks as the kit has them."""
        return EDITABLE | {name: value for name, (value, _) in self._assigned().items()}

    def where(self, name: str) -> str:
        """`file:line` of a value of the block."""
        found = self._assigned().get(name)
        return f"{self.path.name}:{found[1]}" if found else f"{self.path.name}, unsaid"

    def number(self, name: str) -> int:
        """A value of the block that has to be a whole number.

        Raises:
            RecipeError: it is none; with file and line.
        """
        text = self.values[name]
        if not text.isdigit() or int(text) < 1:
            raise RecipeError(f"{self.where(name)}: {name} is {text!r}; give a number from 1")
        return int(text)

    @property
    def visible_gpus(self) -> int | None:
        """How many GPUs the block's own CUDA_VISIBLE_DEVICES leaves; None where it says none."""
        for _, line in self._block():
            match = _ASSIGNMENT.match(line.strip())
            if match and match[2] == _VISIBLE:
                return len([one for one in _bare(match[3]).split(",") if one.strip()])
        return None

    def strays(self) -> list[str]:
        """Lines of the block that are neither one of its values nor a comment."""
        found = []
        for number, line in self._block():
            code = line.strip()
            if not code or code.startswith("#"):
                continue
            match = _ASSIGNMENT.match(code)
            known = match is not None and (match[2] in EDITABLE or match[2] == _VISIBLE)
            if not known or match is None or not _is_plain(match[3]):
                found.append(f"line {number}: {code}")
        return found

    def named(self, text: str) -> str:
        """A word of the script with its variables filled in, as far as the script says them."""
        known = {"SCRIPT_DIR": str(self.path.parent.absolute())}
        for line in self.lines:
            match = _ASSIGNMENT.match(line.strip())
            if match and "`" not in match[3] and "$(" not in match[3]:
                known.setdefault(match[2], _bare(match[3]))
        known |= self.values
        for _ in range(5):
            text = _VARIABLE.sub(lambda found: known.get(found[1], found[0]), text)
        return text

    def given(self, option: str) -> list[str]:
        """What stands behind an option (`--data_path`) each time, variables filled in."""
        pattern = re.compile(rf"(?<!\S){re.escape(option)}\s+(\"[^\"]*\"|\S+)")
        return [self.named(_bare(found)) for found in pattern.findall("\n".join(self.fixed))]

    def assigned(self, name: str) -> str | None:
        """A variable of the fixed part, other variables filled in; None where it has none."""
        for line in self.fixed:
            match = _ASSIGNMENT.match(line.strip())
            if match and match[2] == name:
                return self.named(_bare(match[3]))
        return None

    def changed(self, values: Mapping[str, str]) -> str:
        """The script's text with other values in its block; every other byte as it was.

        Raises:
            RecipeError: a value that the block does not have; names the nearest.
        """
        left = dict(values)
        lines = list(self.lines)
        for number, line in self._block():
            match = _ASSIGNMENT.match(line.strip())
            if match and match[2] in left:
                lines[number - 1] = f"{match[2]}={shlex.quote(left.pop(match[2]))}"
        for name in left:
            if name not in EDITABLE:
                raise RecipeError(
                    f"{name} is no value of the editable block{nearest(name, EDITABLE)}; "
                    f"it has: {', '.join(EDITABLE)}"
                )
        lines[self.last : self.last] = [f"{k}={shlex.quote(v)}" for k, v in left.items()]
        return "\n".join(lines)

    def differences(self, recorded: Sequence[str]) -> list[str]:
        """Each fixed line that is no longer as it was recorded: its number, then and now."""
        matcher = difflib.SequenceMatcher(None, list(recorded), list(self.fixed), autojunk=False)
        found = []
        for tag, i, j, k, m in matcher.get_opcodes():
            if tag == "equal":
                continue
            was, now = " / ".join(recorded[i:j]).strip(), " / ".join(self.fixed[k:m]).strip()
            then, here = _apart(was, now)
            found.append(f"line {self._number_of_fixed(k)}: {then} -> {here}")
        return found

    def _number_of_fixed(self, place: int) -> int:
        return place + 1 if place <= self.first else place + self.last - self.first

    def _block(self) -> list[tuple[int, str]]:
        """(number from 1, line) of the editable block."""
        return [(n + 1, self.lines[n]) for n in range(self.first + 1, self.last)]

    def _assigned(self) -> dict[str, tuple[str, int]]:
        found = {}
        for number, line in self._block():
            match = _ASSIGNMENT.match(line.strip())
            if match and match[2] in EDITABLE:
                found[match[2]] = (_bare(match[3]), number)
        return found


def read_script(path: Path) -> TrainScript:
    """A train script.

    Raises:
        RecipeError: it is not there, no text, or has no editable block.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is no text in UTF-8; put the kit's own back") from None
    lines = tuple(text.split("\n"))
    first = next((n for n, line in enumerate(lines) if _BEGINS in line), None)
    last = next((n for n, line in enumerate(lines) if _ENDS in line), None)
    if first is None or last is None or last < first:
        raise RecipeError(
            f"{path}: has no lines {_BEGINS!r} and {_ENDS!r} around its editable block; "
            "put the kit's own script back"
        )
    return TrainScript(path, lines, first, last)


def _bare(text: str) -> str:
    """A value without its quotes and the comment behind it."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return text.strip()
    return words[0] if words else ""


def _is_plain(text: str) -> bool:
    """Whether a value is one word that runs no command."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return False
    return len(words) <= 1 and not set("`;|&<>") & set(text) and "$(" not in text


def _apart(was: str, now: str, before: int = 24, most: int = 64) -> tuple[str, str]:
    """Two texts from a little before the place where they part."""
    pairs = zip(was, now, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(was), len(now)))
    first = max(0, same - before)

    def seen(text: str) -> str:
        rest = text[first : first + most]
        head = "…" if first else ""
        return f"{head}{rest}{'…' if len(text) > first + most else ''}" if text else "nothing"

    return seen(was), seen(now)
