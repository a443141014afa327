"""Rows by their place: small on disk, nothing of them in memory; other formats are spooled."""

from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from tests.serving.made_view import (
    caption,
    numbers,
    reading,
    rows_of,
    text_of,
    viewing,
    write_rows,
)
from tests.serving.patience import PATIENCE_S
from vlforge.data.records import Fault, Holds, Picture, Record
from vlforge.serving.viewer.index import RowIndex
from vlforge.serving.viewer.search import Ask, Scan, Wanted
from vlforge.serving.viewer.server import Desk
from vlforge.serving.viewer.sources import Source, open_sources
from vlforge.types import Turn

ROWS = 100_000


def built(path: Path) -> RowIndex:
    """The index of a whole file."""
    index = RowIndex(path)
    index.build()
    return index


def test_a_hundred_thousand_rows_cost_sixteen_bytes_each_and_no_memory(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        file.writelines(
            json.dumps(caption(n, f"{'cat' if n % 1000 == 7 else 'dog'} {'x' * 200}")) + "\n"
            for n in range(ROWS)
        )
    (source,) = open_sources(path)
    tracemalloc.start()
    source.build()
    scan = Scan(source, Wanted(Ask(text="cat", field="text")))
    scan.run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(source) == ROWS
    assert source.index.places.byte_count == 16 * ROWS
    assert peak < path.stat().st_size / 4
    assert scan.take(0, 1000) == list(range(7, ROWS, 1000))
    assert scan.looked_at == ROWS
    assert text_of_record(source, 99_999).startswith("dog")
    source.close()


def text_of_record(source: Source, number: int) -> str:
    """The first chunk of a row."""
    record = source.items(number, 1)[0].record
    assert record is not None
    return record.chunks[0]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b'{"a":1}\n{"a":2}\n', [1, 2]),
        (b'{"a":1}\n\n  \n{"a":2}', [1, 4]),
        (b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n', [1, 2]),
        (b"", []),
        (b'[{"a":1}, {"a":2}]', [1, 2]),
        (b'[\n  {"a":\n 1},\n\n  {"a":2}\n]\n', [1, 2]),
        (b'\xef\xbb\xbf [{"a":1},{"a":1}]', [1, 2]),
        (b"[]", []),
    ],
)
def test_every_row_is_found_where_it_stands(tmp_path, text, lines):
    path = tmp_path / "d.json"
    path.write_bytes(text)
    index = built(path)
    found = index.take(0, 100)
    assert [place.line for place, _ in found] == lines
    assert [text[place.offset : place.offset + place.size] for place, _ in found] == [
        data for _, data in found
    ]
    assert all(b'"a"' in data for _, data in found)
    assert index.fault == ""


def test_a_cut_array_keeps_its_good_rows_and_says_so(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([caption(n, "good") for n in range(9)])[:-40])
    with viewing(path) as client:
        assert len(rows_of(client)) == 8
        assert "breaks off" in client.get("/api/about").json()["sets"][0]["fault"]


