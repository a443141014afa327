"""The measured recipes as a script would do them: a row at a time, an operator at a time.

The reference where no second tool is installed. Pictures are opened with Pillow
by every operator that asks for them, as a chain of independent operators does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Stats = dict[str, Any]


class PlainLoop:
    """Operators by their names; each gives the statistics of a row and whether it stays."""

    def __init__(self, root: Path, special: frozenset[str]):
        self.root, self.special = root, special
        self.strip = "".join(special)
        self.seen: dict[str, set[Any]] = {}

    def kept(self, rows: Iterator[Row], process: list[dict[str, dict[str, Any]]]) -> Iterator[Row]:
        """The rows that pass all operators, with their statistics."""
        for row in rows:
            if "images" in row:
                row["images"] = [str(self.root / path) for path in row["images"]]
            stats: Stats = {}
            if all(self._passes(row, entry, stats) for entry in process):
                yield {**row, "__dj__stats__": stats}

    def _passes(self, row: Row, entry: dict[str, dict[str, Any]], stats: Stats) -> bool:
        ((name, params),) = entry.items()
        found, stays = getattr(self, name)(row, **params)
        stats.update(found)
        return bool(stays)

    def _is_new(self, name: str, key: Any) -> bool:
        seen = self.seen.setdefault(name, set())
        is_new = key not in seen
        seen.add(key)
        return is_new

    def text_length_filter(self, row: Row, min_len: int, max_len: int) -> tuple[Stats, bool]:
        """Characters."""
        found = len(row["text"])
        return {"text_len": found}, min_len <= found <= max_len

    def alphanumeric_filter(
        self, row: Row, min_ratio: float, tokenization: bool
    ) -> tuple[Stats, bool]:
        """Share of letters and digits."""
        found = sum(map(str.isalnum, row["text"])) / len(row["text"])
        return {"alnum_ratio": found}, found >= min_ratio

    def special_characters_filter(
        self, row: Row, min_ratio: float, max_ratio: float
    ) -> tuple[Stats, bool]:
        """Share of special characters."""
        found = sum(char in self.special for char in row["text"]) / len(row["text"])
        return {"special_char_ratio": found}, min_ratio <= found <= max_ratio

    def character_repetition_filter(
        self, row: Row, rep_len: int, min_ratio: float, max_ratio: float
    ) -> tuple[Stats, bool]:
        """Share of the most frequent character n-grams."""
        text = row["text"]
        grams = Counter(text[at : at + rep_len] for at in range(len(text) - rep_len + 1))
        counts = sorted(grams.values(), reverse=True)
        top = min(math.isqrt(len(counts)), sum(count > 1 for count in counts))
        found = sum(counts[:top]) / sum(counts) if counts else 0.0
        return {"char_rep_ratio": found}, min_ratio <= found <= max_ratio

    def word_repetition_filter(
        self, row: Row, rep_len: int, min_ratio: float, max_ratio: float
    ) -> tuple[Stats, bool]:
        """Share of repeated word n-grams."""
        parts = row["text"].lower().replace("\n", " ").replace("\t", " ").split(" ")
        words = [word for part in parts if (word := part.strip(self.strip))]
        grams = Counter(tuple(words[at : at + rep_len]) for at in range(len(words) - rep_len + 1))
        repeated = sum(count for count in grams.values() if count > 1)
        found = repeated / grams.total() if grams else 0.0
        return {"word_rep_ratio": found}, min_ratio <= found <= max_ratio

    def _sizes(self, row: Row) -> list[tuple[int, int]]:
        from PIL import Image

        found = []
        for path in row["images"]:
            with Image.open(path) as image:
                is_sideways = image.getexif().get(0x0112, 1) >= 5
                found.append(image.size[::-1] if is_sideways else image.size)
        return found

    def image_aspect_ratio_filter(
        self, row: Row, min_ratio: float, max_ratio: float
    ) -> tuple[Stats, bool]:
        """Width / height of each picture."""
        found = [width / height for width, height in self._sizes(row)]
        return {"aspect_ratios": found}, any(min_ratio <= one <= max_ratio for one in found)

    def image_shape_filter(self, row: Row, min_width: int, min_height: int) -> tuple[Stats, bool]:
        """Width and height of each picture."""
        sizes = self._sizes(row)
        found = {"image_width": [w for w, _ in sizes], "image_height": [h for _, h in sizes]}
        return found, any(w >= min_width and h >= min_height for w, h in sizes)

    def image_size_filter(self, row: Row, min_size: str, max_size: str) -> tuple[Stats, bool]:
        """Bytes of each picture."""
        low, high = _bytes(min_size), _bytes(max_size)
        found = [os.path.getsize(path) for path in row["images"]]
        return {"image_sizes": found}, any(low <= one <= high for one in found)

    def image_deduplicator(self, row: Row, method: str, consider_text: bool) -> tuple[Stats, bool]:
        """First of its pictures' perceptual hashes."""
        from PIL import Image

        from vlforge.ops.dedup.hashes import image_hash

        hashes = []
        for path in row["images"]:
            with Image.open(path) as image:
                hashes.append(image_hash(image.convert("RGB"), method))
        return {}, self._is_new(method, tuple(hashes))

    def document_deduplicator(
        self, row: Row, lowercase: bool, ignore_non_character: bool
    ) -> tuple[Stats, bool]:
        """First of its text."""
        return {}, self._is_new("text", hashlib.md5(row["text"].encode()).digest())


def _bytes(size: str) -> float:
    units = {"kb": 1 << 10, "mb": 1 << 20}
    return float(size[:-2]) * units[size[-2:].lower()]


def main(recipe_path: str, out: str) -> int:
    """Run a recipe file and write what it keeps."""
    from vlforge.ops.text.classes import special_characters

    recipe = json.loads(Path(recipe_path).read_text(encoding="utf-8"))
    source = Path(recipe["dataset_path"])
    loop = PlainLoop(source.parent, frozenset(special_characters()))
    with source.open(encoding="utf-8") as file, open(out, "w", encoding="utf-8") as target:
        for row in loop.kept(map(json.loads, file), recipe["process"]):
            target.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
