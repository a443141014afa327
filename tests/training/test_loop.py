import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.small_stage import steps_run, stopped_before
from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble, read_folder
from vlforge.training import feature_cache, fit, loop
from vlforge.training.config import Mixing, Mixture, Optimiser, TrainConfig
from vlforge.training.loop import train
from vlforge.types import DataError, ModelError, RecipeError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, parts to assemble, and a configuration over them."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    spec = ModelSpec(vision=str(vision), language=str(language))
    return TrainConfig(
        model=spec,
        data=str(data),
        samples=24,
        batch=4,
        template="vicuna",
        train=("connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_what_is_learned_is_written_and_said(tmp_path, made):
    summary = train(replace(made, samples=240), tmp_path, device="cpu")
    steps = lines(tmp_path)
    assert [step["step"] for step in steps] == list(range(1, 61))
    assert set(steps[0]) == {"step", "samples", "loss", "lr", "tokens", "supervised_tokens"}
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["samples"], summary["steps"], summary["data_rows"]) == (240, 60, 12)
    assert steps[-1]["supervised_tokens"] == summary["supervised_tokens"]
    assert set(json.loads((tmp_path / "timing.json").read_text())) == {
        "seconds", "samples_per_second", "peak_mb",
        "tokens_per_second", "wait_share", "mfu", "mfu_of",
    }  # fmt: skip
    folder = read_folder(tmp_path)
    assert folder.template == "vicuna"
    assert folder.history[0]["train"] == ["connector", "language"]
    assert not (tmp_path / "checkpoint").exists()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path, made):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        train(made, tmp_path / name, seed=seed, device="cpu")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")
    for file in sorted((tmp_path / "one").iterdir()):
        if file.name != "timing.json":
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("train_parts", [("connector",), ("language",), ("vision", "connector")])
def test_frozen_parts_keep_their_weights(tmp_path, made, train_parts):
    train(replace(made, train=train_parts), tmp_path, device="cpu")
    after = load_file(tmp_path / "model.safetensors")
    before = assemble(made.model).model.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved - {"connector"} == set(train_parts) - {"connector"}


def test_a_part_with_rate_zero_stays_while_the_rest_learns(tmp_path, made):
    still = replace(made.optimiser, lr_parts={"language": 0.0})
    train(replace(made, optimiser=still), tmp_path, device="cpu")
    after = load_file(tmp_path / "model.safetensors")
    before = assemble(made.model).model.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"connector"}


def test_accumulation_changes_nothing_but_rounding(tmp_path, made):
    train(made, tmp_path / "whole", device="cpu")
    train(replace(made, micro_batch=1), tmp_path / "parts", device="cpu")
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [x["loss"] for x in whole] == pytest.approx([x["loss"] for x in parts], abs=1e-4)


def test_cached_features_change_nothing_but_rounding(tmp_path, made, monkeypatch):
    train(made, tmp_path / "cached", device="cpu")
    monkeypatch.setattr(feature_cache, "features_fit", lambda *_: False)
    train(made, tmp_path / "uncached", device="cpu")
    cached, uncached = lines(tmp_path / "cached"), lines(tmp_path / "uncached")
    assert [x["loss"] for x in cached] == pytest.approx([x["loss"] for x in uncached], abs=1e-4)


def test_pictures_decoded_just_in_time_give_the_same_bytes(tmp_path, made, monkeypatch):
    config = replace(made, train=("vision", "connector"))
    train(config, tmp_path / "kept", device="cpu")
    monkeypatch.setattr("vlforge.training.pictures.MEMORY_SHARE", 0.0)
    train(config, tmp_path / "late", device="cpu")
    assert weights(tmp_path / "kept") == weights(tmp_path / "late")


@pytest.mark.parametrize("parts", [("connector", "language"), ("vision", "connector")])
@pytest.mark.parametrize("augment", [False, True])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, made, parts, augment):
    config = replace(made, train=parts, augment=augment, save_every_samples=8)
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(4):
        train(config, tmp_path / "cut", device="cpu")
    with steps_run() as ran:
        train(config, tmp_path / "cut", device="cpu")
    assert ran == [4, 5]
    for file in ("model.safetensors", "metrics.jsonl", "summary.json", "vlforge.json"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path, made, monkeypatch):
    config = replace(made, save_every_samples=8)
    drop = loop.drop_checkpoints
    monkeypatch.setattr(loop, "drop_checkpoints", lambda out: None)
    train(config, tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "checkpoint").exists()
    monkeypatch.setattr(loop, "drop_checkpoints", drop)
    other = replace(config, optimiser=Optimiser(lr=1e-3))
    train(other, tmp_path / "out", device="cpu")
    train(other, tmp_path / "fresh", device="cpu")
    assert weights(tmp_path / "out") == weights(tmp_path / "fresh")


