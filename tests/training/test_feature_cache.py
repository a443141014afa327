"""Features on disk: found again, made anew where they are not, the same numbers."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.families import made as family
from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.training import feature_cache
from vlforge.training.config import Mixture, Optimiser, TrainConfig
from vlforge.training.contents import Contents
from vlforge.training.feature_cache import HOME, DiskFeatures, Shelf, digest_of
from vlforge.training.loop import train
from vlforge.training.pictures import Pictures, cache_features
from vlforge.types import RecipeError, WriteError

CPU = torch.device("cpu")


class Alone:
    """One process of `count`."""

    def __init__(self, count=1, index=0):
        self.device, self.count, self.index = CPU, count, index

    def wait(self):
        """Nobody to wait for."""


@pytest.fixture
def model():
    return family("llava").model


@pytest.fixture
def files(tmp_path):
    """Paths of pictures; two of them hold the same."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    torch.manual_seed(0)
    for number in range(150):
        colours = torch.randint(255, (10, 12, 3), dtype=torch.uint8).numpy()
        Image.fromarray(colours).save(folder / f"{number}.png")
    shutil.copy(folder / "3.png", folder / "149.png")
    return [str(folder / f"{number}.png") for number in range(150)]


def pictures_of(files):
    return Pictures(files, family("llava").processor)


def shelf_of(home, model, files):
    return Shelf.of(home, model, pictures_of(files).processor, "fp32", CPU)


def filled(home, model, files, devices=Alone()):
    """The shelf, the features by number, and how many were made."""
    pictures = pictures_of(files)
    keys = dict(enumerate(Contents(home).keys(files)))
    shelf = Shelf.of(home, model, pictures.processor, "fp32", CPU)
    made = shelf.fill(model.vision, pictures, keys, devices)
    return shelf, DiskFeatures(shelf, keys), made


def test_features_from_disk_are_those_of_memory_to_the_bit(tmp_path, model, files):
    kept = cache_features(model.vision, pictures_of(files), range(149), CPU)
    shelf, found, made = filled(tmp_path, model, files)
    assert made == 149  # the last one is the fourth again
    numbers = torch.tensor([5, 148, 0, 5])
    found.prefetch(numbers.tolist())
    assert torch.equal(found[numbers], kept[numbers])
    assert torch.equal(found[torch.tensor([149])], kept[3][None])
    assert found[:1].shape == kept[:1].shape
    assert shelf.gib() == pytest.approx(149 * kept[0].numel() * 4 / 2**30)


def test_files_are_safetensors_and_say_what_they_are_made_of(tmp_path, model, files):
    shelf, found, _ = filled(tmp_path, model, files)
    (file,) = shelf.folder.glob("*.safetensors")
    assert torch.equal(load_file(file)["features"][7], found[torch.tensor([7])][0])
    facts = json.loads((shelf.folder / "facts.json").read_text())
    assert facts["model"]["select_layer"] == -2
    assert facts["pictures"]["size"] == 8


def test_what_is_there_is_not_made_again(tmp_path, model, files):
    filled(tmp_path, model, files[:70])
    _, found, made = filled(tmp_path, model, files)
    assert made == 79
    kept = cache_features(model.vision, pictures_of(files), range(149), CPU)
    gap = (found[torch.arange(149)] - kept[:149]).abs().max()
    assert gap < 1e-5
    assert filled(tmp_path, model, files)[2] == 0


def test_a_kill_in_the_middle_leaves_whole_files_and_the_rest_comes_out_the_same(
    tmp_path, model, files, monkeypatch
):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 1)
    _, whole, _ = filled(tmp_path / "whole", model, files)
    store, calls = Shelf._store, []

    def dies(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        store(self, *given)

    monkeypatch.setattr(Shelf, "_store", dies)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "cut", model, files)
    monkeypatch.setattr(Shelf, "_store", store)
    _, found, made = filled(tmp_path / "cut", model, files)
    assert made == 149 - 64
    assert torch.equal(found[torch.arange(150)], whole[torch.arange(150)])


