"""Fetches what a survey found to be open: one item after the other, each whole or not at all.

What has come of an item waits below `.fetch` and is gone on with by the next run. An item
that fails costs itself only; a full disk ends the run, since the next item would meet it too.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlforge.data.download.addresses import Refused
from vlforge.data.download.client import Client
from vlforge.data.download.config import DownloadConfig
from vlforge.data.fetch.hubs import HubFile, Listing, fetch_file, halves, list_files
from vlforge.data.fetch.manifest import Item, Manifest
from vlforge.data.fetch.receipt import STATE, Held, Receipts
from vlforge.data.fetch.survey import Finding, key_of, part_folder
from vlforge.data.fetch.transfer import Part, Transfer, sums_of
from vlforge.data.fetch.unpack import (
    Bloated,
    Damaged,
    Short,
    Unpacked,
    root_of,
    settle,
    unpack,
)
from vlforge.data.folder_lock import alone
from vlforge.types import DataError, RecipeError, VLForgeError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NAMED = 50
_RESERVE = 256 << 20
_RETRIES = 5


class Show(Protocol):
    """Sees what happens."""

    def begin(self, item: str, what: str) -> None:
        """A part of the work on an item begins."""
        ...

    def at(self, done: int, total: int | None) -> None:
        """It has come to so many bytes."""
        ...

    def end(self, words: str) -> None:
        """The item is done; or what became of it."""
        ...


@dataclass
class Fetched:
    """What a run came to: items that are whole now, those that failed, and things to know."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0


def web_client(*, allow_private: bool = False, patience_s: float = 30.0) -> Client:
    """The client for all requests: a limit for every wait, none for the whole."""
    return Client(
        DownloadConfig(
            allow_private=allow_private, timeout=patience_s, thread_count=16, max_redirects=10
        )
    )


