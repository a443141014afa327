"""Data that break, before a stage or while it trains, cost what is broken and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny_model import COLOURS, write_data, write_parts
from vlforge.data.convert import convert
from vlforge.data.formats import index
from vlforge.data.formats.webdataset import WebdatasetFormat
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.training import loop, pictures
from vlforge.training.batching import Batching
from vlforge.training.config import AugmentSpec, Optimiser, TrainConfig
from vlforge.training.conversations import ConversationTask
from vlforge.training.encoded_rows import PREFIX
from vlforge.training.loop import train
from vlforge.training.task_digest import task_digest

ROWS = 12


@pytest.fixture
def made(tmp_path) -> TrainConfig:
    """A stage that sees each of twelve rows twice, each with a picture of its own."""
    data = write_data(tmp_path, rows=ROWS)
    for number in range(ROWS):
        colour = (*COLOURS["red"][:2], number)
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"images/{number}.png")
    vision, language = write_parts(tmp_path, data)
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=2 * ROWS,
        batch=4,
        template="vicuna",
        train=("vision", "connector"),
        optimiser=Optimiser(lr=1e-2),
    )


def just_in_time(monkeypatch) -> None:
    """Let no picture be kept."""
    monkeypatch.setattr(pictures, "MEMORY_SHARE", 0.0)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def whole(config: TrainConfig, out: Path) -> dict:
    """Train; every row that was read is either trained on or counted with its reason."""
    summary = train(config, out, device="cpu")
    assert all(np.isfinite(losses(out)))
    assert len(summary["dropped_rows"]) == sum(summary["dropped"].values())
    return summary


def shards(config: TrainConfig, target: Path, each: int = 4) -> TrainConfig:
    """The stage on tars of so many rows."""
    source = Path(config.data)
    convert(source, target, index.detect(source), WebdatasetFormat(max_count=each))
    return replace(config, data=str(target))


def test_a_tar_that_breaks_off_costs_its_last_rows(tmp_path, made):
    config = shards(made, tmp_path / "shards")
    middle = tmp_path / "shards" / "00001.tar"
    middle.write_bytes(middle.read_bytes()[:4000])
    summary = whole(config, tmp_path / "out")
    assert ROWS - 4 < summary["data_rows"] < ROWS
    assert list(summary["dropped"]) == ["unreadable row"]
    assert "00001.tar" in summary["dropped_rows"][0]["detail"]


def test_a_tar_without_sense_costs_itself(tmp_path, made):
    config = shards(made, tmp_path / "shards")
    (tmp_path / "shards" / "00001.tar").write_bytes(b"\x07" * 4000)
    summary = whole(config, tmp_path / "out")
    assert summary["data_rows"] == ROWS - 4
    assert "00001.tar" in summary["dropped_rows"][0]["detail"]


def test_a_damaged_row_group_costs_the_rest_of_its_file(tmp_path, made):
    pq = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        some = json.loads(Path(made.data).read_text())[4 * number : 4 * number + 4]
        part = tmp_path / "part.json"
        part.write_text(json.dumps(some))
        target = folder / f"{number}.parquet"
        convert(part, tmp_path / "one.parquet", index.detect(part), index.find("parquet"))
        pq.write_table(pq.read_table(tmp_path / "one.parquet"), target, row_group_size=2)
        (tmp_path / "one.parquet").unlink()
    path = folder / "1.parquet"
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 24] = b"\xff" * 24
    path.write_bytes(bytes(data))
    summary = whole(replace(made, data=str(folder)), tmp_path / "out")
    assert 8 <= summary["data_rows"] <= 10
    assert "1.parquet" in summary["dropped_rows"][0]["detail"]


def test_a_broken_line_costs_itself(tmp_path, made):
    lines = [json.dumps(row) for row in json.loads(Path(made.data).read_text())]
    lines[5] = lines[5][:-20]
    lines.insert(8, "\udcff not even text")
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", errors="surrogateescape"))
    summary = whole(replace(made, data=str(path)), tmp_path / "out")
    assert summary["data_rows"] == ROWS - 1
    assert summary["dropped"] == {"unreadable row": 2}
    assert [row["row"] for row in summary["dropped_rows"]] == ["rows.jsonl:6", "rows.jsonl:9"]


def vanishing(monkeypatch, *paths: Path) -> None:
    """Let files vanish once rows are read, before the first step."""
    read = loop.read_conversations

    def read_and_lose(*args, **how):
        data = read(*args, **how)
        for path in paths:
            path.unlink()
        return data

    monkeypatch.setattr(loop, "read_conversations", read_and_lose)


def test_a_picture_that_vanishes_costs_its_row(tmp_path, made, monkeypatch):
    just_in_time(monkeypatch)
    vanishing(monkeypatch, tmp_path / "images/3.png", tmp_path / "images/7.png")
    told: list[dict] = []
    summary = train(made, tmp_path / "out", device="cpu", log=told.append)
    assert summary["data_rows"] == ROWS
    assert summary["dropped"] == {"unreadable picture": 2}
    lines = [one["text"] for one in told if "unreadable" in str(one.get("text"))]
    assert sorted(line.split(":")[0] for line in lines) == [
        "unreadable picture 3.png",
        "unreadable picture 7.png",
    ]
    assert [row["row"] for row in summary["dropped_rows"]] == ["3.png", "7.png"]


def test_a_shard_that_vanishes_costs_its_rows(tmp_path, made, monkeypatch):
    just_in_time(monkeypatch)
    config = shards(made, tmp_path / "shards")
    vanishing(monkeypatch, tmp_path / "shards" / "00001.tar")
    summary = whole(config, tmp_path / "out")
    assert summary["dropped"] == {"unreadable picture": 4}
    assert all(row["row"].startswith("00001.tar at byte") for row in summary["dropped_rows"])


class Killed(Exception):
    """Stands for a kill: nothing of the stage runs any more."""


def kill_at(monkeypatch, calls: int) -> None:
    batch = ConversationTask.batch
    made = []

    def batch_or_die(*args):
        made.append(1)
        if len(made) == calls:
            raise Killed
        return batch(*args)

    monkeypatch.setattr(ConversationTask, "batch", batch_or_die)


@pytest.mark.parametrize("returns", [False, True], ids=["stays_bad", "is_mended"])
@pytest.mark.parametrize("kept", [False, True], ids=["late", "kept"])
def test_a_stage_that_goes_on_knows_what_was_unreadable(tmp_path, made, returns, kept):
    """Of the whole and of the killed run, losses, weights and what is told are the same."""
    config = replace(made, save_every_samples=4)
    bad = [tmp_path / "images" / f"{number}.png" for number in (1, 6)]
    for name in ("whole", "killed"):
        with pytest.MonkeyPatch.context() as patch:
            if not kept:
                just_in_time(patch)
                vanishing(patch, *bad)
            else:
                for path in bad:
                    path.write_bytes(b"no picture")
            if name == "killed":
                kill_at(patch, 5)
                with pytest.raises(Killed):
                    train(config, tmp_path / name, device="cpu")
            else:
                whole(config, tmp_path / name)
        if name == "whole":
            for path in bad:
                Image.new("RGB", (16, 16), (*COLOURS["red"][:2], int(path.stem))).save(path)
    if returns:
        for path in bad:
            Image.new("RGB", (16, 16), "white").save(path)
    with pytest.MonkeyPatch.context() as patch:
        if not kept:
            just_in_time(patch)
        summary = whole(config, tmp_path / "killed")
    assert summary["dropped"] == {"unreadable picture": 2}
    for name in ("metrics.jsonl", "summary.json", "model.safetensors"):
        one, two = ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))
        assert one == two, name
    assert not list(tmp_path.glob(f"*/{PREFIX}*"))


def test_a_picture_lost_between_two_starts_costs_its_row_and_no_order(tmp_path, made):
    """All pictures are kept in memory; the second start finds one less."""
    config = replace(made, save_every_samples=4)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            train(config, tmp_path / "out", device="cpu")
    before = losses(tmp_path / "out")
    (tmp_path / "images/3.png").unlink()
    summary = whole(config, tmp_path / "out")
    assert losses(tmp_path / "out")[: len(before)] == before
    assert summary["data_rows"] == ROWS
    assert summary["dropped"] == {"unreadable picture": 1}


@pytest.mark.slow
def test_processes_that_decode_change_no_byte_of_a_stage(tmp_path, made, monkeypatch):
    just_in_time(monkeypatch)
    config = shards(made, tmp_path / "shards")
    shutil.copytree(tmp_path / "shards", tmp_path / "again")
    train(config, tmp_path / "threads", device="cpu")
    train(replace(config, decode="processes"), tmp_path / "processes", device="cpu")
    for name in ("model.safetensors", "metrics.jsonl", "summary.json"):
        one, two = ((tmp_path / run / name).read_bytes() for run in ("threads", "processes"))
        assert one == two


def digest_of(config: TrainConfig, out: Path) -> dict:
    """What is told of the stage's task."""
    folder = assemble(config.model)
    data = loop._read(config, folder, 1, out, 0)
    batching = Batching.of(config, folder.model, data, ["vision.x", "connector.x"])
    augment = loop.Augment.of(config.augment, 0)
    return task_digest(ConversationTask(folder.model, data, augment, None, batching))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, ""),
        ({"pack": "isolated"}, "batch.packs"),
        ({"pack": "isolated", "pack_length": 99}, "batch.packs"),
        ({"group": "balanced"}, "batch.share batch.costs"),
        ({"group": "llava"}, "batch.share"),
        ({"random_crop": True}, "pixels.crop_seed"),
        ({"max_length": 25}, "data"),
        ({"augment": AugmentSpec(shift=0.2)}, "pixels.augment"),
    ],
    ids=str,
)
def test_what_decides_a_batch_is_told(tmp_path, made, change, names):
    plain, changed = digest_of(made, tmp_path), digest_of(replace(made, **change), tmp_path)
    assert json.loads(json.dumps(changed)) == changed
    told = {key for key in plain | changed if plain.get(key) != changed.get(key)}
    assert {".".join(key.split(".")[:2]) for key in told} == set(names.split())
