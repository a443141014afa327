"""`run --trainer kit`: the untouched kit trains and evaluates; only the editable block is written.

Its script goes on after a failure and ends with 0 where it refuses, so what it left is
looked at afterwards, part by part.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from vlforge.challenges.better_synth.benchmark_files import answer_files
from vlforge.challenges.better_synth.config import SPLIT_NAME
from vlforge.challenges.better_synth.folder import Kit, fingerprint, has_content
from vlforge.challenges.better_synth.kit_log import LOGS, KitLog, read_stage_log, tail
from vlforge.challenges.better_synth.processes import lines_of
from vlforge.challenges.better_synth.rules import fitting_split
from vlforge.challenges.better_synth.script import TrainScript, read_script
from vlforge.types import RecipeError, VLForgeError

Shown = Callable[[KitLog, str | None], None]
"""Told of each change, and of a part that has just ended."""
_WITHOUT_EFFECT = frozenset(
    """PRETRAIN_DATALOADER_NUM_WORKERS FINETUNE_DATALOADER_NUM_WORKERS LOGGING_STEP
    CKPT_SAVE_STEPS TOTAL_SAVE_CKPT_LIMIT INFER_CUDA_IDX""".split()
)
"""Values of the block that change no weight."""
_WEIGHTS = ("pytorch_model*.bin", "model*.safetensors")
"""Files of a whole model; each trainer's version has its own."""
_EXPERIMENT = re.compile(r"[\w.-]+\Z")


@dataclass(frozen=True)
class Places:
    """Where the kit leaves an experiment's files."""

    kit: Kit
    experiment: str

    @property
    def pretrain(self) -> Path:
        """Stage 1's folder."""
        return self.kit.at(f"output/training_dirs/MGM-2B-Pretrain-{self.experiment}")

    @property
    def finetune(self) -> Path:
        """Stage 2's folder."""
        return self.kit.at(f"output/training_dirs/{self.name}")

    @property
    def name(self) -> str:
        """The finetuned model's name, as in its results."""
        return f"MGM-2B-Finetune-{self.experiment}"

    @property
    def results(self) -> Path:
        """The answers' folder."""
        return self.kit.at(f"output/eval_results/{self.name}")

    @property
    def train_script(self) -> Path:
        """The copy of the script that is handed in."""
        return self.kit.at("output/train.sh")

    def has_script(self) -> bool:
        """Whether the copy that is handed in is of this experiment."""
        if not self.train_script.is_file():
            return False
        return read_script(self.train_script).values["EXP_NAME"] == self.experiment

    @property
    def note(self) -> Path:
        """The values that the training of this name was begun with."""
        return self.kit.at(f"output/{self.experiment}.kit.values")

    def begun(self) -> str:
        """What stands there; nothing where none was begun by this command."""
        try:
            return self.note.read_text(encoding="utf-8")
        except OSError:
            return ""

    @property
    def log(self) -> Path:
        """All that the script printed."""
        return self.kit.at(f"output/{self.experiment}.kit.log")


def settle_values(kit: Kit, data: Path, gpus: int, changes: dict[str, str]) -> TrainScript:
    """Write the block's values: the data, the split for the GPUs, and what was asked for.

    Raises:
        RecipeError: no script, a value it does not have, or one that cannot be.
    """
    script = kit.script()
    if script is None:
        raise RecipeError(f"{kit.folder}/toolkit: no train script; take the contest's kit")
    home = script.path.parent
    values = {
        "PRETRAIN_DATASET": os.path.relpath(data, home),
        "PRETRAIN_DATASET_IMAGE_PATH": os.path.relpath(kit.seed_rows.parent, home),
        **changes,
    }
    if not _EXPERIMENT.match(values.get("EXP_NAME", "default")):
        raise RecipeError(
            f"EXP_NAME={values['EXP_NAME']}: names folders; take letters, digits and . _ -"
        )
    trial = _with(script, values)
    for stage in ("pretrain", "finetune"):
        split = fitting_split(trial, stage, script.visible_gpus or gpus)
        values |= {key: value for key, value in split.items() if trial.values[key] != value}
    wanted = {key: value for key, value in values.items() if script.values[key] != value}
    if not wanted:
        return script
    settled = _with(script, values)
    if settled.fixed_digest != script.fixed_digest:
        raise VLForgeError(f"{script.path}: its fixed part would have changed; nothing was written")
    _replace(script.path, "\n".join(settled.lines))
    return settled


def _with(script: TrainScript, values: dict[str, str]) -> TrainScript:
    lines = tuple(script.changed(values).split("\n"))
    last = script.last + len(lines) - len(script.lines)
    return replace(script, lines=lines, last=last)


def _replace(path: Path, text: str) -> None:
    """The file's new text, with its rights, there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(text.encode())
    shutil.copymode(path, part)
    os.replace(part, path)


def left_to_do(places: Places, script: TrainScript) -> list[list[str]]:
    """The kit's commands that are still to run: its script, or its evaluation alone, or none.

    Raises:
        RecipeError: another training is there under this name.
    """
    answers = answer_files(places.results, places.name)
    trained, is_same = is_trained(places), places.begun() == told(script)
    if not is_same and (trained or any(places.finetune.glob("checkpoint-*"))):
        what = "a finished training" if trained else "checkpoints"
        raise RecipeError(
            f"{places.kit.shown(places.finetune)} holds {what} of other values or data: give "
            "EXP_NAME=another, or --fresh to train over it"
        )
    if not trained:
        return [["bash", script.path.name]]
    gpus = script.values["INFER_CUDA_IDX"]
    commands = {
        "textvqa": ["bash", "eval/textvqa.sh", places.name, gpus],
        "mmbench": ["bash", "eval/mmbench.sh", places.name, SPLIT_NAME, gpus],
    }
    return [commands[key] for key, path in answers.items() if not has_content(path)]


def is_trained(places: Places) -> bool:
    """Whether both stages' logs tell of their end, and what they were for is there."""
    logs = (places.pretrain / LOGS["pretrain"], places.finetune / LOGS["finetune"])
    if not all(path.is_file() and read_stage_log(path).runtime_s > 0 for path in logs):
        return False
    return has_projector(places) and has_model(places)


