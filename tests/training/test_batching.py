"""Groups, packs, shares, tiles and crops of a train stage: the same samples, the same loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.small_stage import stopped_before
from tests.tiny_model import CLIP, write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.training import loop
from vlforge.training.averaging import Cut
from vlforge.training.batching import Batching
from vlforge.training.config import AugmentSpec, Mixing, Optimiser, TrainConfig
from vlforge.training.grouping import regroup
from vlforge.training.loop import train
from vlforge.training.pictures import Pictures
from vlforge.types import ModelError, RecipeError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> TrainConfig:
    """Twelve rows of different length, every third without a picture."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    rows = json.loads(data.read_text())
    for number, row in enumerate(rows):
        row["conversations"][1]["value"] = "It is red. " * (1 + number % 4)
        if number % 3 == 0:
            del row["image"]
            row["conversations"][0]["value"] = "What colour is it?"
    data.write_text(json.dumps(rows))
    vision, language = write_parts(folder, data)
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        epochs=3,
        batch=6,
        template="vicuna",
        train=("vision", "connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "how",
    [
        {"pack": "isolated"},
        {"pack": "isolated", "pack_length": 60},
        {"pack": "isolated", "micro_batch": 4},
        {"group": "balanced", "micro_batch": 2},
        {"group": "balanced", "micro_batch": 3, "pack": "isolated"},
    ],
    ids=str,
)
def test_packs_and_shares_change_nothing_but_rounding(tmp_path, made, how):
    train(made, tmp_path / "plain", device="cpu")
    train(replace(made, **how), tmp_path / "other", device="cpu")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


@pytest.mark.parametrize("rule", ["length", "llava", "mgm", "xtuner", "balanced"])
def test_groups_see_the_same_samples(tmp_path, made, rule):
    plain = train(made, tmp_path / "plain", device="cpu")
    grouped = train(replace(made, group=rule), tmp_path / "grouped", device="cpu")
    assert plain["tokens"] == grouped["tokens"]
    assert plain["samples"] == grouped["samples"] == 36


def test_group_by_length_is_the_group_length(tmp_path, made):
    train(replace(made, group="length"), tmp_path / "one", device="cpu")
    train(replace(made, group_by_length=True), tmp_path / "two", device="cpu")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


@pytest.mark.parametrize(("rule", "left"), [("llava", 2), ("mgm", 2), ("xtuner", 14)])
def test_published_groups_keep_pictures_and_texts_apart(rule, left):
    lengths = np.arange(1, 101)
    signed = np.where(np.arange(100) % 3 == 0, -lengths, lengths)
    order = np.concatenate([np.random.default_rng(n).permutation(100) for n in range(2)])
    state = torch.random.get_rng_state()
    made = regroup(order, rule, lengths, signed, batch=8, micro_batch=4, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert sorted(made) == sorted(order)
    whole = made[: 192 // 8 * 8].reshape(-1, 8)
    mixed = [row for row in whole if len(set(np.sign(signed[row]))) > 1]
    # The rests of both kinds are joined: a batch of LLaVA's, a window or two of XTuner's.
    assert len(mixed) <= left
    unsorted = np.mean([np.ptp(lengths[row]) for row in order[:192].reshape(-1, 8)])
    assert rule != "xtuner" or np.mean([np.ptp(lengths[row]) for row in whole]) < 0.6 * unsorted


@pytest.mark.parametrize(("batch", "micro"), [(8, 3), (5, 5), (12, 4), (200, 16)])
def test_groups_of_any_batch_size_hold_every_row_once(batch, micro):
    lengths = np.arange(1, 101)
    signed = np.where(lengths % 4 == 0, -lengths, lengths)
    order = np.concatenate([np.arange(100), np.arange(50)])
    for rule in ("length", "llava", "xtuner"):
        made = regroup(order, rule, lengths, signed, batch, micro, seed=1)
        assert sorted(made) == sorted(order)


def test_words_are_counted_as_the_published_sampler_does(tmp_path, made):
    config, folder = made, assemble(made.model)
    data = loop._read(config, folder, 1, tmp_path, 0)
    rows = json.loads(Path(made.data).read_text())
    wanted = [sum(len(t["value"].split()) for t in row["conversations"]) for row in rows]
    assert data.words.tolist() == wanted


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"group_by_length": True, "group": "llava"}, "take one of them"),
        ({"mixing": Mixing(draw="per_batch"), "group": "mgm"}, "draw: per_batch"),
        ({"group": "balanced", "loss_mean": "lavis"}, "take loss_mean: tokens"),
        ({"pack_length": 64}, "set pack: isolated"),
        ({"pack": "isolated", "pack_length": 0}, "pack_length is 0"),
        ({"random_crop": True, "augment": AugmentSpec()}, "random_crop and augment"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, made, how, match):
    with pytest.raises(RecipeError, match=match) as caught:
        train(replace(made, **how), tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "second"),
    [
        ({}, [1, 3, 5, 7]),
        ({"loss_mean": "micro_batches"}, [2, 3, 6, 7]),
        ({"loss_mean": "micro_batches", "group": "mgm"}, [2, 3, 6, 7]),
        ({"loss_mean": "micro_batches", "group": "xtuner"}, [1, 3, 5, 7]),
        ({"loss_mean": "lavis"}, [1, 3, 5, 7]),
    ],
)
def test_rows_whose_mean_counts_are_together_as_the_published_loaders_have_them(made, how, second):
    # Trainer and Paddle deal out batches; mmengine and LAVIS rows, which batches are made of.
    rule = Batching.of(replace(made, **how), None, None, [])
    shares = rule.shares(np.arange(8), Cut(8, 2, 2))
    assert np.concatenate(shares[1]).tolist() == second


