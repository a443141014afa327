"""Processes that were started deaf hear no Ctrl-C, however early it comes."""

import signal
import subprocess
import sys
import time

import pytest

from vlforge.data.interrupts import deaf_from_birth

CHILD = """
import time
time.sleep(1)
from vlforge.data.interrupts import ignore_interrupts
ignore_interrupts()
print("alive", flush=True)
time.sleep(600)
"""


def test_a_process_is_deaf_before_it_can_say_so_and_after():
    with deaf_from_birth():
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for _ in range(10):  # while the interpreter starts
        child.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert child.stdout.readline() == "alive\n"
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert child.poll() is None
    child.kill()
    child.wait()


SPAWN = """
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from vlforge.data.fresh_process import start_fresh
for _ in range(3):
    process, pipe = start_fresh(Connection.recv)
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    print(bool(blocked & 1 << signal.SIGINT - 1))
    pipe.send(None)
    process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what a process hears")
def test_the_first_process_that_is_spawned_is_as_deaf_as_those_after_it():
    done = subprocess.run([sys.executable, "-c", SPAWN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3
