"""What the stand-ins for MGM's evaluation share: reading questions, writing answers."""

from __future__ import annotations

import argparse
import json
import os
import random
import zlib


def arguments() -> argparse.Namespace:
    """The arguments that MGM's evaluation programs take."""
    parser = argparse.ArgumentParser()
    for name in ("model-path", "question-file", "image-folder", "answers-file", "conv-mode"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--num-chunks", type=int, default=1)
    parser.add_argument("--chunk-idx", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--single-pred-prompt", action="store_true")
    given = parser.parse_args()
    if not os.path.isfile(os.path.join(given.model_path, "config.json")):
        raise FileNotFoundError(f"no model in {given.model_path}")
    os.makedirs(os.path.dirname(given.answers_file), exist_ok=True)
    return given


def chunk(rows: list, given: argparse.Namespace) -> list:
    """The rows of this process."""
    size = -(-len(rows) // given.num_chunks)
    return rows[given.chunk_idx * size : (given.chunk_idx + 1) * size]


def choose(options: list[str], key: str) -> str:
    """One of the options, the same for equal keys."""
    return random.Random(zlib.crc32(key.encode())).choice(options)


def write(path: str, rows: list[dict]) -> None:
    """Answers as JSON lines."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
