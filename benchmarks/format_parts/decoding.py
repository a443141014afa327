"""The floor under any reader of a format: its bytes decoded, and a record's objects made.

JSON and base64 by msgspec, into dictionaries, 64 KB at a time; csv by the standard
library's reader; parquet and arrow by pyarrow into batches, and their
pictures into bytes; a folder's texts opened, read and closed; tars as their bytes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from msgspec.json import Decoder

from .plain import Sum

WHAT = {
    **dict.fromkeys(
        ("dj", "llava", "sharegpt", "messages", "alpaca", "query_response", "laion_json", "mmc4",
         "coco", "cc_sbu_align"),
        "msgspec into dictionaries",
    ),
    "chatml_paddle": "msgspec into dictionaries, and base64",
    "csv": "csv.reader",
    "tsv_base64": "lines and base64",
    "webdataset": "json of each sample, members as bytes",
    "img2dataset": "json of each sample, members as bytes",
    "parquet": "pyarrow into batches, pictures into bytes",
    "hf_dataset": "pyarrow into batches, pictures into bytes",
    "folder": "each text opened, read and closed",
}  # fmt: skip
"""What is decoded, by formats."""
_AT_ONCE = 256
_decode_bytes = Decoder(bytes).decode


def _base64(text: bytes) -> bytes:
    return _decode_bytes(b'"' + text + b'"')


def decode_alone(name: str, path: Path) -> None:
    """Decode a dataset and let everything go."""
    if name == "csv":
        _csv(path)
    elif name == "tsv_base64":
        _tsv(path)
    elif name in ("webdataset", "img2dataset"):
        _tars(path)
    elif name in ("parquet", "hf_dataset"):
        _tables(name, path)
    elif name == "folder":
        _folder(path)
    elif name in ("coco", "cc_sbu_align"):
        _object(path if path.is_file() else path / "filter_cap.json")
    else:
        _rows(path, has_pictures=name == "chatml_paddle")


def _rows(path: Path, *, has_pictures: bool) -> None:
    from vlforge.data.json_blocks import read_blocks

    for block in read_blocks(path):
        if has_pictures:
            for row in block.values:
                _base64(row["image"].encode())


def _object(path: Path) -> None:
    from vlforge.data.json_arrays import member_blocks
    from vlforge.data.json_blocks import AnyRows, value_of

    arrays: dict[str, Any] = dict.fromkeys(("images", "annotations"), AnyRows.array)
    with path.open("rb") as file:
        for _ in member_blocks(file, arrays, value_of):
            pass


def _csv(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        for _ in csv.reader(file):
            pass


def _tsv(path: Path) -> None:
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            _base64(line.split(b"\t", 2)[1])


def _tars(path: Path) -> None:
    """Members where they lie, by the sizes that their headers tell."""
    for shard in sorted(path.glob("*.tar")):
        with shard.open("rb", buffering=1 << 20) as file:
            _tar(file)


def _tar(file: BinaryIO) -> None:
    from msgspec.json import decode

    while (head := file.read(512))[:1] > b"\0":
        size = int(head[124:135], 8)
        data = file.read(size + -size % 512)
        if b".json" in head[:100]:
            decode(data[:size])


def _tables(name: str, path: Path) -> None:
    for batch in _parquet(path) if name == "parquet" else _arrow(path):
        for at in range(0, batch.num_rows, _AT_ONCE):
            batch.slice(at, _AT_ONCE).column("image").field("bytes").to_pylist()


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=_AT_ONCE)


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    for part in sorted(path.glob("*.arrow")):
        with pa.OSFile(str(part)) as file:
            yield from pa.ipc.open_stream(file)


def _folder(path: Path) -> None:
    for home, _, names in os.walk(path):
        for name in names:
            if name.endswith(".txt"):
                file = os.open(f"{home}/{name}", os.O_RDONLY)
                os.read(file, 1 << 16)
                os.close(file)


def make_alone(name: str, path: Path, rows: int) -> Sum:
    """Make the objects of as many records as there are rows, all like the first, and count them."""
    from vlforge.data.formats.index import find
    from vlforge.data.records import Picture, Record
    from vlforge.types import Turn

    first = next(iter(find(name).read(path)))
    assert isinstance(first, Record)
    pictures, turns = first.pictures, first.turns
    records = (
        Record(
            line,
            tuple([Picture(one.path, one.root, one.content) for one in pictures]),
            tuple([Turn(one.role, one.text) for one in turns]),
            tuple([one for one in first.chunks]),  # noqa: C416  # a new tuple
            dict(first.extra),
            line,
        )
        for line in range(rows)
    )
    return Sum(sum(1 for _ in records), 0, 0)
