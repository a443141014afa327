"""An answer depends on its question alone: not on batches, order, processes nor kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.evaluation.little_world import rows_of, write_questions, write_world
from vlforge.evaluation import processes
from vlforge.evaluation.answering import ask_of, plan_batches
from vlforge.evaluation.benchmarks import questions_of
from vlforge.evaluation.chats import process_count
from vlforge.evaluation.run import evaluate
from vlforge.inference import answers, options, prompts
from vlforge.types import ModelError


def texts_of(out: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows_of(out)}


def test_answers_depend_neither_on_the_batch_nor_on_the_order(tmp_path):
    config = write_world(tmp_path)
    evaluate(config, tmp_path / "one", device="cpu")
    wanted = texts_of(tmp_path / "one")
    assert len(set(wanted.values())) > 4, "the case must hold different answers"
    for batch in (1, 7, "auto"):
        evaluate(replace(config, batch=batch), tmp_path / f"b{batch}", device="cpu")
        assert texts_of(tmp_path / f"b{batch}") == wanted
    path = Path(config.benchmarks[0].questions)
    lines = path.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    path.write_text("".join(lines))
    evaluate(config, tmp_path / "mixed", device="cpu")
    assert texts_of(tmp_path / "mixed") == wanted
    assert [row["id"] for row in rows_of(tmp_path / "mixed")] == [
        json.loads(line)["id"] for line in lines
    ]


def test_batches_begin_with_the_largest_and_keep_pictures_together(tmp_path):
    config = write_world(tmp_path)
    questions = questions_of(config.benchmarks[0])
    asks = [ask_of(q, q.images, config) for q in questions]
    batches = plan_batches(asks, 4)
    assert sorted(ask.id for batch in batches for ask in batch) == sorted(a.id for a in asks)
    shown = [(len(ask.sample.images), len(ask.sample.turns[0].text)) for b in batches for ask in b]
    assert max(shown)[0] == shown[0][0]
    assert shown[0][1] > shown[-1][1]
    pictures = [ask.sample.images for batch in plan_batches(asks[1:3] * 2, 4) for ask in batch]
    assert pictures == sorted(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "precision"), [(2, "fp32"), (3, "fp32"), (2, "bf16")])
def test_processes_give_the_bytes_of_one(tmp_path, count, precision):
    config = write_world(tmp_path, precision=precision)
    whole = evaluate(config, tmp_path / "one", device="cpu")
    shared = evaluate(replace(config, processes=count), tmp_path / "many", device="cpu")
    assert shared == whole
    for path in sorted((tmp_path / "one").glob("*.json*")):
        assert (tmp_path / "many" / path.name).read_bytes() == path.read_bytes(), path.name
    assert not list((tmp_path / "many").glob("*.part-*"))


@pytest.mark.slow
def test_more_processes_than_questions_lose_none(tmp_path):
    config = write_world(tmp_path, count=3, batch=1, processes=4)
    evaluate(config, tmp_path / "out", device="cpu")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["q0", "q1", "q2"]


@pytest.mark.slow
def test_one_killed_process_leaves_its_questions_to_the_others(tmp_path, monkeypatch):
    config = write_world(tmp_path, count=30, batch=1)
    evaluate(config, tmp_path / "one", device="cpu")
    killed: list[int] = []
    heard = processes.Crew._heard

    def die_of_the_first(crew, pipe, waiting):
        outcome = heard(crew, pipe, waiting)
        if outcome is not None and not killed:
            killed.append(crew._processes[pipe].pid)
            crew._processes[pipe].kill()
        return outcome

    monkeypatch.setattr(processes.Crew, "_heard", die_of_the_first)
    evaluate(replace(config, processes=2), tmp_path / "many", device="cpu")
    assert killed
    assert rows_of(tmp_path / "many") == rows_of(tmp_path / "one")


@pytest.mark.slow
def test_where_all_processes_die_one_line_says_so(tmp_path, monkeypatch):
    config = write_world(tmp_path, count=8, processes=2)
    started = processes.Crew._start

    def start(crew, number):
        started(crew, number)
        list(crew._processes.values())[-1].kill()

    monkeypatch.setattr(processes.Crew, "_start", start)
    with pytest.raises(ModelError, match=r"all 2 processes died, the last with exit code -9"):
        evaluate(config, tmp_path / "out", device="cpu")


@pytest.mark.slow
def test_a_model_that_is_none_is_told_by_the_process_that_opens_it(tmp_path):
    config = write_world(tmp_path, count=8, processes=2)
    (Path(config.model) / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ModelError, match="holds a model of type 'nothing'"):
        evaluate(config, tmp_path / "out", device="cpu")


KILLED = """
import os, signal, sys
from vlforge.cli import main
from vlforge.evaluation import answering, processes
left = int(sys.argv.pop(1))

