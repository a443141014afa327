"""LLaVA's command lines, one after the other in its folder in small: LoRA, merge, scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.kits.typed import lines_of, typed
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature

pytestmark = pytest.mark.slow

VICUNA, CLIP = "lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336"
TRAIN = f"""vlforge compat deepspeed --include localhost:0 llava/train/train_mem.py \
    --model_name_or_path {VICUNA} --vision_tower {CLIP} \
    --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 \
    --mm_use_im_start_end False --mm_use_im_patch_token False \
    --bf16 True --num_train_epochs 1 \
    --per_device_train_batch_size 4 --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 1 \
    --evaluation_strategy no --save_strategy steps --save_total_limit 1 \
    --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 \
    --tf32 True --model_max_length 2048 --gradient_checkpointing True \
    --dataloader_num_workers 4 --lazy_preprocess True --report_to none"""
STAGE_1 = f"""{TRAIN} --deepspeed ./scripts/zero2.json --version plain \
    --data_path ./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json \
    --image_folder ./playground/data/LLaVA-Pretrain/images \
    --tune_mm_mlp_adapter True --save_steps 24000 --learning_rate 1e-3 \
    --output_dir ./checkpoints/llava-v1.5-7b-pretrain"""
LORA = f"""{TRAIN} --deepspeed ./scripts/zero3.json --version v1 \
    --lora_enable True --lora_r 8 --lora_alpha 16 --mm_projector_lr 2e-5 \
    --data_path ./playground/data/llava_v1_5_mix665k.json --image_folder ./playground/data \
    --pretrain_mm_mlp_adapter ./checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin \
    --image_aspect_ratio pad --group_by_modality_length True \
    --save_steps 50000 --learning_rate 2e-4 \
    --output_dir ./checkpoints/llava-v1.5-7b-lora"""
MERGE = f"""vlforge compat python scripts/merge_lora_weights.py \
    --model-path ./checkpoints/llava-v1.5-7b-lora --model-base {VICUNA} \
    --save-model-path ./checkpoints/llava-v1.5-7b-merged"""
EVAL = "./playground/data/eval"
TEXTVQA = f"""vlforge compat python -m llava.eval.model_vqa_loader \
    --model-path ./checkpoints/llava-v1.5-7b-merged \
    --question-file {EVAL}/textvqa/llava_textvqa_val_v051_ocr.jsonl \
    --image-folder {EVAL}/textvqa/train_images \
    --answers-file {EVAL}/textvqa/answers/llava-v1.5-7b.jsonl \
    --temperature 0 --conv-mode vicuna_v1"""
SCORE = f"""vlforge compat python -m llava.eval.eval_textvqa \
    --annotation-file {EVAL}/textvqa/TextVQA_0.5.1_val.json \
    --result-file {EVAL}/textvqa/answers/llava-v1.5-7b.jsonl"""
CLIP_NAME = r"model\.vision_tower\.vision_tower\.vision_model\..+"
WHOLE = re.compile(
    r"lm_head\.weight|model\.(embed_tokens|norm)\.weight|"
    r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|\w+_layernorm)\.weight|"
    rf"model\.mm_projector\.[02]\.(weight|bias)|{CLIP_NAME}"
)
"""Names that LLaVA saves a model with."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """Its folder after stage 1, LoRA and the merge; `said.json` holds what the last two said."""
    folder = tmp_path_factory.mktemp("llava") / "kit"
    make_miniature("llava", folder, MiniatureConfig(system="llava", rows=8))
    typed(STAGE_1, folder)
    said = {"lora": typed(LORA, folder), "merge": typed(MERGE, folder)}
    (folder / "said.json").write_text(json.dumps(said))
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, of safetensors or torch's files."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for path in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(path)
    return found


def test_stage_1_leaves_the_projector_file_and_nothing_else_learned(kit):
    (path,) = (kit / "checkpoints/llava-v1.5-7b-pretrain").glob("*/mm_projector.bin")
    names = {f"model.mm_projector.{place}.{what}" for place in "02" for what in ("weight", "bias")}
    assert set(torch.load(path)) == names
    recipe = (kit / "runs/llava-v1.5-7b-pretrain.yaml").read_text()
    assert re.search(r"^    template: plain  +# .*--?version|version", recipe, re.M)


def test_lora_went_on_from_it_at_the_rates_that_the_line_says(kit):
    recipe = (kit / "runs/llava-v1.5-7b-lora.yaml").read_text()
    assert "mm_projector.bin" in recipe
    assert re.search(r"lr: 0\.0002 ", recipe)
    assert re.search(r"mm_projector: 2e-05", recipe)
    assert re.search(r"rank: 8 ", recipe)


def test_the_merged_model_is_llavas_and_differs_from_vicuna_where_lora_did(kit):
    folder = kit / "checkpoints/llava-v1.5-7b-merged"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llava_llama"
    assert config["architectures"] == ["LlavaLlamaForCausalLM"]
    assert config["mm_projector_type"] == "mlp2x_gelu"
    merged, base = weights_of(folder), weights_of(kit / VICUNA)
    assert {name for name in merged if not WHOLE.fullmatch(name)} == set()
    assert set(base) <= set(merged)
    changed = {name for name in base if not torch.equal(base[name], merged[name].to(base[name]))}
    assert changed
    assert all(re.search(r"(q|k|v|o|gate|up|down)_proj", name) for name in changed)


def test_textvqa_is_asked_scored_and_handed_in(kit):
    typed(TEXTVQA, kit)
    answers = lines_of(kit / EVAL / "textvqa/answers/llava-v1.5-7b.jsonl")
    assert set(answers[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert len(answers) == len(lines_of(kit / EVAL / "textvqa/llava_textvqa_val_v051_ocr.jsonl"))
    assert re.search(r"^textvqa +\d+\.\d %", typed(SCORE, kit), re.M)


def test_pope_counts_yes_and_no_as_llava_does(kit):
    typed(
        "vlforge compat python -m llava.eval.model_vqa_loader "
        "--model-path ./checkpoints/llava-v1.5-7b-merged "
        f"--question-file {EVAL}/pope/llava_pope_test.jsonl --image-folder {EVAL}/pope/val2014 "
        f"--answers-file {EVAL}/pope/answers/7b.jsonl --temperature 0 --conv-mode vicuna_v1",
        kit,
    )
    said = typed(
        f"vlforge compat python llava/eval/eval_pope.py --annotation-dir {EVAL}/pope/coco "
        f"--question-file {EVAL}/pope/llava_pope_test.jsonl "
        f"--result-file {EVAL}/pope/answers/7b.jsonl",
        kit,
    )
    for part in ("adversarial", "popular", "random"):
        assert part in said


def test_it_becomes_transformers_layout_and_says_the_same_there(kit):
    typed("vlforge convert-model checkpoints/llava-v1.5-7b-merged hf --to llava_hf", kit)
    config = json.loads((kit / "hf/config.json").read_text())
    assert config["model_type"] == "llava"
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    picture = min((kit / EVAL / "textvqa/train_images").iterdir()).relative_to(kit)
    ask = f"--image {picture} --max-new-tokens 8 --question 'What colour is the box?'"
    answers = [
        typed(f"vlforge chat {model} {ask}", kit).splitlines()[-2]
        for model in ("checkpoints/llava-v1.5-7b-merged", "hf")
    ]
    assert answers[0] == answers[1] != ""
