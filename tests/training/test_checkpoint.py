"""What is kept of a run, what is taken up again, and what is said where it is not."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.small_stage import small_stage
from vlforge.training import checkpoint
from vlforge.training.checkpoint import Best, Keeper, Progress
from vlforge.training.config import HeldOut, Mixture, Optimiser, TrainConfig
from vlforge.training.devices import open_devices
from vlforge.training.loop import train
from vlforge.training.metrics import Metrics
from vlforge.types import RecipeError, StageStopped

RESULT = ("model.safetensors", "metrics.jsonl", "summary.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six steps over a tiny model."""
    return small_stage(
        tmp_path_factory.mktemp("made"),
        steps=6,
        train=("vision", "connector", "language"),
        augment=True,
        optimiser=Optimiser(lr=1e-2),
    )


@pytest.fixture
def said():
    """Lines that a user is warned with, and the function that takes events."""
    return Said()


class Said:
    """Collects what is logged."""

    def __init__(self):
        self.lines, self.steps = [], []

    def __call__(self, event):
        if event["event"] == "warning":
            self.lines.append(event["text"])
        if event["event"] == "fit":
            self.steps.append(event["from_step"])

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def stop_after(config: TrainConfig, out: Path, steps: int, **how) -> None:
    """Train so many steps and stop as a user does."""
    left = iter([False] * steps)
    with pytest.raises(StageStopped, match=f"goes on after step {steps} of 6"):
        train(config, out, device="cpu", stop=lambda: next(left, True), **how)


def result(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in RESULT]


def steps(out: Path) -> list[int]:
    return [int(p.name[5:]) for p in sorted((out / "checkpoint").glob("step-*"))]


def test_a_stopped_stage_goes_on_with_the_next_step(tmp_path, made, said):
    train(made, tmp_path / "whole", device="cpu")
    stop_after(made, tmp_path / "cut", 1)
    left = iter([False] * 3)
    with pytest.raises(StageStopped, match="goes on after step 4 of 6"):
        train(made, tmp_path / "cut", device="cpu", stop=lambda: next(left, True))
    assert steps(tmp_path / "cut") == [4]
    train(made, tmp_path / "cut", device="cpu", log=said)
    assert said.steps == [4]
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoint").exists()


def test_a_flipped_byte_costs_only_the_steps_since_the_checkpoint_before(tmp_path, made, said):
    train(made, tmp_path / "whole", device="cpu")
    for file in ("weights.safetensors", "moments.safetensors", "state.json"):
        out = tmp_path / file
        stop_after(replace(made, save_every_samples=8, keep_last=2), out, 5)
        assert steps(out) == [4, 5]
        path = out / "checkpoint" / "step-00000005" / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        train(made, out, device="cpu", log=said)
        assert said.steps.pop() == 4
        assert "step-00000005" in said.lines[-1]
        assert "the checkpoint before it is taken" in said.lines.pop()
        assert result(out) == result(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"batch": 2}, "batch was 4 and is 2"),
        ({"optimiser": Optimiser(lr=1e-3)}, "optimiser.lr was 0.01 and is 0.001"),
        ({"template": "plain"}, 'template was "vicuna" and is "plain"'),
        ({"augment": False}, "augment was true and is false"),
        ({"group": "length"}, 'group was "none" and is "length"'),
        ({"pack": "isolated"}, 'pack was "off" and is "isolated"'),
        ({"loss_mean": "micro_batches"}, 'loss_mean was "tokens" and is "micro_batches"'),
        ({"max_length": 255}, "max_length was 256 and is 255"),
        ({"seed": 5}, "seed was 0 and is 5, and 2 more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_setting_is_named_and_begins_anew(tmp_path, made, said, change, line):
    stop_after(made, tmp_path, 2)
    stop = iter([False])
    with pytest.raises(StageStopped):
        train(
            replace(made, **change), tmp_path, device="cpu", log=said,
            stop=lambda: next(stop, True),
        )  # fmt: skip
    assert said.steps == [0]
    assert f"the checkpoint of step 2 is not used: {line}" in said.text
    assert steps(tmp_path) == [1]


def test_other_rows_begin_anew(tmp_path, made, said):
    stop_after(made, tmp_path / "out", 2)
    data = json.loads(Path(made.data).read_text())
    data[3]["conversations"][1]["value"] = "It is green, red and blue."
    other = Path(made.data).with_name("changed.json")
    other.write_text(json.dumps(data))
    train(replace(made, data=str(other)), tmp_path / "out", device="cpu", log=said)
    assert said.steps == [0]
    assert "is not used: data changed" in said.text


def test_settings_that_change_no_number_do_not_matter(tmp_path, made, said):
    stop_after(made, tmp_path / "out", 2)
    others = {"keep_last": 3, "save_every_samples": 4, "decode": "threads", "export": "both"}
    train(replace(made, **others), tmp_path / "out", device="cpu", log=said)
    assert said.steps == [2]
    assert not said.text


def test_resume_false_begins_anew_and_says_so(tmp_path, made, said):
    stop_after(made, tmp_path, 2)
    train(replace(made, resume=False), tmp_path, device="cpu", log=said)
    assert said.steps == [0]
    assert said.text == "begins anew (resume: false); step 2 is given up"


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [4, 5]), (3, [3, 4, 5])])
def test_the_last_checkpoints_are_kept(tmp_path, made, keep, left):
    stop_after(replace(made, save_every_samples=4, keep_last=keep), tmp_path, 5)
    assert steps(tmp_path) == left
    with pytest.raises(RecipeError, match="keep_last is 0"):
        train(replace(made, keep_last=0), tmp_path, device="cpu")


