"""A run that is stopped goes on, says when it cannot, and begins anew when it is told to."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from vlforge.recipe.source import MadeSource
from vlforge.runs.prepare import Choice, prepare, stage_of_run
from vlforge.runs.run import Stopped, dump_yaml, run_recipe
from vlforge.runs.worker import Order, report_of
from vlforge.types import RecipeError

LONG = {"steps": 10_000, "pace_s": 0.02}
"""Minutes: it is not over before it is stopped."""


def recipe(**settings) -> MadeSource:
    stage = {"kind": "tests.runs.step_kind", "text": "a", **settings}
    tree = {"name": "small", "stages": {"align": stage}}
    return MadeSource(tree, dump_yaml(tree))


def run(folder: Path, source: MadeSource, **choice):
    return run_recipe(source, Choice(run_dir=folder / "small", **choice), quiet=True)


def events(folder: Path) -> list[dict]:
    """Whole lines of the log; the last may be half written."""
    log = folder / "small" / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def stop_run(folder: Path, source: MadeSource, number: int) -> None:
    """Run, and send this process a signal once the stage has done a step."""
    begun = sum(event["event"] == "stepped" for event in events(folder))

    def interrupt() -> None:
        while sum(event["event"] == "stepped" for event in events(folder)) == begun:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped, match="the same command continues"):
        run(folder, source)


def ran(folder: Path) -> list[int]:
    """The steps that finished stages began with."""
    return [int(x.split()[1]) for x in (folder / "small" / "ran.txt").read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stage_in_its_steps_ends_with_a_checkpoint(tmp_path, number):
    before = signal.getsignal(number)
    stop_run(tmp_path, recipe(**LONG), number)
    assert signal.getsignal(number) is before
    stopped = [event for event in events(tmp_path) if event["event"] == "stopped"]
    assert "goes on after step" in stopped[0]["text"]
    run(tmp_path, recipe(**LONG | {"pace_s": 0.0}))
    assert ran(tmp_path)[0] > 0


def test_a_checkpoint_that_other_settings_leave_unused_is_told_with_the_setting(tmp_path):
    stop_run(tmp_path, recipe(**LONG), signal.SIGINT)
    run(tmp_path, recipe(**LONG | {"pace_s": 0.0, "text": "b"}))
    assert ran(tmp_path) == [0]
    (told,) = [event["text"] for event in events(tmp_path) if event["event"] == "warning"]
    assert told.startswith("begins anew: the checkpoint of step ")
    assert 'is not used, text was "a" and is "b"; with what was before, it goes on' in told
    run(tmp_path, recipe(**LONG | {"pace_s": 0.0}))
    assert ran(tmp_path)[1] > 0
    assert not list(tmp_path.glob(".store/.begun/*"))


def test_a_setting_without_effect_does_not_run_a_stage_again(tmp_path):
    run(tmp_path, recipe())
    assert run(tmp_path, recipe(pace_s=0.001)).nodes_reused == 1
    assert run(tmp_path, recipe(steps=4)).nodes_reused == 0


def test_fresh_reuses_nothing(tmp_path):
    stop_run(tmp_path, recipe(**LONG), signal.SIGINT)
    quick = recipe(**LONG | {"pace_s": 0.0})
    run(tmp_path, quick, fresh=True)
    run(tmp_path, quick, fresh=True)
    assert ran(tmp_path) == [0, 0]
    assert run(tmp_path, quick).nodes_reused == 1


def test_a_runs_stage_is_named_by_run_and_stage(tmp_path):
    run(tmp_path, recipe())
    wanted = (tmp_path / "small" / "01-align").resolve()
    for name in ("align", "stages/align"):
        assert stage_of_run(tmp_path / "small" / name) == wanted
    assert stage_of_run(tmp_path / "small" / "other") is None
    assert stage_of_run(tmp_path / "none" / "align") is None
    using = prepare(recipe(text=str(tmp_path / "small" / "align")), Choice())
    assert using.nodes[0].settings["text"] == str(wanted)


def test_a_stage_that_has_not_ended_or_is_not_one_is_refused_by_name(tmp_path):
    stop_run(tmp_path, recipe(**LONG), signal.SIGINT)
    graph = tmp_path / "small" / "graph.json"
    rows = [
        {"node": f"align.s{seed}", "stage": "align", "folder": f"01-align.s{seed}"}
        for seed in range(2)
    ]
    graph.write_text(json.dumps({"nodes": rows}))
    with pytest.raises(RecipeError, match=r"name one of align\.s0, align\.s1"):
        stage_of_run(tmp_path / "small" / "align")
    with pytest.raises(RecipeError, match="has not ended; finish its run first"):
        stage_of_run(tmp_path / "small" / "align.s0")


def test_a_full_disk_is_told_alike_whoever_writes(tmp_path):
    order = Order(
        "align", "train", "0" * 16, {}, {}, 0, tmp_path / ".store", tmp_path, "cpu", 1
    )  # fmt: skip
    texts = (
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing file data/0",
    )
    for error in (OSError(errno.ENOSPC, "No space left on device"), *map(RuntimeError, texts)):
        kind, line, _ = report_of(error, order)
        assert kind == "failed"
        assert line.startswith(f"no space left for {tmp_path / '.store'}: free some and give")
    assert report_of(RuntimeError("odd"), order)[1] == "RuntimeError: odd"
