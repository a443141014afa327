"""The Better Synth kit in small, worked through with its own commands."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from openpyxl import load_workbook

from tests.recipe import launch_scripts as scripts
from vlforge.cli.start import main
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature

pytestmark = pytest.mark.slow
NAME = "MGM-2B-Finetune-default"
ZOO = "toolkit/training/model_zoo"
DATA = "toolkit/training/data/finetuning_stage_1_12k"
RUN = "runs/better_synth_default"


def run(line: str) -> None:
    """`vlforge compat` of an old line, which has to end well."""
    assert main(["compat", *shlex.split(line)]) == 0, line


def lines(path: Path) -> list[dict]:
    """The values of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """The kit's folder, trained with its script."""
    folder = tmp_path_factory.mktemp("kit") / "kit"
    make_miniature("better_synth", folder, MiniatureConfig("better_synth", rows=8))
    before = Path.cwd()
    os.chdir(folder)
    try:
        run("bash toolkit/train_mgm_2b_stage_1.sh")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def _in_kit(kit, monkeypatch):
    monkeypatch.chdir(kit)


def test_the_train_script_is_the_whole_loop():
    scores = Path(RUN, "scores.json").read_text()
    assert "textvqa" in scores
    assert "mmbench_circular" in scores
    steps = lines(Path(RUN, "01-align/metrics.jsonl"))
    assert steps[0]["loss"] > 0
    recipe = Path("runs/better_synth_default.yaml").read_text()
    assert "expect_global_batch: 256" in recipe


def test_the_kits_evaluation_scripts_leave_answers_and_the_sheet(capsys):
    run(f"bash toolkit/eval/textvqa.sh {NAME} 0")
    run(f"bash toolkit/eval/mmbench.sh {NAME} mmbench_dev_20230712 0")
    assert "textvqa@m4c+ocr" in capsys.readouterr().out
    home = Path("output/eval_results", NAME)
    asked = Path("toolkit/training/data/eval_stage_1/textvqa/llava_textvqa_val_v051_ocr.jsonl")
    answers = lines(home / "textvqa/answers/merge.jsonl")
    assert len(answers) == len(asked.read_text().splitlines())
    assert set(answers[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    sheet = home / f"mmbench/answers_upload/mmbench_dev_20230712/{NAME}.xlsx"
    rows = list(load_workbook(sheet).active.iter_rows(values_only=True))
    assert rows[0][6] == "prediction"
    assert all(row[6] is not None for row in rows[1:])


def test_a_model_answers_one_question(capsys):
    picture = min(Path(DATA).rglob("*.jpg"))
    run(
        f"python -m mgm.eval.run_llava --model-path {RUN} --image-file {picture} "
        "--query 'What is it?' --temperature 0 --max_new_tokens 3"
    )
    assert len(capsys.readouterr().out.strip().splitlines()) >= 2


def test_a_stage_by_its_arguments_begins_with_an_extracted_connector():
    run(
        f"python toolkit/training/scripts/extract_mm_projector.py --model-path {RUN}/01-align "
        "--output work_dirs/P/mm_projector.bin"
    )
    found = torch.load("work_dirs/P/mm_projector.bin", weights_only=True)
    assert {name.split(".")[1] for name in found} >= {"mm_projector", "vlm_uni_query_projector"}
    arguments = {
        "deepspeed": "toolkit/training/scripts/zero2_offload.json",
        "model_name_or_path": f"{ZOO}/LLM/gemma/gemma-2b-it", "version": "gemma",
        "data_path": f"{DATA}/mgm_instruction_stage_1_12k.json", "image_folder": DATA,
        "vision_tower": f"{ZOO}/OpenAI/clip-vit-large-patch14-336",
        "vision_tower_aux":
            f"{ZOO}/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup",
        "pretrain_mm_mlp_adapter": "work_dirs/P/mm_projector.bin", "image_size_aux": "768",
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": "-2", "bf16": "True",
        "image_aspect_ratio": "pad", "group_by_modality_length": "True", "max_steps": "1",
        "per_device_train_batch_size": "2", "learning_rate": "2e-5", "report_to": "none",
        "model_max_length": "1024", "output_dir": "./work_dirs/F",
    }  # fmt: skip
    words = " ".join(f"--{name} {value}" for name, value in arguments.items())
    run(f"deepspeed toolkit/training/mgm/train/train_mem.py {words}")
    steps = lines(Path("work_dirs/F/01-instruct/metrics.jsonl"))
    assert steps[-1]["lr"] >= 0
    assert Path("work_dirs/F/01-instruct/model.safetensors").is_file()


def test_llavas_own_steps_from_captions_to_a_merged_model(tmp_path, monkeypatch, capsys):
    make_miniature("llava", tmp_path / "llava", MiniatureConfig("llava", rows=8))
    monkeypatch.chdir(tmp_path / "llava")
    for name in ("pretrain", "finetune_lora"):
        text = scripts.llava(name).replace("13b", "7b").replace("to wandb", "to none")
        scripts.write(Path(f"scripts/v1_5/{name}.sh"), text)
        run(f"bash scripts/v1_5/{name}.sh")
    recipe = Path("runs/finetune_lora.yaml").read_text()
    assert "connector_weights: runs/pretrain/01-align/mm_projector.bin" in recipe
    folder = "--model-path checkpoints/llava-v1.5-7b --model-base lmsys/vicuna-7b-v1.5"
    run(f"python scripts/merge_lora_weights.py {folder} --save-model-path merged")
    assert json.loads(Path("merged/config.json").read_text())["model_type"] == "llava_llama"
    data = "playground/data/eval/pope"
    capsys.readouterr()
    run(
        f"python -m llava.eval.model_vqa_loader --model-path merged --question-file "
        f"{data}/llava_pope_test.jsonl --image-folder {data}/val2014 --answers-file a.jsonl "
        "--temperature 0 --conv-mode vicuna_v1 --max_new_tokens 2"
    )
    run(
        f"python llava/eval/eval_pope.py --annotation-dir {data}/coco --question-file "
        f"{data}/llava_pope_test.jsonl --result-file a.jsonl"
    )
    assert "pope@llava" in capsys.readouterr().out
