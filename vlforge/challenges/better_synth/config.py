"""Better Synth's rounds, the places of its kit, and what may be edited. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trainer = Literal["vlforge", "kit"]
Stage = Literal["pretrain", "finetune"]

GLOBAL_BATCH: dict[Stage, int] = {"pretrain": 256, "finetune": 128}
"""Per-GPU batch x accumulation x GPUs, which the kit's script insists on."""
SPLIT: dict[Stage, tuple[str, str]] = {
    "pretrain": ("PRETRAIN_BATCH_SIZE_PER_GPU", "PRETRAIN_GRADIENT_ACCUMULATION_STEPS"),
    "finetune": ("FINETUNE_BATCH_SIZE_PER_GPU", "FINETUNE_GRADIENT_ACCUMULATION_STEPS"),
}
"""The editable values that make the global batch."""
EDITABLE: dict[str, str] = {
    "EXP_NAME": "default",
    "PRETRAIN_DATASET": "../input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl",
    "PRETRAIN_DATASET_IMAGE_PATH": "../input/pretrain_stage_1_10k",
    "PRETRAIN_BATCH_SIZE_PER_GPU": "4",
    "PRETRAIN_GRADIENT_ACCUMULATION_STEPS": "64",
    "PRETRAIN_DATALOADER_NUM_WORKERS": "4",
    "FINETUNE_BATCH_SIZE_PER_GPU": "4",
    "FINETUNE_GRADIENT_ACCUMULATION_STEPS": "32",
    "FINETUNE_DATALOADER_NUM_WORKERS": "4",
    "LOGGING_STEP": "1",
    "CKPT_SAVE_STEPS": "100",
    "TOTAL_SAVE_CKPT_LIMIT": "1",
    "INFER_CUDA_IDX": "0",
}
"""Values that a contestant may change in the train script, as the kit has them."""

SCRIPTS = (
    "toolkit/train_mgm_2b_stage_1.sh",
    "toolkit/train_gemma_v2b_336_hr_768_stage_1.sh",
)
"""The train script, by either of its names."""
CODE = "toolkit/training"
NOT_CODE = ("data", "model_zoo", "__pycache__")
"""Folders of the training code that hold no code."""
EVAL_SCRIPTS = ("toolkit/eval/textvqa.sh", "toolkit/eval/mmbench.sh")
CONVERTER = (
    "toolkit/data-juicer/tools/multimodal/data_juicer_format_to_target_format/dj_to_llava.py"
)
MODELS = {
    "language": "toolkit/training/model_zoo/LLM/gemma/gemma-2b-it",
    "vision": "toolkit/training/model_zoo/OpenAI/clip-vit-large-patch14-336",
    "vision_high": "toolkit/training/model_zoo/OpenAI/"
    "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
}
"""MGM-2B's parts, by what a recipe calls them."""
SPLIT_NAME = "mmbench_dev_20230712"
BENCHMARKS = "toolkit/training/data/eval_stage_1"
TEXTVQA_QUESTIONS = f"{BENCHMARKS}/textvqa/llava_textvqa_val_v051_ocr.jsonl"
TEXTVQA_ANSWERS = f"{BENCHMARKS}/textvqa/TextVQA_0.5.1_val.json"
TEXTVQA_IMAGES = f"{BENCHMARKS}/textvqa/train_images"
MMBENCH_TABLE = f"{BENCHMARKS}/mmbench/{SPLIT_NAME}.tsv"
PUBLISHED_GIB = {"disk": 50.0, "ram": 100.0, "gpu": 24.0}
"""What the contest asks of a machine for its own trainer at the published size."""


@dataclass(frozen=True)
class Round:
    """A round's numbers and the files that it gives out.

    most_rows: samples of the pretraining set that may be trained on. seed, rows,
    finetuning: places below the kit's folder. group: what of `vlforge fetch better_synth`
    brings the data.
    """

    name: Literal["online", "offline"]
    seed_rows: int
    most_rows: int
    instruction_rows: int
    seed: str
    rows: str
    finetuning: str
    group: str


ROUNDS = {
    "offline": Round(
        name="offline",
        seed_rows=10_000,
        most_rows=5_000,
        instruction_rows=6_000,
        seed="input/pretrain_stage_1_10k",
        rows="mgm_pretrain_stage_1_10k.jsonl",
        finetuning=f"{CODE}/data/finetuning_stage_1_12k/mgm_instruction_stage_1_12k.json",
        group="data",
    ),
    "online": Round(
        name="online",
        seed_rows=400_000,
        most_rows=200_000,
        instruction_rows=240_000,
        seed="input/pretrain_stage_1",
        rows="mgm_pretrain_stage_1.jsonl",
        finetuning=f"{CODE}/data/finetuning_stage_1/mgm_instruction_stage_1.json",
        group="full",
    ),
}
