"""Writing the parts of a split dataset, each a dataset of its own."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vlforge.data.json_lines import RowFile
from vlforge.data.new_folder import write_error
from vlforge.data.placing import Mode, Placer
from vlforge.data.records import Fault, Format, Record, Writer, check_fit, with_marks
from vlforge.types import DataError, ProgressFn, Row, no_progress

_TOLD_EVERY = 1000
_SUFFIXES = {
    "csv": ".csv",
    "tsv_base64": ".tsv",
    "parquet": ".parquet",
    "llava": ".json",
    "chatml_paddle": ".json",
    "coco": ".json",
    "laion_json": ".json",
}
_FOLDERS = {"webdataset", "img2dataset", "cc_sbu_align", "hf_dataset", "folder"}


@dataclass
class Written:
    """What became of the rows: per part those written, and the dropped ones by reason."""

    written: list[int] = field(default_factory=list)
    left_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    drops: Path | None = None


def place_parts(
    source: Path, names: Sequence[str], format_: Format, is_same: bool, folder: Path | None
) -> list[Path]:
    """Where each part goes: `folder/NAME.suffix`, or `SOURCE-NAME.suffix` beside the source.

    Raises:
        DataError: the source is a pattern, which has no place beside it.
    """
    suffix = _SUFFIXES.get(format_.name, "" if format_.name in _FOLDERS else ".jsonl")
    if is_same:
        suffix = "" if source.is_dir() else _last_suffix(source)
    if folder is not None:
        return [folder / f"{name}{suffix}" for name in names]
    if any(mark in str(source) for mark in "{*"):
        raise DataError(f"{source}: several files; name the folder of the parts with --out")
    stem = source.name if source.is_dir() else source.name.removesuffix(_last_suffix(source))
    return [source.absolute().with_name(f"{stem}-{name}{suffix}") for name in names]


def _last_suffix(path: Path) -> str:
    """`.json`, or `.json.gz`; what is only read packed is written plain."""
    if path.suffix == ".gz":
        return "".join(path.suffixes[-2:])
    if path.suffix == ".zst":
        return Path(path.stem).suffix
    return path.suffix


def write_parts(
    source: Path,
    reader: Format,
    targets: Sequence[Path],
    writer: Format,
    part_of: array[int],
    *,
    images: Mode = "auto",
    progress: ProgressFn = no_progress,
) -> Written:
    """Read a dataset once and write each row to its part.

    Rows that are none, or that the format cannot hold, are listed with their reasons
    in `<first target>.dropped.jsonl`.

    Args:
        source: what `reader` reads.
        reader: its format.
        targets: where each part goes.
        writer: the parts' format.
        part_of: the part of each row; one past the last target is none.
        images: what becomes of the pictures.
        progress: told the rows so far.

    Raises:
        DataError: the dataset has changed since it was divided, or a part cannot be written.
    """
    done = Written([0] * len(targets))
    drops = targets[0].with_name(f"{targets[0].name}.dropped.jsonl")
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        sides = [stack.enter_context(_Side(target, writer, images)) for target in targets]
        listed = stack.enter_context(RowFile(drops, as_array=False))
        row = 0
        for found in reader.read(source):
            fault = _put(found, part_of[row] if row < len(part_of) else 0, sides, done)
            row += isinstance(found, Record)
            if fault is not None:
                done.dropped[fault.reason] += 1
                listed.write(_told(fault, found))
            if row % _TOLD_EVERY == 0:
                progress(row, len(part_of), "writing")
        if row != len(part_of):
            raise DataError(f"{source} had {len(part_of):,} rows and has {row:,} now")
    if listed.count:
        done.drops = drops
    else:
        drops.unlink()
    return done


def _put(found: Record | Fault, part: int, sides: Sequence[_Side], done: Written) -> Fault | None:
    """Write a record to its part, or say why not."""
    if isinstance(found, Fault):
        return found
    if part == len(sides):
        done.left_out += 1
        return None
    fault = sides[part].write(found)
    done.written[part] += fault is None
    return fault


def _told(fault: Fault, found: Record | Fault) -> Row:
    given = found.id if isinstance(found, Record) else None
    return {"line": fault.line, "id": given, "reason": fault.reason, "value": fault.value}


class _Side:
    """One part while it is written."""

    def __init__(self, target: Path, format_: Format, images: Mode):
        is_folder = target.is_dir() or format_.name in _FOLDERS
        target.parent.mkdir(parents=True, exist_ok=True)
        self._holds, self._target = format_.holds, target
        folder = target if is_folder else target.parent
        self._placer = Placer(images, folder, format_.holds.embedded)
        self._writer: Writer = format_.writer(target)

    def __enter__(self) -> _Side:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, record: Record) -> Fault | None:
        """Add a record, or say why not."""
        try:
            marked = with_marks(record)
            check_fit(marked, self._holds)
            self._writer.write(self._placer.place(marked))
        except DataError as error:
            reason, _, value = str(error).partition(": ")
            return Fault(record.line, reason, value)
        except OSError as error:
            raise write_error(self._target, error) from None
        return None
