"""Pictures of shards are read again where they stand; what cannot be is set aside."""

import base64
import gzip
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.test_data_formats import made, weights, written  # noqa: F401  # a fixture
from vlforge.data.convert import convert
from vlforge.data.detect import read_samples
from vlforge.data.formats import index
from vlforge.data.formats.webdataset import WebdatasetFormat
from vlforge.training import picture_sources
from vlforge.training.encoded_rows import PREFIX
from vlforge.training.loop import train
from vlforge.training.picture_sources import (
    Placed,
    Shards,
    SourceWriter,
    WrittenSources,
    content_of,
    name_of,
)
from vlforge.types import DataError

ROWS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of noisy pictures of which no two are alike, each with its caption."""
    folder = tmp_path_factory.mktemp("pictures") / "plain"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(ROWS):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02d}.jpg")
        (folder / f"{number:02d}.txt").write_text(f"picture {number}")
    return folder


def shards(folder: Path, name: str, target: Path) -> Path:
    convert(folder, target, index.detect(folder), index.find(name))
    return target


def found_in(path: Path) -> list[tuple[bytes, Placed | None]]:
    """Each picture of a dataset, and where it is found."""
    looked = Shards(str(path))
    pictures = [sample.images[0] for sample in read_samples(path)]
    return [(one, looked.place(one)) for one in pictures]


@pytest.mark.parametrize(
    ("name", "target"),
    [("webdataset", "shards"), ("webdataset", "one.tar"), ("parquet", "a.parquet"),
     ("tsv_base64", "a.tsv"), ("hf_dataset", "arrow")],
)  # fmt: skip
def test_every_picture_of_a_shard_is_found_where_it_stands(tmp_path, folder, name, target):
    found = found_in(shards(folder, name, tmp_path / target))
    assert len(found) == ROWS
    for picture, place in found:
        assert place is not None
        assert place.read() == picture
    assert len({place.start for _, place in found}) == ROWS


def test_shards_are_looked_through_one_after_the_other(tmp_path, folder):
    source, target = index.detect(folder), tmp_path / "shards"
    convert(folder, target, source, WebdatasetFormat(max_count=5))
    files = [Path(place.path).name for _, place in found_in(target)]
    assert files == ["00000.tar"] * 5 + ["00001.tar"] * 5 + ["00002.tar"] * 2


def test_packed_shards_are_not_looked_through_for_long(tmp_path, folder, monkeypatch):
    tar = shards(folder, "webdataset", tmp_path / "a.tar")
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    looks = []
    look = picture_sources._find
    monkeypatch.setattr(picture_sources, "_find", lambda *a: looks.append(1) or look(*a))
    assert [place for _, place in found_in(packed)] == [None] * ROWS
    assert len(looks) == picture_sources.MISSES < ROWS


def test_a_picture_behind_much_else_is_found(tmp_path):
    wanted = b"\xff\xd8" + bytes(range(256)) * 9
    path = tmp_path / "a.tar"
    path.write_bytes(b"\xff" * (3 * picture_sources.PIECE - 100) + wanted + b"rest")
    place = Shards(str(path)).place(wanted)
    assert place is not None
    assert (place.start, place.read()) == (3 * picture_sources.PIECE - 100, wanted)
    assert Shards(str(path)).place(b"never there") is None


def test_written_pictures_come_back_and_equal_ones_are_one(tmp_path):
    held, other = b"not in any file", b"nor this"
    writer = SourceWriter(tmp_path)
    writer.begin(str(tmp_path / "nowhere"))
    images = ["/a/b.jpg", held, "/a/b.jpg", other, held, "odd \udc80.png"]
    numbers = [writer.number(image, (n, n + 1)) for n, image in enumerate(images)]
    assert numbers == [0, 1, 0, 2, 1, 3]
    sizes, _ = writer.close()
    assert sizes.tolist() == [0, 1, 1, 2, 3, 4, 5, 6]
    found = WrittenSources(tmp_path)
    assert [content_of(one) for one in found] == ["/a/b.jpg", held, other, "odd \udc80.png"]
    assert name_of(found[0]) == "b.jpg"


def test_a_shard_that_is_cut_or_gone_costs_its_pictures(tmp_path):
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    path = tmp_path / "a.tsv"
    path.write_bytes(b"1\t" + base64.b64encode(data.getvalue()) + b"\tword\n")
    place = Shards(str(path)).place(data.getvalue())
    assert place.read() == data.getvalue()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=r"a\.tsv at byte 2: the file was cut"):
        place.read()
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tsv at byte 2 cannot be read: No such file"):
        place.read()


def test_a_stage_copies_no_picture_of_a_tar(tmp_path, made, monkeypatch):  # noqa: F811
    kept = []
    drop = "vlforge.training.loop.drop_encoded"
    held = SourceWriter.HELD
    monkeypatch.setattr(
        drop, lambda out: kept.append(next(out.glob(f"{PREFIX}*/{held}")).stat().st_size)
    )
    source = Path(made.data).with_name("captions.json")
    for name, target in (("webdataset", "shards"), ("parquet", "a.parquet")):
        data = written(source, name, tmp_path / target)
        train(replace(made, data=data), tmp_path / name, device="cpu")
    packed = tmp_path / "c.tar.gz"
    packed.write_bytes(gzip.compress(next((tmp_path / "shards").glob("*.tar")).read_bytes()))
    train(replace(made, data=str(packed)), tmp_path / "packed", device="cpu")
    assert kept[:2] == [0, 0]
    assert kept[2] > 0
    assert weights(tmp_path / "webdataset") == weights(tmp_path / "packed")
