"""Mini-Gemini's commands, and the scripts that it shares with LLaVA."""

from __future__ import annotations

from pathlib import Path

from vlforge.cli.familiar import converters, serving
from vlforge.cli.familiar.asking import evaluation, is_evaluation, is_module, module_of
from vlforge.cli.familiar.old import Familiar, OldCommand, is_script
from vlforge.cli.familiar.scripts import evaluated, run_script, starts_training
from vlforge.cli.familiar.training import is_train, train

PACKAGES = ("mgm", "minigemini")


def is_eval_script(old: OldCommand) -> bool:
    """`scripts/FAMILY/eval/NAME.sh`, LLaVA's aside."""
    parts = Path(old.program).parts
    return old.name.endswith(".sh") and parts[-2:-1] == ("eval",) and (
        "scripts" in parts and "v1_5" not in parts
    )  # fmt: skip


def is_train_script(old: OldCommand) -> bool:
    """A script that starts a train.py, or one of `scripts/FAMILY/train`."""
    parts = Path(old.program).parts
    is_theirs = "scripts" in parts and parts[-2:-1] == ("train",) and old.name.endswith(".sh")
    return is_theirs or starts_training(old.program)


def is_ours(old: OldCommand) -> bool:
    """Whether an evaluation program is Mini-Gemini's."""
    return is_evaluation(old) and any(name in module_of(old).split(".") for name in PACKAGES)


COMMANDS = (
    Familiar(
        "deepspeed mgm/train/train_mem.py --version gemma --output_dir work_dirs/MGM-2B …",
        "vlforge adopt mgm/train/train_mem.py version=gemma … -o runs/MGM-2B.yaml; "
        "vlforge train runs/MGM-2B.yaml --out work_dirs/MGM-2B",
        lambda old: is_train(old, "mgm"),
        lambda old: train(old, "mgm"),
    ),
    Familiar(
        "bash scripts/gemma/train/stage_1_2_full_gemma_v2b_336_hr_768.sh",
        "vlforge run scripts/gemma/train/stage_1_2_full_gemma_v2b_336_hr_768.sh",
        is_train_script,
        run_script,
    ),
    Familiar(
        "bash scripts/gemma/eval/textvqa.sh",
        "vlforge eval run MODEL --benchmark textvqa …; vlforge eval export …; vlforge eval score …",
        is_eval_script,
        lambda old: evaluated(old, "mgm"),
    ),
    Familiar(
        "python -m mgm.eval.model_vqa_loader --model-path M --question-file Q "
        "--answers-file A.jsonl",
        "vlforge eval run M --benchmark textvqa --questions Q --out A; "
        "vlforge eval export A textvqa A.jsonl",
        is_ours,
        lambda old: evaluation(old, "mgm"),
    ),
    Familiar(
        "python -m mgm.eval.run_llava --model-path M --image-file I --query Q",
        "vlforge chat M --image I --question Q --temperature 0.2 --max-new-tokens 512",
        is_module("eval.run_llava", *PACKAGES),
        lambda old: serving.query(old, "mgm"),
    ),
    Familiar(
        "python -m mgm.serve.cli --model-path M --image-file I --load-4bit",
        "vlforge chat M --image I --quantise 4bit --temperature 0.2 --max-new-tokens 512",
        is_module("serve.cli", *PACKAGES),
        lambda old: serving.chat(old, "mgm"),
    ),
    Familiar(
        "python -m mgm.serve.model_worker --model-path M --host 0.0.0.0",
        "vlforge web M --host 0.0.0.0",
        is_module("serve.model_worker", *PACKAGES),
        serving.worker,
    ),
    Familiar(
        "python -m mgm.serve.controller",
        "vlforge web MODEL",
        lambda old: (
            is_module("serve.controller", *PACKAGES)(old)
            or is_module("serve.gradio_web_server", *PACKAGES)(old)
        ),
        serving.nothing,
    ),
    Familiar(
        "python scripts/extract_mm_projector.py --model-path M --output mm_projector.bin",
        "vlforge convert-model M mm_projector.bin --to llava_projector",
        is_script("extract_mm_projector.py"),
        converters.extracted,
    ),
    Familiar(
        "python scripts/merge_lora_weights.py --model-path L --model-base B --save-model-path OUT",
        "vlforge merge B L OUT",
        is_script("merge_lora_weights.py"),
        converters.merged,
    ),
    Familiar(
        "python scripts/convert_gqa_for_eval.py --src A.jsonl --dst P.json",
        "vlforge tool convert_gqa_for_eval A.jsonl P.json",
        is_script("convert_gqa_for_eval.py"),
        converters.converted,
    ),
    Familiar(
        "python scripts/convert_mmvet_for_eval.py --src A.jsonl --dst P.json",
        "vlforge tool convert_mmvet_for_eval A.jsonl P.json",
        is_script("convert_mmvet_for_eval.py"),
        converters.converted,
    ),
    Familiar(
        "python scripts/convert_mmbench_for_submission.py --annotation-file T.tsv --result-dir R "
        "--upload-dir U --experiment E",
        "vlforge eval export R/E.jsonl mmbench U/E.xlsx --questions T.tsv",
        is_script("convert_mmbench_for_submission.py"),
        converters.converted,
    ),
    Familiar(
        "python scripts/convert_seed_for_submission.py --annotation-file S.json --result-file A "
        "--result-upload-file U",
        "vlforge eval score --benchmark seedbench --annotations S.json --answers A; "
        "vlforge eval export A seedbench U --annotations S.json --as upload",
        is_script("convert_seed_for_submission.py"),
        converters.converted,
    ),
    Familiar(
        "python scripts/convert_vqav2_for_submission.py --split S --ckpt C",
        "vlforge eval export answers/S/C/merge.jsonl vqav2 answers_upload/S/C.json --questions Q",
        converters.is_converter,
        converters.converted,
    ),
)
