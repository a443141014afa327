"""A run that is watched from another terminal."""

import fcntl
import json
import threading

import pytest

from vlforge.cli import main, show
from vlforge.runs import watching
from vlforge.runs.store import hold
from vlforge.runs.watching import Following, curve
from vlforge.types import DataError


def event(kind: str, **fields) -> bytes:
    """One line of a run's log."""
    return json.dumps({"time": 1.0, "node": "align.s0", "event": kind, **fields}).encode() + b"\n"


def step(number: int, loss: float | None = 1.0) -> bytes:
    """A step's line."""
    return event(
        "step", step=number, samples=16 * number, of=1600, loss=loss, samples_per_second=50.0,
        mfu=0.4, wait_share=0.02, eta_s=30.0,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run's folder that nobody holds."""
    (tmp_path / ".lock").touch()
    return tmp_path


def test_a_stage_is_told_in_a_line_and_a_half_written_line_waits(run):
    following = Following(run)
    assert not following.read()
    with (run / "log.jsonl").open("ab") as file:
        file.write(event("done", node="world", seconds=3) + event("fit", from_step=0, steps=100))
        file.write(step(10, 2.0) + step(20)[:9])
    assert following.read()
    with (run / "log.jsonl").open("ab") as file:
        file.write(step(20)[9:] + event("looked", step=20, eval_loss=1.25))
    following.read()
    (seen,) = following.nodes.values()
    assert seen.line() == (
        "align.s0  320 of 1,600  █▅  loss 1  held-out 1.25  50 samples/s  mfu 40%  wait 2%  "
        "left 30 s"
    )
    assert following.lines() == [
        "align.s0  320 of 1,600  █▅  loss 1  held-out 1.25  not running now"
    ]


def test_a_start_that_goes_on_forgets_what_came_behind_its_checkpoint(run):
    first = event("fit", from_step=0) + step(10, 4.0) + step(20, 4.0) + step(30, 1.0)
    (run / "log.jsonl").write_bytes(first + event("fit", from_step=20) + b"no json\n")
    following = Following(run)
    following.read()
    (seen,) = following.nodes.values()
    assert seen.line().endswith("██  loss 1  goes on after step 20")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (event("done", seconds=75.0), "loss 1  done in 1 min 15 s"),
        (event("failed", error="no memory"), "loss 1  failed: no memory"),
    ],
)
def test_how_a_stage_ended_is_told(run, end, words, capsys):
    (run / "log.jsonl").write_bytes(event("fit", from_step=0) + step(10, None) + step(20) + end)
    assert main(["watch", str(run)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(words)


def test_a_run_that_goes_on_is_followed_to_its_end(run, capsys, monkeypatch):
    monkeypatch.setattr("vlforge.cli.watch._EVERY_S", 0.05)
    lock = (run / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (run / "log.jsonl").write_bytes(event("fit", from_step=0) + step(10))

    was_told, tell = threading.Event(), show.plain_line

    def told_now(line: str) -> None:
        tell(line)
        was_told.set()

    monkeypatch.setattr("vlforge.cli.watch.plain_line", told_now)

    def goes_on() -> None:
        was_told.wait(120)
        with (run / "log.jsonl").open("ab") as file:
            file.write(step(100) + event("done", seconds=2.0))
        lock.close()

    other = threading.Thread(target=goes_on)
    other.start()
    assert main(["watch", str(run)]) == 0
    other.join()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("align.s0  160 of 1,600")
    assert told[-1].endswith("done in 2.0 s")
    assert not Following(run).is_running()


def test_the_last_words_of_a_run_that_ends_while_it_is_looked_at_are_told(run):
    (run / "log.jsonl").write_bytes(event("fit", from_step=0) + step(10))
    following = Following(run)
    following.read()
    with (run / "log.jsonl").open("ab") as file:
        file.write(event("done", seconds=2.0))
    (line,) = following.lines()
    assert line.endswith("done in 2.0 s")


def test_a_look_at_a_run_keeps_no_other_command_from_it(run):
    looking = (run / ".lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, looking.close).start()
    hold(run).close()


def test_where_there_is_no_run_that_is_said(tmp_path):
    with pytest.raises(DataError, match="no run here"):
        Following(tmp_path)


def test_a_curve_is_as_wide_as_it_may_be():
    assert curve([], 4) == ""
    assert curve([8.0, 4.0, 0.0], 4) == "█▅▁"
    assert curve([4.0] * 100, 10) == "█" * 10
    assert watching.WIDTH >= 10
