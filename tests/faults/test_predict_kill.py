"""`predict` killed again and again ends with the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving.made_rows import encoded, model_in, text_of

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def command(folder: Path, name: str, processes: int) -> list[str]:
    words = [sys.executable, "-m", "vlforge", "predict", str(folder / "model")]
    words += [str(folder / "in.tsv"), str(folder / name), "--device", "cpu", "--prompt", "the cat"]
    words += ["--batch", "2", "--max-new-tokens", "6", "--processes", str(processes)]
    return [*words, "--temperature", "1", "--report", str(folder / f"{name}.report.jsonl")]


def lines_in(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def answers_more(process: subprocess.Popen, book: Path, more: int) -> bool:
    """Wait until so many lines more are there; False where the command ended before."""
    begin = lines_in(book)
    while process.poll() is None:
        if lines_in(book) >= begin + more:
            return True
        time.sleep(0.003)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_time_the_same_command_gives_the_same_file(tmp_path, processes):
    model_in(tmp_path)
    rows = [b"ad%d\t%s" % (n, text_of(encoded(n))) for n in range(400)]
    rows[17], rows[200] = b"", b"ad200\t" + text_of(encoded(200, "JPEG")[:-250])
    (tmp_path / "in.tsv").write_bytes(b"\n".join(rows) + b"\n")
    subprocess.run(command(tmp_path, "whole.tsv", 1), check=True, env=ENVIRONMENT)
    whole, cut = tmp_path / "whole.tsv", tmp_path / "cut.tsv"
    draws, kills = random.Random(processes), 0
    for _ in range(30):
        process = subprocess.Popen(command(tmp_path, "cut.tsv", processes), env=ENVIRONMENT)
        book = tmp_path / ".cut.tsv.answers"
        if kills < 4 and answers_more(process, book, draws.randint(2, 80)):
            process.kill()
        if process.wait() != 0:
            kills += 1
            assert not cut.exists() or cut.read_bytes() == whole.read_bytes()
        elif kills > 1:
            break
        else:  # It was over before it could be killed twice: from the beginning.
            cut.unlink()
    assert kills > 1
    for name in ("{}.tsv", "{}.tsv.report.jsonl"):
        whole = (tmp_path / name.format("whole")).read_bytes()
        assert (tmp_path / name.format("cut")).read_bytes() == whole
    assert b"line is blank" in whole
    assert b"what is left of its picture" in whole
    assert not list(tmp_path.glob(".*"))
