"""The viewer's server: a page, its rows as JSON, and the pictures that rows name."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlforge.serving.viewer.compare import Ids, Join
from vlforge.serving.viewer.guard import Guard
from vlforge.serving.viewer.pictures import SIDES, Shown
from vlforge.serving.viewer.rows import told, told_pair
from vlforge.serving.viewer.search import Ask, Scan, Wanted, survey
from vlforge.serving.viewer.sources import Source
from vlforge.types import DataError

PAGES = Path(__file__).parent.parent / "pages" / "viewer"
FILES = {
    "viewer.css": "text/css; charset=utf-8",
    "viewer.js": "text/javascript; charset=utf-8",
}
MAX_PAGE = 200
_MAX_SCANS = 6
_MAX_COUNT = 1 << 50
Found = tuple[int, Any]
"""Status and body of an answer."""


class Desk:
    """All that is shown, and what the page may ask of it.

    Args:
        sources: the dataset; of a folder of `vlforge process` its kept, dropped, changed rows.
        others: the dataset to compare with, if any; the first of each are joined.
        opens: name of the source that is shown first.
    """

    def __init__(self, sources: Sequence[Source], others: Sequence[Source] = (), opens: str = ""):
        self.key = secrets.token_hex(8)
        """Of this session: pictures of another one are not to be taken from a browser's cache."""
        self.sources = {source.name: source for source in sources}
        self.opens = opens or sources[0].name
        self.pictures = Shown()
        self._joins: dict[str, tuple[Join, bool]] = {}
        self._ids: list[Ids] = []
        self._scans: OrderedDict[int, Scan] = OrderedDict()
        self._numbers = itertools.count(1)
        self._surveys: dict[str, Any] = {}
        self._lock = threading.Lock()
        if others:
            self._add_other(sources[0], others[0])

    def _add_other(self, mine: Source, other: Source) -> None:
        other.name = "other"
        self.sources[other.name] = other
        left, right = Ids(mine), Ids(other)
        self._ids = [left, right]
        self._joins = {
            mine.name: (Join(left, right), False),
            other.name: (Join(right, left), True),
        }

    def start(self) -> None:
        """Begin to find rows, and what joins them."""
        for part in (*self.sources.values(), *self._ids):
            part.start()

    def about(self) -> dict[str, Any]:
        """What there is, and how far it is read."""
        sets = [self._about(source) for source in self.sources.values()]
        joined: dict[str, Any] | None = None
        if self._joins:
            join = next(iter(self._joins.values()))[0]
            is_ready = join.is_ready  # asked first: a fault that ends the joining is then known
            faults = [ids.fault for ids in self._ids if ids.fault]
            joined = {
                "is_ready": is_ready,
                "is_by_id": join.is_by_id,
                "fault": faults[0] if faults else "",
            }
        return {"key": self.key, "opens": self.opens, "sets": sets, "joined": joined}

    def _about(self, source: Source) -> dict[str, Any]:
        index = source.index
        is_complete = source.is_complete  # asked first: then all rows are counted
        total = index.total_bytes if source.spool is None else 0
        return {
            "name": source.name,
            "kind": source.kind,
            "title": source.title,
            "path": str(source.path),
            "format": source.format_name,
            "rows": len(source),
            "is_complete": is_complete,
            "share": index.read_bytes / total if total else None,
            "fault": index.fault,
            "is_joined": source.name in self._joins,
        }

    def survey(self, name: str) -> Found:
        """What the rows of a source can be filtered by."""
        source = self.sources.get(name)
        if source is None:
            return _no("dataset")
        kept = self._surveys.get(name)
        if kept is None:
            kept = survey(source)
        if kept["is_complete"]:
            self._surveys[name] = kept
        return 200, kept

    def rows(self, name: str, start: int = 0, count: int = 20, scan: int = 0) -> Found:
        """Some rows of a source, or of those that a scan found."""
        source = self.sources.get(name)
        if source is None:
            return _no("dataset")
        start, count = min(max(0, start), _MAX_COUNT), min(max(1, count), MAX_PAGE)
        # Whether that is all is asked first: rows that come meanwhile are not in the answer.
        if not scan:
            is_complete, total = source.is_complete, len(source)
            items = source.items(start, count)
        else:
            looking = self._scans.get(scan)
            if looking is None or looking.source is not source:
                return _no("search")
            is_complete, total = looking.is_done, len(looking)
            numbers = looking.take(start, count)
            items = [item for number in numbers for item in source.items(number, 1)]
        rows = [self._told(name, item) for item in items]
        return 200, {"rows": rows, "start": start, "total": total, "is_complete": is_complete}

    def _told(self, name: str, item: Any) -> dict[str, Any]:
        if name not in self._joins:
            return told(item)
        join, is_after = self._joins[name]
        if not join.is_ready:
            return told(item) | {"other": "waiting"}
        mine, other = told_pair(item, join.partner(item), is_after=is_after)
        return {**mine, "other": other}

    def look(self, name: str, ask: Ask) -> Found:
        """Begin a scan; the oldest of several ends."""
        source = self.sources.get(name)
        if source is None:
            return _no("dataset")
        join = self._joins.get(name)
        scan = Scan(source, Wanted(ask, join[0].state if join else None))
        with self._lock:
            number = next(self._numbers)
            self._scans[number] = scan
            old = [self._scans.popitem(last=False)[1] for _ in self._surplus()]
        for other in old:
            other.cancel()
        scan.start()
        return 200, {"scan": number}

    def _surplus(self) -> range:
        return range(max(0, len(self._scans) - _MAX_SCANS))

    def progress(self, scan: int, wait_s: float = 0.0) -> Found:
        """How far a scan is; `wait_s` lets a short one end first."""
        looking = self._scans.get(scan)
        if looking is None:
            return _no("search")
        end = time.monotonic() + min(max(wait_s, 0.0), 2.0)
        while not looking.is_done and time.monotonic() < end:
            time.sleep(0.01)
        is_done = looking.is_done  # asked first: then all that was found is counted
        return 200, {
            "found": len(looking),
            "looked_at": looking.looked_at,
            "total": len(looking.source),
            "is_done": is_done,
            "is_cancelled": looking.is_cancelled,
            "fault": looking.fault,
        }

    def cancel(self, scan: int) -> Found:
        """Stop a scan; what it found can still be shown."""
        looking = self._scans.get(scan)
        if looking is None:
            return _no("search")
        looking.cancel()
        return 200, {"is_cancelled": True}

    def picture(self, name: str, row: int, which: int, side: str) -> tuple[bytes, str]:
        """(bytes, media type) of a picture that a row names.

        Raises:
            DataError: no such picture, or it cannot be shown; says why.
        """
        source = self.sources.get(name)
        if source is None or side not in SIDES or not 0 <= row < _MAX_COUNT:
            raise DataError("no such picture")
        picture = source.picture(row, which)
        if picture is None:
            raise DataError("no such picture")
        return self.pictures.get((name, row, which, side), picture)

    def close(self) -> None:
        """Stop everything, and remove what was written for the page."""
        for scan in self._scans.values():
            scan.cancel()
        for part in (*self._ids, *self.sources.values()):
            part.close()


