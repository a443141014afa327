"""PaddleMIX's `convert_labels`: a TSV of pictures and captions as `train.json` and `val.json`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple

from vlforge.data.convert import Drops
from vlforge.data.formats.chatml_paddle import PROMPT, TEMPLATE, write_template
from vlforge.data.headers import begins_as_picture
from vlforge.data.json_lines import open_data, whole_file
from vlforge.data.json_rows import fault_of
from vlforge.data.json_turns import decoded
from vlforge.types import DataError, ProgressFn, no_progress

STYLE = "风格"
VAL_EVERY = 20
_TOLD_EVERY = 100


@dataclass
class Labels:
    """What became of the rows; `read` is `rows` and the sum of `dropped`.

    `styles` are the openings of captions, up to their first comma, that speak of
    a style; `longest` the characters of the longest caption. `drops` is the list
    of rows that are in neither file, where there are any.
    """

    read: int = 0
    rows: int = 0
    train: int = 0
    val: int = 0
    styles: set[str] = field(default_factory=set)
    longest: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    drops: Path | None = None


class _Label(NamedTuple):
    image: str
    caption: str


def convert_labels(
    source: Path | str,
    folder: Path | str,
    *,
    prompt: str = PROMPT,
    mode: Literal["split", "rank3"] = "split",
    val_every: int = VAL_EVERY,
    chat_template: Path | str | None = None,
    progress: ProgressFn = no_progress,
) -> Labels:
    """Write `train.json`, `val.json` and `chat_template.json` from a TSV.

    A line is `id \\t base64 \\t caption` or `base64 \\t caption`. A row is
    `{"id": "identity_N", "conversations": [[prompt, caption]], "image": base64}`.

    `split` puts every `val_every`-th good row, the first included, into val and
    all others into train; a row without caption or without a picture in base64
    is listed with its reason in `dropped.jsonl`. `rank3` is what a published
    solution does: only captions with 风格, rows of val in train as well, pictures
    not looked at.

    Args:
        source: the TSV.
        folder: where the files are written; made if missing.
        prompt: the question of every row.
        mode: `split` or `rank3`.
        val_every: one row of so many is for validation.
        chat_template: a file to copy instead of the usual template.
        progress: told the rows so far.

    Raises:
        DataError: a file cannot be read or written, or a wrong option.
    """
    source, folder = Path(source), Path(folder)
    if mode not in ("split", "rank3"):
        raise DataError(f"mode is {mode!r}: take split or rank3")
    if val_every < 1:
        raise DataError(f"val_every is {val_every}: take at least 1")
    done = Labels()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from None
    with ExitStack() as stack:
        drops = stack.enter_context(Drops(folder / "dropped.jsonl"))
        train, val = (
            stack.enter_context(_Array(folder / name)) for name in ("train.json", "val.json")
        )
        for label in _counted(_labels(source, mode == "rank3"), done, drops, progress):
            item = json.dumps(_item(done.rows, prompt, label), indent=4)
            is_val = done.rows % val_every == 0
            if is_val:
                val.add(item)
            if not is_val or mode == "rank3":
                train.add(item)
            _count(done, label.caption)
        _write_template(folder, None if chat_template is None else Path(chat_template))
    done.train, done.val = train.count, val.count
    done.drops = drops.path if done.dropped else None
    return done


def _counted(
    labels: Iterable[tuple[int, _Label | DataError]],
    done: Labels,
    drops: Drops,
    progress: ProgressFn,
) -> Iterator[_Label]:
    """The good ones; all others are listed with their reasons."""
    for line, label in labels:
        done.read += 1
        if done.read % _TOLD_EVERY == 0:
            progress(done.read, None, f"{done.rows} written")
        if isinstance(label, DataError):
            fault = fault_of(line, label)
            done.dropped[fault.reason] += 1
            drops.add(fault, fault)
        else:
            yield label


def _item(number: int, prompt: str, label: _Label) -> dict[str, object]:
    return {
        "id": f"identity_{number}",
        "conversations": [[prompt, label.caption]],
        "image": label.image,
    }


def _labels(source: Path, is_rank3: bool) -> Iterator[tuple[int, _Label | DataError]]:
    with open_data(source) as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, _label(line, is_rank3)
            except DataError as error:
                yield number, error


def _label(line: bytes, is_rank3: bool) -> _Label:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason}") from None
    cells = (text.strip() if is_rank3 else text.rstrip("\r\n")).split("\t")
    if len(cells) not in (2, 3):
        raise DataError(f"columns are neither 2 nor 3: {len(cells)}")
    label = _Label(cells[-2], cells[-1])
    if is_rank3:
        if STYLE not in label.caption:
            raise DataError(f"no {STYLE} in the caption")
        return label
    if not label.caption.strip():
        raise DataError("no caption")
    if not begins_as_picture(decoded(label.image)):
        raise DataError("no picture in base64")
    return label


def _count(done: Labels, caption: str) -> None:
    done.rows += 1
    done.longest = max(done.longest, len(caption))
    style = caption.split("，")[0]
    if STYLE in style:
        done.styles.add(style)


def _write_template(folder: Path, given: Path | None) -> None:
    if given is None:
        write_template(folder)
        return
    try:
        shutil.copyfile(given, folder / TEMPLATE)
    except OSError as error:
        raise DataError(f"chat template {given}: {error.strerror or error}") from None


class _Array:
    """A file like `json.dump(items, file, indent=4)`, written item by item."""

    def __init__(self, path: Path):
        self._whole = whole_file(path)
        self.count = 0

    def __enter__(self) -> _Array:
        self._file: IO[bytes] = self._whole.__enter__()
        return self

    def add(self, item: str) -> None:
        """One item, as `json.dumps` indents it."""
        indented = item.replace("\n", "\n    ")
        self._file.write(f"{',' if self.count else '['}\n    {indented}".encode("ascii"))
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._file.write(b"\n]" if self.count else b"[]")
        self._whole.__exit__(kind, error, trace)