def die_after(rows):
    global left
    left -= len(rows)
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)

def append(path, rows, really=answering.append_rows):
    really(path, rows)
    die_after(rows)

def heard(crew, pipe, waiting, really=processes.Crew._heard):
    outcome = really(crew, pipe, waiting)
    if outcome is not None:
        die_after(outcome[0].rows)
    return outcome

if "1" == sys.argv[-1]:
    answering.append_rows = append
else:
    processes.Crew._heard = heard
sys.exit(main(sys.argv[1:]))
"""
"""The command, killed once it has so many answers more: its own, or those that it is told of."""


def command(config, out: Path, count: int, left: int = 1 << 30) -> list[str]:
    spec = config.benchmarks[0]
    words = [sys.executable, "-c", KILLED, str(left), "eval", "run", config.model]
    words += ["--benchmark", "custom", "--questions", spec.questions, "--out", str(out)]
    words += ["--device", "cpu", "--batch", "2", "--max-new-tokens", "6"]
    return [*words, "--processes", str(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_any_time_the_same_command_gives_the_same_predictions(tmp_path, count):
    config = write_world(tmp_path, count=150)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    subprocess.run(command(config, tmp_path / "whole", 1), check=True, env=environment)
    out, draws = tmp_path / "out", random.Random(count)
    for _ in range(4):  # 4 times at most 24 and 9 that it was not told of: never all
        killed = subprocess.run(command(config, out, count, draws.randint(1, 24)), env=environment)
        assert killed.returncode == -signal.SIGKILL
    subprocess.run(command(config, out, count), check=True, env=environment)
    for name in ("predictions.custom.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_of_processes_that_were_ended_count(tmp_path):
    config = write_world(tmp_path)
    whole = evaluate(config, tmp_path / "out", device="cpu")
    path = tmp_path / "out" / "predictions.custom.jsonl"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    part = processes.part_path(path, 3)
    part.write_bytes(b"".join(lines[9:]) + b'{"id": "q5", "te')
    processes.part_path(path, 0).write_bytes(b"".join(lines[5:9]))
    from vlforge.evaluation.scoring import score_folder

    assert score_folder(tmp_path / "out") == whole
    path.unlink()
    assert score_folder(tmp_path / "out")["custom"]["missing"] == 5
    evaluate(config, tmp_path / "out", device="cpu")
    assert path.read_bytes() == data
    assert not part.exists()


def test_by_default_one_process_asks_where_there_is_no_gpu(tmp_path):
    config = write_world(tmp_path, count=3)
    assert process_count(config, "cpu") == 1
    assert process_count(replace(config, processes=5), "cpu") == 5
    assert process_count(replace(config, device_map="auto"), "auto") == 1


@pytest.mark.parametrize("way", ["generation", "likelihood"])
def test_memory_that_runs_out_halves_the_batch_and_changes_no_answer(tmp_path, monkeypatch, way):
    config = write_world(tmp_path, batch=8, answer_by=way, likelihood="mean")
    spec = write_questions(tmp_path / "options", 16, options=way == "likelihood")
    config = replace(config, benchmarks=(spec,))
    evaluate(config, tmp_path / "whole", device="cpu")
    tried: list[int] = []
    embed = prompts.embed

    def small_memory(loaded, some):
        tried.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(loaded, some)

    monkeypatch.setattr(answers, "embed", small_memory)
    monkeypatch.setattr(options, "embed", small_memory)
    evaluate(config, tmp_path / "small", device="cpu")
    assert texts_of(tmp_path / "small") == texts_of(tmp_path / "whole")
    assert max(tried) > 1
    assert tried.count(1) == 16
