"""Rows are encoded once, stay on disk, and are the same however they were encoded or are held."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.training import encoded_rows, loop, row_coding
from vlforge.training.batches import TokenRows
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.conversations import ConversationData
from vlforge.training.disk_lists import DiskWords, DiskWordsWriter
from vlforge.training.encoded_rows import PREFIX, drop_encoded
from vlforge.training.loop import train
from vlforge.training.rows import Sieve
from vlforge.types import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> TrainConfig:
    """A stage over rows with a picture, without one, without labels, and of no known shape."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder, rows=9)
    vision, language = write_parts(folder, data)
    rows = json.loads(data.read_text())
    rows[2].pop("image")
    rows[2]["conversations"][0]["value"] = "What colour is it? Ünïcode \u2028 too."
    rows[4]["conversations"].pop()
    rows[5] = {"neither": 1}
    rows[6]["conversations"][1]["value"] += " It is red." * 40
    rows[7]["image"] = "images/not there.png"
    data.write_text(json.dumps(rows))
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=24,
        batch=4,
        max_length=60,
        template="vicuna",
        train=("vision", "connector"),
        optimiser=Optimiser(lr=1e-2),
    )


def read(config: TrainConfig, out: Path, **how: int) -> ConversationData:
    """The stage's rows, as `train` reads them."""
    return loop._read(config, assemble(config.model), how.get("threads", 1), out, 0)


def told(data: ConversationData) -> list:
    """All that is known of rows."""
    rows = [[part.tolist() for part in data.rows.row(at)] for at in range(len(data.rows))]
    numbers = [
        data.rows.lengths.tolist(), data.rows.supervised.tolist(), data.words.tolist(),
        list(data.rows.images), data.sizes, data.rows_read,
    ]  # fmt: skip
    places = [data.place(at) for at in range(len(data.rows))]
    left = [data.dropped.counts, data.dropped.shown, data.sieve.summary(), data.sieve.told()]
    return [rows, numbers, places, left, list(data.pictures.sources), data.fingerprint()]


def fail(*_: object) -> None:
    raise AssertionError("a row is encoded again")


def test_rows_on_disk_are_those_in_memory(tmp_path, made, monkeypatch):
    near = read(made, tmp_path)
    monkeypatch.setattr(encoded_rows, "IN_MEMORY", 0)
    far = read(made, tmp_path)
    assert isinstance(near.rows.tokens, np.ndarray)
    assert not isinstance(far.rows.tokens, np.ndarray)
    assert told(near) == told(far)
    for one, two in zip(near.rows.pad([4, 0, 2]), far.rows.pad([4, 0, 2]), strict=True):
        assert one.equal(two)


def test_a_stage_learns_the_same_from_rows_on_disk(tmp_path, made, monkeypatch):
    train(made, tmp_path / "near", device="cpu")
    monkeypatch.setattr(encoded_rows, "IN_MEMORY", 0)
    train(made, tmp_path / "far", device="cpu")
    for name in ("model.safetensors", "metrics.jsonl", "summary.json"):
        assert (tmp_path / "near" / name).read_bytes() == (tmp_path / "far" / name).read_bytes()
    assert not list(tmp_path.glob(f"*/{PREFIX}*"))


def test_what_is_encoded_is_what_was_read(tmp_path, made):
    data = read(made, tmp_path)
    assert [data.place(at) for at in range(len(data.rows))] == [
        f"data.json:{number}" for number in (0, 1, 2, 3, 6, 8)
    ]
    assert data.dropped.counts == {
        "nothing supervised": 1, "unreadable row": 1, "unreadable picture": 1,
    }  # fmt: skip
    assert data.sieve.cut_rows == 1
    assert data.rows.images[2] == ()
    assert data.rows_read == 8


def test_rows_are_encoded_once(tmp_path, made, monkeypatch):
    first = told(read(made, tmp_path))
    monkeypatch.setattr(row_coding.RowCoder, "code", fail)
    assert told(read(made, tmp_path)) == first


