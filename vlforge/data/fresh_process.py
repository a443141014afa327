"""Starting a process that has nothing of the one that starts it, and a line to talk to it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, NamedTuple

from vlforge.data.interrupts import deaf_when_spawned

DYING_S = 60.0
"""How long one whose pipe is closed may take to be gone: a busy machine, much memory to free."""


class Fresh(NamedTuple):
    """A process that was started, and this side's end of the line to it."""

    process: Any
    pipe: Connection


def start_fresh(target: Callable[..., None], *args: Any) -> Fresh:
    """Start `target(*args, pipe)` in a process of its own, `pipe` being its end of the line.

    It is spawned, not forked, and does not run the script that starts it once more.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(*args, theirs))
    with _bare_main(), deaf_when_spawned():
        process.start()
    theirs.close()
    return Fresh(process, ours)


def start_tied(target: Callable[..., None], *args: Any) -> tuple[Fresh, Connection]:
    """Start `target(*args, lifeline, pipe)`; the lifeline, too, whose other end it holds.

    Given to `die_with_parent` there, it ends that process with this one.
    """
    theirs, ours = multiprocessing.Pipe(duplex=False)
    fresh = start_fresh(target, *args, theirs)
    theirs.close()
    return fresh, ours


def die_with_parent(lifeline: Connection) -> None:
    """End this process where the one that holds the other end is gone."""
    try:
        lifeline.recv()
    except EOFError:
        os._exit(1)


@contextmanager
def _bare_main() -> Iterator[None]:
    """Nothing of the script is told; else spawning would read it, and run it once more."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
