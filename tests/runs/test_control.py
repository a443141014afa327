"""The line between the processes of a launch, both ends in one process."""

import time
from pathlib import Path

import pytest

from tests.side_by_side import free_port
from vlforge.runs import control
from vlforge.runs.control import Control, Lost, leading
from vlforge.runs.launch import Launch
from vlforge.runs.team import Call
from vlforge.runs.worker import Order


@pytest.fixture
def ends():
    """The first process's end of the line, and another's."""
    port = free_port()
    first, other = (Launch(rank, 2, rank, 2, "127.0.0.1", port) for rank in range(2))
    return Control.connect(first, is_host=True), Control.connect(other, is_host=False)


def soon(look):
    """What is seen once it is there: a word takes its time from one end to the other."""
    deadline = time.monotonic() + 120
    while (seen := look()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return seen


def test_calls_come_in_order_and_once(ends):
    first, other = ends
    assert other.called() is None
    assert [first.call("one"), first.call("two")] == [0, 1]
    assert [soon(other.called), soon(other.called)] == [(0, "one"), (1, "two")]
    assert other.called() is None


def test_answers_are_read_when_they_are_there(ends):
    first, other = ends
    assert first.read("result/0/1") is None
    other.tell("result/0/1", ("died", "exit code 1"))
    assert soon(lambda: first.read("result/0/1")) == ["died", "exit code 1"]


def test_an_order_comes_out_as_it_went_in(ends):
    first, other = ends
    launch = Launch(0, 2, 0, 2, "127.0.0.1", 1)
    order = Order(
        "align.s0", "train", "ab12", {"data": "a.json", "lr": 1e-3, "train": ["connector"]},
        {"x": "y"}, 3, Path("store"), Path("runs/r"), "auto", 2, {"a": "b"}, 1.5, 2, launch,
    )  # fmt: skip
    first.call(Call(order, Path("out"), "127.0.0.1", 9).words())
    called = soon(other.called)
    assert called is not None
    assert Call.of(called[1]) == Call(order, Path("out"), "127.0.0.1", 9)


def test_a_process_that_says_nothing_is_lost(ends, monkeypatch):
    first, other = ends
    monkeypatch.setattr(control, "SILENT_S", -1.0)
    other.beat()
    assert first.silent() is None
    other.beat()
    assert first.silent() is None
    assert first.silent() == 1


@pytest.mark.parametrize(
    ("raised", "said"), [(None, "done"), (Lost("x"), "failed"), (KeyboardInterrupt(), "stopped")]
)
def test_the_others_end_as_the_first_does(ends, monkeypatch, raised, said):
    first, other = ends
    monkeypatch.setattr(control, "line_of", lambda launch: first)
    monkeypatch.setattr(control, "GOODBYE_S", 0.0)

    def lead():
        with leading(first.launch), leading(first.launch):
            if raised is not None:
                raise raised

    if raised is None:
        lead()
    else:
        with pytest.raises(type(raised)):
            lead()
    assert soon(lambda: other.read("end/0")) == said
    assert other.read("end/1") is None


def test_nobody_at_the_address_is_told_in_a_line(monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr(control, "CONNECT", timedelta(seconds=1))
    launch = Launch(1, 2, 1, 2, "127.0.0.1", free_port())
    with pytest.raises(Lost, match="set MASTER_ADDR and MASTER_PORT"):
        Control.connect(launch, is_host=False)
