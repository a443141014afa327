"""Launch scripts in the layout of Mini-Gemini's, LLaVA's and Better Synth's, written here."""

from __future__ import annotations

from pathlib import Path

TOWERS = {
    "vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
    "vision_tower_aux": (
        "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"
    ),
}
SHARED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": "-2",
    "mm_use_im_start_end": "False",
    "mm_use_im_patch_token": "False",
    "bf16": "True",
    "num_train_epochs": "1",
    "per_device_eval_batch_size": "4",
    "evaluation_strategy": '"no"',
    "save_strategy": '"steps"',
    "save_total_limit": "1",
    "weight_decay": "0.",
    "warmup_ratio": "0.03",
    "lr_scheduler_type": '"cosine"',
    "logging_steps": "1",
    "tf32": "True",
    "gradient_checkpointing": "True",
    "dataloader_num_workers": "4",
    "lazy_preprocess": "True",
    "report_to": "wandb",
}
FIRST = {"tune_mm_mlp_adapter": "True", "learning_rate": "1e-3", "save_steps": "24000"}
SECOND = {
    "image_aspect_ratio": "pad",
    "group_by_modality_length": "True",
    "learning_rate": "2e-5",
    "save_steps": "1000",
}


def command(program: str, arguments: dict[str, str], launcher: str = "deepspeed") -> str:
    """One start of a train.py, an argument a line."""
    words = "".join(f" \\\n    --{name} {value}" for name, value in arguments.items())
    return f"{launcher} {program}{words}\n"


def mgm(
    language: str,
    versions: tuple[str, str],
    zero: tuple[str, str],
    batch: tuple[str, str],
    *,
    launcher: str = "deepspeed",
    hd: bool = False,
    **changes: str,
) -> str:
    """A script of Mini-Gemini: both stages, or the HD stage alone."""
    size = "1536" if hd else "768"
    head = f"#!/bin/bash\nPRETRAIN_NAME=MGM-Pretrain\nFINETUNE_NAME=MGM-X\nAUX_SIZE={size}\n\n"
    base = {"model_name_or_path": language, **TOWERS, **SHARED, "image_size_aux": "$AUX_SIZE"}
    stages = []
    for number, own in enumerate((FIRST, SECOND)):
        micro, passes = batch[number].split("x")
        arguments = {
            "deepspeed": f"./scripts/{zero[number]}.json",
            "version": versions[number],
            "data_path": ("./data/MGM-Pretrain/mgm_pretrain.json",
                          "./data/MGM-Finetune/mgm_instruction.json")[number],
            "image_folder": ("./data/MGM-Pretrain", "./data/MGM-Finetune")[number],
            **base, **own,
            "output_dir": ("./work_dirs/$PRETRAIN_NAME", "./work_dirs/$FINETUNE_NAME")[number],
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": passes,
            "model_max_length": "4096" if hd else "2048",
        }  # fmt: skip
        if number:
            arguments["pretrain_mm_mlp_adapter"] = "./work_dirs/$PRETRAIN_NAME/mm_projector.bin"
            arguments |= changes
        if hd:
            arguments |= {"image_grid": "2", "image_global": "True"}
        stages.append(command("mgm/train/train_mem.py", arguments, launcher))
    return head + "\n".join(stages[1:] if hd else stages)


def llava(kind: str) -> str:
    """LLaVA 1.5's pretrain.sh, finetune.sh or finetune_lora.sh."""
    base = {
        "deepspeed": "./scripts/zero2.json" if kind == "pretrain" else "./scripts/zero3.json",
        "model_name_or_path": "lmsys/vicuna-13b-v1.5",
        "version": "plain" if kind == "pretrain" else "v1",
        "vision_tower": "openai/clip-vit-large-patch14-336",
        **SHARED,
        "gradient_accumulation_steps": "1",
        "model_max_length": "2048",
    }
    if kind == "pretrain":
        return command("llava/train/train_mem.py", {
            **base, **FIRST,
            "data_path": "./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
            "image_folder": "./playground/data/LLaVA-Pretrain/images",
            "output_dir": "./checkpoints/llava-v1.5-13b-pretrain",
            "per_device_train_batch_size": "32",
        })  # fmt: skip
    second = {
        **base, **SECOND, "save_steps": "50000",
        "data_path": "./playground/data/llava_v1_5_mix665k.json",
        "image_folder": "./playground/data",
        "pretrain_mm_mlp_adapter": "./checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin",
        "output_dir": "./checkpoints/llava-v1.5-13b",
        "per_device_train_batch_size": "16",
    }  # fmt: skip
    if kind == "finetune_lora":
        second |= {"lora_enable": "True", "lora_r": "128", "lora_alpha": "256",
                   "mm_projector_lr": "2e-5", "learning_rate": "2e-4"}  # fmt: skip
    return command("llava/train/train_mem.py", second)


