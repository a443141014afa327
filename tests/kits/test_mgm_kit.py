"""Mini-Gemini's command lines, one after the other in its folder in small, as they were typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openpyxl
import pytest
import torch
from safetensors import safe_open

from tests.kits.typed import asked, lines_of, served, typed
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature

pytestmark = pytest.mark.slow

TRAIN = """vlforge compat deepspeed mgm/train/train_mem.py \
    --deepspeed ./scripts/zero2_offload.json \
    --model_name_or_path model_zoo/LLM/gemma/gemma-2b-it \
    --version gemma \
    --vision_tower model_zoo/OpenAI/clip-vit-large-patch14-336 \
    --vision_tower_aux \
        model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup \
    --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 \
    --mm_use_im_start_end False --mm_use_im_patch_token False \
    --image_size_aux 768 --bf16 True --num_train_epochs 1 \
    --per_device_train_batch_size 2 --per_device_eval_batch_size 4 \
    --gradient_accumulation_steps 2 \
    --evaluation_strategy no --save_strategy steps --save_total_limit 1 \
    --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 \
    --tf32 True --model_max_length 2048 --gradient_checkpointing True \
    --dataloader_num_workers 4 --lazy_preprocess True --report_to none"""
STAGE_1 = f"""{TRAIN} \
    --data_path ./data/MGM-Pretrain/mgm_pretrain.json --image_folder ./data/MGM-Pretrain \
    --tune_mm_mlp_adapter True --save_steps 24000 --learning_rate 1e-3 \
    --output_dir ./work_dirs/MGM-2B-Pretrain"""
FINETUNE = f"""{TRAIN} \
    --data_path ./data/MGM-Finetune/mgm_instruction.json --image_folder ./data/MGM-Finetune \
    --pretrain_mm_mlp_adapter ./work_dirs/MGM-2B-Pretrain/mm_projector.bin \
    --image_aspect_ratio pad --group_by_modality_length True \
    --save_steps 1000 --learning_rate 2e-5"""
STAGE_2 = f"{FINETUNE} --output_dir ./work_dirs/MGM-2B"
LORA = f"""{FINETUNE} --lora_enable True --lora_r 4 --lora_alpha 8 \
    --output_dir ./work_dirs/MGM-2B-lora"""
MERGE = """vlforge compat python scripts/merge_lora_weights.py \
    --model-path ./work_dirs/MGM-2B-lora --model-base model_zoo/LLM/gemma/gemma-2b-it \
    --save-model-path ./work_dirs/MGM-2B-merged"""
TEXTVQA = "./data/MGM-Eval/textvqa"
TEXTVQA_SCRIPT = f"""#!/bin/bash
# One process asks its part of the questions on each GPU; then all answers are scored.
MODEL="MGM-2B"
ANSWERS="./work_dirs/textvqa/answers/$MODEL"
PARTS=$(echo "${{CUDA_VISIBLE_DEVICES:-0}}" | tr ',' '\\n' | wc -l)
for PART in $(seq 0 $((PARTS - 1))); do
    python -m mgm.eval.model_vqa_loader --model-path ./work_dirs/$MODEL \\
        --question-file {TEXTVQA}/llava_textvqa_val_v051_ocr.jsonl \\
        --image-folder {TEXTVQA}/train_images \\
        --answers-file $ANSWERS/${{PARTS}}_${{PART}}.jsonl \\
        --num-chunks $PARTS --chunk-idx $PART --temperature 0 --conv-mode gemma &
done
wait
cat $ANSWERS/${{PARTS}}_*.jsonl > $ANSWERS/merge.jsonl
python -m mgm.eval.eval_textvqa --annotation-file {TEXTVQA}/TextVQA_0.5.1_val.json \\
    --result-file $ANSWERS/merge.jsonl
