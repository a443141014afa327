"""Captions a second of `vlforge predict` as JSON, beside the loop that it replaces.

    python benchmarks/predict.py [--rows 384] [--repeats 3] [--out predict.json]

A caption TSV of made photographs (320 x 240 JPEGs in base64) goes through a small random
model three ways, taken in turn; each opens the model, reads the file and writes one:
`plain` is the loop of `predict.py` scripts: per line decode base64, open and prepare the
picture, `generate` with a cache, write `id \\t caption`, one row at a time and nothing
meanwhile. `ours` is `vlforge predict` with its batches, its thread that reads and opens
ahead, and its file of answers to go on from; `ours_alone` is the same with a batch of one.
The files must be the same to the byte, or this stops with exit code 1. Greedy, one thread,
medians of the repeats.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ANSWER_TOKENS = 24
BATCH = 32
PROMPT = " ".join(f"w{number}" for number in range(12))


def write_tsv(path: Path, rows: int) -> Path:
    """`id \\t base64`, a made photograph a line."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    with path.open("wb") as file:
        for number in range(rows):
            small = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG")
            file.write(b"ad%06d\t%s\n" % (number, base64.b64encode(buffer.getvalue())))
    return path


def plain_loop(model: Path, source: Path, output: Path) -> None:
    """One line after the other."""
    import torch
    from PIL import Image

    from vlforge.inference.load import load_model
    from vlforge.inference.prompts import pixels_of, prompt_of
    from vlforge.types import Sample, Turn

    loaded = load_model(model, "cpu")
    turns = (Turn("user", f"<image>\n{PROMPT}"),)
    with source.open() as lines, output.open("w") as file:
        for line in lines:
            name, text = line.rstrip("\n").split("\t")
            picture = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
            ids = torch.tensor([prompt_of(loaded, Sample(name, (text,), turns)).ids])
            with torch.inference_mode():
                made = loaded.model.generate(
                    ids, pixels_of(loaded, [picture]), max_new_tokens=ANSWER_TOKENS,
                    do_sample=False, use_cache=True, pad_token_id=0,
                )  # fmt: skip
            said = loaded.tokenizer.decode(made[0], skip_special_tokens=True).strip()
            file.write(f"{name}\t{said}\n")


def ours(model: Path, source: Path, output: Path, batch: int) -> None:
    """What `vlforge predict` runs."""
    from vlforge.serving.predict.answering import Asking
    from vlforge.serving.predict.rows import Source
    from vlforge.serving.predict.run import Plan, predict
    from vlforge.types import Drawing

    asking = Asking(str(model), drawing=Drawing(ANSWER_TOKENS), batch=batch)
    predict(Plan(Source(source, prompt=PROMPT), output, asking, device="cpu", overwrite=True))


def measure(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Rows a second of the three ways.

    Raises:
        SystemExit: their files differ.
    """
    import torch
    from eval_parts.little_model import write_model

    torch.set_num_threads(1)
    model, source = write_model(folder / "model"), write_tsv(folder / "in.tsv", rows)
    ways: dict[str, Callable[[Path], None]] = {
        "plain": lambda out: plain_loop(model, source, out),
        "ours": lambda out: ours(model, source, out, BATCH),
        "ours_alone": lambda out: ours(model, source, out, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(folder / f"{name}.tsv")
            seconds[name].append(time.perf_counter() - begin)
    texts = {name: (folder / f"{name}.tsv").read_bytes() for name in ways}
    if len(set(texts.values())) > 1:
        raise SystemExit("the ways give different files")
    took = {name: statistics.median(values) for name, values in seconds.items()}
    captions = {line.partition(b"\t")[2] for line in texts["ours"].splitlines()}
    return {
        "rows": rows,
        "different_captions": len(captions),
        "answer_tokens": ANSWER_TOKENS,
        "batch": BATCH,
        "rows_per_s": round(rows / took["ours"], 1),
        "plain_rows_per_s": round(rows / took["plain"], 1),
        "alone_rows_per_s": round(rows / took["ours_alone"], 1),
        "speedup": round(took["plain"] / took["ours"], 2),
        "speedup_alone": round(took["plain"] / took["ours_alone"], 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {
            "benchmark": "predict",
            "repeats": options.repeats,
            "load_average": round(os.getloadavg()[0], 2),
            **measure(Path(name), options.rows, options.repeats),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
