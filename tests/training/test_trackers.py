"""Curves in other tools: what they are sent, that secrets stay here, that they never matter."""

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.small_stage import small_stage, stopped_before
from vlforge.training import trackers
from vlforge.training.config import HeldOut, Mixture, Optimiser, TrainConfig
from vlforge.training.devices import open_devices
from vlforge.training.loop import train
from vlforge.training.trackers import Trackers, check_trackers, settings_of, without_secrets
from vlforge.types import RecipeError


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """All the time that a busy machine needs to load libraries; devices open, as in a stage."""
    open_devices("cpu", "fp32")
    monkeypatch.setattr(Trackers.close, "__defaults__", (600.0,))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration of seven steps that is tracked."""
    folder = tmp_path_factory.mktemp("made")
    return small_stage(
        folder,
        samples=28,
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
        evaluate=HeldOut(data=str(folder / "data.json"), rows=4, every_samples=16),
        trackers=("tensorboard",),
        save_every_samples=8,
    )


class StandIn(ModuleType):
    """A tracking library that keeps what it is told, by the names that accelerate calls."""

    def __init__(self, name: str):
        super().__init__(name)
        self.begun, self.kept, self.ended = [], [], 0
        self.config = self

    def init(self, **how):
        """Begin a run."""
        self.begun.append(how)
        return self

    def log(self, values, step=None):
        """Keep values."""
        self.kept.append((step, values))

    def update(self, values, allow_val_change=False):
        """Keep settings."""
        self.settings = dict(values)

    def __setitem__(self, key, value):
        pass

    def finish(self):
        """End the run."""
        self.ended += 1


@pytest.fixture
def library(monkeypatch):
    """A stand-in under the name of a library."""

    def make(name: str) -> StandIn:
        module = StandIn(name)
        module.__spec__ = SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(out / "trackers/train"))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_draws_what_the_files_say(tmp_path, made):
    train(made, tmp_path, device="cpu")
    drawn = scalars(tmp_path)
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert drawn["train/loss"] == [(x["step"], pytest.approx(x["loss"])) for x in losses]
    looks = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert drawn["eval/loss"] == [(x["step"], pytest.approx(x["eval_loss"])) for x in looks]
    assert {"train/lr", "train/grad_norm", "speed/samples_per_second", "speed/mfu"} <= set(drawn)


def test_a_resumed_stage_goes_on_in_the_same_run(tmp_path, made):
    train(made, tmp_path / "whole", device="cpu")
    with stopped_before(5):
        train(made, tmp_path / "cut", device="cpu")
    before = json.loads((tmp_path / "cut/trackers.json").read_text())
    train(made, tmp_path / "cut", device="cpu")
    assert json.loads((tmp_path / "cut/trackers.json").read_text()) == before
    whole, cut = scalars(tmp_path / "whole"), scalars(tmp_path / "cut")
    for tag in ("train/loss", "train/lr", "eval/loss"):
        assert cut[tag] == whole[tag]


@pytest.mark.parametrize("name", ["wandb", "swanlab", "trackio"])
def test_a_run_is_begun_once_and_continued_by_its_id(tmp_path, name, library):
    module = library(name)
    first = Trackers([name], tmp_path, project="shop", run="align", settings={"batch": 4})
    first.log({"train/loss": 1.5}, 1)
    first.close()
    assert module.kept == [(1, {"train/loss": 1.5})]
    assert module.settings["batch"] == 4
    del module.settings
    again = Trackers([name], tmp_path, project="shop", run="align", step=1, settings={"batch": 4})
    again.close()
    began, continued = module.begun
    same = "name" if name == "trackio" else "id"
    assert began["project"] == continued["project"] == "shop"
    assert began[same] == continued[same]
    assert (began["resume"], continued["resume"]) == ("never", "allow")
    assert not hasattr(module, "settings")
    assert module.ended == 2


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(tmp_path, made, library):
    module = library("wandb")

    def fails(values, step=None):
        raise ConnectionError("no network")

    module.log = fails
    said = []
    tracked = replace(made, trackers=("wandb", "tensorboard"))
    train(tracked, tmp_path / "tracked", device="cpu", log=said.append)
    train(replace(made, trackers=()), tmp_path / "plain", device="cpu")
    failed = [event["text"] for event in said if "wandb" in event.get("text", "")]
    assert failed == ["tracker wandb: ConnectionError: no network; training goes on without it"]
    assert len(scalars(tmp_path / "tracked")["train/loss"]) == 7
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("tracked", "plain")]
    assert weights[0] == weights[1]


def test_a_tracker_that_hangs_holds_nobody_up(tmp_path, library, monkeypatch):
    release, has_ended = threading.Event(), threading.Event()
    module = library("wandb")
    module.init = lambda **how: (release.wait(600), has_ended.set())
    monkeypatch.setattr(trackers, "ROOM", 5)
    said = []
    slow = Trackers(["wandb"], tmp_path, project="p", run="r", log=said.append)
    for step in range(100):
        slow.log({"train/loss": 1.0}, step)
    slow.close(wait_s=0.1)
    assert not has_ended.is_set()
    release.set()
    texts = [event["text"] for event in said if event["event"] == "warning"]
    assert len(texts) == 2
    assert "5 values wait" in texts[0]


def test_events_are_told_by_the_thread_that_trains(tmp_path, library):
    module = library("wandb")
    module.init = lambda **how: 1 / 0
    tellers = []
    fed = Trackers(
        ["wandb"],
        tmp_path,
        project="p",
        run="r",
        log=lambda e: tellers.append(threading.get_ident()),
    )
    fed.close()
    assert tellers == [threading.get_ident()]


def test_nothing_secret_is_sent_or_told(tmp_path, library, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "deadbeefdeadbeef")
    config = TrainConfig(
        model="m",
        data=(
            Mixture("https://user:hunter22@host/data.json", weight=1.0),
            Mixture("s3://b/x?sig=abcdef&row=1", weight=2.0),
        ),
        tokenizer="slow",
    )
    sent = settings_of(config)
    assert sent["data.0.path"] == "https://…@host/data.json"
    assert sent["data.1.path"] == "s3://b/x?sig=…&row=1"
    assert (sent["tokenizer"], sent["data.1.weight"]) == ("slow", 2.0)
    module = library("wandb")

    def refuses(**how):
        raise PermissionError("key deadbeefdeadbeef was refused at https://a:b@host")

    module.init = refuses
    said = []
    Trackers(["wandb"], tmp_path, project="p", run="r", log=said.append).close()
    assert [event["text"] for event in said] == [
        "tracker wandb: PermissionError: key … was refused at https://…@host; "
        "training goes on without it"
    ]
    assert "deadbeef" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_secrets_are_found_by_name_and_by_value(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "swordfish-1")
    assert without_secrets("x swordfish-1 y") == "x … y"
    assert without_secrets("a?b=1") == "a?b=1"
    assert os.environ["MY_TOKEN"] == "swordfish-1"


def test_a_missing_library_is_told_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(RecipeError, match=r"swanlab is not installed: pip install swanlab"):
        check_trackers(["swanlab"])
    with pytest.raises(RecipeError, match="'comet' is unknown; known: tensorboard"):
        check_trackers(["comet"])