def test_a_packed_file_is_spooled_and_searched(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    lines = [json.dumps(caption(n, f"number {n}")) for n in range(600)]
    path.write_bytes(gzip.compress("\n".join(["{broken", *lines]).encode()))
    sources = open_sources(path)
    folder = sources[0].spool.folder
    with reading(sources) as client:
        assert client.get("/api/about").json()["sets"][0]["rows"] == 601
        assert rows_of(client)[0]["fault"]["reason"] == "not JSON"
        assert numbers(rows_of(client, text="number 599")) == [600]
        assert folder.is_dir()
    assert not folder.exists()


@dataclass(frozen=True)
class Carrying:
    """Two records that carry their pictures, and a fault between them."""

    name: ClassVar[str] = "carrying"
    holds: ClassVar[Holds] = Holds(conversation=True, embedded=True)

    def read(self, path):
        """The records."""
        for number, colour in ((1, "red"), (3, "blue")):
            content = io.BytesIO()
            Image.new("RGB", (40, 20), colour).save(content, "PNG")
            picture = Picture(f"{colour}.png", "", content.getvalue())
            turns = (Turn("user", "<image>\nWhich colour?"), Turn("assistant", colour))
            yield Record(colour, (picture,), turns, extra={"score": number}, line=number)
            if number == 1:
                yield Fault(2, "picture is broken", "base64")


def test_pictures_that_travel_with_records_are_shown(tmp_path):
    path = tmp_path / "d.tar"
    path.write_bytes(b"")
    with reading([Source("data", "d", path, format_=Carrying())]) as client:
        _, broken, blue = rows_of(client)
        assert text_of(blue) == "[0]\nWhich colour?|blue"
        assert broken["fault"] == {"reason": "picture is broken", "value": "base64"}
        answer = client.get("/picture/data/2/0")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (40, 20)
            low, _, high = image.convert("RGB").getpixel((5, 5))
        assert low < 30 < 220 < high
        assert numbers(rows_of(client, stat="score", low=2)) == [2]
        assert client.get("/picture/data/1/0").status_code == 404


class Late(Source):
    """All its rows are found a moment after somebody counted them, or asked for some."""

    def __len__(self) -> int:
        return self._before_all_is_found(super().__len__())

    def items(self, start, count):
        """Those that were there when it was asked."""
        return self._before_all_is_found(super().items(start, count))

    def _before_all_is_found(self, found):
        if not self.index.is_complete:
            self.build()
        return found


@pytest.mark.parametrize(
    "ask",
    [
        lambda desk: desk.about()["sets"][0],
        lambda desk: desk.rows("data")[1],
        lambda desk: desk.survey("data")[1],
    ],
)
def test_who_is_told_that_all_rows_are_found_is_told_of_all(tmp_path, ask):
    path = write_rows(tmp_path / "d.jsonl", (caption(n, "x") for n in range(9)))
    desk = Desk([Late("data", "d", path)])
    assert not ask(desk)["is_complete"]
    told = ask(desk)
    assert (told["is_complete"], told.get("total", told["rows"])) == (True, 9)
    desk.close()


@pytest.mark.parametrize(
    "ask",
    [
        lambda desk: desk.progress(1)[1]["is_done"],
        lambda desk: desk.rows("data", scan=1)[1]["is_complete"],
    ],
)
def test_who_is_told_that_a_search_is_done_is_told_of_all_it_found(tmp_path, ask):
    path = write_rows(tmp_path / "d.jsonl", (caption(n, "x") for n in range(9)))
    (source,) = open_sources(path)
    source.build()

    class Ending(Scan):
        """It ends a moment after somebody counted what it found."""

        def __len__(self):
            found = super().__len__()
            if not self.is_done:
                self.run()
            return found

    desk = Desk([source])
    desk._scans[1] = Ending(source, Wanted(Ask(text="x")))
    assert not ask(desk)
    assert ask(desk)
    assert desk.progress(1)[1]["found"] == 9
    desk.close()


def test_a_search_stops_when_it_is_told_to(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", (caption(n, "x") for n in range(5000)))
    (source,) = open_sources(path)
    source.build()

    class Stopping(Wanted):
        def __call__(self, item):
            scan.cancel()
            return True

    scan = Scan(source, Stopping(Ask()))
    scan.run()
    assert scan.is_done
    assert 0 < scan.looked_at < 5000
    assert len(scan) == scan.looked_at
    source.close()


def test_a_search_waits_for_rows_that_are_still_being_found(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", (caption(n, "x") for n in range(3000)))
    (source,) = open_sources(path)
    scan = Scan(source, Wanted(Ask(text="row", field="id")))
    scan.start()
    source.build()
    end = time.monotonic() + PATIENCE_S
    while not scan.is_done and time.monotonic() < end:
        time.sleep(0.01)
    assert len(scan) == scan.looked_at == 3000
    source.close()