@pytest.mark.parametrize("how", ["flipped", "short", "header", "other"])
def test_a_damaged_file_is_made_anew(tmp_path, model, files, how):
    shelf, whole, _ = filled(tmp_path, model, files)
    before = whole[torch.arange(149)].clone()
    (file,) = shelf.folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    if how == "flipped":
        content[-5] ^= 1
    elif how == "short":
        del content[-5:]
    elif how == "header":
        content[3] = 255
    else:
        content[8:12] = b"nope"
    file.write_bytes(content)
    _, found, made = filled(tmp_path, model, files)
    assert made == 149
    assert torch.equal(found[torch.arange(149)], before)


def test_a_file_that_was_only_touched_is_summed_up_and_kept(tmp_path, model, files):
    shelf, _, _ = filled(tmp_path, model, files)
    (file,) = shelf.folder.glob("*.safetensors")
    os.utime(file, ns=(1, 1))
    assert filled(tmp_path, model, files)[2] == 0


def test_each_process_makes_its_share(tmp_path, model, files, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 1)
    _, whole, _ = filled(tmp_path / "one", model, files)
    pictures, keys = pictures_of(files), dict(enumerate(Contents(tmp_path).keys(files)))
    both = [shelf_of(tmp_path / "two", model, files) for _ in range(2)]
    for index, shelf in enumerate(both):
        assert shelf.fill(model.vision, pictures, keys, Alone(2, index)) == 149
    assert len(list(both[0].folder.glob("*.safetensors"))) == 3
    _, found, made = filled(tmp_path / "two", model, files)
    assert made == 0
    assert torch.equal(found[torch.arange(150)], whole[torch.arange(150)])


def test_other_weights_pictures_or_layers_have_a_folder_of_their_own(tmp_path, model, files):
    folders = {shelf_of(tmp_path, model, files).folder}
    with torch.no_grad():
        model.vision.tower.encoder.layers[-1].mlp.fc1.weight.add_(1)  # nobody looks at it
        assert shelf_of(tmp_path, model, files).folder in folders
        model.vision.tower.encoder.layers[0].mlp.fc1.weight.add_(1)
    folders.add(shelf_of(tmp_path, model, files).folder)
    model.config.select_layer = -1
    folders.add(shelf_of(tmp_path, model, files).folder)
    processor = replace(pictures_of(files).processor, fit_mode="stretch")
    folders.add(Shelf.of(tmp_path, model, processor, "fp32", CPU).folder)
    assert len(folders) == 4
    assert digest_of(model.vision) == digest_of(model.vision)


def test_a_picture_is_known_by_what_it_holds(tmp_path, files):
    one = Contents(tmp_path).keys(files)
    assert one[149] == one[3]
    assert len(set(one)) == 149
    remembered = (tmp_path / Contents.NAME).read_bytes()
    (tmp_path / Contents.NAME).write_bytes(remembered[:-7])  # killed as it was written
    Image.new("RGB", (9, 9)).save(files[0])
    other = Contents(tmp_path).keys(files)
    assert other[0] != one[0]
    assert other[1:] == one[1:]
    assert Contents(tmp_path).keys(files) == other


def test_what_did_not_change_is_not_read_again(tmp_path, files, monkeypatch):
    one = Contents(tmp_path).keys(files)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: pytest.fail(f"read {path}"))
    assert Contents(tmp_path).keys(files) == one