def check_room(findings: Sequence[Finding], folder: Path) -> tuple[int, int]:
    """Bytes that are needed, at least, and that are free.

    Archives are unpacked one at a time and then removed: all that stays and the largest
    archive have to fit.

    Raises:
        Short: they do not fit; says how much is missing.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    stays = sum(_stays(one) for one in findings)
    passing = max((one.left or 0 for one in findings if one.unpacked), default=0)
    needed = stays + passing
    if needed and needed + _RESERVE > free:
        raise Short(folder, needed, free, _RESERVE)
    return needed, free


def _stays(one: Finding) -> int:
    return one.unpacked if one.unpacked else one.left or 0


def fetch(
    manifest: Manifest,
    findings: Sequence[Finding],
    folder: Path,
    client: Client,
    show: Show,
    *,
    retries: int = _RETRIES,
    backoff_s: float = 1.0,
) -> Fetched:
    """Bring every open item of a survey into `folder`.

    Raises:
        Short: the disk is full; what came is kept.
        DataError: the folder cannot be written, or another run writes there.
    """
    try:
        (folder / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}") from None
    with alone(folder / STATE, "lock", "another fetch"):
        return _Run(manifest, folder, client, show, retries, backoff_s).all(findings)


class _Run:
    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        client: Client,
        show: Show,
        retries: int,
        backoff_s: float,
    ):
        self.manifest, self.folder, self.client, self.show = manifest, folder, client, show
        self.retries, self.backoff_s = retries, backoff_s
        self.receipts = Receipts(folder)
        self.out = Fetched()

    def all(self, findings: Sequence[Finding]) -> Fetched:
        """Every open item in turn; links last, as they lead to the others."""
        for one in sorted(findings, key=lambda found: found.item.kind == "link"):
            if not one.is_open:
                continue
            try:
                self._bring(one)
            except (Refused, VLForgeError) as error:
                if isinstance(error, Short):
                    raise
                self.out.failed[one.item.name] = str(error)
                self.show.end(f"{one.item.name}: {error}")
            except OSError as error:
                if error.errno in _FULL:
                    raise self._full(one) from None
                raise
            else:
                self.out.done.append(one.item.name)
        return self.out

    def _full(self, one: Finding) -> Short:
        part = part_folder(self.folder, self.manifest, one.item)
        left = max((one.size or 0) - Part(part).size, 1)
        return Short(self.folder, left, shutil.disk_usage(self.folder).free, _RESERVE)

    def _bring(self, one: Finding) -> None:
        item = one.item
        part = part_folder(self.folder, self.manifest, item)
        if item.kind == "link":
            self._link(item)
        elif one.state == "adopt":
            self._adopt(one)
        else:
            part.mkdir(parents=True, exist_ok=True)
            kinds = {"file": self._file, "archive": self._archive, "repo": self._repo}
            kinds[item.kind](one, part)
            shutil.rmtree(part, ignore_errors=True)
            for folder in (part.parent, part.parent.parent):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        self.show.end(f"{item.name}: {self.folder / item.to}")

    # Single files

    def _file(self, one: Finding, part: Path) -> None:
        item = one.item
        path, receipt = self._one_file(one, part)
        place = self.folder / item.to
        if place.exists() and self.receipts.of(key_of(self.manifest, item)) is None:
            raise DataError(f"{place} is there already: move it away")
        _move(path, place)
        self.out.bytes += place.stat().st_size
        held = Held(item.to, place.stat().st_size, receipt["sha256"])
        self._record(item, receipt, [held])

    def _one_file(self, one: Finding, part: Path) -> tuple[Path, dict[str, Any]]:
        """A complete file, checked, from the first source that gives it; and its receipt."""
        item, reasons = one.item, []
        urls = [source.place for source in item.sources if source.hub == "http"]
        for source in item.sources:
            try:
                if source.hub != "http":
                    listing = list_files(item, source, self.client)
                    return self._from_hub(item, listing, part / "hub")
                if source.place == urls[0]:
                    return self._from_web(item, part, urls)
            except (Refused, RecipeError) as error:
                reasons.append(str(error))
        raise Refused("; ".join(reasons))

    def _from_web(self, item: Item, part: Path, urls: Sequence[str]) -> tuple[Path, dict[str, Any]]:
        self.show.begin(item.name, "fetch")
        transfer = Transfer(
            self.client,
            Part(part),
            self.show.at,
            _sums(item),
            page_ok=item.to.endswith((".html", ".htm")),
            retries=self.retries,
            backoff_s=self.backoff_s,
        )
        whole = transfer.get(urls)
        told = whole.told
        receipt = {"source": told.url, "etag": told.etag, "last_modified": told.modified}
        return transfer.part.data, receipt | {"sha256": whole.sums["sha256"]}

    def _from_hub(self, item: Item, listing: Listing, into: Path) -> tuple[Path, dict[str, Any]]:
        file = listing.files[0]
        with self._watched(item, listing, into):
            sha256 = fetch_file(listing, file, into, self.client)
        path = into / file.path
        for name, wanted in _sums(item).items():
            found = sha256 if name == "sha256" else sums_of(path, (name,))[name]
            if found != wanted:
                path.unlink()
                raise Refused(f"{name} is {found}, it has to be {wanted}")
        source = {"source": listing.source.text, "revision": listing.revision}
        return path, source | {"sha256": sha256}

    # Archives

    def _archive(self, one: Finding, part: Path) -> None:
        item = one.item
        if any(source.hub != "http" and not source.file for source in item.sources):
            packed, receipt = self._many_archives(one, part)
        else:
            path, receipt = self._one_file(one, part)
            packed = [path]
        place = self.folder / item.to
        hidden = self._hidden(item, place)
        self.out.bytes += sum(path.stat().st_size for path in packed)
        try:
            unpacked = self._unpack(item, packed, hidden)
            held = _held(root_of(hidden, place), item.to)
            settle(hidden, place)
        except (Damaged, Bloated) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise DataError(f"{error}; it was thrown away") from None
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        self._say_of(item, unpacked, place)
        left_out = {"left_out": [list(pair) for pair in unpacked.left_out[:_NAMED]]}
        self._record(item, receipt | (left_out if unpacked.left_out else {}), held)

    def _unpack(self, item: Item, packed: Sequence[Path], hidden: Path) -> Unpacked:
        every = Unpacked()
        for path in packed:
            self.show.begin(item.name, "unpack")
            found = unpack(path, hidden, self.show.at, flat=item.flat)
            every.files += found.files
            every.left_out += found.left_out
        return every

    def _many_archives(self, one: Finding, part: Path) -> tuple[list[Path], dict[str, Any]]:
        listing = self._listing(one)
        with self._watched(one.item, listing, part / "hub"):
            sums = {
                file.path: self._patiently(listing, file, part / "hub") for file in listing.files
            }
        receipt = {"source": listing.source.text, "revision": listing.revision, "sha256": sums}
        return [part / "hub" / file.path for file in listing.files], receipt

    def _hidden(self, item: Item, place: Path) -> Path:
        """A new folder on the disk of `place`, for what is unpacked."""
        home = place if place.is_dir() else place.parent
        home.mkdir(parents=True, exist_ok=True)
        hidden = home / f".{item.name}.unpacking"
        if hidden.exists():
            shutil.rmtree(hidden)
        hidden.mkdir()
        return hidden

    def _say_of(self, item: Item, unpacked: Unpacked, place: Path) -> None:
        if unpacked.left_out:
            name, why = unpacked.left_out[0]
            self._note(
                item, f"{len(unpacked.left_out)} members left out, e.g. {name[:60]!r}: {why}"
            )
        if runnable := unpacked.runnable:
            self._note(
                item,
                f"{len(runnable)} files such as {runnable[0]} can run code when they are loaded "
                "(pickle); nothing was loaded: do so only if you trust their source",
            )
        for name in item.expect:
            if not (place / name).exists():
                self._note(item, f"{place / name} was expected, but is not in the archive")

    # Repositories

    def _repo(self, one: Finding, part: Path) -> None:
        item, place = one.item, self.folder / one.item.to
        place.mkdir(parents=True, exist_ok=True)
        reasons: list[str] = []
        for listing in self._listings(one, reasons):
            try:
                held = self._files_of(item, listing, place)
            except Refused as error:
                reasons.append(f"{listing.source.short}: {error}")
                continue
            shutil.rmtree(place / ".cache" / "huggingface", ignore_errors=True)
            _remove_empty(place / ".cache")
            _remove_empty(place / "._____temp")
            receipt = {"source": listing.source.text, "revision": listing.revision}
            self._record(item, receipt, held)
            return
        raise Refused("; ".join(reasons))

    def _files_of(self, item: Item, listing: Listing, place: Path) -> list[Held]:
        held = []
        with self._watched(item, listing, place):
            for file in listing.files:
                path, sha256 = place / file.path, ""
                if not (path.is_file() and path.stat().st_size == file.size):
                    sha256 = self._patiently(listing, file, place)
                    self.out.bytes += file.size
                held.append(Held(f"{item.to}/{file.path}", file.size, sha256))
        return held

    def _patiently(self, listing: Listing, file: HubFile, into: Path) -> str:
        """One file of a repository; a passing fault gets further tries."""
        path = into / file.path
        if path.is_file() and path.stat().st_size == file.size:
            return sums_of(path)["sha256"]
        for tries in range(self.retries + 1):
            try:
                return fetch_file(listing, file, into, self.client)
            except Refused as error:
                if error.is_final or tries == self.retries:
                    raise
                threading.Event().wait(min(self.backoff_s * 2.0**tries, 30.0))
        raise AssertionError("a loop that returns or raises")

    def _listing(self, one: Finding) -> Listing:
        reasons: list[str] = []
        for listing in self._listings(one, reasons):
            return listing
        raise Refused("; ".join(reasons))

    def _listings(self, one: Finding, reasons: list[str]) -> Iterator[Listing]:
        """The repositories that can be read, in the order of the sources."""
        for source in one.item.sources:
            if one.listing is not None and one.listing.source == source:
                yield one.listing
                continue
            try:
                yield list_files(one.item, source, self.client)
            except (Refused, RecipeError) as error:
                reasons.append(f"{source.short}: {error}")

    @contextlib.contextmanager
    def _watched(self, item: Item, listing: Listing, into: Path) -> Iterator[None]:
        """Shows how much of a listing's files is there while a library brings them."""
        self.show.begin(item.name, "fetch")
        over = threading.Event()
        paths = [into / file.path for file in listing.files]

        def look() -> None:
            while not over.wait(0.5):
                self.show.at(min(_size_of(paths, into), listing.size), listing.size)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.show.at(listing.size, listing.size)

    # What is there already

    def _adopt(self, one: Finding) -> None:
        """Record what somebody else brought; a single file's sum is computed."""
        item, place = one.item, self.folder / one.item.to
        self.show.begin(item.name, "record")
        if one.listing is not None and item.kind == "repo":
            held = [Held(f"{item.to}/{f.path}", f.size) for f in one.listing.files]
        elif place.is_file():
            held = [Held(item.to, place.stat().st_size, sums_of(place)["sha256"])]
        else:
            held = _held(place, item.to)
        self._record(item, {"source": "was there already"}, held)
        self._note(item, "was there already and is taken as it is")

    def _link(self, item: Item) -> None:
        place, target = self.folder / item.to, self.folder / item.target
        if not target.exists():
            raise DataError(f"{item.target}, which it leads to, is not there: fetch that first")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(target, place.parent))

    def _record(self, item: Item, receipt: dict[str, Any], held: list[Held]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"kind": item.kind, "to": item.to, **receipt, "when": now}
        if item.kind == "file" and held:
            entry["sha256"] = held[0].sha256
        checked = list(_sums(item))
        entry |= {"checked": checked} if checked else {}
        self.receipts.add(key_of(self.manifest, item), entry, held)

    def _note(self, item: Item, words: str) -> None:
        self.out.notes.append(f"{item.name}: {words}")


def _sums(item: Item) -> dict[str, str]:
    return {name: wanted for name in ("sha256", "md5") if (wanted := getattr(item, name))}


def _held(root: Path, to: str) -> list[Held]:
    """All files below `root`, as they will lie below `to`."""
    files = (path for path in root.rglob("*") if path.is_file())
    return [Held(f"{to}/{p.relative_to(root).as_posix()}", p.stat().st_size) for p in files]


def _size_of(paths: Sequence[Path], into: Path) -> int:
    done = sum(path.stat().st_size for path in paths if path.is_file())
    return done + sum(size for _, size in halves(into, paths))


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)


def _move(path: Path, place: Path) -> None:
    """Put a complete file into its place at once, also on another disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = place.with_name(f".{place.name}.part")
        shutil.copyfile(path, beside)
        beside.replace(place)
        path.unlink()
