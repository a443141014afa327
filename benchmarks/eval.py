"""Evaluation's two speeds as JSON: answers a second, and rows scored a second.

    python benchmarks/eval.py [--questions 192] [--repeats 3] [--out eval.json]

`asking`: a small model answers made questions about made photographs, by `evaluate` as
`vlforge eval run` calls it (files, batches, pictures opened meanwhile, scores), and by the
loop that LLaVA's and MGM's scripts are: per question open the picture, prepare it, and
`generate` with a cache, one prompt at a time. The model is random, with weights wide enough
that its choices are far apart, and lies open for both; the answers must be the same, or this
stops with exit code 1. `scoring`: a made table of MMBench's size, read from its files and
scored over rotations by VLMEvalKit's rule, beside that rule written plainly, which looks a
question's rows up in the table for each question, with pandas where it is installed. Both
must give the same share. Medians of the repeats, taken in turn; one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ANSWER_TOKENS = 16
MMBENCH_ROWS = 4377


def timed(ways: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict]:
    """Median seconds of each way, taken in turn, and what each gave."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    gave: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            gave[name] = way()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}, gave


def measure_asking(folder: Path, questions: int, repeats: int) -> dict[str, Any]:
    """Answers a second by `evaluate` and by the plain loop.

    Raises:
        SystemExit: the answers differ.
    """
    import torch
    from eval_parts.little_model import write_model
    from eval_parts.questions import write_questions

    from vlforge.evaluation.config import EvalConfig
    from vlforge.evaluation.run import evaluate
    from vlforge.inference.local import LocalChat

    torch.set_num_threads(1)
    spec = write_questions(folder / "world", questions, ANSWER_TOKENS)
    model = write_model(folder / "model")
    config = EvalConfig(str(model), (spec,))
    chat = LocalChat(model, device="cpu", batch=config.batch_size)
    runs = iter(range(10**6))

    def ours() -> dict[str, str]:
        out = folder / f"out-{next(runs)}"
        evaluate(config, out, chat=chat)
        lines = (out / "predictions.custom.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["id"]: row["text"] for row in map(json.loads, lines)}

    seconds, said = timed({"plain": lambda: plain_loop(chat.loaded, spec), "ours": ours}, repeats)
    unlike = sum(said["ours"][key] != text for key, text in said["plain"].items())
    if unlike or len(said["ours"]) != questions:
        raise SystemExit(f"{unlike} of {questions} answers differ between the two ways")
    return {
        "questions": questions,
        "different_answers": len(set(said["ours"].values())),
        "answer_tokens": ANSWER_TOKENS,
        "batch": config.batch_size,
        "answers_per_s": round(questions / seconds["ours"], 1),
        "plain_answers_per_s": round(questions / seconds["plain"], 1),
        "speedup": round(seconds["plain"] / seconds["ours"], 2),
    }


def plain_loop(loaded: Any, spec: Any) -> dict[str, str]:
    """One question after the other, as the references' scripts ask."""
    import torch
    from PIL import Image

    from vlforge.evaluation.answering import sample_of
    from vlforge.evaluation.benchmarks import questions_of
    from vlforge.inference.prompts import pixels_of, prompt_of

    said = {}
    for question in questions_of(spec):
        sample = sample_of(question, question.images)
        ids = torch.tensor([prompt_of(loaded, sample).ids])
        pictures = [Image.open(path).convert("RGB") for path in sample.images]
        pixels = pixels_of(loaded, pictures) if pictures else None
        with torch.inference_mode():
            made = loaded.model.generate(
                ids, pixels, max_new_tokens=ANSWER_TOKENS, do_sample=False, use_cache=True,
                pad_token_id=0,
            )  # fmt: skip
        said[question.id] = loaded.tokenizer.decode(made[0], skip_special_tokens=True).strip()
    return said


def measure_scoring(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Rows scored a second from files, ours and the rule written plainly.

    Raises:
        SystemExit: the shares differ.
    """
    from eval_parts.mmbench import plain_score, with_pandas, write_table

    from vlforge.evaluation.config import BenchmarkSpec
    from vlforge.evaluation.scoring import score_answers

    table, answers = write_table(folder, rows)
    spec = BenchmarkSpec("mmbench", str(table), protocol="circular/vlmevalkit")
    ways: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain_score(table, answers),
        "ours": lambda: score_answers(spec, answers)["score"],
    }
    seconds, shares = timed(ways, repeats)
    if abs(shares["ours"] - shares["plain"]) > 1e-9:
        raise SystemExit(f"{shares['ours']} by the fast way, {shares['plain']} by the plain one")
    return {
        "rows": rows,
        "score": round(shares["ours"], 6),
        "plain_with": "pandas" if with_pandas() else "python",
        "rows_per_s": round(rows / seconds["ours"]),
        "plain_rows_per_s": round(rows / seconds["plain"]),
        "speedup": round(seconds["plain"] / seconds["ours"], 2),
        "seconds": round(seconds["ours"], 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--rows", type=int, default=MMBENCH_ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {
            "benchmark": "eval",
            "repeats": options.repeats,
            "load_average": round(os.getloadavg()[0], 2),
            "scoring": measure_scoring(Path(name) / "table", options.rows, options.repeats),
            "asking": measure_asking(Path(name), options.questions, options.repeats),
        }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
