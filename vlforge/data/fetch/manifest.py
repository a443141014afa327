"""A manifest: the items a system needs, where they come from and where its users expect them.

One YAML file each; those of the known systems lie in `manifests/`. Sizes and sums are
there only where a source states them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from vlforge.data.fetch.source import Source, source_of
from vlforge.types import RecipeError

Kind = Literal["file", "archive", "repo", "link", "manual"]
FOLDER = Path(__file__).parent / "manifests"
_SUMS = {"sha256": 64, "md5": 32}
_FROM = {"file", "archive", "repo"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to fetch, and where it belongs (`to`, below the user's folder).

    `file` is one file; `archive` one or several packed files that are unpacked into
    the folder `to`; `repo` a hub's repository, or what of it `patterns` name; `link`
    a second name `to` for what another item brings (`target`); `manual` something
    that a person has to get, `do` says how. `sources` are tried in their order.

    `one_format`: of weights in several formats only safetensors (where they exist).
    `flat`: an archive's files without their folders. `expect`: what has to lie below
    `to` afterwards. `unpacked`: bytes after unpacking, for the check of the disk.
    `optional` items are fetched only when they are named.
    """

    name: str
    kind: Kind
    to: str
    sources: tuple[Source, ...] = ()
    group: str = ""
    optional: bool = False
    patterns: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    one_format: bool = False
    flat: bool = False
    expect: tuple[str, ...] = ()
    size: int | None = None
    unpacked: int | None = None
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    note: str = ""
    do: str = ""
    target: str = ""

    @property
    def where_from(self) -> str:
        """For a column of a table."""
        if self.kind == "manual":
            return "by hand"
        return f"link to {self.target}" if self.kind == "link" else self.sources[0].short


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that one system needs."""

    name: str
    title: str
    about: str
    items: tuple[Item, ...]
    next: str = ""

    def chosen(self, only: Sequence[str], *, everything: bool = False) -> tuple[Item, ...]:
        """The items whose name or group is in `only`; by default all that are not optional.

        Raises:
            RecipeError: neither an item nor a group has the name; names the nearest.
        """
        names = {item.name for item in self.items} | {i.group for i in self.items if i.group}
        for name in only:
            if name not in names:
                raise RecipeError(
                    f"{self.name} has no item or group {name!r}{nearest(name, names)} "
                    f"(`vlforge fetch {self.name} --list` shows them)"
                )
        if only:
            return tuple(i for i in self.items if i.name in only or (i.group and i.group in only))
        return tuple(item for item in self.items if everything or not item.optional)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when a known name is close, else nothing."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def manifest_names() -> list[str]:
    """The systems that manifests are there for."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_manifest(name: str) -> Manifest:
    """The manifest of a known system, or a file's.

    Raises:
        RecipeError: there is none, or it is not one; with file and line.
    """
    path = FOLDER / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
    elif not path.is_file():
        known = manifest_names()
        raise RecipeError(
            f"no manifest {name!r}{nearest(name, known)} (known: {', '.join(known)}; or give "
            "a .yaml file)"
        )
    return _Reader(path).manifest()


