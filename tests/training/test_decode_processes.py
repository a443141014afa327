"""Pictures decoded by helper processes are those of threads, and outlive any of them."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlforge.models.parts.image_processor import ImageProcessor, small_processor
from vlforge.training import pictures as module
from vlforge.training.decoding import Decoder, ProcessDecoder
from vlforge.training.picture_sources import Found
from vlforge.training.pictures import Pictures
from vlforge.training.workers import Died, Worker, Workers
from vlforge.types import DataError

pytestmark = pytest.mark.slow


@pytest.fixture
def paths(tmp_path) -> list[str]:
    """Nine files, of which the third is no picture and the fifth is cut off."""
    found = []
    rng = np.random.default_rng(0)
    for number in range(9):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
        found.append(str(path))
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:900])
    return found


def seen(made: Pictures) -> list[torch.Tensor]:
    """Some batches, each asked for a step before it is taken."""
    batches = [[1, 3], [3, 3, 4], [8, 2, 0], [5, 6, 7, 1]]
    taken = []
    for at, numbers in enumerate(batches):
        for ahead in batches[at + 1 : at + 2]:
            made.prefetch(ahead, np.arange(len(ahead)) + at)
        taken.append(made.take(numbers, np.arange(len(numbers)) + at))
    return taken


@pytest.mark.parametrize("crop_seed", [None, 3])
@pytest.mark.parametrize("kept", [True, False])
def test_processes_give_the_bytes_of_threads(paths, monkeypatch, crop_seed, kept):
    monkeypatch.setattr(module, "MEMORY_SHARE", 0.15 if kept else 0.0)
    processor = ImageProcessor(size=8, fit_mode="stretch")
    found = Found()
    held = [*paths[:7], found.number(Path(paths[7]).read_bytes()), paths[8]]
    held[7] = found.sources[0]
    how = {"threads": 2, "crop_seed": crop_seed}
    one = Pictures(held, processor, **how)
    two = Pictures(held, processor, **how, decode="processes")
    for first, second in zip(seen(one), seen(two), strict=True):
        assert torch.equal(first, second)
    assert one.bad == two.bad
    assert set(one.bad) == {2, 4}


def test_a_picture_of_tiles_comes_back_whole(paths):
    processor = ImageProcessor(size=8, fit_mode="anyres", pinpoints=((16, 8), (8, 16), (16, 16)))
    sizes = [(30, 20)] * len(paths)
    one = Pictures(paths, processor, 1, sizes=sizes)
    two = Pictures(paths, processor, 1, sizes=sizes, decode="processes")
    assert one.tiles(0) > 1
    assert torch.equal(one.take([0, 8]), two.take([0, 8]))


def test_killed_processes_are_replaced_and_their_work_is_done(paths, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_SHARE", 0.0)
    whole = Pictures(paths, small_processor(8)).take([0, 1, 3])
    made = Pictures(paths, small_processor(8), 2, decode="processes")
    workers = made._decode_one.workers
    assert torch.equal(made.take([0, 1, 3]), whole)
    first = workers.pids
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    assert torch.equal(made.take([0, 1, 3]), whole)
    assert not set(first) & set(workers.pids)
    assert set(made.bad) == {2}


@dataclass(frozen=True)
class Fatal(Decoder):
    """Ends its process at every black picture, and once at a red one."""

    mark: str = ""

    def __call__(self, source, draw, tiles):
        picture = super().__call__(source, draw, tiles)
        red, green, _ = picture[0, 0, 0].tolist()
        if red == green == 0 or (red > 200 and not os.path.exists(self.mark)):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return picture


def test_a_picture_that_ends_three_processes_is_unreadable_and_named(tmp_path):
    for name in ("black", "red", "white"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    decode = ProcessDecoder(Fatal(small_processor(8), mark=str(tmp_path / "once")), 1)
    red = decode(str(tmp_path / "red.png"), 0, 1)
    assert red[0, 0, 0].tolist() == [255, 0, 0]
    assert (tmp_path / "once").exists()
    with pytest.raises(DataError, match=r"^black\.png: 3 processes ended while they read it$"):
        decode(str(tmp_path / "black.png"), 0, 1)
    assert decode(str(tmp_path / "white.png"), 0, 1).min() == 255
    decode.close()


class Slow:
    """Answers with its process's number, after some seconds where it is asked to."""

    def __init__(self, memory):
        self.memory = memory

    def __call__(self, seconds):
        if seconds < 0:
            raise ValueError("less than nothing")
        time.sleep(seconds)
        return os.getpid()


