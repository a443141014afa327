"""Rows that are decoded into fields: the same records as rows that are decoded as any JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlforge.data import json_arrays, json_blocks, json_layout
from vlforge.data.disk_table import DiskTable
from vlforge.data.formats import coco
from vlforge.data.formats.cc_sbu_align import CcSbuAlignFormat
from vlforge.data.formats.index import find
from vlforge.data.formats.laion_json import LaionJsonFormat
from vlforge.data.json_blocks import read_blocks
from vlforge.data.json_layout import Fields, Layout, extra_of
from vlforge.types import DataError

PICTURE = "data:image/png;base64,iVBORw0KGgo="
TEXTS = st.sampled_from(
    ("", "a bus", "<image>\nWhat?", "a|b", "<__dj__image> a <|__dj__eoc|> b <|__dj__eoc|>",
     "[[human]]: Who?\n[[gpt]]: Me. <|__dj__eoc|>", "<img>x.jpg</img> so", "iVBORw0KGgo=")
)  # fmt: skip
PATHS = st.sampled_from(
    (
        *["x.jpg"] * 6,
        "",
        None,
        ["x.jpg"],
        ["x.jpg", "y.jpg"],
        [],
        "http://a.example/x.jpg",
        [PICTURE],
        3,
    )
)
SPEAKERS = st.sampled_from((*["human", "gpt", "user"] * 4, "system", "bot", "tool", "nobody"))


def turns(speaker: str, words: str) -> Any:
    """Conversations, of which some are none."""
    plain = st.fixed_dictionaries({speaker: SPEAKERS, words: TEXTS})
    more = st.fixed_dictionaries(
        {speaker: SPEAKERS, words: TEXTS | st.none(), "weight": st.just(1)}
    )
    return st.lists(st.sampled_from((plain,) * 7 + (more,)).flatmap(lambda one: one), max_size=3)


HISTORY = st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=2) | st.none()
INFO = st.fixed_dictionaries(
    {"image_name": st.just("x.jpg"), "matched_text_index": st.integers(0, 2)},
    optional={"matched_sim": st.floats(0, 1)},
)
ROWS: dict[str, dict[str, Any]] = {
    "dj": {"text": TEXTS, "images": PATHS},
    "llava": {"conversations": turns("from", "value"), "image": PATHS, "images": PATHS},
    "sharegpt": {
        "conversations": turns("from", "value"), "system": TEXTS | st.none(), "images": PATHS,
    },
    "messages": {"messages": turns("role", "content"), "images": PATHS},
    "alpaca": {
        "instruction": TEXTS, "input": TEXTS | st.none(), "output": TEXTS | st.none(),
        "history": HISTORY, "system": TEXTS, "images": PATHS, "image": PATHS,
    },
    "query_response": {
        "query": TEXTS, "response": TEXTS, "system": TEXTS, "history": HISTORY,
        "images": PATHS,
    },
    "chatml_paddle": {
        "conversations": st.lists(st.lists(TEXTS, min_size=1, max_size=2), max_size=2),
        "image": TEXTS, "system": TEXTS,
    },
    "laion_json": {"caption": TEXTS, "url": st.sampled_from(("", "http://a.example/1", None))},
    "mmc4": {
        "text_list": st.lists(TEXTS, max_size=3), "image_info": st.lists(INFO, max_size=3),
        "similarity_matrix": st.just([[1], [2]]),
    },
}  # fmt: skip
"""Fields of each format; any of them may be missing."""
EXTRA = {"id": st.integers(0, 9) | st.just("n") | st.none(), "source": TEXTS}
ODD = {
    "extra.id": st.just("own"),
    "conversation": st.just([{"human": "a", "assistant": "b"}]),
    "instruction": TEXTS,
    'odd "key"': st.just(True),
    "": st.just(0),
}


def read(name: str, path: Path) -> list[Any]:
    return list(find(name).read(path))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_rows_are_the_same_decoded_into_fields_or_as_any_json(name, suffix, tmp_path):
    usual = st.fixed_dictionaries({}, optional=ROWS[name] | EXTRA)
    whole = st.fixed_dictionaries(ROWS[name] | EXTRA)
    odd = st.fixed_dictionaries({}, optional=ROWS[name] | EXTRA | ODD)
    row = st.one_of(usual, whole, usual, odd)
    path = tmp_path / f"rows{suffix}"
    alike = 0

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(row, min_size=1, max_size=4))
    def check(rows: list[dict[str, Any]]) -> None:
        # Each row often, so that the layout meets rows whose keys it has learned.
        for some in [[one] * 6 for one in rows] + [rows]:
            lines = [json.dumps(one) for one in some]
            text = "\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]"
            path.write_text(text, "utf-8")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(json_blocks, "_BLOCK", 64)
                patch.setattr(json_arrays, "_BLOCK", 64)
                patch.setattr(Layout, "has", counted)
                fast = read(name, path)
                patch.setattr(Layout, "has", lambda *_: False)
                patch.setattr(Layout, "array", lambda _, text: json.loads(text))
                patch.setattr(Layout, "lines", lambda _, text: _lines(text))
                assert fast == read(name, path)
            assert len(fast) == len(some)

    def counted(self: Layout, rows: list[Any]) -> bool:
        nonlocal alike
        found = has(self, rows)
        alike += found and bool(self.extra)
        return found

    has = Layout.has
    check()
    assert alike > 10


def _lines(text: bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_layout_learns_the_keys_of_a_file_and_gives_up_where_rows_are_of_other_types():
    layout = Layout(Fields({"text": str}, frozenset(("text",))))
    assert layout.has(layout.lines(b'{"text": "a"}\n'))
    assert layout.lines(b'{"text": "a", "n": 1}\n') == [{"text": "a", "n": 1}]
    (row,) = layout.lines(b'{"n": 1, "text": "a"}\n')
    assert (row.text, extra_of(row)) == ("a", {"n": 1})
    assert layout.extras(layout.lines(b'{"text": "a"}\n')) == [{}]
    for _ in range(json_layout._MISSES):
        assert layout.lines(b'{"text": 3}\n') == [{"text": 3}]
    assert layout.lines(b'{"text": "a"}\n') == [{"text": "a"}]


def test_a_row_of_any_depth_costs_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    path.write_bytes(b'{"text": "a"}\n{"text": ' + deep + b'}\n{"text": "b"}\n')
    found = [value for block in read_blocks(path) for value in block.values]
    assert [isinstance(value, DataError) for value in found] == [False, True, False]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\n \n"])
def test_lines_keep_their_numbers_however_they_end(end, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + end.join(f'{{"n": {n}}}' for n in range(30_000)).encode())
    step = 2 if end.count("\n") == 2 else 1
    found = [
        (line, value["n"])
        for block in read_blocks(path)
        for line, value in enumerate(block.values, block.line)
    ]
    assert found == [(1 + step * n, n) for n in range(30_000)]


@pytest.mark.parametrize("in_memory", [0, 500, 1 << 20])
def test_a_table_gives_what_was_put_last_whether_in_memory_or_on_disk(in_memory):
    table = DiskTable(in_memory)
    for n in range(2000):
        table.put(b"%d" % (n % 1500), b"v%d" % n)
    wanted = {b"%d" % n: b"v%d" % (n + 1500 if n < 500 else n) for n in range(1500)}
    assert table.get_all([*wanted, b"none"]) == wanted
    assert {key: table.get(key) for key in wanted} == wanted
    assert table.get(b"none") is None
    table.close()


@pytest.mark.parametrize("limit", [0, 3, 100])
@pytest.mark.parametrize("images_first", [True, False])
def test_images_beyond_those_in_memory_are_found_on_disk(limit, images_first, tmp_path):
    images = [{"id": n, "file_name": f"{n}.jpg", "width": n} for n in range(6)]
    images += [{"id": "1", "file_name": "text.jpg"}, {"id": 1.5, "file_name": "half.jpg"}]
    said = [
        {"id": n, "image_id": key, "caption": f"c{n}"}
        for n, key in enumerate((5, 0, "1", 1, 1.5, 7, 5))
    ]
    members = {"images": images, "annotations": said}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(members if images_first else dict(reversed(members.items()))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco, "IN_MEMORY", limit)
        found = read("coco", path)
    names = [one.pictures[0].path if hasattr(one, "pictures") else one.reason for one in found]
    missing = "its image is not among 'images'"
    assert names == ["5.jpg", "0.jpg", "text.jpg", "1.jpg", "half.jpg", missing, "5.jpg"]
    assert found[0].extra["picture_fields"] == [{"width": 5}]


@pytest.mark.parametrize("name", ["coco", "cc_sbu_align", "laion_json"])
def test_records_made_column_by_column_are_those_made_row_by_row(name, tmp_path):
    images = [{"id": n, "file_name": f"{n}.jpg", "height": n} for n in range(400)]
    images += [{"id": 400, "file_name": "4.jpg"}, {"id": "5", "file_name": "5.jpg", "height": 3}]
    keys: list[object] = [*range(100, 390), 400, "5"] if name == "coco" else ["a", "b", "c"]
    said = [
        {"image_id": keys[n % len(keys)], "caption": f"c{n}", "url": f"http://x/{n}", **more}
        for n in range(300)
        for more in [{} if n < 200 else {"n": n}]
    ]
    if name == "coco":
        said = [{"id": n, **one} for n, one in enumerate(said)]
    path = tmp_path / "filter_cap.json"
    whole = said if name == "laion_json" else {"images": images, "annotations": said}
    path.write_text(json.dumps(whole))
    at_once: list[bool] = []
    source = {"coco": coco._Join, "cc_sbu_align": CcSbuAlignFormat, "laion_json": LaionJsonFormat}
    columns = source[name].columns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "_BLOCK", 2000)

        def counted(*given: Any) -> Any:
            found = columns(*given)
            at_once.append(found is not None)
            return found

        patch.setattr(source[name], "columns", counted)
        fast = read(name, path)
        patch.setattr(source[name], "columns", lambda *_: None)
        assert fast == read(name, path)
    assert len(fast) == 300
    assert at_once.count(True) > 1