def test_rows_that_are_dropped_are_gone(tmp_path, made, monkeypatch):
    read(made, tmp_path)
    drop_encoded(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(row_coding.RowCoder, "code", fail)
    with pytest.raises(AssertionError, match="again"):
        read(made, tmp_path)


@pytest.mark.parametrize("file", ["tokens.bin", "index.npz", "places.words", "facts"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_made_anew(tmp_path, made, file, how):
    first = told(read(made, tmp_path))
    path = next(tmp_path.glob(f"{PREFIX}*")) / file
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:middle] if how == "cut" else flipped)
    assert told(read(made, tmp_path)) == first
    if file != "facts":
        assert path.read_bytes() == data


def test_what_a_killed_process_left_is_removed(tmp_path, made):
    half = tmp_path / f"{PREFIX}abc.half"
    half.mkdir()
    (half / "tokens.bin").write_bytes(b"half a row")
    read(made, tmp_path)
    assert [path.suffix for path in tmp_path.glob(f"{PREFIX}*")] == [""]


def test_a_refused_row_leaves_nothing(tmp_path, made):
    for _ in range(2):
        with pytest.raises(DataError, match="longer than max_length"):
            read(replace(made, on_too_long="refuse"), tmp_path)
        assert not list(tmp_path.glob(f"{PREFIX}*"))


@pytest.mark.parametrize(
    "change",
    [{"max_length": 40}, {"template": "plain"}, {"on_too_long": "drop"}, {"compat": "llava"}],
    ids=str,
)
def test_other_settings_are_other_rows(tmp_path, made, change):
    if "compat" in change:
        change |= {"template": "v1"}
    read(made, tmp_path)
    read(replace(made, **change), tmp_path)
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 2


def test_changed_data_are_encoded_again(tmp_path, made):
    moved = tmp_path / "data.json"
    shutil.copy2(made.data, moved)
    config = replace(made, data=str(moved), image_root=str(Path(made.data).parent))
    (tmp_path / "out").mkdir()
    first = read(config, tmp_path / "out")
    moved.write_text(moved.read_text().replace("It is blue.", "It is teal."))
    second = read(config, tmp_path / "out")
    assert first.fingerprint() != second.fingerprint()


def test_a_picture_that_changes_place_changes_the_fingerprint(tmp_path, made):
    rows = json.loads(Path(made.data).read_text())
    swapped = tmp_path / "data.json"
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    swapped.write_text(json.dumps(rows))
    root = str(Path(made.data).parent)
    first = read(made, tmp_path)
    second = read(replace(made, data=str(swapped), image_root=root), tmp_path)
    assert first.rows.tokens.tolist() == second.rows.tokens.tolist()
    assert first.fingerprint() != second.fingerprint()


@pytest.mark.slow
def test_processes_encode_the_same_bytes(tmp_path, made, monkeypatch):
    rows = json.loads(Path(made.data).read_text())
    many = Path(made.data).with_name("many.json")
    many.write_text(json.dumps(rows * 40))
    config = replace(made, data=str(many))
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
    first = read(config, tmp_path / "one")
    monkeypatch.setattr(row_coding, "SPREAD_AFTER_S", 0.0)
    asked = []
    ask = row_coding.Workers.ask
    monkeypatch.setattr(row_coding.Workers, "ask", lambda *a: asked.append(1) or ask(*a))
    several = read(config, tmp_path / "several", threads=2)
    assert len(asked) == 5
    assert told(several) == told(first)
    for path in next((tmp_path / "one").glob(f"{PREFIX}*")).iterdir():
        other = next((tmp_path / "several").glob(f"{PREFIX}*")) / path.name
        assert path.suffix == ".npz" or path.read_bytes() == other.read_bytes()


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from vlforge.training import encoded_rows
from vlforge.training.encoded_rows import Coded, find_or_write
encoded_rows.IN_MEMORY = 0
row = np.arange(2 * 1500, dtype=np.int32).tobytes()
def peak():
    # Of this program: what getrusage says begins with that of the one that started it.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
def write(rows):
    rows.begin("data")
    for at in range(int(sys.argv[2])):
        image = rows.sources.number(f"/pictures/of/a/long/name/{at:09d}.jpg")
        rows.add(Coded(row, 1, 1500, 1500, 0, None), (image,), 7, f"data:{at}")
    return {}
begun = peak()
made, _ = find_or_write(Path(sys.argv[1]), "key", write)
for at in range(len(made.rows)):
    made.rows.row(at)
    made.sources[made.rows.images[at][0]]
print(peak() - begun)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory of a process")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    grown = {}
    for rows in (2_000, 20_000):
        (tmp_path / str(rows)).mkdir()
        words = [sys.executable, "-c", MEASURE, str(tmp_path / str(rows)), str(rows)]
        grown[rows] = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    # 18,000 rows more are 216 MB of ids and labels.
    assert grown[20_000] - grown[2_000] < 24 << 10


def test_words_on_disk_come_back(tmp_path):
    words = ["", "one", "zwei \u00fc \u2028", "\udc80 no text", "x" * 70_000, ""]
    writer = DiskWordsWriter(tmp_path / "a.words")
    assert [writer.add(word) for word in words] == list(range(6))
    writer.close()
    found = DiskWords(tmp_path / "a.words")
    assert list(found) == words
    assert found[2:5] == words[2:5]
    with pytest.raises(IndexError):
        found[6]


def test_chosen_rows_are_those_rows():
    rows = TokenRows.of([([1, -200, 4], [-100, -100, 4], (0,), 10), ([1, 5], [-100, 5], (), 2)])
    chosen = rows.chosen(np.asarray([1]))
    assert len(chosen) == 1
    assert [part.tolist() for part in chosen.row(0)] == [[1, 5], [-100, 5]]
    assert list(chosen.images) == [()]
    assert rows.images.having({0, 7}).tolist() == [0]
    assert Sieve(5).state()["rows"] == 0
