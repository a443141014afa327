"""Addresses are handed out in order, within limits, and never so that all wait for one."""

from __future__ import annotations

import random
import threading

import pytest

from vlforge.data.download.turns import Turns


def turns(hosts, per_host=0, budget=1 << 30, clock=lambda: 0.0):
    """Turns with a clock that stands still."""
    return Turns(list(hosts), per_host=per_host, budget=budget, clock=clock)


def test_addresses_come_in_order_and_end():
    some = turns("abc")
    assert [some.take() for _ in range(3)] == [0, 1, 2]
    for at in range(3):
        some.done(at, 0)
    assert some.take() is None


def test_a_busy_host_waits_aside_and_others_go_first():
    some = turns("aaab", per_host=2)
    assert [some.take() for _ in range(3)] == [0, 1, 3]
    some.done(1, 0)
    assert some.take() == 2


def test_what_failed_comes_again_after_its_time():
    now = [0.0]
    some = turns("ab", clock=lambda: now[0])
    assert some.take() == 0
    some.again(0, 5)
    assert some.take() == 1
    now[0] = 6
    assert some.take() == 0


def test_beyond_the_budget_only_the_next_to_be_collected_is_fetched():
    some = turns("abcd", budget=10)
    assert [some.take(), some.take()] == [0, 1]
    some.done(1, 10)
    taken = []
    thread = threading.Thread(target=lambda: taken.append(some.take()), daemon=True)
    thread.start()
    some.done(0, 1)
    thread.join(0.05)
    assert not taken
    some.collected(0, 1)
    some.collected(1, 10)
    thread.join(60)
    assert taken == [2]


@pytest.mark.parametrize("seed", range(4))
def test_many_threads_settle_everything_within_all_limits(seed):
    dice = random.Random(seed)
    hosts = [dice.choice("aaaab") for _ in range(300)]
    some = Turns(hosts, per_host=3, budget=40)
    busy, most, lock = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0), threading.Lock()
    settled, tries = {}, [dice.choice([0, 0, 1, 2]) for _ in hosts]
    arrived = threading.Condition()

    def fetch():
        while (at := some.take()) is not None:
            with lock:
                busy[hosts[at]] += 1
                most[hosts[at]] = max(most[hosts[at]], busy[hosts[at]])
            with lock:
                busy[hosts[at]] -= 1
                tries[at] -= 1
            if tries[at] >= 0:
                some.again(at, 0.001)
                continue
            with arrived:
                settled[at] = 10
                arrived.notify_all()
            some.done(at, 10)

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for at in range(len(hosts)):
        with arrived:
            assert arrived.wait_for(lambda at=at: at in settled, timeout=60)
        some.collected(at, 10)
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most.values()) <= 3


def test_stopping_lets_everybody_go():
    some = turns("aa", per_host=1)
    assert some.take() == 0
    ended = []
    thread = threading.Thread(target=lambda: ended.append(some.take()), daemon=True)
    thread.start()
    some.stop()
    thread.join(60)
    assert ended == [None]
