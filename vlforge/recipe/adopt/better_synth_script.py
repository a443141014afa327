"""Better Synth's train script (`train_mgm_2b_stage_1.sh`): the contest's loop after its data.

The script checks the global batch, cuts the dataset, restores its questions, trains two stages
and asks two benchmarks. Its editable block says what contestants choose; what else differs from
the kit is adopted as it stands and said to be not comparable.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.mgm_arguments import arguments_of
from vlforge.recipe.adopt.mgm_stage import TrainCommand, tidy_path
from vlforge.recipe.adopt.shell_words import Script, ShellCommand, Word, names_of, read_script
from vlforge.recipe.adopt.train_script import put_stages, say_once, tidy_name, train_commands
from vlforge.types import RecipeError

SYSTEM = "Better Synth"
MOST_ROWS = 200_000
BATCHES = {"align": 256, "instruct": 128}
SEED = 1024
_MARKS = ("check_global_batch_size", "check_sample_number")
_BOTH: Mapping[str, Any] = {
    "version": "gemma", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "image_size_aux": 768,
    "bf16": True, "tf32": True, "num_train_epochs": 1.0, "model_max_length": 2048,
    "weight_decay": 0.0, "warmup_ratio": 0.03, "lr_scheduler_type": "cosine",
    "gradient_checkpointing": True, "lazy_preprocess": True,
    "per_device_eval_batch_size": 4, "save_strategy": "steps", "evaluation_strategy": "no",
}  # fmt: skip
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "align": {**_BOTH, "tune_mm_mlp_adapter": True, "learning_rate": 1e-3},
    "instruct": {**_BOTH, "image_aspect_ratio": "pad", "group_by_modality_length": True,
                 "learning_rate": 2e-5},
}  # fmt: skip
"""Arguments of the kit's two runs that contestants leave alone."""
_EDITABLE = frozenset(
    """per_device_train_batch_size gradient_accumulation_steps dataloader_num_workers
    logging_steps save_steps save_total_limit output_dir report_to""".split()
)
_PATHS = {
    "model_name_or_path": "gemma-2b-it",
    "vision_tower": "clip-vit-large-patch14-336",
    "vision_tower_aux": "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
}
_FINETUNING = ("mgm_instruction_stage_1_12k.json", "mgm_instruction_stage_1.json")
"""Of the round with 10k seed rows, and of the one with 400k."""
_EVALUATION = "training/data/eval_stage_1"
_TEXTVQA = {
    "questions": "textvqa/llava_textvqa_val_v051_ocr.jsonl",
    "annotation": "textvqa/TextVQA_0.5.1_val.json",
    "images": "textvqa/train_images",
}


def is_kit(text: str) -> bool:
    """Whether a script is the kit's, by the checks that it makes."""
    return any(mark in text for mark in _MARKS)


def adopt_kit(foreign: Foreign) -> AdoptedRecipe:
    """The script as the stages align, instruct, score and report.

    Raises:
        RecipeError: with file and line, what is wrong or missing in it.
    """
    commands = list(train_commands(foreign))
    if [one.stage for one in commands] != ["align", "instruct"]:
        found = ", ".join(one.stage for one in commands) or "none"
        raise RecipeError(f"{foreign.path}: the kit trains align and instruct, this one {found}")
    script = read_script(foreign.text, foreign.path, foreign.changes)
    return _Kit(foreign, script, commands).adopt()


