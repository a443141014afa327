"""A file of another system as a recipe of ours: each setting with the place it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vlforge.types import RecipeError

_WIDTH = 100


class Unused(NamedTuple):
    """A key of the file that no setting of ours stands for: its value, place, and why."""

    key: str
    value: Any
    where: str
    why: str


@dataclass(frozen=True)
class Foreign:
    """What another system is told: the text of a file, and changes by the file's own keys.

    `path` is where the text stands, and is named in errors and comments; `changes` are
    what that system's command line changes (`--cfg-options`, `--options`, arguments).
    """

    path: Path
    text: str
    changes: Mapping[str, str] = field(default_factory=dict)

    def where(self, line: int) -> str:
        """`file:line`, lines counted from 1."""
        return f"{self.path.name}:{line}"


class AdoptedRecipe:
    """A recipe in the making: settings by dotted key, each with its origin.

    `system` is the name that people know it by. Every value has an origin: a place and
    key of the file, or in words why it is there. `notes` are worth telling the user.
    """

    def __init__(self, system: str, path: Path, name: str):
        self.system = system
        self.path = path
        self.tree: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.unused: list[Unused] = []
        self.notes: list[str] = []
        self.put("name", name, f"from {path.name}")

    def put(self, dotted: str, value: Any, origin: str) -> None:
        """Set `dotted` (`stages.align.optimiser.lr`); the last word on a key wins.

        A mapping or a list of mappings is one setting with one origin, unless keys inside
        of it are put by themselves afterwards.
        """
        if not origin.strip():
            raise ValueError(f"{dotted} has no origin")
        *path, last = dotted.split(".")
        node: Any = self.tree
        for key in path:
            if isinstance(node, list):
                node = node[int(key)]
                continue
            held = node.get(key)
            if not isinstance(held, dict | list):
                held = node[key] = {}
            node = held
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
        self.origins[dotted] = " ".join(origin.split())

    def get(self, dotted: str, default: Any = None) -> Any:
        """The value put under `dotted`."""
        node: Any = self.tree
        for key in dotted.split("."):
            if isinstance(node, list) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, dict) and key in node:
                node = node[key]
            else:
                return default
        return node

    def leave(self, key: str, value: Any, where: str, why: str) -> None:
        """Say that a key of the file has no counterpart, or does nothing here, and why."""
        self.unused.append(Unused(key, value, where, " ".join(why.split())))

    def note(self, text: str) -> None:
        """Something that the user should know once."""
        if text not in self.notes:
            self.notes.append(text)

    def text(self) -> str:
        """The recipe as YAML: a comment behind every setting, what is left out at the end."""
        lines = [f"# From {self.path.name} ({self.system}), by `vlforge adopt`."]
        lines += [f"# {note}" for note in self.notes]
        body = list(self._lines(self.tree, "", 0))
        width = min(max((len(code) for code, _ in body), default=0), 60)
        for code, origin in body:
            lines.append(f"{code.ljust(width)}  # {origin}" if origin else code)
        if self.unused:
            lines += ["", "# Without a counterpart here:"]
            lines += [
                f"#   {one.key}: {_flow(one.value)}  ({one.where}) {one.why}".rstrip()
                for one in self.unused
            ]
        return "\n".join(lines) + "\n"

    def _lines(self, node: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
        """(YAML, origin) of each line of a mapping."""
        pad = "  " * depth
        for key, value in node.items():
            dotted = f"{prefix}{key}"
            origin = self.origins.get(dotted, "")
            head = f"{pad}{_key(key)}:"
            if isinstance(value, dict) and value and not self._is_short(dotted, value, len(head)):
                yield head, origin
                yield from self._lines(value, f"{dotted}.", depth + 1)
            elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
                yield head, origin
                for number, item in enumerate(value):
                    yield from self._item(item, f"{dotted}.{number}", depth + 1)
            else:
                yield f"{head} {_flow(value)}", origin

    def _item(self, item: Any, dotted: str, depth: int) -> Iterator[tuple[str, str]]:
        """(YAML, origin) of the lines of a list's item."""
        pad = "  " * depth
        is_block = isinstance(item, dict) and item and not self._is_short(dotted, item, len(pad))
        if not is_block:
            yield f"{pad}- {_bare(item)}", self.origins.get(dotted, "")
            return
        first = True
        for code, origin in self._lines(item, f"{dotted}.", depth + 1):
            mark = f"{pad}- {code[len(pad) + 2 :]}" if first else code
            yield mark, origin or (self.origins.get(dotted, "") if first else "")
            first = False

    def _is_short(self, dotted: str, value: Mapping[str, Any], before: int) -> bool:
        """Whether a mapping fits into one line and has one origin."""
        inside = any(key.startswith(f"{dotted}.") for key in self.origins)
        nested = any(isinstance(one, dict) and one for one in value.values())
        return not inside and not nested and before + len(_flow(value)) < _WIDTH - 40


def _key(key: str) -> str:
    return _flow(key)


def _bare(item: Any) -> str:
    """`key: value` without braces where a mapping has one key."""
    if isinstance(item, dict) and len(item) == 1:
        ((key, value),) = item.items()
        return f"{_key(key)}: {_flow(value)}"
    return _flow(item)


def _flow(value: Any) -> str:
    """A value in one line of YAML 1.2."""
    import io

    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = True
    writer.allow_unicode = True
    writer.width = 1_000_000
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    out = io.StringIO()
    writer.dump(_rounded(value), out)
    return out.getvalue().removesuffix("...\n").rstrip("\n")


def _rounded(value: Any) -> Any:
    """Paths as text, tuples as lists; keys as they are."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def read_foreign(path: Path, changes: Mapping[str, str]) -> Foreign:
    """The file's text as UTF-8.

    Raises:
        RecipeError: it is not there or no text.
    """
    try:
        return Foreign(path, path.read_text(encoding="utf-8"), dict(changes))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; give the path of a recipe") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; name a file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as text ({error})") from None
