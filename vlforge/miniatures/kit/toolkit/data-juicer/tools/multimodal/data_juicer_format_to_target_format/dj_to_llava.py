"""Turns Data-Juicer's rows into LLaVA's conversations, the first question as it once was."""

from __future__ import annotations

import argparse
import json


def main() -> None:
    """`dj_to_llava.py IN OUT --restore_questions True --original_llava_ds_path FILE`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--image_special_token", default="<__dj__image>")
    parser.add_argument("--eoc_special_token", default="<|__dj__eoc|>")
    parser.add_argument("--restore_questions", default="False")
    parser.add_argument("--original_llava_ds_path", default="")
    given = parser.parse_args()
    questions = {}
    if given.restore_questions == "True":
        with open(given.original_llava_ds_path, encoding="utf-8") as file:
            for row in json.load(file):
                questions[row["id"]] = row["conversations"][0]["value"]
    rows = []
    with open(given.source, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            text = row["text"].replace(given.image_special_token, "")
            answer = text.replace(given.eoc_special_token, "").strip()
            question = questions.get(row["id"], "<image>")
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            rows.append({"id": row["id"], "image": row["images"][0], "conversations": turns})
    with open(given.target, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=2, ensure_ascii=False)
    print(f"{len(rows)} rows converted")


if __name__ == "__main__":
    main()
