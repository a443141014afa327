"""Processes that were started deaf hear no Ctrl-C, however early it comes."""

import signal
import subprocess
import sys
import time

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