"""
MMBENCH = "./data/MGM-Eval/MMB/mmbench_dev_20230712.tsv"
ASK_MMBENCH = f"""vlforge compat python -m mgm.eval.model_vqa_mmbench \
    --model-path ./work_dirs/MGM-2B --question-file {MMBENCH} \
    --answers-file ./work_dirs/mmbench/answers/MGM-2B.jsonl \
    --single-pred-prompt --temperature 0 --conv-mode gemma"""
UPLOAD = f"""vlforge compat python scripts/convert_mmbench_for_submission.py \
    --annotation-file {MMBENCH} --result-dir ./work_dirs/mmbench/answers \
    --upload-dir ./work_dirs/mmbench/answers_upload --experiment MGM-2B"""
LAYER = r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|\w+_layernorm)\.weight"
CONNECTOR = (
    r"mm_projector\.[02]\.(weight|bias)|vlm_uni_(query|aux|val)_projector\.[01]\.(weight|bias)"
)
ENCODERS = (
    r"vision_tower\.vision_tower\.vision_model\.(embeddings|encoder|pre_layrnorm|post_layernorm)\..+|"
    r"vision_tower_aux\.(vision_stem\.[01]|vision_stages\.[0-3]\.(downsample\.[01]|"
    r"blocks\.\d+\.(conv_dw|norm|mlp\.fc[12])))\.(weight|bias)|"
    r"vision_tower_aux\.vision_stages\.[0-3]\.blocks\.\d+\.gamma"
)
WHOLE = re.compile(rf"model\.(embed_tokens\.weight|norm\.weight|{LAYER}|{CONNECTOR}|{ENCODERS})")
"""Names that Mini-Gemini saves a model with; Gemma has no lm_head."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """Its folder after both stages; `said.json` holds what each line said."""
    folder = tmp_path_factory.mktemp("mgm") / "kit"
    make_miniature("mgm", folder, MiniatureConfig(system="mgm", rows=8))
    said = {"stage 1": typed(STAGE_1, folder), "stage 2": typed(STAGE_2, folder)}
    (folder / "said.json").write_text(json.dumps(said))
    return folder


def found(folder: Path, name: str) -> Path:
    """The one file of that name that a run left under its output folder."""
    (path,) = (*folder.glob(name), *folder.glob(f"*/{name}"))
    return path


def names_in(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_stage_1_leaves_the_published_projector_file(kit):
    weights = torch.load(found(kit / "work_dirs/MGM-2B-Pretrain", "mm_projector.bin"))
    names = {name for name in weights if re.fullmatch(rf"model\.({CONNECTOR})", name)}
    assert len(names) == 4 + 3 * 4
    assert set(weights) - names == {
        name for name in weights if re.fullmatch(rf"model\.({ENCODERS})", name)
    }
    said = json.loads((kit / "said.json").read_text())["stage 1"]
    assert "vlforge train runs/MGM-2B-Pretrain.yaml --out work_dirs/MGM-2B-Pretrain" in said


def test_stage_2_went_on_from_it_and_its_model_has_the_published_layout(kit):
    recipe = (kit / "runs/MGM-2B.yaml").read_text()
    assert "mm_projector.bin" in recipe
    run = found(kit / "work_dirs/MGM-2B", "config.json").parent.relative_to(kit)
    typed(f"vlforge convert-model {run} MGM-2B --to mgm", kit)
    config = json.loads((kit / "MGM-2B/config.json").read_text())
    assert config["model_type"] == "mgm_gemma"
    assert config["architectures"] == ["MGMGemmaForCausalLM"]
    assert (config["mm_projector_type"], config["image_size_aux"]) == ("mlp2x_gelu", 768)
    names = names_in(kit / "MGM-2B/model.safetensors")
    assert {name for name in names if not WHOLE.fullmatch(name)} == set()
    assert sum("vlm_uni" in name for name in names) == 12
    index = json.loads((kit / "MGM-2B/model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == names


def test_lora_becomes_one_whole_model_in_the_published_layout(kit):
    typed(LORA, kit)
    typed(MERGE, kit)
    merged = kit / "work_dirs/MGM-2B-merged"
    assert json.loads((merged / "config.json").read_text())["model_type"] == "mgm_gemma"
    names = names_in(merged / "model.safetensors")
    assert {name for name in names if not WHOLE.fullmatch(name)} == set()
    zoo = kit / "model_zoo/LLM/gemma/gemma-2b-it"
    where = json.loads((zoo / "model.safetensors.index.json").read_text())["weight_map"]
    changed = set()
    with safe_open(merged / "model.safetensors", "pt") as now:
        for name, file in where.items():
            with safe_open(zoo / file, "pt") as base:
                before = base.get_tensor(name)
            if not torch.equal(before, now.get_tensor(name).to(before)):
                changed.add(name)
    assert changed
    assert all(re.search(r"(q|k|v|o|gate|up|down)_proj", name) for name in changed)


def test_its_layout_is_read_back_to_the_bit(kit):
    ours = found(kit / "work_dirs/MGM-2B", "model.safetensors")
    typed(f"vlforge convert-model {ours.parent.relative_to(kit)} there --to mgm", kit)
    typed("vlforge convert-model there back --to vlforge", kit)
    with safe_open(ours, "pt") as first, safe_open(kit / "back/model.safetensors", "pt") as second:
        assert set(first.keys()) == set(second.keys())
        for name in first.keys():  # noqa: SIM118
            assert torch.equal(first.get_tensor(name), second.get_tensor(name)), name


def test_the_textvqa_script_leaves_its_answers_and_a_score(kit):
    script = kit / "scripts/gemma/eval/textvqa.sh"
    script.parent.mkdir(parents=True)
    script.write_text(TEXTVQA_SCRIPT)
    said = typed("vlforge compat bash scripts/gemma/eval/textvqa.sh", kit)
    answers = lines_of(kit / "work_dirs/textvqa/answers/MGM-2B/merge.jsonl")
    asked_ids = [row["question_id"] for row in lines_of(
        kit / TEXTVQA / "llava_textvqa_val_v051_ocr.jsonl")]  # fmt: skip
    assert [row["question_id"] for row in answers] == asked_ids
    assert set(answers[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert re.search(r"^textvqa +\d+\.\d %", said, re.M)


def test_mmbench_is_asked_and_becomes_the_sheet_for_upload(kit):
    said = typed(ASK_MMBENCH, kit)
    assert re.search(r"^mmbench +\d+\.\d %", said, re.M)
    answers = lines_of(kit / "work_dirs/mmbench/answers/MGM-2B.jsonl")
    assert len(answers) == len((kit / MMBENCH).read_text().splitlines()) - 1
    typed(UPLOAD, kit)
    sheet = openpyxl.load_workbook(kit / "work_dirs/mmbench/answers_upload/MGM-2B.xlsx").active
    head, *rows = sheet.iter_rows(values_only=True)
    assert {"index", "question", "A", "B", "prediction"} <= set(head)
    place = head.index("prediction")
    assert [row[place] or "" for row in rows] == [answer["text"] for answer in answers]


def test_the_projector_is_taken_out_of_the_whole_model(kit):
    typed(
        "vlforge compat python scripts/extract_mm_projector.py --model-path work_dirs/MGM-2B "
        "--output work_dirs/taken/mm_projector.bin",
        kit,
    )
    taken = torch.load(found(kit / "work_dirs/taken", "mm_projector.bin"))
    whole = torch.load(found(kit / "work_dirs/MGM-2B-Pretrain", "mm_projector.bin"))
    assert {name for name in taken if "mm_projector" in name} == {
        f"model.mm_projector.{place}" for place in ("0.weight", "0.bias", "2.weight", "2.bias")
    }
    name = "model.mm_projector.2.weight"
    assert taken[name].shape == whole[name].shape
    assert not torch.equal(taken[name].float(), whole[name].float()), "stage 2 trained it on"


def test_it_is_talked_to_in_the_terminal_and_by_a_program(kit):
    picture = min((kit / TEXTVQA / "train_images").iterdir()).relative_to(kit)
    question = "What word is written in the picture?"
    said = typed(
        f"vlforge chat work_dirs/MGM-2B/01-instruct --image {picture} --max-new-tokens 8 "
        f"--question '{question}'",
        kit,
    )
    content = [
        {"type": "image_url", "image_url": {"url": picture_url(kit / picture)}},
        {"type": "text", "text": question},
    ]
    body = {
        "model": "01-instruct", "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }  # fmt: skip
    with served(kit, "work_dirs/MGM-2B/01-instruct") as url:
        answer = asked(url, body)["choices"][0]["message"]["content"]
    assert answer
    assert answer in said


def picture_url(path: Path) -> str:
    import base64

    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
