"""The commands of Better Synth's kit; Data-Juicer's are its first step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from vlforge.cli.familiar.asking import model_folder
from vlforge.cli.familiar.old import Familiar, OldCommand, Ours, is_script
from vlforge.cli.familiar.scripts import on_devices
from vlforge.types import RecipeError

TRAIN_SCRIPTS = ("train_mgm_2b_stage_1.sh", "train_gemma_v2b_336_hr_768_stage_1.sh")
_NAME = "MGM-2B-Finetune-"


def _run(old: OldCommand) -> Ours:
    if not Path(old.program).is_file():
        raise RecipeError(f"{old.program}: no such file; call it from the kit's folder")
    return Ours((("run", old.program),))


def _tool(old: OldCommand) -> Ours:
    return Ours((("tool", old.name.removesuffix(".py"), *old.words),))


def _is_eval(name: str) -> Callable[[OldCommand], bool]:
    def fits(old: OldCommand) -> bool:
        parts = Path(old.program).parts
        return parts[-2:] == ("eval", name) and "scripts" not in parts

    return fits


def _textvqa(old: OldCommand) -> Ours:
    experiment, devices = _words(old, "textvqa.sh EXP GPU")
    kit, model, out = _places(old, experiment)
    data = os.path.normpath(os.path.join(kit, "toolkit/training/data/eval_stage_1/textvqa"))
    target = os.path.join(out, "textvqa")
    words = (
        "eval", "run", model, "--benchmark", "textvqa",
        "--questions", os.path.join(data, "llava_textvqa_val_v051_ocr.jsonl"),
        "--annotation", os.path.join(data, "TextVQA_0.5.1_val.json"),
        "--images", os.path.join(data, "train_images"),
        "--template", "gemma", "--max-new-tokens", "128", "--out", target,
    )  # fmt: skip
    answers = os.path.join(target, "answers", "merge.jsonl")
    return on_devices(Ours((words, ("eval", "export", target, "textvqa", answers))), devices)


def _mmbench(old: OldCommand) -> Ours:
    experiment, split, devices = _words(old, "mmbench.sh EXP SPLIT GPU")
    kit, model, out = _places(old, experiment)
    table = os.path.join(kit, f"toolkit/training/data/eval_stage_1/mmbench/{split}.tsv")
    table = os.path.normpath(table)
    target = os.path.join(out, "mmbench")
    words = (
        "eval", "run", model, "--benchmark", "mmbench", "--questions", table, "--prompt", "mgm",
        "--template", "gemma", "--max-new-tokens", "1024", "--out", target,
    )  # fmt: skip
    answers = os.path.join(target, "answers", split, f"{experiment}.jsonl")
    sheet = os.path.join(target, "answers_upload", split, f"{experiment}.xlsx")
    return on_devices(
        Ours(
            (
                words,
                ("eval", "export", target, "mmbench", answers),
                ("eval", "export", target, "mmbench", sheet),
            )
        ),
        devices,
    )


def _words(old: OldCommand, usage: str) -> tuple[str, ...]:
    names = usage.split()[1:]
    if len(old.words) < len(names) - 1:
        raise RecipeError(f"{old.program}: too few words; it is called as {usage}")
    given = (*old.words, "0")[: len(names)]
    return tuple(given)


def _places(old: OldCommand, experiment: str) -> tuple[str, str, str]:
    """The kit's folder, the model, and where its results go."""
    kit = os.path.normpath(os.path.join(os.path.dirname(old.program), "../.."))
    trained = os.path.join(kit, "output/training_dirs", experiment)
    if not Path(trained).is_dir():
        name = f"better_synth_{experiment.removeprefix(_NAME)}"
        mine = [Path(home) / name for home in ("runs", os.path.join(kit, "runs"))]
        found = [one for run in mine for one in sorted(run.glob("*-instruct*"))]
        trained = str(found[0]) if found else trained
    out = os.path.normpath(os.path.join(kit, "output/eval_results", experiment))
    return kit, model_folder(os.path.normpath(trained)), out


COMMANDS = (
    Familiar(
        "bash toolkit/train_mgm_2b_stage_1.sh",
        "vlforge run toolkit/train_mgm_2b_stage_1.sh",
        is_script(TRAIN_SCRIPTS[0]),
        _run,
    ),
    Familiar(
        "bash toolkit/train_gemma_v2b_336_hr_768_stage_1.sh",
        "vlforge run toolkit/train_gemma_v2b_336_hr_768_stage_1.sh",
        is_script(TRAIN_SCRIPTS[1]),
        _run,
    ),
    Familiar(
        "python toolkit/training/preprocess/check_global_batch_size.py 4 64 256",
        "vlforge tool check_global_batch_size 4 64 256",
        is_script("check_global_batch_size.py"),
        _tool,
    ),
    Familiar(
        "python toolkit/training/preprocess/check_sample_number.py rows.jsonl cut.jsonl 200000",
        "vlforge tool check_sample_number rows.jsonl cut.jsonl 200000",
        is_script("check_sample_number.py"),
        _tool,
    ),
    Familiar(
        "bash toolkit/eval/textvqa.sh MGM-2B-Finetune-default 0",
        "vlforge eval run output/training_dirs/MGM-2B-Finetune-default --benchmark textvqa …; "
        "vlforge eval export … merge.jsonl",
        _is_eval("textvqa.sh"),
        _textvqa,
    ),
    Familiar(
        "bash toolkit/eval/mmbench.sh MGM-2B-Finetune-default mmbench_dev_20230712 0",
        "vlforge eval run output/training_dirs/MGM-2B-Finetune-default --benchmark mmbench …; "
        "vlforge eval export … .xlsx",
        _is_eval("mmbench.sh"),
        _mmbench,
    ),
)
