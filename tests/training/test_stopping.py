"""Signals between steps."""

import os
import signal

import pytest

from vlforge.training.stopping import Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert not stopping
        os.kill(os.getpid(), number)
        assert stopping
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait():
    with Stopping():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_scheduler_that_asks_twice_still_waits():
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stopping
    finally:
        signal.signal(signal.SIGINT, before)


def test_somebody_else_may_ask():
    asked = iter([False, True])
    stopping = Stopping(lambda: next(asked))
    assert not stopping
    assert stopping
    assert stopping