def test_an_error_of_a_helper_is_raised_here_and_it_goes_on():
    worker = Worker(Slow, ())
    with pytest.raises(RuntimeError, match="ValueError: less than nothing"):
        worker.ask(-1)
    assert worker.ask(0) == worker.pid
    worker.close()
    with pytest.raises(Died):
        worker.ask(0)


class Together:
    """Answers with its process's number once as many processes are asked as `count` says."""

    def __init__(self, memory, place, count):
        self.place, self.count = Path(place), count

    def __call__(self, question):
        (self.place / str(os.getpid())).touch()
        while len(list(self.place.iterdir())) < self.count:
            time.sleep(0.01)
        return os.getpid()


def test_threads_ask_at_once(tmp_path):
    workers = Workers(lambda: Worker(Together, (str(tmp_path), 2)))
    answers = []
    asks = [
        threading.Thread(target=lambda: answers.append(workers.ask(0, "it", lambda _, pid: pid)))
        for _ in range(2)
    ]
    for ask in asks:
        ask.start()
    for ask in asks:
        ask.join()
    assert len(set(answers)) == 2
    assert sorted(answers) == sorted(workers.pids)
    workers.close()


def test_helpers_that_ended_while_nobody_asked_are_no_questions_fault(tmp_path):
    workers = Workers(lambda: Worker(Together, (str(tmp_path), 4)))
    asks = [
        threading.Thread(target=lambda: workers.ask(0, "it", lambda _, pid: pid)) for _ in range(4)
    ]
    for ask in asks:
        ask.start()
    for ask in asks:
        ask.join()
    killed = workers.pids
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    while not all(map(gone, killed)):
        time.sleep(0.01)
    assert len(killed) == 4
    assert workers.ask(0, "it", lambda _, pid: pid) not in killed
    workers.close()


PARENT = """
import sys, threading, time
from tests.training.test_decode_processes import Slow
from vlforge.training.workers import Worker
workers = [Worker(Slow, ()) for _ in range(2)]
for worker in workers:
    worker.ask(0)
threading.Thread(target=workers[0].ask, args=(600,), daemon=True).start()
try:
    # Said in here: Ctrl-C may come as soon as it is heard.
    print(*[worker.pid for worker in workers], flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    assert workers[1].ask(0) == workers[1].pid
    print("asked", flush=True)
    import os
    os._exit(0)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; it may wait for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_helper_outlives_the_process_that_asks(how):
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=root,
        start_new_session=True,
    )  # fmt: skip
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert not any(map(gone, pids))
    if how == signal.SIGINT:
        # As a terminal does: to everybody of the group.
        os.killpg(parent.pid, how)
        assert parent.stdout.readline() == "asked\n"
    else:
        os.kill(parent.pid, how)
    parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(map(gone, pids)):
        time.sleep(0.05)
    assert all(map(gone, pids))


def test_auto_takes_processes_where_pictures_are_many_and_costly(paths, monkeypatch):
    monkeypatch.setattr(module, "MEMORY_SHARE", 0.0)

    def kind(threads: int) -> type:
        made = Pictures(paths, small_processor(8), threads, decode="auto")
        return type(made._decode_one)

    assert kind(2) is Decoder
    monkeypatch.setattr(module, "COSTLY_S", 0.0)
    monkeypatch.setattr(module, "WORTH_S", 0.0)
    assert kind(2) is ProcessDecoder
    assert kind(1) is Decoder


def test_memory_of_pictures_is_shared_not_sent(paths):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    decode = ProcessDecoder(Decoder(small_processor(8)), 1)
    answers = []
    ask = Worker.ask
    try:
        Worker.ask = lambda self, question: answers.append(ask(self, question))
        picture = decode(paths[0], 0, 1)
    finally:
        Worker.ask = ask
        decode.close()
    assert answers == [None]
    assert picture.shape == (1, 8, 8, 3)
