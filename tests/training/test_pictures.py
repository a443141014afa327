import threading

import pytest
import torch
from PIL import Image
from torch import nn

from vlforge.data import images
from vlforge.models.parts.image_processor import small_processor
from vlforge.training import pictures as module
from vlforge.training.pictures import Pictures, cache_features, features_fit, machine_memory


@pytest.fixture
def paths(tmp_path):
    """Seven files, of which the third is no picture and the fifth is cut off."""
    found = []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8), (number * 30, 0, 0)).save(path)
        found.append(str(path))
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:45])
    return found


def late(monkeypatch):
    """Let nothing fit into memory."""
    monkeypatch.setattr(module, "MEMORY_SHARE", 0.0)


def test_pictures_come_in_the_order_asked_for(paths):
    made = Pictures(paths, small_processor(8))
    assert made.take([6, 0, 6])[:, 0, 0, 0].tolist() == [180, 0, 180]


def test_kept_and_late_pictures_are_the_same(paths, monkeypatch):
    kept = Pictures(paths, small_processor(8))
    late(monkeypatch)
    just_in_time = Pictures(paths, small_processor(8), threads=2)
    assert kept.all_in_memory
    assert not just_in_time.all_in_memory
    for numbers in ([1, 3], [3, 3, 1], [6, 5]):
        just_in_time.prefetch(numbers)
        assert torch.equal(kept.take(numbers), just_in_time.take(numbers))


def test_unreadable_files_are_known_at_once_where_all_are_kept(paths):
    made = Pictures(paths, small_processor(8))
    assert set(made.bad) == {2, 4}
    assert "2.png" in made.bad[2]


def test_of_a_large_set_headers_are_known_at_once_and_the_rest_when_decoded(paths, monkeypatch):
    late(monkeypatch)
    made = Pictures(paths, small_processor(8))
    assert set(made.bad) == {2}
    assert made.take([4]).sum() == 0
    assert set(made.bad) == {2, 4}


def test_a_cut_off_picture_is_one_whatever_other_threads_read(paths):
    # Pillow's tolerance is one switch for all threads.
    tolerates, ends = threading.Event(), threading.Event()

    def read_something_odd() -> None:
        with images._tolerance():
            tolerates.set()
            ends.wait(120)

    other = threading.Thread(target=read_something_odd)
    other.start()
    tolerates.wait(120)
    threading.Timer(0.2, ends.set).start()
    with pytest.raises(images.ImageError, match="cut off"):
        images.load_rgb(paths[4])
    other.join()


class Clock:
    """Hours that pass by hand alone; whether somebody has looked at them."""

    def __init__(self):
        self.now, self.was_seen = 0.0, threading.Event()

    def monotonic(self):
        self.was_seen.set()
        return self.now


def test_seconds_that_a_batch_waits_are_counted(paths, monkeypatch):
    late(monkeypatch)
    made, clock = Pictures(paths, small_processor(8)), Clock()
    decode = made._decode_one

    def slow(*asked):
        clock.was_seen.wait(120)  # Who takes is waiting by then.
        clock.now += 5.0
        return decode(*asked)

    monkeypatch.setattr(made, "_decode_one", slow)
    monkeypatch.setattr(module, "time", clock)
    made.take([0, 1])
    assert made.waited_s == 10.0
    made.prefetch([3])
    made.prefetch([])
    made._ahead[3, 0][1].result(120)
    made.take([3])
    assert clock.now == 15.0
    assert made.waited_s == 10.0


def test_cached_features_are_the_encoders(paths, monkeypatch):
    monkeypatch.setattr(module, "FEATURE_CHUNK", 2)
    made = Pictures(paths, small_processor(8))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Unflatten(1, (2, 3)))
    cache = cache_features(encoder, made, [0, 1, 3, 6], torch.device("cpu"))
    assert cache.shape == (7, 2, 3)
    wanted = encoder(made.processor.normalise(made.take([0, 1, 3, 6])))
    torch.testing.assert_close(cache[[0, 1, 3, 6]], wanted)
    assert cache[5].abs().sum() == 0


def test_memory_is_the_smaller_of_machine_and_container(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(module, "CONTAINER_LIMITS", (str(limit),))
    whole = machine_memory()
    limit.write_text("max\n")
    assert machine_memory() == whole
    limit.write_text("1000000\n")
    assert machine_memory() == 1_000_000
    assert features_fit(10, 10, 10)
    assert not features_fit(1000, 100, 10)