def _no(what: str) -> Found:
    return 404, {"detail": f"no such {what}"}


def build_app(desk: Desk, *, is_open: bool = False) -> Any:
    """The server as an ASGI application; `is_open` to other machines than this."""
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, Response

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    fresh = {"Cache-Control": "no-store"}

    def answer(found: Found) -> Any:
        return JSONResponse(found[1], status_code=found[0], headers=fresh)

    def file(name: str, kind: str) -> Any:
        headers = {"Cache-Control": "no-cache"}
        return Response((PAGES / name).read_bytes(), media_type=kind, headers=headers)

    def add(path: str, call: Any, method: str = "GET") -> None:
        app.add_api_route(path, call, methods=[method], response_model=None)

    def look(name: str, ask: Ask) -> Any:
        return answer(desk.look(name, ask))

    def rows(name: str, start: int = 0, count: int = 20, scan: int = 0) -> Any:
        return answer(desk.rows(name, start, count, scan))

    def progress(scan: int, wait_s: float = 0.0) -> Any:
        return answer(desk.progress(scan, wait_s))

    def picture(name: str, row: int, which: int, side: str = "thumb") -> Any:
        try:
            data, kind = desk.picture(name, row, which, side)
        except DataError as error:
            return answer((404, {"detail": _reason(error)}))
        headers = {"Cache-Control": "private, max-age=3600, immutable"}
        return Response(data, media_type=kind, headers=headers)

    def static(name: str) -> Any:
        return file(name, FILES[name]) if name in FILES else answer(_no("file"))

    add("/", lambda: file("index.html", "text/html; charset=utf-8"))
    add("/static/{name}", static)
    add("/api/about", lambda: answer((200, desk.about())))
    add("/api/sets/{name}/survey", lambda name: answer(desk.survey(name)))
    add("/api/sets/{name}/rows", rows)
    add("/api/sets/{name}/scans", look, "POST")
    add("/api/scans/{scan}", progress)
    add("/api/scans/{scan}", lambda scan: answer(desk.cancel(_number(scan))), "DELETE")
    add("/picture/{name}/{row}/{which}", picture)
    return Guard(app, is_open=is_open)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def _reason(error: DataError) -> str:
    """Why a picture cannot be shown, without the folders of this machine."""
    return str(getattr(error, "reason", "") or error)