class _Kit:
    """The kit's script in the making."""

    def __init__(self, foreign: Foreign, script: Script, commands: list[TrainCommand]):
        self.foreign = foreign
        self.script = script
        self.commands = commands
        self.folder = str(foreign.path.parent)
        name = script.variables.get("EXP_NAME")
        told = name.text if name is not None else "default"
        self.out = AdoptedRecipe(SYSTEM, foreign.path, tidy_name(f"better_synth_{told}"))

    def adopt(self) -> AdoptedRecipe:
        put_stages(self.out, self.commands)
        self._data()
        self._batches()
        for command in self.commands:
            at = f"stages.{command.stage}"
            self.out.put(f"{at}.seed", SEED, "the kit's train.py sets 1024, for Python and torch")
            self._fixed(command)
        self._machine()
        self._scores()
        say_once(self.out)
        return self.out

    def _data(self) -> None:
        """The dataset cut down, with its questions restored, as in the kit's three steps."""
        cut = self._command("check_sample_number.py", 3)
        source, most = cut.words[-3], cut.words[-1]
        at = "stages.align.data"
        path = self._contestants(source)
        entry: dict[str, Any] = {"path": path}
        told = {"path": self._where(cut, source)}
        if not most.text.isdigit() or most.text == "0":
            raise RecipeError(f"{self._line(cut)}: {most.text!r} is no number of rows from 1")
        entry["at_most"], told["at_most"] = int(most.text), self._where(cut, most)
        if int(most.text) != MOST_ROWS:
            self._differs("the largest number of rows", int(most.text), MOST_ROWS)
        convert = self._command("dj_to_llava.py", 2)
        options = _options(convert)
        if options.get("restore_questions", Word("False", 0)).text.lower() == "true":
            questions = options.get("original_llava_ds_path")
            if questions is None:
                line = self._line(convert)
                raise RecipeError(f"{line}: --restore_questions needs --original_llava_ds_path")
            entry["questions"] = tidy_path(self._known(questions, convert))
            told["questions"] = self._where(convert, questions)
        images = self.commands[0].given["image_folder"]
        if images.is_given:
            entry["image_root"] = self._of_kit(str(images.value))
            told["image_root"] = images.where
        self.out.put(at, [entry], "cut down and turned into LLaVA's form while it is read")
        for key, where in told.items():
            self.out.origins[f"{at}.0.{key}"] = where
        self.out.tree["stages"]["align"].pop("image_root", None)

    def _batches(self) -> None:
        """What the kit's check of the global batch wants."""
        checks = [one for one in self.script.commands if _is(one, "check_global_batch_size.py")]
        for command, expected in zip(self.commands, BATCHES.values(), strict=True):
            at = f"stages.{command.stage}"
            given = command.given
            micro = given["per_device_train_batch_size"]
            check = checks.pop(0) if checks else None
            wanted = check.words[-1].text if check is not None else ""
            target = int(wanted) if wanted.isdigit() else expected
            where = self._where(check, check.words[-1]) if check is not None else "the kit's"
            self.out.put(f"{at}.batch", "auto", "micro_batch x accumulation x GPUs, as there")
            self.out.put(f"{at}.micro_batch", micro.value, micro.where or "default")
            passes = given["gradient_accumulation_steps"]
            self.out.put(f"{at}.accumulation", passes.value, passes.where or "default")
            self.out.put(f"{at}.expect_global_batch", target, where)
            if target != expected:
                self._differs(f"stage {command.stage}: the global batch", target, expected)
            every = given["save_steps"]
            told = f"{every.where}: {every.value:g} steps of {target} samples"
            self.out.put(f"{at}.save_every_samples", int(every.value) * target, told)

    def _fixed(self, command: TrainCommand) -> None:
        """Say what differs from the kit where contestants change nothing."""
        published = PUBLISHED[command.stage]
        known = arguments_of("mgm")
        for name, given in command.given.items():
            is_path = name.endswith(("_path", "_folder", "adapter")) or name == "deepspeed"
            if name in _EDITABLE or name in _PATHS or is_path:
                continue
            wanted = published.get(name, known[name].default)
            if given.value != wanted:
                self._differs(f"stage {command.stage}: {name}", given.value, wanted)
        for name, last in _PATHS.items():
            if Path(command.path(name)).name != last:
                self._differs(f"stage {command.stage}: {name}", command.path(name), last)
        data = command.path("data_path")
        if command.stage == "instruct" and Path(data).name not in _FINETUNING:
            self._differs("the finetuning data", data, _FINETUNING[0])

    def _machine(self) -> None:
        """What changes where numbers are computed, and none of them."""
        for command in self.commands:
            at = f"stages.{command.stage}"
            deepspeed = command.given["deepspeed"]
            if deepspeed.is_given:
                why = "moves weights and moments about, no number; parallel: zero2_offload does it"
                self.out.leave("--deepspeed", deepspeed.value, deepspeed.where, why)
            self.out.put(f"{at}.parallel", "auto", "one GPU holds MGM-2B; see --deepspeed below")
            if command.stage == "align":
                why = "stage instruct goes on from the whole model"
                self.out.put(f"{at}.export", "model", why)

    def _scores(self) -> None:
        at = "stages.score"
        asked = [one for one in self.script.commands if _evaluates(one)]
        told = self._line(asked[0]) if asked else "the kit's last step"
        self.out.put(f"{at}.kind", "evaluate", f"{told}: the kit's benchmarks")
        self.out.put(f"{at}.model", "$instruct", "what the second stage leaves")
        self.out.put(f"{at}.max_new_tokens", 128, "the kit's answers")
        folder = os.path.join(self.folder, _EVALUATION)
        textvqa = {key: tidy_path(os.path.join(folder, path)) for key, path in _TEXTVQA.items()}
        split = next((w.text for one in asked if _is(one, "mmbench.sh")
                      for w in one.words if w.text.startswith("mmbench_")),
                     "mmbench_dev_20230712")  # fmt: skip
        mmbench = tidy_path(os.path.join(folder, "mmbench", f"{split}.tsv"))
        benchmarks = [
            {"name": "textvqa", **textvqa},
            {"name": "mmbench", "questions": mmbench},
        ]
        self.out.put(f"{at}.benchmarks", benchmarks, "the kit's files of both")
        for number, script in enumerate(("textvqa.sh", "mmbench.sh")):
            found = next((one for one in asked if _is(one, script)), None)
            where = self._line(found) if found is not None else "the kit's"
            for key in benchmarks[number]:
                self.out.origins[f"{at}.benchmarks.{number}.{key}"] = f"{where}: {script}"
        if split != "mmbench_dev_20230712":
            self._differs("MMBench's split", split, "mmbench_dev_20230712")
        devices = self.script.variables.get("INFER_CUDA_IDX")
        if devices is not None:
            where = f"{self.foreign.path.name}:{devices.line}"
            why = "all GPUs share the questions; no answer depends on it"
            self.out.leave("INFER_CUDA_IDX", devices.text, where, why)
        self.out.put("stages.report.kind", "report", "the run's page")
        self.out.put("stages.report.needs", ["score"], "the last stage")

    def _contestants(self, word: Word) -> str:
        """The contestant's dataset: where the script is called, else beside the script."""
        text = self._known(word, None)
        return self._of_kit(text)

    def _of_kit(self, text: str) -> str:
        """A relative path of the editable block: people call the script in its own folder."""
        if os.path.isabs(text) or Path(text).exists():
            return tidy_path(text)
        return tidy_path(os.path.join(self.folder, text))

    def _command(self, program: str, least: int) -> ShellCommand:
        found = [one for one in self.script.commands if _is(one, program)]
        if not found:
            raise RecipeError(f"{self.foreign.path}: calls no {program}, as the kit's script does")
        free = [word for word in found[0].words if not word.text.startswith("--")]
        if len(free) <= least:
            raise RecipeError(f"{self._line(found[0])}: {program} lacks a word")
        return found[0]

    def _known(self, word: Word, command: ShellCommand | None) -> str:
        if word.unknown:
            where = f"{self.foreign.path.name}:{command.line if command else word.line}"
            raise RecipeError(f"{where}: made of {word.unknown}")
        return word.text

    def _line(self, command: ShellCommand) -> str:
        return f"{self.foreign.path.name}:{command.line}"

    def _where(self, command: ShellCommand, word: Word) -> str:
        """`file:line` of a word, and the variables that it is made of."""
        program = next(w.text for w in command.words if w.text.endswith((".py", ".sh")))
        told = [f"{self.foreign.path.name}:{word.line} {Path(program).name}", *names_of(word)]
        return ", ".join(told)

    def _differs(self, what: str, value: Any, wanted: Any) -> None:
        self.out.note(f"not comparable: {what} is {value}, in the kit {wanted}")


def _is(command: ShellCommand, program: str) -> bool:
    return any(Path(word.text).name == program for word in command.words[:4])


def _evaluates(command: ShellCommand) -> bool:
    return _is(command, "textvqa.sh") or _is(command, "mmbench.sh")


def _options(command: ShellCommand) -> dict[str, Word]:
    """`--name value` pairs of a command."""
    words = command.words
    found = {}
    for word, value in pairwise(words):
        if word.text.startswith("--"):
            found[word.text.removeprefix("--")] = value
    return found