BLOCK = {
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
    "INFER_CUDA_IDX": '"0"',
}
"""The editable part of Better Synth's script."""
_CHECK = """\
{0}_PASS=`python $SCRIPT_DIR/training/preprocess/check_global_batch_size.py \
${0}_BATCH_SIZE_PER_GPU ${0}_GRADIENT_ACCUMULATION_STEPS {1}`
if [ "${0}_PASS" = "False" ]; then
    echo "[ERROR] not {1}"
    exit
fi
"""
_ROWS = """\
MAX_SAMPLE_NUM=200000
SAMPLED_PRETRAIN_DATASET=$PRETRAIN_DATASET-200k.jsonl
python $SCRIPT_DIR/training/preprocess/check_sample_number.py $PRETRAIN_DATASET \
$SAMPLED_PRETRAIN_DATASET $MAX_SAMPLE_NUM
PRETRAIN_DATASET_JSON=$SAMPLED_PRETRAIN_DATASET.json
python $SCRIPT_DIR/data-juicer/tools/multimodal/data_juicer_format_to_target_format/dj_to_llava.py \
$SAMPLED_PRETRAIN_DATASET $PRETRAIN_DATASET_JSON --image_special_token "<__dj__image>" \
--restore_questions True --original_llava_ds_path $ORIGINAL_DATASET_ALL
"""
_SCORES = """\
bash $SCRIPT_DIR/eval/textvqa.sh $FINETUNE_NAME $INFER_CUDA_IDX
bash $SCRIPT_DIR/eval/mmbench.sh $FINETUNE_NAME "mmbench_dev_20230712" $INFER_CUDA_IDX
cp $0 $SCRIPT_DIR/../output/train.sh
"""


def better_synth(**block: str) -> str:
    """The kit's train script; `block` changes its editable part."""
    lines = ["#!/bin/bash", "#" * 40, "#" * 10 + " Editable Part Begins " + "#" * 8, "#" * 40]
    lines += [f"{name}={value}" for name, value in (BLOCK | block).items()]
    lines += ["#" * 40, "#" * 10 + " Editable Part Ends " + "#" * 10]
    lines.append('SCRIPT_DIR=$(cd "$(dirname "$0")" && pwd)')
    lines.append("ORIGINAL_DATASET_ALL=$SCRIPT_DIR/../input/pretrain_stage_1_10k/stage_1.json")
    head = "\n".join(lines) + "\n"
    head += _CHECK.format("PRETRAIN", 256) + _CHECK.format("FINETUNE", 128) + _ROWS
    head += "PRETRAIN_NAME=MGM-2B-Pretrain-$EXP_NAME\nFINETUNE_NAME=MGM-2B-Finetune-$EXP_NAME\n"
    head += "AUX_SIZE=768\nNUM_TRAIN_EPOCHS=1\n"
    return head + _kit_stage(0) + _kit_stage(1) + _SCORES


def _kit_stage(number: int) -> str:
    """One of the two runs of the kit."""
    name = ("PRETRAIN", "FINETUNE")[number]
    home, log = "$SCRIPT_DIR/training", ("pretrain", "finetuning")[number]
    data = f"{home}/data/finetuning_stage_1_12k"
    arguments = {
        "deepspeed": f"{home}/scripts/zero2_offload.json",
        "model_name_or_path": f"{home}/model_zoo/LLM/gemma/gemma-2b-it",
        "version": "gemma",
        "data_path": ("$PRETRAIN_DATASET_JSON", f"{data}/mgm_instruction_stage_1_12k.json")[number],
        "image_folder": ("$PRETRAIN_DATASET_IMAGE_PATH", data)[number],
        **{key: f"{home}/{path}" for key, path in TOWERS.items()},
        **SHARED,
        **(FIRST, SECOND)[number],
        "image_size_aux": "$AUX_SIZE",
        "output_dir": f"$SCRIPT_DIR/../output/training_dirs/${name}_NAME",
        "num_train_epochs": "$NUM_TRAIN_EPOCHS",
        "per_device_train_batch_size": f"${name}_BATCH_SIZE_PER_GPU",
        "gradient_accumulation_steps": f"${name}_GRADIENT_ACCUMULATION_STEPS",
        "save_steps": "$CKPT_SAVE_STEPS",
        "save_total_limit": "$TOTAL_SAVE_CKPT_LIMIT",
        "logging_steps": "$LOGGING_STEP",
        "model_max_length": "2048",
        "dataloader_num_workers": f"${name}_DATALOADER_NUM_WORKERS",
        "report_to": "none",
    }
    if number:
        arguments["pretrain_mm_mlp_adapter"] = (
            "$SCRIPT_DIR/../output/training_dirs/$PRETRAIN_NAME/mm_projector.bin"
        )
    made = command(f"{home}/mgm/train/train_mem.py", arguments).rstrip("\n")
    return (
        f"mkdir -p $SCRIPT_DIR/../output/training_dirs/${name}_NAME\n"
        f"{made} 2>&1 | tee $SCRIPT_DIR/../output/training_dirs/${name}_NAME/{log}.log\n"
    )


def write(path: Path, text: str) -> Path:
    """A script at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
