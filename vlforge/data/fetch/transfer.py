"""One file over HTTP into a part that survives every stop and goes on where it ended.

Beside the part lies what the server said of the file (entity tag, date, length). A part
is continued only where the server vouches with the same words that it is still the same
file (If-Range), or where a sum tells in the end; otherwise it begins anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vlforge.data.download.addresses import Refused
from vlforge.data.download.client import Answer, Client

_READ = 1 << 20
_PROBE_S = 40.0
_WINDOW_S = 60.0
_SLOWEST = 1 << 10
"""Bytes a second below which, over a whole window, a line counts as dead."""
_GROWN = 1 << 16
"""Bytes after which a try counts as progress, and the tries begin anew."""
_LONGEST_PAUSE_S = 30.0
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
Progress = Callable[[int, int | None], None]
"""Bytes so far, and in all where that is known."""


class WrongSum(Refused):
    """What came is not what was announced; names both sums."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a server says of a file."""

    url: str
    etag: str = ""
    modified: str = ""
    total: int | None = None
    is_page: bool = False

    @property
    def vouch(self) -> str:
        """For If-Range: a strong entity tag, else the date; empty where there is neither."""
        return self.etag if self.etag.startswith('"') else self.modified


@dataclass(frozen=True, slots=True)
class Whole:
    """A part that is complete."""

    told: Told
    size: int
    sums: dict[str, str]


class Part:
    """A file on its way: `data` and, beside it, what the server said."""

    def __init__(self, folder: Path):
        self.folder, self.data = folder, folder / "data"
        self._meta = folder / "data.json"

    @property
    def size(self) -> int:
        """Bytes that are here."""
        with contextlib.suppress(OSError):
            return self.data.stat().st_size
        return 0

    def known(self) -> tuple[Told | None, dict[str, str]]:
        """What was said when the part began, and its sums if it is complete."""
        try:
            said = json.loads(self._meta.read_bytes())
            return Told(**said["told"]), dict(said["sums"])
        except (OSError, ValueError, TypeError, KeyError):
            return None, {}

    def note(self, told: Told, sums: dict[str, str]) -> None:
        """Remember both."""
        part = self._meta.with_suffix(".part")
        part.write_text(json.dumps({"told": asdict(told), "sums": sums}), encoding="utf-8")
        part.replace(self._meta)

    def drop(self) -> None:
        """Forget the part."""
        self.data.unlink(missing_ok=True)
        self._meta.unlink(missing_ok=True)


def probe(client: Client, url: str) -> Told:
    """What the server says of a file; asks for its first byte only.

    Raises:
        Refused: it has none.
    """
    with client.answered(url, {"Range": "bytes=0-0"}, _PROBE_S) as answer:
        if answer.status not in (200, 206, 416):
            raise answer.fault()
        return _told(url, answer)


def sums_of(path: Path, names: Sequence[str] = ("sha256",)) -> dict[str, str]:
    """Sums of a file by their names."""
    hashes = {name: hashlib.new(name) for name in names}
    _feed(path, hashes)
    return {name: found.hexdigest() for name, found in hashes.items()}


