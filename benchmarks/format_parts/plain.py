"""Every format read as its users read it: json, csv, tarfile and pyarrow, nothing else.

Each reader goes over all rows and adds up what `Sum` holds.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Sum:
    """What both readers must agree on."""

    rows: int = 0
    characters: int = 0
    """Of the last answer, or of a document."""
    picture_bytes: int = 0
    """Of pictures in the data; of paths where it names files."""

    def add(self, text: str, picture: str | bytes) -> None:
        """One row."""
        self.rows += 1
        self.characters += len(text)
        self.picture_bytes += len(picture)


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _json_array(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        found: list[dict[str, Any]] = json.load(file)
    return found


def read_dj(path: Path, found: Sum) -> None:
    """Lines."""
    for row in _json_lines(path):
        text = row["text"].replace("<__dj__image>", "").replace("<|__dj__eoc|>", "").strip()
        found.add(text, row["images"][0])


def read_llava(path: Path, found: Sum) -> None:
    """An array."""
    for row in _json_array(path):
        found.add(row["conversations"][-1]["value"], row["image"])


def read_sharegpt(path: Path, found: Sum) -> None:
    """An array."""
    for row in _json_array(path):
        found.add(row["conversations"][-1]["value"], row["images"][0])


def read_messages(path: Path, found: Sum) -> None:
    """Lines."""
    for row in _json_lines(path):
        found.add(row["messages"][-1]["content"], row["images"][0])


def read_alpaca(path: Path, found: Sum) -> None:
    """An array."""
    for row in _json_array(path):
        found.add(row["output"], row["images"][0])


def read_query_response(path: Path, found: Sum) -> None:
    """Lines."""
    for row in _json_lines(path):
        found.add(row["response"], row["images"][0])


def read_chatml_paddle(path: Path, found: Sum) -> None:
    """An array with pictures in it."""
    for row in _json_array(path):
        found.add(row["conversations"][-1][1], base64.b64decode(row["image"]))


def read_laion_json(path: Path, found: Sum) -> None:
    """An array."""
    for row in _json_array(path):
        found.add(row["caption"], row["url"])


def read_mmc4(path: Path, found: Sum) -> None:
    """Lines."""
    for row in _json_lines(path):
        found.add("".join(row["text_list"]), row["image_info"][0]["image_name"])


def read_coco(path: Path, found: Sum) -> None:
    """Captions joined to their pictures."""
    with path.open(encoding="utf-8") as file:
        whole = json.load(file)
    names = {image["id"]: image["file_name"] for image in whole["images"]}
    for row in whole["annotations"]:
        found.add(row["caption"], names[row["image_id"]])


def read_cc_sbu_align(path: Path, found: Sum) -> None:
    """The annotations, a picture's path for each."""
    with (path / "filter_cap.json").open(encoding="utf-8") as file:
        whole = json.load(file)
    for row in whole["annotations"]:
        found.add(row["caption"], f"image/{row['image_id']}.jpg")


def read_csv(path: Path, found: Sum) -> None:
    """By the names of columns."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.add(row["caption"], row["image"])


def read_tsv_base64(path: Path, found: Sum) -> None:
    """Lines, cut at tabs."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            _, image, text = line.rstrip("\n").split("\t")
            found.add(text, base64.b64decode(image))


def read_tars(path: Path, found: Sum) -> None:
    """Members in order; a sample is whole with its txt."""
    for shard in sorted(path.glob("*.tar")):
        with tarfile.open(shard, "r|") as tar:
            for sample in _samples(tar):
                told = json.loads(sample["json"])
                found.add(told["caption"], sample["jpg"])


def _samples(tar: tarfile.TarFile) -> Iterable[dict[str, bytes]]:
    sample: dict[str, bytes] = {}
    for member in tar:
        data = tar.extractfile(member)
        assert data is not None
        sample[member.name.rpartition(".")[2]] = data.read()
        if len(sample) == 3:
            yield sample
            sample = {}


def read_parquet(path: Path, found: Sum) -> None:
    """The whole table as rows."""
    import pyarrow.parquet as pq

    for row in pq.read_table(path).to_pylist():
        found.add(row["caption"], row["image"]["bytes"])


def read_hf_dataset(path: Path, found: Sum) -> None:
    """The whole table as rows."""
    import pyarrow as pa

    for part in sorted(path.glob("*.arrow")):
        with pa.memory_map(str(part)) as file:
            for row in pa.ipc.open_stream(file).read_all().to_pylist():
                found.add(row["caption"], row["image"]["bytes"])


def read_folder(path: Path, found: Sum) -> None:
    """Names of pictures, the words beside them read."""
    for home, _, names in sorted(os.walk(path)):
        for name in sorted(names):
            if name.endswith(".jpg"):
                words = Path(home, name).with_suffix(".txt")
                relative = Path(home, name).relative_to(path)
                found.add(words.read_text(encoding="utf-8"), str(relative))


READERS: dict[str, Callable[[Path, Sum], None]] = {
    name.removeprefix("read_"): reader
    for name, reader in list(globals().items())
    if name.startswith("read_") and name != "read_tars"
} | {"webdataset": read_tars, "img2dataset": read_tars}
"""The plain reader of each format."""
