"""Stands in for MGM's answers to TextVQA: one of the words that were read."""

from __future__ import annotations

import json
import os

from mgm.eval.answering import arguments, choose, chunk, write


def main() -> None:
    """Answer the questions of a file of lines."""
    given = arguments()
    with open(given.question_file, encoding="utf-8") as file:
        rows = chunk([json.loads(line) for line in file], given)
    answers = []
    for row in rows:
        if not os.path.isfile(os.path.join(given.image_folder, row["image"])):
            raise FileNotFoundError(row["image"])
        read = row["text"].split("Reference OCR token: ")[-1].split("\n")[0].split(", ")
        answers.append(
            {
                "question_id": row["question_id"], "prompt": row["text"],
                "text": choose(read, row["question_id"]).lower(),
                "answer_id": row["question_id"][-8:],
                "model_id": os.path.basename(given.model_path), "metadata": {},
            }
        )  # fmt: skip
    write(given.answers_file, answers)


if __name__ == "__main__":
    main()
