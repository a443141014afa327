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
from tests.models.tiny_native import gemma
from tests.small_stage import steps_run, stopped_before
from vlforge.data.images import load_rgb
from vlforge.inference.load import load_model
from vlforge.models.lean import apply_lean
from vlforge.models.native import NativeModel
from vlforge.models.native_parts import NativeParts
from vlforge.models.parts.native_processor import open_processor
from vlforge.training.batching import Batching
from vlforge.training.config import HeldOut, Lean, LoraSpec, Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.training.native_rows import lengthen, read_native, shorten
from vlforge.training.native_task import NativeTask
from vlforge.training.rows import Sieve
from vlforge.types import ModelError, RecipeError, Sample, Turn

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
    return configured(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def one_made(tmp_path_factory):
    """The same of Qwen2.5-VL alone."""
    return configured("qwen2.5-vl", tmp_path_factory.mktemp("one"))


def configured(name: str, home: Path) -> TrainConfig:
    """A stage over a tiny model and data beside it."""
    folder = (MAKERS | {"gemma3": gemma})[name](home / "model")
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


def test_what_is_left_out_and_made_twice_changes_no_number(made):
    task = task_of(made)
    rows = np.arange(6)
    batch = task.batch(rows, rows, torch.device("cpu"))

    def measured():
        loss = task.module(**batch)
        loss.backward()
        return {"loss": loss.detach()} | gradients(task.model)

    whole = Lean(supervised_head=False, last_layer_rows=False)
    apply_lean(task.model, whole)
    wanted = measured()
    for lean, twice in ((Lean(), ()), (Lean(), ("vision", "language")), (whole, ("language",))):
        counts = apply_lean(task.model, lean, twice)
        assert set(counts) == set(twice)
        assert all(counts.values())
        found = measured()
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            scale = max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[name] / scale, value / scale, atol=1e-5, rtol=1e-4)


def interrupted(config, out, at):
    """Train until the given step, then begin again; gives the steps of the second time."""
    with stopped_before(at):
        train(config, out, device="cpu")
    with steps_run() as ran:
        train(config, out, device="cpu")
    return ran


@pytest.mark.parametrize("pack", ["off", "isolated"])
def test_an_interrupted_run_ends_with_the_same_bytes(one_made, tmp_path, monkeypatch, pack):
    adapted = {"lora": LoraSpec(rank=2, alpha=4)} if pack == "off" else {}
    config = replace(one_made, pack=pack, save_every_samples=3, **adapted)
    train(config, tmp_path / "whole", device="cpu")
    assert interrupted(config, tmp_path / "cut", 2) == [2, 3]
    for file in sorted((tmp_path / "whole").rglob("*")):
        if file.is_file() and file.name not in ("timing.json", "log.jsonl", "adapted.json"):
            other = tmp_path / "cut" / file.relative_to(tmp_path / "whole")
            assert file.read_bytes() == other.read_bytes(), file.name


@pytest.mark.parametrize("group", ["length", "llava", "balanced"])
def test_rows_are_grouped_and_shared_out(one_made, tmp_path, group):
    config = replace(one_made, group=group, micro_batch=1)
    summary = train(config, tmp_path, device="cpu")
    assert summary["samples"] == 12


def test_a_stage_is_looked_at_while_it_trains(one_made, tmp_path):
    held = HeldOut(data=one_made.data, rows=4, every_samples=6)
    train(replace(one_made, evaluate=held), tmp_path, device="cpu")
    looks = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert [look["eval_rows"] for look in looks] == [4, 4]
    assert looks[0]["eval_loss"] > looks[1]["eval_loss"] > 0


@pytest.mark.parametrize(
    ("parts", "frozen"),
    [(("connector",), {"vision", "language"}), (("vision_last_half",), {"connector", "language"})],
)
def test_what_does_not_train_stays_to_the_bit(one_made, tmp_path, parts, frozen):
    train(replace(one_made, train=parts), tmp_path, device="cpu")
    before = opened(one_made)
    after = dict(opened(replace(one_made, model=str(tmp_path))).named_parameters())
    moved = {n for n, p in before.named_parameters() if not torch.equal(p, after[n])}
    assert moved
    assert not {name.partition(".")[0] for name in moved} & frozen
    if parts == ("vision_last_half",):
        assert {name.split(".blocks.")[1].split(".")[0] for name in moved} == {"1"}


def test_a_picture_that_is_lost_meanwhile_teaches_nothing(one_made):
    task = task_of(one_made)
    rows, lost = np.asarray([3]), Path(one_made.data).parent / "2.png"
    content = lost.read_bytes()
    try:
        lost.write_bytes(b"no picture")
        batch = task.batch(rows, rows, torch.device("cpu"))
    finally:
        lost.write_bytes(content)
    assert not (batch["labels"] != -100).any()
    task.data.count_late_drops()
    assert task.data.dropped.counts == {"unreadable picture": 2}
    assert torch.isfinite(task.module(**batch))


@pytest.mark.slow
def test_helper_processes_make_the_same_pixels(one_made):
    here, there = task_of(one_made), task_of(replace(one_made, decode="processes"))
    assert there.data.pictures._workers is not None
    rows = np.arange(6)
    wanted, found = (task.batch(rows, rows, torch.device("cpu")) for task in (here, there))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def test_a_row_whose_pictures_do_not_fit_is_left_out_and_a_long_one_cut(one_made):
    model = opened(one_made)
    sieve = Sieve(14)
    data = read_native(one_made, model, None, sieve)
    assert set(sieve.dropped.counts) <= {sieve.LOST, sieve.EMPTY}
    assert sieve.dropped.counts[sieve.LOST] == 1
    assert data.rows.lengths.max() <= 14
    assert sieve.cut_rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compat": "llava"}, "compat llava is for our own families"),
        ({"tokenizer": "slow"}, "tokenizer slow is for our own families"),
        ({"export": "connector"}, "export connector is for our own families"),
        ({"template": "v1+im_start_end"}, r"template v1\+im_start_end is for our own"),
        ({"augment": True}, "augment is for our own families"),
        ({"cache": "on"}, "cache: on is not there for transformers' own models"),
        ({"train": ("visoin",)}, "matches no parameter"),
    ],
)
def test_what_a_native_model_cannot_is_said_in_one_line(one_made, tmp_path, changes, words):
    with pytest.raises(RecipeError, match=words) as caught:
        train(replace(one_made, **changes), tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_pictures_whose_tokens_see_each_other_train_and_are_not_packed(tmp_path):
    config = configured("gemma3", tmp_path)
    test_rows_are_those_of_the_models_own_processor(config)
    test_loss_and_gradients_are_transformers_own(config)
    words = "pack: isolated: gemma3 lets tokens of a picture see each other.*set pack: off"
    with pytest.raises(ModelError, match=words):
        train(replace(config, pack="isolated"), tmp_path / "packed", device="cpu")
    with pytest.raises(ModelError, match="cost of a model of type 'gemma3' is not known"):
        train(replace(config, group="balanced"), tmp_path / "balanced", device="cpu")


def test_a_template_of_ours_is_remembered(one_made, tmp_path):
    train(replace(one_made, template="vicuna"), tmp_path, device="cpu")
    assert load_model(tmp_path, "cpu").template.name == "vicuna"


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
