"""The terminal's bars and lines."""

import time

from vlforge.runs import display as module
from vlforge.runs.display import Display


def test_what_an_earlier_start_did_is_in_no_rate():
    display = Display(1)
    display._rich = module._rich_progress()
    display.start("align")
    for done in (9000, 9001, 9002, 9003):
        display.progress("align", done, 50_000, "loss 1.2")
        time.sleep(0.02)
    (task,) = display._rich.tasks
    assert task.completed == 9003
    assert task.speed < 1000
    assert task.time_remaining > 10


def test_without_a_terminal_a_long_stage_says_a_line_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    display = Display(2)
    display.start("align")
    for second in range(0, 100, 10):
        clock[0] = float(second)
        display.progress("align", 10 * second, 1000, f"loss {second}")
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] align …",
        "align  300 of 1,000  loss 30",
        "align  600 of 1,000  loss 60",
        "align  900 of 1,000  loss 90",
    ]


def test_a_quiet_run_says_nothing(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    display = Display(1, quiet=True)
    display.start("align")
    clock[0] = 100.0
    display.progress("align", 1, 2, "loss 1")
    assert capsys.readouterr().err == ""


def test_a_terminal_that_moves_no_cursor_gets_lines(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with Display(1) as display:
        display.start("align")
        display.finish("align", 1.0, reused=False)
    assert capsys.readouterr().err == "[1/1] align …\n[1/1] align  1.0 s\n"
