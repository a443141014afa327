"""Rows a second of `process`, beside a plain loop over rows in the same call, as JSON.

    python benchmarks/process.py [--rows 10000] [--repeats 3] [--np 2] [--out process.json]

Makes rows of text with one jpeg each (about 400 x 300) in a temporary folder.
R1 are five text filters, R2 three filters on picture headers, R3 both and a
dedup by perceptual hash, the shapes of the recipes that Data-Juicer was
measured with. The plain loop does what a script would: parse a row, measure it
operator by operator in Python, open the picture with Pillow for its size and
decode it for its hash. Both must keep the same rows. Runs alternate; each is a
new interpreter, start and imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

WORDS = tuple(
    "a the of in on with two small large red blue green old new dog cat boat street river house "
    "people standing sitting near under behind window table bright dark photograph view sky"
    .split()
)  # fmt: skip
SIZES = ((400, 300), (300, 400), (480, 320), (256, 256), (640, 120))
PICTURES = 400
R1: list[dict[str, Any]] = [
    {"text_length_filter": {"min_len": 40, "max_len": 400}},
    {"alphanumeric_filter": {"min_ratio": 0.5}},
    {"special_characters_filter": {"max_ratio": 0.5}},
    {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.3}},
    {"word_repetition_filter": {"rep_len": 5, "max_ratio": 0.3}},
]
R2: list[dict[str, Any]] = [
    {"image_aspect_ratio_filter": {"min_ratio": 0.4, "max_ratio": 3.0}},
    {"image_shape_filter": {"min_width": 200}},
    {"image_size_filter": {"min_size": "1kb"}},
]
RECIPES = {"R1": R1, "R2": R2, "R3": [*R1, *R2, {"image_deduplicator": {"method": "phash"}}]}


def make_dataset(folder: Path, rows: int) -> Path:
    """Rows over `PICTURES` jpegs linked to as many names as there are rows; gives the file."""
    from PIL import Image

    pick = random.Random(0)
    (folder / "images").mkdir()
    for number in range(min(PICTURES, rows)):
        noise = Image.effect_noise((12, 9), 90 + number % 60).convert("L")
        image = Image.merge("RGB", [noise, noise.rotate(180), noise.transpose(0)])
        image.resize(SIZES[number % 5], 3).save(folder / f"images/p{number}.jpg", quality=80)
    path = folder / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            name = folder / f"images/{number}.jpg"
            os.link(folder / f"images/p{number % PICTURES}.jpg", name)
            words = [pick.choice(WORDS) for _ in range(pick.randint(4, 25))]
            text = f"<__dj__image>\n{' '.join(words)} {number}. <|__dj__eoc|>"
            row = {"id": str(number), "text": text, "images": [f"images/{number}.jpg"]}
            file.write(json.dumps(row) + "\n")
    return path


class PlainLoop:
    """The operators of the recipes, one row at a time."""

    def __init__(self, root: Path, special: frozenset[str]):
        self.root, self.special = root, special
        self.seen: set[bytes] = set()

    def keeps(self, row: dict[str, Any], recipe: list[dict[str, Any]]) -> bool:
        """Whether the row passes all operators."""
        for entry in recipe:
            ((name, params),) = entry.items()
            if not getattr(self, name)(row, **params):
                return False
        return True

    def text_length_filter(self, row: Any, min_len: int, max_len: int) -> bool:
        """Characters."""
        return min_len <= len(row["text"]) <= max_len

    def alphanumeric_filter(self, row: Any, min_ratio: float) -> bool:
        """Share of letters and digits."""
        return sum(c.isalnum() for c in row["text"]) / len(row["text"]) >= min_ratio

    def special_characters_filter(self, row: Any, max_ratio: float) -> bool:
        """Share of special characters."""
        return sum(c in self.special for c in row["text"]) / len(row["text"]) <= max_ratio

    def character_repetition_filter(self, row: Any, rep_len: int, max_ratio: float) -> bool:
        """Share of the most frequent character n-grams."""
        text = row["text"]
        grams = Counter(text[at : at + rep_len] for at in range(len(text) - rep_len + 1))
        counts = sorted(grams.values(), reverse=True)
        top = min(int(len(counts) ** 0.5), sum(count > 1 for count in counts))
        return not counts or sum(counts[:top]) / sum(counts) <= max_ratio

    def word_repetition_filter(self, row: Any, rep_len: int, max_ratio: float) -> bool:
        """Share of repeated word n-grams."""
        special = "".join(self.special)
        words = [w for p in row["text"].lower().split() if (w := p.strip(special))]
        grams = Counter(tuple(words[at : at + rep_len]) for at in range(len(words) - rep_len + 1))
        repeated = sum(count for count in grams.values() if count > 1)
        return not grams or repeated / grams.total() <= max_ratio

    def _size(self, row: Any) -> tuple[int, int]:
        from PIL import Image, ImageOps

        with Image.open(self.root / row["images"][0]) as image:
            return ImageOps.exif_transpose(image).size

    def image_aspect_ratio_filter(self, row: Any, min_ratio: float, max_ratio: float) -> bool:
        """Width / height."""
        width, height = self._size(row)
        return min_ratio <= width / height <= max_ratio

    def image_shape_filter(self, row: Any, min_width: int) -> bool:
        """Width."""
        return self._size(row)[0] >= min_width

    def image_size_filter(self, row: Any, min_size: str) -> bool:
        """Bytes."""
        return os.path.getsize(self.root / row["images"][0]) >= 1024 * int(min_size[0])

    def image_deduplicator(self, row: Any, method: str) -> bool:
        """First of a hash."""
        from PIL import Image

        from vlforge.ops.dedup.hashes import image_hash

        key = image_hash(Image.open(self.root / row["images"][0]).convert("RGB"), "phash")
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new


def run_plain(path: Path, recipe: list[dict[str, Any]], out: Path) -> None:
    """Write the rows that the plain loop keeps."""
    from vlforge.ops.text.classes import special_characters

    loop = PlainLoop(path.parent, frozenset(special_characters()))
    with path.open(encoding="utf-8") as source, out.open("w", encoding="utf-8") as target:
        for line in source:
            row = json.loads(line)
            if loop.keeps(row, recipe):
                target.write(json.dumps(row) + "\n")


def run_vlforge(path: Path, recipe: list[dict[str, Any]], out: Path, workers: int) -> None:
    """Write what `process` writes."""
    from vlforge.engine.config import ProcessConfig
    from vlforge.engine.local import run_process

    run_process(ProcessConfig(str(path), process=tuple(recipe)), out, workers=workers)


def child(arguments: list[str]) -> int:
    """One run in this interpreter: way, recipe, dataset, output, workers."""
    way, recipe, path, out, workers = arguments
    if way == "plain":
        run_plain(Path(path), RECIPES[recipe], Path(out))
    else:
        run_vlforge(Path(path), RECIPES[recipe], Path(out), int(workers))
    return 0


def timed(way: str, recipe: str, path: Path, out: Path, workers: int) -> tuple[float, float]:
    """Wall and processor seconds of one run in a new interpreter."""
    command = [sys.executable, __file__, "--child", way, recipe, str(path), str(out), str(workers)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def kept_ids(path: Path) -> list[str]:
    """Ids of the rows in a file of JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["id"] for line in file]


