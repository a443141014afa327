"""Stands in for MGM's score of TextVQA: answers against ten people's."""

from __future__ import annotations

import argparse
import json


def main() -> None:
    """`--annotation-file FILE --result-file FILE`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--annotation-file", required=True)
    parser.add_argument("--result-file", required=True)
    given = parser.parse_args()
    with open(given.annotation_file, encoding="utf-8") as file:
        asked = {(row["image_id"], row["question"]): row for row in json.load(file)["data"]}
    with open(given.result_file, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    scores = []
    for row in rows:
        people = asked[row["question_id"], row["prompt"].split("\n")[0]]["answers"]
        agree = [people[:n] + people[n + 1 :] for n in range(len(people))]
        scores.append(sum(min(1, rest.count(row["text"]) / 3) for rest in agree) / len(agree))
    print(f"Samples: {len(rows)}\nAccuracy: {100 * sum(scores) / len(scores):.2f}%\n")


if __name__ == "__main__":
    main()