def test_stages_follow_each_other(tmp_path, made):
    train(made, tmp_path / "align", device="cpu")
    second = replace(
        made, model=str(tmp_path / "align"), template="plain", epochs=0.5, samples=None
    )
    summary = train(second, tmp_path / "instruct", device="cpu")
    assert summary["samples"] == 6
    folder = read_folder(tmp_path / "instruct")
    assert [stage["template"] for stage in folder.history] == ["vicuna", "plain"]


def test_text_only_rows_train_beside_pictures_and_alone(tmp_path, made):
    rows = json.loads(Path(made.data).read_text())
    for row in rows[::2]:
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it?"
    mixed = Path(made.data).with_name("mixed.json")
    mixed.write_text(json.dumps(rows))
    config = replace(made, data=str(mixed), train=("vision", "connector", "language"), batch=1)
    assert train(config, tmp_path / "mixed", device="cpu")["data_rows"] == 12
    mixed.write_text(json.dumps(rows[::2]))
    train(replace(config, train=("connector", "language")), tmp_path / "text", device="cpu")


def test_an_unreadable_picture_costs_its_row_only(tmp_path, made):
    data = write_data(tmp_path / "data")
    (tmp_path / "data/images/3.png").write_bytes(b"no picture")
    (tmp_path / "data/images/5.png").unlink()
    summary = train(replace(made, data=str(data)), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 10
    assert summary["dropped"] == {"unreadable picture": 2}
    assert [row["row"] for row in summary["dropped_rows"]] == ["data.json:3", "data.json:5"]


def test_an_unreadable_picture_of_a_large_set_teaches_nothing(tmp_path, made, monkeypatch):
    monkeypatch.setattr("vlforge.training.pictures.MEMORY_SHARE", 0.0)
    data = write_data(tmp_path / "data")
    whole = (tmp_path / "data/images/3.png").read_bytes()
    (tmp_path / "data/images/3.png").write_bytes(whole[:60])
    summary = train(replace(made, data=str(data)), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 12
    assert summary["dropped"] == {"unreadable picture": 1}


def test_rows_that_lose_their_answer_are_counted(tmp_path, made):
    data = write_data(tmp_path)
    rows = json.loads(data.read_text())
    rows[2]["conversations"][0]["value"] = "<image>\n" + "What colour is it? " * 5
    rows[4]["conversations"][1]["value"] = ""
    rows[6] = {"id": "6"}
    data.write_text(json.dumps(rows))
    summary = train(replace(made, data=str(data), max_length=32), tmp_path / "out", device="cpu")
    assert summary["data_rows"] + sum(summary["dropped"].values()) == 12
    assert summary["dropped"]["unreadable row"] == 1
    assert summary["dropped"]["nothing supervised"] >= 1


def test_mixtures_draw_by_weight(tmp_path, made):
    other = write_data(tmp_path / "other", rows=3)
    parts = (Mixture(made.data, 1.0), Mixture(str(other), 1.0))
    config = replace(made, data=parts)
    summary = train(config, tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 15


def test_datasets_name_their_own_rows(tmp_path, made):
    other = write_data(tmp_path / "other", rows=3)
    config = replace(made, data=(f"{made.data}#5", f"{other}#2e"), samples=None)
    assert train(config, tmp_path / "out", device="cpu")["samples"] == 11


@pytest.mark.parametrize(
    "mixing", [Mixing(), Mixing("per_sample"), Mixing("per_batch"), Mixing("exact", 2.0)]
)
def test_an_interrupted_mix_goes_on_with_the_rows_that_were_next(
    tmp_path, made, monkeypatch, mixing
):
    other = write_data(tmp_path / "other", rows=5)
    config = replace(made, data=(made.data, str(other)), mixing=mixing, save_every_samples=8)
    batch, seen = loop.ConversationTask.batch, []

    def noted(self, rows, positions, device):
        seen.append(rows.tolist())
        if len(seen) == dies_at:
            raise KeyboardInterrupt
        return batch(self, rows, positions, device)

    monkeypatch.setattr(loop.ConversationTask, "batch", noted)
    dies_at = 0
    train(config, tmp_path / "whole", device="cpu")
    whole, seen[:] = list(seen), []
    dies_at = 4
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", device="cpu")
    (state,) = (tmp_path / "cut" / "checkpoint").glob("step-*/state.json")
    done = json.loads(state.read_text())["progress"]["step"]
    assert seen == whole[:4]
    dies_at, seen[:] = 0, []
    train(config, tmp_path / "cut", device="cpu")
    assert seen == whole[done:]
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"samples": None}, RecipeError, "samples or epochs"),
        ({"epochs": 1.0}, RecipeError, "samples or epochs"),
        ({"samples": 0}, RecipeError, "samples is 0; give at least 1"),
        ({"batch": 0}, RecipeError, "batch is 0; give at least 1"),
        ({"micro_batch": -1}, RecipeError, "micro_batch is -1; give at least 1"),
        ({"train": ("conector",)}, RecipeError, "nearest name is 'connector'"),
        ({"precision": "fp16"}, RecipeError, "fp16 needs a GPU"),
        ({"template": "vicuña"}, RecipeError, "vicuña"),
        ({"data": "nowhere.json"}, DataError, "nowhere.json"),
        ({"model": "nowhere"}, ModelError, "nowhere is not a model folder"),
        ({"max_length": 8}, DataError, "no usable row"),
        ({"optimiser": Optimiser(lr_parts={"projector": 1.0})}, RecipeError, "projector"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, made, change, error, match):
    with pytest.raises(error, match=match) as caught:
        train(replace(made, **change), tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_empty_dataset_is_named(tmp_path, made):
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    with pytest.raises(DataError, match=r"empty\.json.*no usable row"):
        train(replace(made, data=str(empty)), tmp_path / "out", device="cpu")


def test_a_loss_that_explodes_stops_the_run(tmp_path, made):
    wild = Optimiser(lr=1e30, max_grad_norm=0.0, warmup_ratio=0.0, schedule="constant")
    with pytest.raises(
        ModelError,
        match=r"the loss is (nan|inf) at step \d+, with data\.json:\d+ .*; lower optimiser.lr",
    ):
        train(replace(made, optimiser=wild), tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory with"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out of memory with micro_batch 1;"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line(tmp_path, made, monkeypatch, error, match):
    def exhausted(self, rows, start):
        raise error

    monkeypatch.setattr(fit._Loop, "_accumulate", exhausted)
    with pytest.raises(ModelError, match=match) as caught:
        train(made, tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_micro_batch_that_does_not_fit_is_halved(tmp_path, made, monkeypatch):
    accumulate, sizes = fit._Loop._accumulate, []

    def small_memory(self, rows, start):
        sizes.append(self.micro_batch)
        if self.micro_batch > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return accumulate(self, rows, start)

    train(replace(made, micro_batch=1), tmp_path / "one", device="cpu")
    monkeypatch.setattr(fit._Loop, "_accumulate", small_memory)
    train(made, tmp_path / "halved", device="cpu")
    assert sizes[:4] == [4, 2, 1, 1]
    assert weights(tmp_path / "one") == weights(tmp_path / "halved")


def test_rows_longer_than_the_models_positions_are_refused(tmp_path, made):
    data = write_data(tmp_path)
    rows = json.loads(data.read_text())
    rows[0]["conversations"][1]["value"] = "It is red. " * 40
    data.write_text(json.dumps(rows))
    with pytest.raises(RecipeError, match="the language model 64 positions; set max_length"):
        train(replace(made, data=str(data), max_length=200), tmp_path / "out", device="cpu")


def test_length_groups_see_the_same_samples(tmp_path, made):
    plain = train(made, tmp_path / "plain", device="cpu")
    grouped = train(replace(made, group_by_length=True), tmp_path / "grouped", device="cpu")
    assert plain["tokens"] == grouped["tokens"]


def test_bf16_learns_too(tmp_path, made):
    config = replace(made, samples=120, precision="bf16")
    train(config, tmp_path, device="cpu")
    steps = lines(tmp_path)
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert load_file(tmp_path / "model.safetensors")["connector.0.weight"].dtype == torch.float32


def test_pictures_of_any_mode_and_size_are_taken(tmp_path, made):
    data = write_data(tmp_path)
    Image.new("L", (300, 7), 40).save(tmp_path / "images/0.png")
    Image.new("RGBA", (5, 90), (9, 9, 9, 9)).save(tmp_path / "images/1.png")
    Image.new("I;16", (30, 30), 4000).save(tmp_path / "images/2.png")
    summary = train(replace(made, data=str(data)), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 12
