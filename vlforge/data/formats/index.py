"""The dataset formats, found by their names in this folder's files; none is imported to be found.

`webdataset` is the class `WebdatasetFormat`, whose fields are its options.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlforge.data.records import Format
from vlforge.types import DataError

_CLASS = re.compile(r"^class (\w+)Format\b", re.M)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
ORDER = (
    "hf_dataset", "img2dataset", "webdataset", "cc_sbu_align", "coco", "mmc4", "laion_json",
    "chatml_paddle", "llava", "sharegpt", "messages", "alpaca", "query_response", "dj", "parquet",
    "tsv_base64", "csv", "folder",
)  # fmt: skip
"""Who is asked first whether a file is theirs: the more special before the more general."""


@functools.cache
def places() -> dict[str, tuple[str, str]]:
    """(module, class) of each format, in the order in which they are asked."""
    found = {}
    for file in Path(__file__).parent.glob("*.py"):
        module = f"vlforge.data.formats.{file.stem}"
        for name in _CLASS.findall(file.read_text(encoding="utf-8")):
            found[_WORD.sub("_", name).lower()] = (module, f"{name}Format")
    rank = {name: at for at, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def find(name: str, **options: Any) -> Format:
    """The format `name` with some options.

    Raises:
        DataError: no such format (the nearest is named) or no such option.
    """
    place = places().get(name.replace("-", "_"))
    if place is None:
        from difflib import get_close_matches

        near = get_close_matches(name, places(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(places())}"
        raise DataError(f"unknown format {name!r}: {hint}")
    cls = getattr(importlib.import_module(place[0]), place[1])
    known = {field.name for field in fields(cls)}
    for option in options:
        if option not in known:
            has = ", ".join(sorted(known)) or "none"
            raise DataError(f"format {name} has no option {option!r}; it has {has}")
    made: Format = cls(**options)
    return made


def detect(path: Path) -> Format:
    """The format that what is at `path` is written in, judged by its content.

    Raises:
        DataError: nothing is there, or no format knows it.
    """
    if not path.exists() and not any(mark in str(path) for mark in "{*"):
        raise DataError(f"dataset {path} does not exist: check the path")
    for name in places():
        candidate = find(name)
        if candidate.recognises(path):
            return candidate
    raise DataError(f"dataset {path} is in no format known here: name one with --from")
