"""LLaVA's commands; the scripts that it shares with Mini-Gemini are among that one's."""

from __future__ import annotations

from pathlib import Path

from vlforge.cli.familiar import serving
from vlforge.cli.familiar.asking import evaluation, is_evaluation, is_module, module_of
from vlforge.cli.familiar.old import Familiar, OldCommand
from vlforge.cli.familiar.scripts import evaluated, run_script
from vlforge.cli.familiar.training import is_train, train

PACKAGE = "llava"


def _is_train_script(old: OldCommand) -> bool:
    return old.name in ("pretrain.sh", "finetune.sh", "finetune_lora.sh", "finetune_task.sh",
                        "finetune_task_lora.sh", "finetune_qlora.sh")  # fmt: skip


def _is_eval_script(old: OldCommand) -> bool:
    parts = Path(old.program).parts
    return old.name.endswith(".sh") and "v1_5" in parts and parts[-2:-1] == ("eval",)


COMMANDS = (
    Familiar(
        "deepspeed llava/train/train_mem.py --version v1 --output_dir checkpoints/llava …",
        "vlforge adopt llava/train/train_mem.py version=v1 … -o runs/llava.yaml; "
        "vlforge train runs/llava.yaml --out checkpoints/llava",
        lambda old: is_train(old, PACKAGE),
        lambda old: train(old, PACKAGE),
    ),
    Familiar(
        "bash scripts/v1_5/finetune.sh",
        "vlforge run scripts/v1_5/finetune.sh",
        _is_train_script,
        run_script,
    ),
    Familiar(
        "bash scripts/v1_5/eval/mmbench.sh",
        "vlforge eval run MODEL --benchmark mmbench --prompt llava …; "
        "vlforge eval export … upload.xlsx",
        _is_eval_script,
        lambda old: evaluated(old, PACKAGE),
    ),
    Familiar(
        "python -m llava.eval.run_llava --model-path M --image-file I --query Q",
        "vlforge chat M --image I --question Q --temperature 0.2 --max-new-tokens 512",
        is_module("eval.run_llava", PACKAGE),
        lambda old: serving.query(old, PACKAGE),
    ),
    Familiar(
        "python -m llava.eval.model_vqa_loader --model-path M --question-file Q "
        "--answers-file A.jsonl",
        "vlforge eval run M --benchmark textvqa --questions Q --out A; "
        "vlforge eval export A textvqa A.jsonl",
        lambda old: is_evaluation(old) and PACKAGE in module_of(old).split("."),
        lambda old: evaluation(old, PACKAGE),
    ),
    Familiar(
        "python -m llava.serve.cli --model-path M --image-file I --load-4bit",
        "vlforge chat M --image I --quantise 4bit --temperature 0.2 --max-new-tokens 512",
        is_module("serve.cli", PACKAGE),
        lambda old: serving.chat(old, PACKAGE),
    ),
    Familiar(
        "python -m llava.serve.model_worker --model-path M",
        "vlforge web M",
        is_module("serve.model_worker", PACKAGE),
        serving.worker,
    ),
    Familiar(
        "python -m llava.serve.gradio_web_server",
        "vlforge web MODEL",
        lambda old: (
            is_module("serve.gradio_web_server", PACKAGE)(old)
            or is_module("serve.controller", PACKAGE)(old)
        ),
        serving.nothing,
    ),
)
