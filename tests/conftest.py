"""What all tests share: offline, one thread each, and the folder of reference files."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

# Before any test imports torch or transformers: two test processes share two cores, and
# nothing here may reach for a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Servers of these tests are on this machine: a proxy that the environment names is not asked.
for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)
# A shell's background jobs ignore Ctrl-C, and so would all that these tests start and interrupt.
_hears_none = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
if _hears_none and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.skips", "tests.browser", "pytester"]

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--golden-root DIR`: recorded outputs of the systems this project takes in."""
    parser.addoption(
        "--golden-root",
        default=os.environ.get("VLFORGE_GOLDEN_ROOT", str(ROOT.parent / "shared" / "golden")),
        help="folder of the reference files; tests that need it are skipped without it",
    )
