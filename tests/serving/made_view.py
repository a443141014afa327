"""Datasets for the viewer's tests, and a desk that has read them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from tests.serving.patience import PATIENCE_S
from vlforge.serving.viewer.server import Desk, build_app
from vlforge.serving.viewer.sources import Source, open_sources


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON lines; a string is written as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_picture(path: Path, size: tuple[int, int] = (64, 48), colour: str = "teal") -> str:
    """A picture; its name."""
    Image.new("RGB", size, colour).save(path)
    return path.name


def caption(number: int, text: str, *pictures: str, **extra: Any) -> dict[str, Any]:
    """A dj row."""
    tokens = "<__dj__image> " * len(pictures)
    text = f"{tokens}{text} <|__dj__eoc|>"
    return {"id": f"row-{number}", "text": text, "images": list(pictures), **extra}


def write_work(folder: Path) -> Path:
    """A folder as `vlforge process` leaves it: two rows kept, two dropped, one of those broken."""
    folder.mkdir()
    rows = [caption(0, "a long caption"), caption(2, "another long caption")]
    write_rows(folder / "data.jsonl", rows)
    lengths = [{"uid": "f-0", "id": "row-0", "stats": {"text_len": 14, "image_width": [10, 900]}}]
    lengths += [{"uid": "f-2", "id": "row-2", "stats": {"text_len": 20, "image_width": [30]}}]
    write_rows(folder / "stats.jsonl", lengths)
    short = {"uid": "f-1", "id": "row-1", "line": 2, "op": "text_length_filter"}
    short |= {"reason": "text_len too low", "stat": "text_len", "value": 5, "bound": ">= 10"}
    broken = {"uid": "f-3", "id": None, "line": 4, "op": "read", "reason": "broken line"}
    broken |= {"stat": None, "value": "not JSON: {", "bound": None, "row": {}}
    write_rows(folder / "dropped.jsonl", [short | {"row": caption(1, "short")}, broken])
    changed = {"uid": "f-0", "id": "row-0", "op": "fix_unicode_mapper"}
    changed |= {"before": "a lnog caption", "after": "a long caption"}
    write_rows(folder / "changed.jsonl", [changed])
    return folder


@contextmanager
def reading(
    sources: Sequence[Source], others: Sequence[Source] = (), *, is_open: bool = False
) -> Iterator[TestClient]:
    """A client of the viewer, once all rows are found and joined."""
    desk = Desk(sources, others)
    desk.start()
    with TestClient(build_app(desk, is_open=is_open), base_url="http://127.0.0.1:8000") as client:
        wait_until_read(client)
        yield client
    desk.close()


@contextmanager
def viewing(path: Path, other: Path | None = None) -> Iterator[TestClient]:
    """A client of the viewer of one dataset, or of two."""
    with reading(open_sources(path), open_sources(other) if other else ()) as client:
        yield client


def wait_until_read(client: TestClient) -> None:
    """Return once everything is indexed."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        about = client.get("/api/about").json()
        is_joined = about["joined"] is None or about["joined"]["is_ready"]
        if is_joined and all(one["is_complete"] for one in about["sets"]):
            return
        time.sleep(0.01)
    raise TimeoutError("the viewer never finished reading")


def rows_of(client: TestClient, name: str = "data", **ask: Any) -> list[dict[str, Any]]:
    """All rows of a source that fit `ask`; without one, all rows."""
    if not ask:
        return client.get(f"/api/sets/{name}/rows?count=200").json()["rows"]
    scan = client.post(f"/api/sets/{name}/scans", json=ask).json()["scan"]
    end = time.monotonic() + PATIENCE_S
    while not client.get(f"/api/scans/{scan}?wait_s=1").json()["is_done"]:
        assert time.monotonic() < end
    return client.get(f"/api/sets/{name}/rows?count=200&scan={scan}").json()["rows"]


def numbers(rows: Iterable[dict[str, Any]]) -> list[int]:
    """Which rows these are."""
    return [row["number"] for row in rows]


def text_of(row: dict[str, Any]) -> str:
    """What a row says, its pictures as [k]."""
    return "|".join(
        "".join(part.get("text", f"[{part.get('picture')}]") for part in turn["parts"])
        for turn in row["said"]
    )