def test_a_disk_too_small_is_told_before_anything_is_made(tmp_path, model, files, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(RecipeError, match=r"0\.0 GB for 149 of 150 pictures .* set cache: off"):
        filled(tmp_path, model, files)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_disk_that_becomes_full_leaves_no_half_file(tmp_path, model, files, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    shelf = shelf_of(tmp_path, model, files)
    keys = dict(enumerate(Contents(tmp_path).keys(files)))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            shelf.fill(model.vision, pictures_of(files), keys, Alone())
    assert not list(tmp_path.rglob("*.tmp"))
    assert filled(tmp_path, model, files)[2] == 149


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A stage that trains connector and language on twelve pictures."""
    folder = tmp_path_factory.mktemp("stage")
    data = write_data(folder)
    for number, file in enumerate(sorted((folder / "images").iterdir())):
        Image.new("RGB", (16, 16), (20 * number, 99, 255 - 20 * number)).save(file)
    vision, language = write_parts(folder, data)
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=24,
        batch=4,
        template="vicuna",
        train=("connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def weights(out):
    return load_file(out / "model.safetensors")


def test_a_stage_learns_the_same_from_disk_memory_and_pictures(tmp_path, stage):
    events = []
    for name in ("on", "auto", "off"):
        home = tmp_path / name
        train(replace(stage, cache=name), home / "out", device="cpu", log=events.append)
    made = [event for event in events if event["event"] == "cache"]
    assert [(event["pictures"], event["made"]) for event in made] == [(12, 12)]
    on, memory, off = (weights(tmp_path / name / "out") for name in ("on", "auto", "off"))
    assert all(torch.equal(on[key], memory[key]) for key in on)
    assert max(float((on[key] - off[key]).abs().max()) for key in on) < 1e-4
    assert (tmp_path / "on" / HOME).is_dir()
    assert not (tmp_path / "auto" / HOME).exists()


def test_a_later_stage_finds_what_an_earlier_one_made(tmp_path, stage):
    events = []
    for name in ("one", "two"):
        train(replace(stage, cache="on"), tmp_path / name, device="cpu", log=events.append)
    assert [event["made"] for event in events if event["event"] == "cache"] == [12, 0]
    assert (tmp_path / "one/model.safetensors").read_bytes() == (
        tmp_path / "two/model.safetensors"
    ).read_bytes()


def test_an_unreadable_picture_is_left_out_by_the_second_run_too(tmp_path, stage):
    data = write_data(tmp_path / "data")
    (tmp_path / "data/images/5.png").write_bytes(b"no picture")
    config = replace(stage, data=(Mixture(str(data)),), cache="on")
    first = train(config, tmp_path / "one", device="cpu")
    second = train(config, tmp_path / "two", device="cpu")
    assert first == second
    assert first["dropped"] == {"unreadable picture": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": ("vision", "connector")}, "here the encoder learns; set cache: off"),
        ({"augment": True}, "augment contradict each other"),
        ({"random_crop": True}, "random_crop contradict each other"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(tmp_path, stage, changes, said):
    with pytest.raises(RecipeError, match=said):
        train(replace(stage, cache="on", **changes), tmp_path, device="cpu")


def test_adapters_on_the_encoder_are_refused(tmp_path):
    config = SimpleNamespace(augment=False, random_crop="auto")
    model = family("llava").model
    names = ["vision.tower.encoder.layers.0.self_attn.q_proj.lora_A.default.weight"]
    assert "the encoder learns" in feature_cache.hindrance(config, model, names)
    assert feature_cache.hindrance(config, model, ["connector.0.weight"]) is None
    assert "larger" in feature_cache.hindrance(config, family("mgm").model, [])
    assert "anyres" in feature_cache.hindrance(config, family("llava_tiles").model, [])
    assert "random_crop: false" in feature_cache.hindrance(config, family("minigpt4").model, [])


def test_a_q_former_s_queries_are_kept(tmp_path, files):
    model = family("minigpt4").model
    pictures = Pictures(files, family("minigpt4").processor)
    shelf = Shelf.of(tmp_path, model, pictures.processor, "fp32", CPU)
    keys = dict(enumerate(Contents(tmp_path).keys(files)))
    shelf.fill(model.vision, pictures, keys, Alone())
    kept = cache_features(model.vision, pictures, range(149), CPU)
    assert torch.equal(DiskFeatures(shelf, keys)[torch.arange(149)], kept[:149])
