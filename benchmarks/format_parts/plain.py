"""Every format read as its users read it: json, csv, tarfile and pyarrow, nothing else.

Each reader looks at what `Rows` has of every row and makes nothing of the rest.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Rows = Iterator[tuple[str, str | bytes]]
"""Per row its last answer (of a document all words), and its picture, or the path of that."""


class Sum(NamedTuple):
    """What all readers must agree on."""

    rows: int
    characters: int
    picture_bytes: int
    """Of pictures in the data; of paths where it names files."""


def total(rows: Rows) -> Sum:
    """Go over all rows and add them up."""
    count = characters = pictures = 0
    for text, picture in rows:
        count += 1
        characters += len(text)
        pictures += len(picture)
    return Sum(count, characters, pictures)


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _json_array(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        found: list[dict[str, Any]] = json.load(file)
    return found


def read_dj(path: Path) -> Rows:
    """Lines."""
    for row in _json_lines(path):
        text = row["text"].replace("<__dj__image>", "").replace("<|__dj__eoc|>", "").strip()
        yield text, row["images"][0]


def read_llava(path: Path) -> Rows:
    """An array."""
    for row in _json_array(path):
        yield row["conversations"][-1]["value"], row["image"]


def read_sharegpt(path: Path) -> Rows:
    """An array."""
    for row in _json_array(path):
        yield row["conversations"][-1]["value"], row["images"][0]


def read_messages(path: Path) -> Rows:
    """Lines."""
    for row in _json_lines(path):
        yield row["messages"][-1]["content"], row["images"][0]


def read_alpaca(path: Path) -> Rows:
    """An array."""
    for row in _json_array(path):
        yield row["output"], row["images"][0]


def read_query_response(path: Path) -> Rows:
    """Lines."""
    for row in _json_lines(path):
        yield row["response"], row["images"][0]


def read_chatml_paddle(path: Path) -> Rows:
    """An array with pictures in it."""
    for row in _json_array(path):
        yield row["conversations"][-1][1], base64.b64decode(row["image"])


def read_laion_json(path: Path) -> Rows:
    """An array."""
    for row in _json_array(path):
        yield row["caption"], row["url"]


def read_mmc4(path: Path) -> Rows:
    """Lines."""
    for row in _json_lines(path):
        yield "".join(row["text_list"]), row["image_info"][0]["image_name"]


def read_coco(path: Path) -> Rows:
    """Captions joined to their pictures."""
    with path.open(encoding="utf-8") as file:
        whole = json.load(file)
    names = {image["id"]: image["file_name"] for image in whole["images"]}
    for row in whole["annotations"]:
        yield row["caption"], names[row["image_id"]]


def read_cc_sbu_align(path: Path) -> Rows:
    """The annotations, a picture's path for each."""
    with (path / "filter_cap.json").open(encoding="utf-8") as file:
        whole = json.load(file)
    for row in whole["annotations"]:
        yield row["caption"], f"image/{row['image_id']}.jpg"


def read_csv(path: Path) -> Rows:
    """By the names of columns."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["caption"], row["image"]


def read_tsv_base64(path: Path) -> Rows:
    """Lines, cut at tabs."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            _, image, text = line.rstrip("\n").split("\t")
            yield text, base64.b64decode(image)


def read_tars(path: Path) -> Rows:
    """Members in order; a sample is whole with its txt."""
    for shard in sorted(path.glob("*.tar")):
        with tarfile.open(shard, "r|") as tar:
            for sample in _samples(tar):
                told = json.loads(sample["json"])
                yield told["caption"], sample["jpg"]


def _samples(tar: tarfile.TarFile) -> Iterable[dict[str, bytes]]:
    sample: dict[str, bytes] = {}
    for member in tar:
        data = tar.extractfile(member)
        assert data is not None
        sample[member.name.rpartition(".")[2]] = data.read()
        if len(sample) == 3:
            yield sample
            sample = {}


def read_parquet(path: Path) -> Rows:
    """The whole table as rows."""
    import pyarrow.parquet as pq

    for row in pq.read_table(path).to_pylist():
        yield row["caption"], row["image"]["bytes"]


def read_hf_dataset(path: Path) -> Rows:
    """The whole table as rows."""
    import pyarrow as pa

    for part in sorted(path.glob("*.arrow")):
        with pa.memory_map(str(part)) as file:
            for row in pa.ipc.open_stream(file).read_all().to_pylist():
                yield row["caption"], row["image"]["bytes"]


def read_folder(path: Path) -> Rows:
    """Names of pictures, the words beside them read."""
    for home, _, names in sorted(os.walk(path)):
        for name in sorted(names):
            if name.endswith(".jpg"):
                words = Path(home, name).with_suffix(".txt")
                relative = Path(home, name).relative_to(path)
                yield words.read_text(encoding="utf-8"), str(relative)


READERS: dict[str, Callable[[Path], Rows]] = {
    name.removeprefix("read_"): reader
    for name, reader in list(globals().items())
    if name.startswith("read_") and name != "read_tars"
} | {"webdataset": read_tars, "img2dataset": read_tars}
"""The plain reader of each format."""
