"""From any format to any other and back: nothing is lost that the other can hold.

Every format that the index finds takes part. Records are drawn, written in A,
converted to B and back to A; what B kept of a record has to be there again.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from vlforge.data.convert import convert
from vlforge.data.formats.index import detect, find, places
from vlforge.data.records import MARK, Fault, Format, Picture, Record, caption_of
from vlforge.types import Turn

FORMATS = list(places())
OPTIONS: dict[str, dict[str, Any]] = {"chatml_paddle": {"prompt": ""}}
"""Without a prompt of its own for questions that have no words."""
FOLDERS = {"hf_dataset", "img2dataset", "webdataset", "cc_sbu_align", "folder"}
SUFFIXES = {"csv": ".csv", "tsv_base64": ".tsv", "parquet": ".parquet"}
LETTERS = "ab é漢🙂\"'\\,;{}[]:#|%\t\n\r\u2028"
NAMES = (
    "text", "caption", "image", "images", "conversations", "messages", "query", "response",
    "input", "instruction", "output", "history", "system", "tools", "url", "image_id", "label",
    "text_list", "key", "meta data",
)  # fmt: skip


@cache
def contents() -> tuple[bytes, ...]:
    """Pictures of three kinds."""
    from PIL import Image

    made = []
    for shade, kind in ((10, "GIF"), (90, "PNG"), (200, "WEBP")):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 1), (shade, 50, 150)).save(buffer, kind)
        made.append(buffer.getvalue())
    return tuple(made)


@dataclass(frozen=True)
class Made:
    """Records out of nowhere, as a format that can be read."""

    records: tuple[Record, ...]

    def read(self, path: Path) -> Iterator[Record]:
        """The records."""
        return iter(self.records)


words = st.text(LETTERS, min_size=1, max_size=12).filter(lambda text: text.strip())
values = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.text(LETTERS, max_size=6),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2)
        | st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=2)
    ),
    max_leaves=4,
)
extras = st.dictionaries(st.sampled_from(NAMES), values, max_size=3)


@st.composite
def records(draw: Any, at: int) -> Record:
    """A caption, a document or a conversation, with up to two pictures."""
    count = draw(st.sampled_from((1, 1, 1, 0, 2)))
    pictures = tuple(
        Picture(f"pictures/{at}_{n}.{suffix}", "ROOT", None)
        if draw(st.booleans())
        else Picture(content=contents()[kind])
        for n in range(count)
        for kind, suffix in [draw(st.sampled_from(list(enumerate(("gif", "png", "webp")))))]
    )
    extra = draw(extras)
    number = draw(st.sampled_from((f"r{at}", at)))
    marks = [MARK] * count
    if draw(st.booleans()):
        chunks = ["\n".join([*marks, draw(words)])]
        chunks += draw(st.lists(words, max_size=draw(st.sampled_from((0, 0, 2)))))
        return Record(number, pictures, (), tuple(chunks), extra)
    question = draw(st.sampled_from(("", "What?"))) if count else "What?"
    turns = [Turn("user", "\n".join([*marks, *([question] if question else [])]))]
    turns.append(Turn("assistant", draw(words)))
    if draw(st.booleans()):
        turns += [Turn("user", draw(words)), Turn("assistant", draw(words))]
    if draw(st.booleans()):
        turns.insert(0, Turn("system", draw(words)))
    return Record(number, pictures, tuple(turns), (), extra)


batches = st.tuples(*[records(at) for at in range(5)])


def made_format(name: str) -> Format:
    """The format, with the options that it is tested with."""
    return find(name, **OPTIONS.get(name, {}))


def target(folder: Path, stem: str, name: str) -> Path:
    """Where a format is written."""
    return folder / (stem if name in FOLDERS else stem + SUFFIXES.get(name, ".json"))


def read(format_: Format, path: Path) -> dict[str, Record]:
    """The records by their ids; none may be faulty."""
    found = list(format_.read(path))
    assert not [one for one in found if isinstance(one, Fault)]
    return {str(one.id): one for one in found if isinstance(one, Record)}


def placed(batch: tuple[Record, ...], folder: Path) -> tuple[Record, ...]:
    """The records with files for pictures that are named by a path."""
    (folder / "pictures").mkdir()
    out = []
    for record in batch:
        pictures = []
        for picture in record.pictures:
            if picture.content is None:
                kind = ("gif", "png", "webp").index(picture.path.rpartition(".")[2])
                (folder / picture.path).write_bytes(contents()[kind])
                picture = replace(picture, root=str(folder))
            pictures.append(picture)
        out.append(replace(record, pictures=tuple(pictures)))
    return tuple(out)


def plain(text: str) -> str:
    """Words and marks, whatever the white space between them."""
    return " ".join(text.replace(MARK, f" {MARK} ").split())


def said(record: Record) -> list[tuple[str, str]]:
    """Roles and words of a conversation."""
    return [(turn.role, plain(turn.text)) for turn in record.turns]


def answer(record: Record) -> str:
    """What is told of a picture, in a caption or in a conversation of one round."""
    if record.turns:
        return plain(" ".join(t.text for t in record.turns if t.role == "assistant"))
    return plain(re.sub(MARK, " ", " ".join(record.chunks)))


def is_caption(record: Record) -> bool:
    """Whether a conversation is but a caption."""
    roles = [turn.role for turn in record.turns]
    alone = roles == ["assistant"] and not record.pictures
    pair = roles == ["user", "assistant"] and not plain(record.turns[0].text.replace(MARK, ""))
    return alone or pair


def assert_kept(first: Record, between: Record, back: Record, name: str) -> None:
    """What `between`, of the format `name`, kept of `first` is in `back`."""
    holds = made_format(name).holds
    seen = [[p.read() for p in one.pictures] for one in (first, between, back)]
    assert seen[0] == seen[1] == seen[2]
    if holds.extra:
        for key, value in first.extra.items():
            assert back.extra.get(key) == value, key
    assert answer(first) == answer(between) == answer(back)
    if first.turns and holds.conversation and not is_caption(first):
        assert said(first) == said(back)
    if first.chunks and len(between.chunks) == len(first.chunks) == len(back.chunks):
        assert list(map(plain, first.chunks)) == list(map(plain, back.chunks))


@pytest.mark.parametrize("other", FORMATS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_way_to_another_format_and_back_loses_nothing_it_can_hold(name, other):
    @seed(f"{name} {other}")
    @settings(max_examples=3, deadline=None, database=None,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
    @given(batches)
    def check(batch: tuple[Record, ...]) -> None:
        a, b = made_format(name), made_format(other)
        with tempfile.TemporaryDirectory() as held:
            folder = Path(held)
            ways = [target(folder, stem, what) for stem, what in
                    (("first", name), ("between", other), ("back", name))]  # fmt: skip
            made = Made(placed(batch, folder))
            counts = [
                convert(source, into, reader, writer)
                for source, into, reader, writer in (
                    (folder / "made", ways[0], made, a),
                    (ways[0], ways[1], a, b),
                    (ways[1], ways[2], b, a),
                )
            ]
            for done, before in zip(counts[1:], counts, strict=False):
                assert done.read == before.written == done.written + sum(done.dropped.values())
            first, between, back = (
                read(format_, way) if done.written else {}
                for format_, way, done in zip((a, b, a), ways, counts, strict=True)
            )
            for key in first.keys() & between.keys() & back.keys():
                assert_kept(first[key], between[key], back[key], other)

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_writes_is_known_as_its_own_and_most_records_fit(name, tmp_path):
    pictures = tmp_path / "x.jpg"
    pictures.write_bytes(contents()[0])
    batch = tuple(
        Record(f"r{n}", (Picture("x.jpg", str(tmp_path)),), (), (f"{MARK}\na red bus {n}",),
               {"url": f"http://a.example/{n}.jpg"})
        for n in range(4)
    )  # fmt: skip
    into = target(tmp_path, "made", name)
    assert convert(tmp_path / "none.json", into, Made(batch), find(name)).written == 4
    assert detect(into).name == name
    found = read(find(name), into)
    assert [caption_of(one, loses_question=True) for one in found.values()] == [
        f"a red bus {n}" for n in range(4)
    ]
