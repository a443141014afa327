"""Writes MMBench's table for its server: the questions and a column `prediction`."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys

import openpyxl


def main() -> None:
    """`--annotation-file TSV --result-dir DIR --upload-dir DIR --experiment NAME`."""
    parser = argparse.ArgumentParser()
    for name in ("annotation-file", "result-dir", "upload-dir", "experiment"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    csv.field_size_limit(sys.maxsize)
    with open(given.annotation_file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with open(
        os.path.join(given.result_dir, f"{given.experiment}.jsonl"), encoding="utf-8"
    ) as file:
        said = {row["question_id"]: row["text"] for row in map(json.loads, file)}
    left = {"hint", "category", "source", "image", "comment", "l2-category"}
    columns = [name for name in rows[0] if name not in left]
    book = openpyxl.Workbook()
    book.active.append([*columns, "prediction"])
    for row in rows:
        book.active.append([*(row[name] for name in columns), said[row["index"]]])
    book.save(os.path.join(given.upload_dir, f"{given.experiment}.xlsx"))


if __name__ == "__main__":
    main()