@dataclass
class Transfer:
    """Fetches one file; `wanted` are the sums it must have, by their names."""

    client: Client
    part: Part
    progress: Progress
    wanted: dict[str, str]
    page_ok: bool = False
    retries: int = 5
    backoff_s: float = 1.0

    def get(self, urls: Sequence[str]) -> Whole:
        """The complete part, from the first address that gives it.

        Raises:
            Refused: none does; the reason of each.
            OSError: it cannot be written.
        """
        told, sums = self.part.known()
        if told is not None and sums and self._is_wanted(sums):
            return Whole(told, self.part.size, sums)
        self.part.folder.mkdir(parents=True, exist_ok=True)
        reasons = []
        for url in urls:
            try:
                return self._patiently(url)
            except Refused as error:
                reasons.append(f"{url}: {error}" if len(urls) > 1 else str(error))
        raise Refused("; ".join(reasons))

    def _is_wanted(self, sums: dict[str, str]) -> bool:
        return all(sums.get(name) == value for name, value in self.wanted.items())

    def _patiently(self, url: str) -> Whole:
        """One address, again and again while it gets on or may recover."""
        tries = 0
        while True:
            before = self.part.size
            try:
                return self._once(url)
            except Refused as error:
                if error.is_final:
                    raise
                tries = 1 if self.part.size >= before + _GROWN else tries + 1
                if tries > self.retries:
                    raise
                pause = self.backoff_s * 2.0 ** (tries - 1) * random.uniform(0.5, 1.0)
                time.sleep(max(error.wait_s, min(pause, _LONGEST_PAUSE_S)))

    def _once(self, url: str) -> Whole:
        """One request, for the rest or for all."""
        hashes = {name: hashlib.new(name) for name in {"sha256", *self.wanted}}
        before, _ = self.part.known()
        start = self._resumable(url, before)
        headers = {}
        if start and before is not None:
            headers = {"Range": f"bytes={start}-"}
            if before.url == url and before.vouch:
                headers["If-Range"] = before.vouch
            _feed(self.part.data, hashes, lambda done: self.progress(done, before.total))
        with self.client.answered(url, headers, float("inf")) as answer:
            told = _told(url, answer)
            if answer.status == 416 and start and told.total == start:
                return self._finish(before or told, hashes)
            if answer.status not in (200, 206):
                if answer.status == 416:
                    self.part.drop()
                    raise Refused("the file has become shorter", is_final=False)
                raise answer.fault()
            if told.is_page and not self.page_ok:
                raise Refused("a web page comes instead of the file")
            if not (start and self._continues(answer, start, before, told)):
                start, hashes = 0, {name: hashlib.new(name) for name in hashes}
                if answer.status == 206 and headers:
                    self.part.drop()
                    raise Refused("the file has changed", is_final=False)
            self._receive(answer, start, told, hashes)
        return self._finish(told, hashes)

    def _resumable(self, url: str, before: Told | None) -> int:
        """How many bytes of the part may be kept; 0 to begin anew."""
        size = self.part.size
        if before is None or (before.total is not None and size > before.total):
            return 0
        vouched = before.url == url and bool(before.vouch)
        return size if vouched or self.wanted else 0

    def _continues(self, answer: Answer, start: int, before: Told | None, told: Told) -> bool:
        """Whether the answer is the rest of what is here."""
        if answer.status != 206 or before is None:
            return False
        match = _RANGE.match(answer.headers.get("Content-Range") or "")
        if match is None or match[1] != str(start) or told.total != before.total:
            return False
        is_same_place = before.url == told.url
        return not (is_same_place and before.etag and told.etag and before.etag != told.etag)

    def _receive(self, answer: Answer, start: int, told: Told, hashes: dict[str, Any]) -> None:
        with self.part.data.open("r+b" if start else "wb", buffering=0) as file:
            if start:
                file.seek(start)
            else:
                self.part.note(told, {})
            pace = _Pace()
            done = start
            self.progress(done, told.total)
            while piece := answer.read():
                _write(file, piece)
                for found in hashes.values():
                    found.update(piece)
                done += len(piece)
                self.progress(done, told.total)
                pace.add(len(piece))
        if told.total is not None and done != told.total:
            raise Refused(f"{done} bytes came of {told.total}", is_final=False)

    def _finish(self, told: Told, hashes: dict[str, Any]) -> Whole:
        sums = {name: found.hexdigest() for name, found in hashes.items()}
        for name, wanted in self.wanted.items():
            if sums[name] != wanted:
                self.part.drop()
                raise WrongSum(f"{name} is {sums[name]}, it has to be {wanted}")
        self.part.note(told, sums)
        return Whole(told, self.part.size, sums)


class _Pace:
    """Ends a line that gives next to nothing for a whole window."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def add(self, count: int) -> None:
        self._bytes += count
        passed = time.monotonic() - self._since
        if passed > _WINDOW_S:
            if self._bytes < passed * _SLOWEST:
                raise Refused("the line has all but stopped", is_final=False)
            self._since, self._bytes = time.monotonic(), 0


def _told(url: str, answer: Answer) -> Told:
    headers = answer.headers
    total: int | None = None
    if answer.status == 200:
        length = headers.get("Content-Length") or ""
        total = int(length) if length.isdigit() else None
    elif match := _RANGE.match(headers.get("Content-Range") or ""):
        total = int(match[2]) if match[2].isdigit() else None
    is_page = (headers.get("Content-Type") or "").lower().startswith("text/html")
    etag, modified = headers.get("ETag") or "", headers.get("Last-Modified") or ""
    return Told(url, etag.strip(), modified.strip(), total, is_page)


def _write(file: BinaryIO, data: bytes) -> None:
    """All of it: a raw file on a full disk takes a part without complaint."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _feed(
    path: Path, hashes: dict[str, Any], progress: Callable[[int], None] | None = None
) -> None:
    with path.open("rb") as file:
        while piece := file.read(_READ):
            for found in hashes.values():
                found.update(piece)
            if progress is not None:
                progress(file.tell())