def test_the_best_weights_are_what_the_stage_leaves(tmp_path, made):
    # The more a model learns its rows, the less it expects these answers.
    data = json.loads(Path(made.data).read_text())
    for row in data:
        row["conversations"][1]["value"] = "colour What is is?"
    held = Path(made.data).with_name("held.json")
    held.write_text(json.dumps(data))
    rows = HeldOut(data=(Mixture(str(held)),), rows=12, every_samples=4)
    config = replace(made, steps=12, evaluate=rows, keep_best=True, optimiser=Optimiser(lr=0.05))
    summary = train(config, tmp_path / "best", device="cpu")
    looks = [json.loads(x) for x in (tmp_path / "best/eval.jsonl").read_text().splitlines()]
    least = min(looks, key=lambda look: look["eval_loss"])
    assert summary["best"] == {"step": least["step"], "eval_loss": least["eval_loss"]}
    assert least["step"] < 12
    again = replace(config, keep_best=False, model=str(tmp_path / "best"), steps=1)
    again = replace(again, optimiser=Optimiser(lr=1e-12), evaluate=replace(rows, every_samples=0))
    assert train(again, tmp_path / "again", device="cpu")["eval_loss"] == pytest.approx(
        least["eval_loss"], abs=1e-5
    )
    left = iter([False] * 9)
    with pytest.raises(StageStopped):
        train(config, tmp_path / "cut", device="cpu", stop=lambda: next(left, True))
    train(config, tmp_path / "cut", device="cpu")
    assert result(tmp_path / "cut") == result(tmp_path / "best")


class Small:
    """A keeper over a layer and its optimiser, and what it has said."""

    def __init__(self, folder: Path, said: Said, facts=None, **how):
        torch.manual_seed(0)
        self.module = torch.nn.Linear(3, 2)
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.keeper = Keeper(
            folder, facts or {"batch": 4}, self.module, self.optimiser,
            open_devices("cpu", "fp32"), log=said, **how,
        )  # fmt: skip

    def step(self) -> None:
        self.module(torch.ones(1, 3)).sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def weight(self) -> torch.Tensor:
        return self.module.weight.detach().clone()