def test_a_model_that_cannot_be_packed_is_refused_before_training(tmp_path, made, monkeypatch):
    monkeypatch.setattr("vlforge.models.parts.packs._hindrance", lambda *_: "mixes")
    with pytest.raises(ModelError, match="pack: isolated: llama mixes; set pack: off"):
        train(replace(made, pack="isolated"), tmp_path, device="cpu")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory) -> TrainConfig:
    """LLaVA 1.6 in small: pictures of several shapes, and rows without any."""
    folder = tmp_path_factory.mktemp("tiled")
    data = write_data(folder)
    for number, size in enumerate([(20, 14), (14, 20), (9, 40), (40, 9), (16, 16)]):
        Image.new("RGB", size, (40 * number, 90, 30)).save(folder / f"images/{number}.png")
    rows = json.loads(data.read_text())
    for row in rows[::4]:
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it?"
    data.write_text(json.dumps(rows))
    _, language = write_parts(folder, data)
    vision = folder / "clip"
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(vision)
    fields = ImageProcessor(size=8).to_json()
    (vision / "preprocessor_config.json").write_text(json.dumps(fields))
    spec = ModelSpec(
        vision=str(vision),
        language=str(language),
        image_aspect_ratio="anyres",
        patch_merge="spatial_unpad",
        image_grid_pinpoints=((8, 16), (16, 8), (16, 16)),
    )
    return TrainConfig(
        model=spec,
        data=str(data),
        epochs=12,
        batch=4,
        template="vicuna",
        train=("vision", "connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def test_tiled_pictures_train(tmp_path, tiled):
    summary = train(tiled, tmp_path, device="cpu")
    assert summary["data_rows"] == 12
    assert np.mean(losses(tmp_path)[-5:]) < 0.7 * np.mean(losses(tmp_path)[:5])


@pytest.mark.parametrize("augment", [False, True])
def test_tiles_decoded_just_in_time_give_the_same_bytes(tmp_path, tiled, monkeypatch, augment):
    config = replace(tiled, epochs=2, augment=augment)
    train(config, tmp_path / "kept", device="cpu")
    monkeypatch.setattr("vlforge.training.pictures.MEMORY_SHARE", 0.0)
    monkeypatch.setattr("vlforge.training.pictures.AHEAD_SHARE", 0.0)
    train(config, tmp_path / "late", device="cpu")
    assert weights(tmp_path / "kept") == weights(tmp_path / "late")


@pytest.mark.parametrize("how", [{"pack": "isolated"}, {"micro_batch": 1}], ids=str)
def test_tiles_are_packed_and_accumulated_alike(tmp_path, tiled, how):
    config = replace(tiled, epochs=2)
    train(config, tmp_path / "plain", device="cpu")
    train(replace(config, **how), tmp_path / "other", device="cpu")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


def test_an_unreadable_tiled_picture_costs_its_row_only(tmp_path, tiled):
    data = write_data(tmp_path)
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    content = (tmp_path / "images/2.png").read_bytes()
    (tmp_path / "images/2.png").write_bytes(content[:45])
    summary = train(replace(tiled, data=str(data), epochs=1), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 10
    assert summary["dropped"] == {"unreadable picture": 2}


def test_random_parts_depend_on_seed_and_draw_alone(tmp_path):
    draw = np.random.default_rng(0)
    path = tmp_path / "noise.png"
    Image.fromarray(draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    processor = ImageProcessor(size=8, fit_mode="stretch")

    def made(seed: int, threads: int = 1) -> Pictures:
        return Pictures([str(path)], processor, threads, crop_seed=seed)

    pictures = made(0)
    assert not pictures.all_in_memory
    taken = pictures.take([0, 0, 0], [5, 6, 5])
    assert torch.equal(taken[0], taken[2])
    assert not torch.equal(taken[0], taken[1])
    other = made(0, threads=3)
    other.prefetch([0, 0], [6, 7])
    assert torch.equal(other.take([0, 0], [6, 5]), taken[[1, 0]])
    assert not torch.equal(made(1).take([0], [5])[0], taken[0])


def test_a_run_of_random_parts_goes_on_with_the_same_bytes(tmp_path, made):
    config = replace(made, random_crop=True, save_every_samples=6)
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(3):
        train(config, tmp_path / "cut", device="cpu")
    train(config, tmp_path / "cut", device="cpu")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_no_more_is_decoded_ahead_than_is_allowed(tmp_path, monkeypatch):
    paths = []
    for number in range(9):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (8, 8), (number, 0, 0)).save(paths[-1])
    monkeypatch.setattr("vlforge.training.pictures.MEMORY_SHARE", 0.0)
    monkeypatch.setattr("vlforge.training.pictures.AHEAD_SHARE", 0.0)
    pictures = Pictures(paths, ImageProcessor(size=8, fit_mode="stretch"), threads=2)
    pictures.prefetch(range(9))
    assert len(pictures._ahead) == 4
    assert pictures.take([0, 1])[:, 0, 0, 0].tolist() == [0, 1]
    assert set(pictures._ahead) == {(n, 0) for n in (2, 3, 4, 5)}
    assert pictures.take([8, 2])[:, 0, 0, 0].tolist() == [8, 2]
    pictures.prefetch([7])
    pictures.prefetch([7])
    assert set(pictures._ahead) == {(7, 0)}