def has_projector(places: Places) -> bool:
    """Whether stage 1 left what stage 2 begins with."""
    return has_content(places.pretrain / "mm_projector.bin")


def has_model(places: Places) -> bool:
    """Whether stage 2 left a model: its configuration, and weights."""
    weights = (path for sign in _WEIGHTS for path in places.finetune.glob(sign))
    return (places.finetune / "config.json").is_file() and any(map(has_content, weights))


def told(script: TrainScript) -> str:
    """What a training depends on: the block's values, and the rows' bytes."""
    rows = fingerprint(script.path.parent / script.values["PRETRAIN_DATASET"]) or {}
    values = {key: value for key, value in script.values.items() if key not in _WITHOUT_EFFECT}
    lines = [f"{key}={value}" for key, value in sorted(values.items())]
    return "\n".join([*lines, f"rows={rows.get('sha256', 'none')}", ""])


def run_kit(kit: Kit, script: TrainScript, shown: Shown, *, fresh: bool = False) -> float:
    """Run what is left of the kit's own way; seconds that it took.

    Raises:
        RecipeError: another training is there under this name.
        VLForgeError: a part failed, with the end of its log; or the kit's code has changed.
        KeyboardInterrupt: stopped, with all of its processes.
    """
    places = Places(kit, script.values["EXP_NAME"])
    commands = [["bash", script.path.name]] if fresh else left_to_do(places, script)
    if commands:
        _check_programs(script)
    begun = time.monotonic()
    log = KitLog()
    if commands and commands[0][1] == script.path.name:
        _begin(places, told(script), fresh=fresh)
    for command in commands:
        _follow(command, script.path.parent, places, log, shown)
    verify(kit, places, script, log.error)
    return time.monotonic() - begun


def _begin(places: Places, values: str, *, fresh: bool) -> None:
    """Put away what a training of this name must not begin with, and note its values.

    The kit cannot go on within stage 1: checkpoints of it make its trainer fail. Those of
    stage 2 it takes up; `left_to_do` has seen that they are of the same values and data.
    """
    for folder in [places.pretrain, places.finetune] if fresh else [places.pretrain]:
        for path in sorted(folder.glob("checkpoint-*")):
            shutil.rmtree(path)
    for path in (places.pretrain / LOGS["pretrain"], places.finetune / LOGS["finetune"]):
        path.unlink(missing_ok=True)
    for path in answer_files(places.results, places.name).values():
        path.unlink(missing_ok=True)
    places.log.unlink(missing_ok=True)
    places.note.parent.mkdir(parents=True, exist_ok=True)
    places.note.write_text(values, encoding="utf-8")


def _check_programs(script: TrainScript) -> None:
    needed = ["bash", "python"]
    needed += ["deepspeed"] if any(line.startswith("deepspeed ") for line in script.fixed) else []
    looked = f"{script.assigned('PATH') or ''}:{os.environ.get('PATH', '')}"
    absent = [name for name in needed if shutil.which(name, path=looked) is None]
    if absent:
        raise VLForgeError(
            f"the kit's script needs {', '.join(absent)}: activate the kit's environment first"
        )


def _follow(command: Sequence[str], home: Path, places: Places, log: KitLog, shown: Shown) -> None:
    """One of the kit's commands to its end; Ctrl-C ends it and all that it started."""
    if command[1].startswith("eval/"):
        log.take("Infer on TextVQA" if "textvqa" in command[1] else "Infer on MMBench")
    places.log.parent.mkdir(parents=True, exist_ok=True)
    with places.log.open("ab") as kept, closing(lines_of(command, home, kept)) as lines:
        for line in lines:
            shown(log, log.take(line))


def verify(kit: Kit, places: Places, script: TrainScript, error: str) -> None:
    """Look at what the kit left: logs that end, a model, both benchmarks' answers, its script.

    Raises:
        VLForgeError: names the part that failed, with the end of its log.
    """
    now = kit.script()
    if now is None or now.fixed_digest != script.fixed_digest:
        raise VLForgeError(f"{script.path}: its fixed part changed while it ran; put it back")
    parts = {
        "pretrain": places.pretrain / LOGS["pretrain"],
        "finetune": places.finetune / LOGS["finetune"],
    }
    for part, path in parts.items():
        if not path.is_file() or not read_stage_log(path).runtime_s:
            raise _failed(kit, part, path if path.is_file() else places.log, error)
    if not has_projector(places):
        raise _failed(kit, "pretrain (it left no mm_projector.bin)", parts["pretrain"], error)
    if not has_model(places):
        raise _failed(kit, "finetune (it left no model)", parts["finetune"], error)
    for part, path in answer_files(places.results, places.name).items():
        if not has_content(path):
            raise _failed(kit, f"{part} (no answers in {kit.shown(path)})", places.log, error)
    if not places.has_script():
        # The script's own last step: its evaluation alone does not come by it, and the copy
        # that is there may be of another experiment.
        shutil.copyfile(script.path, places.train_script)


def _failed(kit: Kit, part: str, log: Path, error: str) -> VLForgeError:
    lines = "\n".join(f"  {line}" for line in tail(log))
    why = f": {error}" if error else ""
    return VLForgeError(f"the kit's {part} did not end well{why}  (log: {log})\n{lines}")
