"""A Better Synth folder of a few kilobytes: the kit's layout, with nothing in it that runs."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

from PIL import Image

from vlforge.challenges.better_synth.config import (
    MMBENCH_TABLE,
    MODELS,
    ROUNDS,
    SCRIPTS,
    TEXTVQA_ANSWERS,
    TEXTVQA_IMAGES,
    TEXTVQA_QUESTIONS,
)

SCRIPT = """\
#!/bin/bash
### Editable Part Begins ###
EXP_NAME=default
PRETRAIN_DATASET=../input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl
PRETRAIN_DATASET_IMAGE_PATH=../input/pretrain_stage_1_10k
PRETRAIN_BATCH_SIZE_PER_GPU=4
PRETRAIN_GRADIENT_ACCUMULATION_STEPS=64
FINETUNE_BATCH_SIZE_PER_GPU=4
FINETUNE_GRADIENT_ACCUMULATION_STEPS=32
CKPT_SAVE_STEPS=100
INFER_CUDA_IDX="0"
### Editable Part Ends ###
SCRIPT_DIR=$(cd "$(dirname "$0")" && pwd)
ORIGINAL_DATASET_ALL=$SCRIPT_DIR/../input/pretrain_stage_1_10k/stage_1.json
FIXED=$SCRIPT_DIR/training/data/finetuning_stage_1_12k
deepspeed $SCRIPT_DIR/training/train.py --data_path $PRETRAIN_DATASET \\
    --image_folder $PRETRAIN_DATASET_IMAGE_PATH --learning_rate 1e-3
deepspeed $SCRIPT_DIR/training/train.py --data_path $FIXED/mgm_instruction_stage_1_12k.json \\
    --image_folder $FIXED --learning_rate 2e-5
"""
RECIPE = """\
dataset_path: input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl
export_path: output/image_captioning_output/res_10k.jsonl
process:
  - image_captioning_mapper: {hf_img2seq: models/blip2-opt-2.7b, keep_original_sample: false}
"""
IDS = ("006092514", "006092515", "006092516")
OFFLINE = ROUNDS["offline"]


def write_kit(folder: Path) -> Path:
    """The whole folder, without what `init` adds."""
    _write_seed(folder / OFFLINE.seed)
    _write(folder / "solution/image_captioning.yaml", RECIPE)
    _write(folder / "solution/readme", "What is done, and why.\n")
    _write(folder / "solution/requirements.txt", "vlforge\n")
    _write(folder / SCRIPTS[0], SCRIPT)
    _write(folder / "toolkit/training/train.py", "print('trains')\n")
    for name in ("textvqa", "mmbench"):
        _write(folder / f"toolkit/eval/{name}.sh", "true\n")
    fixed = (folder / OFFLINE.finetuning).parent
    _picture(fixed / "coco/1.jpg", 40)
    _write_json(folder / OFFLINE.finetuning, [_conversation("i1", "coco/1.jpg", "Which colour?")])
    _write_benchmarks(folder)
    _write_models(folder)
    return folder


def _write_seed(seed: Path) -> None:
    rows, asked = [], []
    for number, name in enumerate(IDS):
        image = f"images/00609/{name}.jpg"
        _picture(seed / image, 10 * number)
        text = f"<__dj__image> picture {number}\n <|__dj__eoc|>"
        rows.append(json.dumps({"id": name, "text": text, "images": [image]}))
        asked.append(_conversation(name, image, "Give a brief description."))
    _write(seed / OFFLINE.rows, "\n".join(rows) + "\n")
    _write_json(seed / "stage_1.json", asked)


def _write_benchmarks(folder: Path) -> None:
    asks = "What is written?\nReference OCR token: STOP\nAnswer the question using a single word."
    question = {"question_id": "a1", "image": "a1.jpg", "text": asks, "category": "default"}
    _write(folder / TEXTVQA_QUESTIONS, json.dumps(question) + "\n")
    answers = {"image_id": "a1", "question": "What is written?", "answers": ["stop"] * 10}
    _write_json(folder / TEXTVQA_ANSWERS, {"data": [answers | {"question_id": 1}]})
    _picture(folder / TEXTVQA_IMAGES / "a1.jpg", 200)
    image = base64.b64encode(_picture(folder / "b.jpg", 220).read_bytes()).decode()
    (folder / "b.jpg").unlink()
    heads = ("index", "question", "hint", "A", "B", "answer", "category", "image", "split")
    cells = ("1", "Which colour is it?", "", "grey", "red", "A", "colour", image, "dev")
    _write(folder / MMBENCH_TABLE, "\t".join(heads) + "\n" + "\t".join(cells) + "\n")


def _write_models(folder: Path) -> None:
    language, vision, high = (folder / MODELS[part] for part in MODELS)
    sizes = {"vocab_size": 2, "hidden_size": 3}
    _write_json(language / "config.json", {"model_type": "gemma", **sizes})
    _write_json(language / "tokenizer.json", {})
    write_safetensors(language / "model.safetensors", (2, 3))
    _write_json(vision / "config.json", {"model_type": "clip"})
    _write_bin(vision / "pytorch_model.bin")
    _write_bin(high / "open_clip_pytorch_model.bin")


def write_safetensors(path: Path, shape: tuple[int, ...]) -> None:
    """A file with the embeddings alone, of one-byte numbers."""
    size = shape[0] * shape[1]
    entry = {"dtype": "U8", "shape": list(shape), "data_offsets": [0, size]}
    head = json.dumps({"model.embed_tokens.weight": entry}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))


def _write_bin(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("archive/data.pkl", b"")


def _conversation(row_id: str, image: str, question: str) -> dict[str, object]:
    asked = {"from": "human", "value": f"<image>\n{question}"}
    return {
        "id": row_id,
        "image": image,
        "conversations": [asked, {"from": "gpt", "value": "A colour."}],
    }


def _picture(path: Path, tone: int) -> Path:
    content = io.BytesIO()
    Image.new("RGB", (32, 24), (tone, tone, tone)).save(content, "JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value))
