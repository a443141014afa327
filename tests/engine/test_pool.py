"""Results come in order, workers are forked before models are loaded, deaths are told."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, sys, time, types
from itertools import count
from vlforge.engine.pool import in_order
from vlforge.types import VLForgeError
"""


def run(body: str) -> list[str]:
    """Lines that a fresh interpreter prints: this one may have torch loaded."""
    done = subprocess.run(
        [sys.executable, "-c", CODE + body], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_results_come_in_order_and_from_workers():
    body = """
def task(n):
    time.sleep(0.02 * (n % 3))
    return n, os.getpid()
found = list(in_order(task, range(12), 2, 1))
print([n for n, _ in found] == list(range(12)), len({pid for _, pid in found}))
"""
    assert run(body) == ["True 3"]


def test_workers_are_forked_before_the_first_result_loads_a_model():
    body = """
pids = set()
for result in in_order(lambda n: time.sleep(0.05) or os.getpid(), range(8), 2, 1):
    sys.modules["torch"] = types.ModuleType("torch")
    pids.add(result)
print(len(pids))
"""
    assert run(body) == ["3"]


def test_few_jobs_one_worker_or_a_loaded_model_stay_home():
    body = """
for jobs, workers in ((2, 2), (9, 1)):
    print(len(set(in_order(lambda n: os.getpid(), range(jobs), workers, 2))))
sys.modules["torch"] = types.ModuleType("torch")
print(len(set(in_order(lambda n: os.getpid(), range(9), 2, 1))))
"""
    assert run(body) == ["1", "1", "1"]


def test_jobs_are_taken_as_they_are_needed():
    body = """
taken = []
def jobs():
    for n in count():
        taken.append(n)
        yield n
results = in_order(lambda n: n, jobs(), 2, 1)
for _ in range(20):
    next(results)
print(max(taken) < 30)
results.close()
"""
    assert run(body) == ["True"]


def test_a_killed_worker_is_one_clear_line():
    body = """
def task(n):
    if n == 3:
        os.kill(os.getpid(), 9)
    return n
try:
    list(in_order(task, range(9), 2, 1))
except VLForgeError as error:
    print(error)
"""
    (said,) = run(body)
    assert "want of memory" in said
    assert "lower np" in said


def test_a_mistake_in_a_worker_reaches_the_caller():
    body = """
def task(n):
    if n == 5:
        raise VLForgeError("row 5 is wrong")
    return n
try:
    list(in_order(task, range(9), 2, 1))
except VLForgeError as error:
    print(error)
"""
    assert run(body) == ["row 5 is wrong"]


def test_jobs_and_results_larger_than_a_pipe_go_through():
    body = """
def task(job):
    return job[::-1] * 3
jobs = [bytes([n]) * (n * 400_000) for n in range(12)]
print(list(in_order(task, iter(jobs), 2, 1)) == [task(job) for job in jobs])
"""
    assert run(body) == ["True"]


def test_a_task_that_warms_up_does_no_job_in_the_parent():
    body = """
class Task:
    warmed = []
    def warm(self, job):
        self.warmed.append(job)
        return True
    def __call__(self, job):
        return job, os.getpid(), self.warmed
found = list(in_order(Task(), range(6), 2, 1))
print([n for n, _, _ in found] == list(range(6)))
print(os.getpid() in {pid for _, pid, _ in found}, {tuple(w) for _, _, w in found})
"""
    assert run(body) == ["True", "False {(0,)}"]


def test_an_error_tells_where_in_the_worker_it_was_raised():
    body = """
class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("cannot be sent")
def task(n):
    if n:
        raise Odd(1, 2) if n == 2 else ValueError(str(n))
for second in (2, 4):
    try:
        list(in_order(task, iter([0, second]), 2, 0))
    except Exception as error:
        print(type(error).__name__, error)
try:
    from vlforge.engine.crew import Crew
    crew = Crew(task, 1)
    crew.give(0, 4)
    list(crew.results())
except ValueError as error:
    print("in task" in str(error.__cause__))
finally:
    crew.close()
"""
    found = run(body)
    assert found == ["RuntimeError Odd: cannot be sent", "ValueError 4", "True"]


def test_no_process_is_left_when_the_results_are_no_longer_wanted():
    body = """
results = in_order(lambda n: n, count(), 3, 1)
next(results)
results.close()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none")
"""
    assert run(body) == ["none"]