class _Reader:
    """One file, its lines, and the errors that name them."""

    def __init__(self, path: Path):
        self.path = path
        self.tree = _load(path)

    def manifest(self) -> Manifest:
        self._known(self.tree, {f.name for f in fields(Manifest)})
        rows = self.tree.get("items")
        if not isinstance(rows, list) or not rows:
            raise self._fault("`items` is a list of what is to be fetched", "items")
        items = tuple(self._item(row, k) for k, row in enumerate(rows))
        names: dict[str, int] = {}
        for k, item in enumerate(items):
            if item.name in names:
                raise self._fault(f"a second item {item.name!r}", "items", k, "name")
            names[item.name] = k
        text = {key: self._text(self.tree, key) for key in ("title", "about", "next")}
        name = self._text(self.tree, "name") or self.path.stem
        if "/" in name or name.startswith("."):
            raise self._fault(f"name {name!r} has a slash or begins with a dot", "name")
        return Manifest(name, items=items, **text)

    def _item(self, row: Any, k: int) -> Item:
        at = ("items", k)
        if not isinstance(row, dict):
            raise self._fault("an item is a mapping with name, kind and to", *at)
        keys = {f.name for f in fields(Item)} - {"sources"} | {"from"}
        self._known(row, keys, *at)
        for key in ("name", "kind", "to"):
            if not self._text(row, key, *at):
                raise self._fault(f"an item needs `{key}`", *at)
        name, kind = str(row["name"]), row["kind"]
        if kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            hint = nearest(str(kind), get_args(Kind))
            raise self._fault(f"kind {kind!r} is none of {known}{hint}", *at, "kind")
        words: dict[str, Any] = {
            key: self._text(row, key, *at) for key in ("group", "licence", "note", "do")
        }
        words |= {key: self._texts(row, key, *at) for key in ("patterns", "ignore", "expect")}
        words |= {key: self._truth(row, key, *at) for key in ("optional", "one_format", "flat")}
        words |= {key: self._sum(row, key, *at) for key in _SUMS}
        words |= {key: self._bytes(row, key, *at) for key in ("size", "unpacked")}
        words |= {key: self._below(row, key, *at) for key in ("to", "target") if key in row}
        item = Item(name=name, kind=kind, sources=self._sources(row, *at), **words)
        self._fits(item, row, *at)
        return item

    def _fits(self, item: Item, row: Mapping[str, Any], *at: str | int) -> None:
        """Whether the keys of an item go together."""
        if "/" in item.name or item.name.startswith("."):
            raise self._fault(f"name {item.name!r} has a slash or begins with a dot", *at, "name")
        for kinds, key in ((_FROM, "from"), ({"link"}, "target"), ({"manual"}, "do")):
            if item.kind in kinds and not row.get(key):
                raise self._fault(f"kind {item.kind} needs `{key}`", *at)
            if item.kind not in kinds and row.get(key):
                raise self._fault(f"kind {item.kind} takes no `{key}`", *at, key)
        for source in item.sources:
            many = source.hub != "http" and not source.file
            if item.kind == "repo" and not many:
                raise self._fault(f"kind repo takes whole repositories, not {source.text}", *at)
            if item.kind == "file" and many:
                raise self._fault(f"kind file takes one file, {source.text} has many", *at)
            if item.kind == "archive" and many and not item.patterns:
                raise self._fault(f"which archives of {source.text}? give `patterns`", *at)
        if (item.sha256 or item.md5) and item.kind not in ("file", "archive"):
            raise self._fault(f"a sum is of one file, kind is {item.kind}", *at)

    def _sources(self, row: Mapping[str, Any], *at: str | int) -> tuple[Source, ...]:
        try:
            return tuple(source_of(text) for text in self._texts(row, "from", *at))
        except ValueError as error:
            raise self._fault(str(error), *at, "from") from None

    def _below(self, row: Mapping[str, Any], key: str, *at: str | int) -> str:
        text = self._text(row, key, *at)
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in text:
            raise self._fault(f"{key} {text!r} does not lie below the folder", *at, key)
        return str(path)

    def _sum(self, row: Mapping[str, Any], key: str, *at: str | int) -> str:
        text = self._text(row, key, *at).lower()
        if text and (len(text) != _SUMS[key] or set(text) - set("0123456789abcdef")):
            raise self._fault(f"{key} {text!r} has not {_SUMS[key]} hexadecimal digits", *at, key)
        return text

    def _bytes(self, row: Mapping[str, Any], key: str, *at: str | int) -> int | None:
        value = row.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._fault(f"{key} is {value!r}, not a number of bytes", *at, key)
        return int(value)

    def _truth(self, row: Mapping[str, Any], key: str, *at: str | int) -> bool:
        value = row.get(key, False)
        if not isinstance(value, bool):
            raise self._fault(f"{key} is {value!r}, not true or false", *at, key)
        return bool(value)

    def _text(self, row: Mapping[str, Any], key: str, *at: str | int) -> str:
        value = row.get(key)
        if value is None:
            return ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self._fault(f"{key} is {value!r}, not a text", *at, key)
        return " ".join(str(value).split())

    def _texts(self, row: Mapping[str, Any], key: str, *at: str | int) -> tuple[str, ...]:
        value = row.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise self._fault(f"{key} is {value!r}, not a text or a list of texts", *at, key)
        return tuple(str(v) for v in values)

    def _known(self, row: Mapping[Any, Any], keys: Iterable[str], *at: str | int) -> None:
        known = set(keys)
        for key in row:
            if key not in known:
                hint = nearest(str(key), known) or f"; known are {', '.join(sorted(known))}"
                raise self._fault(f"unknown key {key!r}{hint}", *at, key)

    def _fault(self, what: str, *keys: str | int) -> RecipeError:
        node, line = self.tree, 0
        for key in keys:
            row = _row(node, key)
            if row is None:
                break
            line, node = row, node[key]
        return RecipeError(f"{self.path}:{line + 1}: {what}")


def _row(node: Any, key: str | int) -> int | None:
    """The line, from 0, where a key or an entry stands."""
    find: Callable[[Any], Any] | None
    place = getattr(node, "lc", None)
    find = None if place is None else (place.key if isinstance(node, dict) else place.item)
    try:
        return int(find(key)[0]) if find else None
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _load(path: Path) -> Any:
    """The file as ruamel reads it, with its lines.

    Raises:
        RecipeError: it is not there, or no YAML mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such manifest") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a manifest is a mapping with `items`")
    return tree
