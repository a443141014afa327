"""Native models of transformers through the train stage: their losses, their files, their packs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.models.test_native import MAKERS, picture
from vlforge.data.images import load_rgb
from vlforge.inference.load import load_model
from vlforge.models.native import NativeModel
from vlforge.models.native_parts import NativeParts
from vlforge.models.parts.native_processor import open_processor
from vlforge.training.batching import Batching
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.training.native_rows import lengthen, read_native, shorten
from vlforge.training.native_task import NativeTask
from vlforge.training.rows import Sieve
from vlforge.types import Sample, Turn

SIZES = ((90, 50), (40, 120), (60, 60))


def write_data(folder: Path) -> Path:
    """Rows with a picture, with two in the middle of a turn, and with none."""
    for number, size in enumerate(SIZES):
        picture(*size, seed=number).save(folder / f"{number}.png")

    def row(name, images, *turns):
        said = [
            {"from": "human" if place % 2 == 0 else "gpt", "value": words}
            for place, words in enumerate(turns)
        ]
        return {"id": name, "image": images, "conversations": said}

    rows = [
        row("one", ["0.png"], "<image>\nwhat colour is the car?", "it is red.", "what?", "it"),
        row("two", ["1.png", "2.png"], "what <image> colour <image>\nis it?", "red car."),
        row("text", [], "what colour is it?", "the car is red."),
        row("last", ["2.png"], "<image>\nwhat?", "a car"),
        row("short", [], "what?", "it"),
        row("again", ["0.png"], "is it\n<image>", "the red car is red."),
    ]
    for one in rows:
        if not one["image"]:
            del one["image"]
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(params=MAKERS, scope="module")
def made(request, tmp_path_factory):
    """A model's folder and a configuration over data beside it."""
    home = tmp_path_factory.mktemp(request.param)
    folder = MAKERS[request.param](home / "model")
    return TrainConfig(
        model=str(folder),
        data=str(write_data(home)),
        template="auto",
        image_root=str(home),
        epochs=2,
        batch=3,
        max_length=1024,
        train=("vision", "connector", "language"),
        optimiser=Optimiser(lr=1e-3, warmup_ratio=0.0),
    )


def opened(config) -> NativeParts:
    model = AutoModelForImageTextToText.from_pretrained(config.model)
    return NativeParts(NativeModel(model, open_processor(Path(config.model))))


def task_of(config, batching=Batching()) -> NativeTask:
    model = opened(config)
    data = read_native(config, model, None, Sieve(config.max_length))
    return NativeTask(model, data, batching)


def samples(config) -> list[tuple[Sample, list[Image.Image]]]:
    """The rows of the data as samples with their pictures."""
    home, found = Path(config.data).parent, []
    for row in json.loads(Path(config.data).read_text()):
        roles = {"human": "user", "gpt": "assistant"}
        turns = tuple(Turn(roles[one["from"]], one["value"]) for one in row["conversations"])
        images = tuple(row.get("image", ()))
        found.append(
            (Sample(row["id"], images, turns), [load_rgb(str(home / one)) for one in images])
        )
    return found


def test_rows_are_those_of_the_models_own_processor(made):
    task = task_of(made)
    for row, (sample, images) in enumerate(samples(made)):
        ours, theirs = task._row(row), task.model.whole.encode(sample, images)
        assert (ours.ids, ours.labels) == (theirs.ids, theirs.labels)
        assert ours.inputs.keys() == theirs.inputs.keys()
        for key, value in theirs.inputs.items():
            assert torch.equal(ours.inputs[key], value), key
        assert task.data.rows.lengths[row] == theirs.length


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_loss_and_gradients_are_transformers_own(made):
    task = task_of(made)
    rows = np.arange(6)
    batch = task.batch(rows, rows, torch.device("cpu"))
    ours = task.module(**batch)
    ours.backward()
    got = gradients(task.model)
    whole = task.model.whole.collate([task.model.whole.encode(*one) for one in samples(made)])
    wanted = task.model.whole.model(**whole).loss * task.count(rows)
    wanted.backward()
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    theirs = gradients(task.model)
    assert got.keys() == theirs.keys()
    for name, value in theirs.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(got[name] / scale, value / scale, atol=1e-5, rtol=1e-4)
    without = {name for name, _ in task.model.named_parameters()} - theirs.keys()
    assert without == task.model.unused_parameters