def test_a_disk_that_fills_up_in_the_middle_leaves_the_checkpoint_before(
    tmp_path, said, monkeypatch
):
    small = Small(tmp_path, said)
    small.step()
    assert small.keeper.save(Progress(1))
    write = checkpoint.write_safetensors

    def full(weights, file):
        write(weights, file)
        if file.name == checkpoint.MOMENTS:
            file.write_bytes(file.read_bytes()[:50])
            raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    small.step()
    assert not small.keeper.save(Progress(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert f"no space for a checkpoint in {tmp_path}" in said.text
    assert "training goes on, the one before stays" in said.text
    monkeypatch.setattr(checkpoint, "write_safetensors", write)
    assert small.keeper.save(Progress(3))
    assert Small(tmp_path, said).keeper.latest() == Progress(3)


def test_a_disk_without_room_is_not_filled_first(tmp_path, said, monkeypatch):
    small = Small(tmp_path, said)
    usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(checkpoint, "write_safetensors", lambda *_: pytest.fail("it wrote"))
    assert not small.keeper.save(Progress(1))
    assert "no space for a checkpoint" in said.text


def test_other_errors_of_a_disk_are_raised_and_leave_no_draft(tmp_path, said, monkeypatch):
    def broken(weights, file):
        file.write_bytes(b"half")
        raise OSError(errno.EIO, "Input/output error", str(file))

    monkeypatch.setattr(checkpoint, "write_safetensors", broken)
    with pytest.raises(OSError, match="Input/output"):
        Small(tmp_path, said).keeper.save(Progress(1))
    assert not list(tmp_path.iterdir())


def test_the_least_score_is_kept_and_found_again(tmp_path, said):
    small = Small(tmp_path, said, keep_best=True)
    kept = None
    for number, score in enumerate([3.0, 2.0, float("nan"), 2.5, 2.0], 1):
        small.step()
        assert small.keeper.offer(score, Progress(number)) == (number < 3)
        kept = small.weight() if number == 2 else kept
    small.keeper.save(Progress(5))
    again = Small(tmp_path, said, keep_best=True)
    found = again.keeper.latest()
    again.keeper.load(found)
    assert torch.equal(again.weight(), small.weight())
    assert again.keeper.put_best() == Best(2, 2.0)
    assert torch.equal(again.weight(), kept)


def test_a_best_that_was_not_reached_yet_does_not_count(tmp_path, said):
    small = Small(tmp_path, said, keep_best=True)
    small.step()
    small.keeper.save(Progress(1))
    small.keeper.offer(1.0, Progress(2))
    again = Small(tmp_path, said, keep_best=True)
    again.keeper.latest()
    assert again.keeper.best is None
    assert again.keeper.put_best() is None


def test_moments_come_back_as_they_were(tmp_path, said):
    small = Small(tmp_path, said)
    for _ in range(3):
        small.step()
    small.keeper.save(Progress(3, tokens=7, seconds=1.5))
    again = Small(tmp_path, said)
    found = again.keeper.latest()
    assert found == Progress(3, tokens=7, seconds=1.5)
    again.keeper.load(found)
    small.step(), again.step()
    assert torch.equal(small.weight(), again.weight())


def test_a_checkpoint_of_another_run_is_gone_once_this_one_has_its_own(tmp_path, said):
    Small(tmp_path, said).keeper.save(Progress(9))
    other = Small(tmp_path, said, facts={"batch": 8})
    assert other.keeper.latest() is None
    assert said.lines == ["the checkpoint of step 9 is not used: batch was 4 and is 8"]
    other.keeper.save(Progress(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_no_checkpoint_is_ahead_of_its_metrics(tmp_path, made, said, monkeypatch):
    write = Metrics._write

    def full(self):
        if self.lines:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Metrics, "_write", full)
    left = iter([False] * 3)
    with pytest.raises(StageStopped, match="goes on after step 0 of 6"):
        train(made, tmp_path / "cut", device="cpu", log=said, stop=lambda: next(left, True))
    assert steps(tmp_path / "cut") == []
    assert "no space for a checkpoint in" in said.text
    monkeypatch.setattr(Metrics, "_write", write)
    train(made, tmp_path / "cut", device="cpu")
    train(made, tmp_path / "whole", device="cpu")
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
