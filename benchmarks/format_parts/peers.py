"""Every format read by the library that its users take: datasets, webdataset, pycocotools.

Imported by another interpreter (`--peer`), which has those and no VLForge. Streamed
where the library can: so nothing is copied into a cache first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .plain import Rows

Row = dict[str, Any]
LIBRARIES = {
    **dict.fromkeys(
        ("dj", "llava", "sharegpt", "messages", "alpaca", "query_response", "chatml_paddle",
         "laion_json", "mmc4", "cc_sbu_align", "csv", "tsv_base64", "parquet", "hf_dataset"),
        "datasets",
    ),
    "webdataset": "webdataset",
    "img2dataset": "webdataset",
    "coco": "pycocotools",
}  # fmt: skip
"""The library of each format; a folder of pictures and texts has none."""
_PICKS: dict[str, Callable[[Row], tuple[str, str | bytes]]] = {
    "dj": lambda row: (_plain(row["text"]), row["images"][0]),
    "llava": lambda row: (row["conversations"][-1]["value"], row["image"]),
    "sharegpt": lambda row: (row["conversations"][-1]["value"], row["images"][0]),
    "messages": lambda row: (row["messages"][-1]["content"], row["images"][0]),
    "alpaca": lambda row: (row["output"], row["images"][0]),
    "query_response": lambda row: (row["response"], row["images"][0]),
    "chatml_paddle": lambda row: (row["conversations"][-1][1], base64.b64decode(row["image"])),
    "laion_json": lambda row: (row["caption"], row["url"]),
    "mmc4": lambda row: ("".join(row["text_list"]), row["image_info"][0]["image_name"]),
    "cc_sbu_align": lambda row: (row["caption"], f"image/{row['image_id']}.jpg"),
    "csv": lambda row: (row["caption"], row["image"]),
    "tsv_base64": lambda row: (row["caption"], base64.b64decode(row["image"])),
    "parquet": lambda row: (row["caption"], row["image"]["bytes"]),
    "hf_dataset": lambda row: (row["caption"], row["image"]["bytes"]),
}


def reader_of(name: str) -> Callable[[Path], Rows]:
    """The library's reader of a format; the library is imported."""
    library = LIBRARIES[name]
    if library == "webdataset":
        import webdataset  # noqa: F401

        return _webdataset
    if library == "pycocotools":
        import pycocotools.coco  # noqa: F401

        return _coco
    import datasets

    datasets.disable_progress_bars()
    return lambda path: map(_PICKS[name], _rows(name, path))


def _rows(name: str, path: Path) -> Iterator[Row]:
    import datasets
    from datasets import Image, load_dataset

    if name == "hf_dataset":
        whole = datasets.load_from_disk(str(path))
        return iter(whole.cast_column("image", Image(decode=False)))
    told: dict[str, Any] = {"data_files": str(path), "split": "train", "streaming": True}
    if name == "cc_sbu_align":
        told |= {"data_files": str(path / "filter_cap.json"), "field": "annotations"}
    if name == "tsv_base64":
        told |= {"sep": "\t", "column_names": ["id", "image", "caption"], "quoting": 3}
    kind = {"csv": "csv", "tsv_base64": "csv", "parquet": "parquet"}.get(name, "json")
    return iter(load_dataset(kind, **told))


def _webdataset(path: Path) -> Rows:
    import webdataset

    shards = sorted(map(str, path.glob("*.tar")))
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        yield json.loads(sample["json"])["caption"], sample["jpg"]


def _coco(path: Path) -> Rows:
    import contextlib
    import io

    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(path))
    for number in found.getAnnIds():
        (note,) = found.loadAnns(number)
        yield note["caption"], found.loadImgs(note["image_id"])[0]["file_name"]


def _plain(text: str) -> str:
    return text.replace("<__dj__image>", "").replace("<|__dj__eoc|>", "").strip()