def measure(folder: Path, path: Path, recipe: str, repeats: int, workers: int) -> dict[str, Any]:
    """Alternating runs of both ways over one recipe."""
    times: dict[str, list[tuple[float, float]]] = {"vlforge": [], "plain": []}
    for number in range(repeats):
        for way in times:
            out = folder / f"{recipe}.{way}.{number}"
            times[way].append(timed(way, recipe, path, out, workers))
    kept = kept_ids(folder / f"{recipe}.vlforge.0" / "data.jsonl")
    assert kept == kept_ids(folder / f"{recipe}.plain.0"), "the two ways keep different rows"
    wall = {way: [t[0] for t in found] for way, found in times.items()}
    cpu = {way: statistics.median(t[1] for t in found) for way, found in times.items()}
    median = {way: statistics.median(found) for way, found in wall.items()}
    return {
        "recipe": recipe,
        "kept": len(kept),
        "wall_s": {way: round(found, 3) for way, found in median.items()},
        "spread_s": {w: [round(min(f), 3), round(max(f), 3)] for w, f in wall.items()},
        "cpu_s": {way: round(found, 3) for way, found in cpu.items()},
        "ratio_wall": round(median["plain"] / median["vlforge"], 2),
        "ratio_cpu": round(cpu["plain"] / cpu["vlforge"], 2),
    }


def main() -> int:
    """Print the JSON, and keep it where `--out` says."""
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--np", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_dataset(folder, options.rows)
        found = [measure(folder, path, r, options.repeats, options.np) for r in RECIPES]
    result = {
        "what": f"{options.rows} rows with a jpeg each, np {options.np}, median of "
        f"{options.repeats} alternating runs, start included",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "recipes": found,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
