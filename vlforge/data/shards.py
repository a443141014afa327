"""Shards of samples: tars in which the members of a sample share the name before the dot.

`000000012.jpg`, `000000012.json` and `000000012.txt` are one sample, as
webdataset and img2dataset write them. Names are keys and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import msgspec

from vlforge.data.records import Fault
from vlforge.data.tars import Cut, Member, TarReader, is_tar, open_tar
from vlforge.types import DataError

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})
"""Suffixes of members that are pictures; a number may stand before: `key.0.jpg`."""
TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_TEXTS = frozenset({"txt", "text", "caption"})
_READ = PICTURES | _TEXTS | {"json"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)$")
_MAX_SHARDS = 1_000_000
_MAX_KINDS = 64


class Group(msgspec.Struct, gc=False):
    """The members of one sample."""

    key: str
    shard: str
    pictures: list[bytes] = []
    json: bytes | None = None
    text: bytes | None = None
    kinds: set[str] = set()


def shard_paths(path: Path) -> Iterator[Path]:
    """The tars of a folder in the order of their names, of a pattern, or the one tar.

    `{00000..00012}` counts with leading zeros, `{a,b}` lists.

    Raises:
        DataError: there are none.
    """
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.name.endswith(TAR_NAMES))
        if not found:
            raise DataError(f"{path} holds no tars")
        yield from found
    elif "{" in str(path) and not path.exists():
        yield from (Path(name) for name in expand(str(path)))
    else:
        yield path


def expand(pattern: str) -> Iterator[str]:
    """The names that a pattern with braces stands for.

    Raises:
        DataError: more than a million.
    """
    pieces = _BRACES.split(pattern)
    choices: list[range | list[str]] = []
    forms: list[str] = []
    total = 1
    for piece in pieces[1::2]:
        counted = _RANGE.match(piece)
        if counted:
            first, last = int(counted[1]), int(counted[2])
            choices.append(range(first, last + 1) if first <= last else range(first, last - 1, -1))
            forms.append(f"0{len(counted[1])}d")
        else:
            choices.append(piece.split(","))
            forms.append("")
        total *= max(last - first, first - last) + 1 if counted else piece.count(",") + 1
    if total > _MAX_SHARDS:
        raise DataError(f"{pattern} stands for {total} shards: more than {_MAX_SHARDS}")
    for chosen in product(*choices):
        words = [format(one, form) for one, form in zip(chosen, forms, strict=True)]
        yield "".join(a + b for a, b in zip(pieces[::2], [*words, ""], strict=True))


def first_shard(path: Path) -> Path | None:
    """The first tar that is there, of what `shard_paths` would give."""
    try:
        if path.is_dir():
            return next(shard_paths(path), None)
        if "{" in str(path) and not path.exists():
            early = islice(shard_paths(path), 1000)
            return next((one for one in early if one.is_file()), None)
        return path if path.is_file() and is_tar(path) else None
    except (DataError, OSError):
        return None


def groups(path: Path) -> Iterator[Group | Fault]:
    """The samples of all shards in order; what is wrong comes as a `Fault`."""
    for shard in shard_paths(path):
        yield from groups_of(shard)


def groups_of(shard: Path) -> Iterator[Group | Fault]:
    """The samples of one shard; what is wrong comes as a `Fault`."""
    try:
        file = open_tar(shard)
    except DataError as error:
        reason, _, value = str(error).partition(": ")
        yield Fault(0, "a shard cannot be read", f"{shard.name}: {value or reason}")
        return
    with file:
        yield from _Grouping(shard.name).groups(TarReader(file))


class _Grouping:
    """Puts the members of one tar together."""

    def __init__(self, shard: str):
        self.shard = shard
        self.group: Group | None = None
        self.last_kinds: set[str] = set()
        self.unread: set[str] = set()

    def groups(self, reader: TarReader) -> Iterator[Group | Fault]:
        try:
            for member in reader:
                if not member.is_folder:
                    yield from self._add(member, reader)
        except Cut as error:
            done = self.group
            if done is not None and error.at_border and self._is_whole(done):
                yield done
            key = done.key if done is not None else "its start"
            yield Fault(0, str(error), f"{self.shard}, at {key}")
            return
        if self.group is not None:
            yield self.group

    def _is_whole(self, group: Group) -> bool:
        """Whether the last sample before a cut has the members that the one before it has."""
        has_words = group.text is not None or group.json is not None
        return group.kinds >= self.last_kinds if self.last_kinds else has_words

    def _add(self, member: Member, reader: TarReader) -> Iterator[Group | Fault]:
        if member.refused:
            yield self._fault(member.refused, member.name)
            return
        name = member.name.removeprefix("./")
        folder, slash, base = name.rpartition("/")
        stem, _, kind = base.partition(".")
        kind = kind.lower()
        if not stem or (kind not in _READ and not _is_read(kind)):
            yield from self._pass(kind if stem else "(hidden)", name)
            return
        key = folder + slash + stem
        if self.group is None or self.group.key != key:
            if self.group is not None:
                self.last_kinds = self.group.kinds
                yield self.group
            self.group = Group(key, self.shard)
        if kind in self.group.kinds:
            yield self._fault("a member is there twice", name)
            return
        content = reader.content()
        self.group.kinds.add(kind)
        if kind == "json":
            self.group.json = content
        elif kind in _TEXTS:
            self.group.text = content
        else:
            self.group.pictures.append(content)

    def _pass(self, kind: str, name: str) -> Iterator[Fault]:
        """Tell once a tar of each kind of members that are not read."""
        if kind not in self.unread and len(self.unread) < _MAX_KINDS:
            self.unread.add(kind)
            yield self._fault(f"members of the kind .{kind[:20]} are not read", name)

    def _fault(self, reason: str, name: str) -> Fault:
        return Fault(0, reason, f"{self.shard}: {name[:200]}")


def _is_read(kind: str) -> bool:
    """Whether it is a picture that has a number, as there are several."""
    number, _, suffix = kind.partition(".")
    return number.isdigit() and suffix in PICTURES
