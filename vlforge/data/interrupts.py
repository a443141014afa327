"""Processes that hear nothing of Ctrl-C, from their first moment on.

It reaches all processes of a terminal's group; the one that started the others decides
what then happens.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_from_birth() -> Iterator[None]:
    """Ctrl-C waits for this thread meanwhile; a process started here hears none at all.

    That process calls `ignore_interrupts` once it runs Python.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def deaf_when_spawned() -> Iterator[None]:
    """`deaf_from_birth` for a process that `multiprocessing` spawns.

    Before its first one it starts a tracker of its own, and behind that lets Ctrl-C through:
    the tracker has to be there already.
    """
    if hasattr(signal, "pthread_sigmask"):
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    with deaf_from_birth():
        yield


def ignore_interrupts() -> None:
    """Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
