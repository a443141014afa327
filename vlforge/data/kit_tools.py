"""What Better Synth's kit asks before it trains, and answer files turned as LLaVA turns them."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vlforge.data.json_lines import as_row, open_data, read_values, whole_file
from vlforge.data.machine import visible_gpus
from vlforge.types import DataError, ProgressFn, no_progress

SEED = 1024
_PACKED = (".gz", ".zst")
_TOLD_EVERY = 100_000


@dataclass
class Rows:
    """Rows read and written; `dropped` and `drops` stay empty: every row counts."""

    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    drops: Path | None = None


def check_global_batch_size(batch: int, accumulation: int, target: int) -> bool:
    """Whether batch x accumulation x GPUs of this machine is the global batch `target`.

    `CUDA_VISIBLE_DEVICES` counts. A machine without GPUs trains on its CPU, which is one
    device; the kit's own answer there is always False.
    """
    devices = max(1, len(visible_gpus()))
    return batch * accumulation * devices == target


def check_sample_number(
    source: Path, target: Path, max_sample_num: int, *, progress: ProgressFn = no_progress
) -> Rows:
    """Write a dataset's lines, and no more of them than `max_sample_num`.

    Of more rows those that the kit draws are written, in its order (Python's `random.sample`
    after `random.seed(1024)`); otherwise all as they stand. Only where each line begins is
    held in memory.

    Raises:
        DataError: a file cannot be read or written, or the number is none from 1.
    """
    if max_sample_num < 1:
        raise DataError(f"max_sample_num is {max_sample_num}: give at least 1")
    if source.suffix in _PACKED:
        raise DataError(f"{source}: is packed; unpack it first, lines are read by their place")
    with open_data(source) as file, whole_file(target) as out:
        begins = _begins(file)
        done = Rows(read=len(begins))
        chosen: Any = range(done.read)
        if done.read > max_sample_num:
            chosen = random.Random(SEED).sample(chosen, max_sample_num)
        for row in chosen:
            file.seek(begins[row])
            out.write(file.readline().rstrip(b"\r\n") + b"\n")
            done.written += 1
            if done.written % _TOLD_EVERY == 0:
                progress(done.written, len(chosen), "rows")
    return done


def _begins(file: BinaryIO) -> array[int]:
    """Where each line that is not blank begins."""
    begins = array("q")
    at = 0
    for line in file:
        if line.strip():
            begins.append(at)
        at += len(line)
    return begins


def convert_gqa_for_eval(source: Path, target: Path, *, progress: ProgressFn = no_progress) -> Rows:
    """Answers of LLaVA as GQA's predictions: small letters, full stops at the end taken off.

    Raises:
        DataError: a file cannot be read or written, or a row has no question_id or text.
    """
    rows = [
        {"questionId": row["question_id"], "prediction": row["text"].rstrip(".").lower()}
        for row in _answers(source)
    ]
    return _written(target, rows, None, len(rows))


def convert_mmvet_for_eval(
    source: Path, target: Path, *, progress: ProgressFn = no_progress
) -> Rows:
    """Answers of LLaVA as MM-Vet's evaluator takes them: `v1_` and the question, the text.

    Raises:
        DataError: a file cannot be read or written, or a row has no question_id or text.
    """
    rows = _answers(source)
    return _written(target, {f"v1_{row['question_id']}": row["text"] for row in rows}, 2, len(rows))


def _answers(path: Path) -> list[dict[str, Any]]:
    found = []
    for line, value in read_values(path):
        if isinstance(value, DataError):
            raise DataError(f"{path}:{line}: {value}")
        row = as_row(value)
        if "question_id" not in row or not isinstance(row.get("text"), str):
            raise DataError(f"{path}:{line}: no question_id or text; give an answer file of LLaVA")
        found.append(row)
    return found


def _written(target: Path, value: Any, indent: int | None, count: int) -> Rows:
    with whole_file(target) as file:
        file.write(json.dumps(value, indent=indent).encode("ascii"))
    return Rows(count, count)
