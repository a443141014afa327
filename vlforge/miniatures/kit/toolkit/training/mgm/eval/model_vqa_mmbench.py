"""Stands in for MGM's answers to MMBench: a letter for every row."""

from __future__ import annotations

import csv
import os
import sys

from mgm.eval.answering import arguments, choose, chunk, write


def main() -> None:
    """Answer the rows of a table."""
    given = arguments()
    csv.field_size_limit(sys.maxsize)
    with open(given.question_file, encoding="utf-8", newline="") as file:
        rows = chunk(list(csv.DictReader(file, delimiter="\t")), given)
    answers = []
    for row in rows:
        options = [row[letter] for letter in "ABCD" if row[letter]]
        letters = list("ABCD"[: len(options)])
        listed = "\n".join(f"{a}. {b}" for a, b in zip(letters, options, strict=True))
        answers.append(
            {
                "question_id": row["index"], "round_id": 0,
                "prompt": f"{row['question']}\n{listed}",
                "text": choose(letters, row["index"]), "options": options,
                "option_char": letters, "answer_id": row["index"],
                "model_id": os.path.basename(given.model_path), "metadata": {},
            }
        )  # fmt: skip
    write(given.answers_file, answers)


if __name__ == "__main__":
    main()