def test_a_batch_of_texts_runs_the_encoder_and_learns_nothing_of_it(made):
    task = task_of(made)
    rows = np.asarray([2, 4])
    task.module(**task.batch(rows, rows, torch.device("cpu"))).backward()
    got = gradients(task.model)
    learned = {name for name, _ in task.model.named_parameters()} - task.model.unused_parameters
    assert got.keys() == learned
    for name, value in got.items():
        if not name.startswith("language."):
            assert not value.any(), name


@pytest.mark.parametrize("way", ["sdpa", "eager"])
def test_packed_samples_are_blind_to_each_other(made, way):
    config = made
    task = task_of(config, Batching(packs=True, pack_length=400))
    model = task.model.whole.model
    model.eval()
    model.config.get_text_config()._attn_implementation = way
    rows = np.arange(6)
    batch = task.batch(rows, rows, torch.device("cpu"))
    packs, segments = batch["input_ids"], batch.pop("segments")
    assert len(packs) < 6
    labels = batch.pop("labels")
    batch["attention_mask"] = task.module._apart(segments)
    found = {}
    with torch.no_grad():
        logits = model(**batch).logits
        for pack, number in {(p, int(n)) for p in range(len(packs)) for n in segments[p] if n > 0}:
            here = segments[pack] == number
            found[tuple(packs[pack, here].tolist())] = logits[pack, here]
        for sample, images in samples(config):
            row = task.model.whole.encode(sample, images)
            alone = task.model.whole.collate([row])
            alone.pop("labels")
            torch.testing.assert_close(
                found[tuple(row.ids)], model(**alone).logits[0], atol=1e-5, rtol=1e-5
            )
    assert int((labels != -100).sum()) == task.count(rows)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def logits_of(folder: Path, sample: Sample, images: list[Image.Image]) -> torch.Tensor:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    whole = NativeModel(model, open_processor(folder))
    batch = whole.collate([whole.encode(sample, images)])
    batch.pop("labels")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_what_is_written_is_a_folder_of_transformers_that_goes_on(made, tmp_path):
    one = train(made, tmp_path / "one", device="cpu")
    assert one["samples"] == 12
    assert one["data_rows"] == 6
    loaded = load_model(tmp_path / "one", "cpu")
    assert loaded.kind == "native"
    assert loaded.template is None
    sample, images = samples(made)[0]
    whole = NativeModel(loaded.model, loaded.processor)
    batch = whole.collate([whole.encode(sample, images)])
    batch.pop("labels")
    with torch.no_grad():
        ours = loaded.model(**batch).logits
    torch.testing.assert_close(ours, logits_of(tmp_path / "one", sample, images))
    assert not torch.allclose(ours, logits_of(Path(made.model), sample, images), atol=1e-3)
    train(replace(made, model=str(tmp_path / "one")), tmp_path / "two", device="cpu")
    meta = json.loads((tmp_path / "two" / "vlforge.json").read_text())
    assert [stage["samples"] for stage in meta["history"]] == [12, 12]


def test_runs_of_equal_tokens_come_back():
    ids = np.asarray([5, 5, 5, 5, 1, 2, 2, 7, 7, 7, 7, 9], dtype=np.int32)
    labels = np.full(12, -100, dtype=np.int32)
    labels[8:] = ids[8:]
    short = shorten(ids, labels)
    assert short[0].tolist() == [5, -4, 1, 2, 2, 7, 7, 7, 7, 9]
    for whole, back in zip((ids, labels), lengthen(*short), strict=True):
        assert whole.tolist() == back.tolist()
