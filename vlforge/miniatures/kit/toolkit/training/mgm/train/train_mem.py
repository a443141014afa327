"""Stands in for MGM's training: the same arguments, the same files, seconds on a CPU.

What learns is a table of how often each byte follows nothing, so that the loss comes from
the data and falls. What is written has the published layout: `mm_projector.bin` after the
first stage, the whole model after the second, a line of numbers per logged step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time

FLAGS = (
    "deepspeed", "model_name_or_path", "version", "data_path", "image_folder", "vision_tower",
    "vision_tower_aux", "pretrain_mm_mlp_adapter", "mm_projector_type", "tune_mm_mlp_adapter",
    "mm_vision_select_layer", "mm_use_im_start_end", "mm_use_im_patch_token",
    "image_aspect_ratio", "group_by_modality_length", "image_size_aux", "bf16", "output_dir",
    "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "evaluation_strategy", "save_strategy", "save_steps",
    "save_total_limit", "learning_rate", "weight_decay", "warmup_ratio", "lr_scheduler_type",
    "logging_steps", "tf32", "model_max_length", "gradient_checkpointing",
    "dataloader_num_workers", "lazy_preprocess", "report_to",
)  # fmt: skip


def main() -> None:
    """Train, log and save."""
    parser = argparse.ArgumentParser()
    for flag in FLAGS:
        parser.add_argument(f"--{flag}")
    given = parser.parse_args()
    for folder in (given.model_name_or_path, given.vision_tower, given.vision_tower_aux):
        if not os.path.isdir(folder):
            raise FileNotFoundError(folder)
    with open(given.data_path, encoding="utf-8") as file:
        rows = json.load(file)
    for row in rows:
        if "image" in row and not os.path.isfile(os.path.join(given.image_folder, row["image"])):
            raise FileNotFoundError(os.path.join(given.image_folder, row["image"]))
    history = train(rows, given)
    save(given, history)


def train(rows: list[dict], given: argparse.Namespace) -> list[dict]:
    """One pass in batches; prints a line per logged step and returns them all."""
    batch = int(given.per_device_train_batch_size) * int(given.gradient_accumulation_steps)
    random.Random(42).shuffle(rows)
    total = max(1, math.ceil(len(rows) / batch)) * int(float(given.num_train_epochs))
    warm = math.ceil(total * float(given.warmup_ratio))
    counts, seen, losses, history = [1] * 256, 256, [], []
    begun = time.time()
    for step in range(1, total + 1):
        texts = [answers(row) for row in rows[(step - 1) * batch : step * batch]]
        content = "\n".join(texts).encode()
        loss = -sum(math.log(counts[byte] / seen) for byte in content) / max(1, len(content))
        for byte in content:
            counts[byte] += 1
        seen += len(content)
        losses.append(loss)
        if step % int(given.logging_steps) == 0:
            rate = learning_rate(step, total, warm) * float(given.learning_rate)
            epoch = round(step / total, 2)
            line = {"loss": round(loss, 4), "learning_rate": rate, "epoch": epoch}
            history.append(line | {"step": step})
            print(line, flush=True)
    spent = max(1e-3, time.time() - begun)
    end = {
        "train_runtime": round(spent, 4), "train_samples_per_second": round(len(rows) / spent, 3),
        "train_steps_per_second": round(total / spent, 3),
        "train_loss": sum(losses) / len(losses), "epoch": 1.0,
    }  # fmt: skip
    print(end, flush=True)
    return [*history, end | {"step": total}]


def answers(row: dict) -> str:
    """What the model would have to say."""
    return "\n".join(turn["value"] for turn in row["conversations"][1::2])


def learning_rate(step: int, total: int, warm: int) -> float:
    """The share of the top rate: a linear rise, then half a cosine down to nothing."""
    if step < warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def save(given: argparse.Namespace, history: list[dict]) -> None:
    """The published files: the projector alone, or the whole model."""
    import torch

    os.makedirs(given.output_dir, exist_ok=True)
    with open(os.path.join(given.model_name_or_path, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config |= {
        "model_type": "mgm_gemma", "architectures": ["MGMGemmaForCausalLM"],
        "mm_vision_tower": given.vision_tower, "mm_vision_tower_aux": given.vision_tower_aux,
        "mm_projector_type": given.mm_projector_type, "use_mm_proj": True,
        "mm_vision_select_layer": int(given.mm_vision_select_layer),
        "mm_vision_select_feature": "patch", "image_size_aux": int(given.image_size_aux),
        "image_aspect_ratio": given.image_aspect_ratio or "square", "image_grid": 1,
        "image_global": False, "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
    }  # fmt: skip
    if given.pretrain_mm_mlp_adapter:
        projector = torch.load(given.pretrain_mm_mlp_adapter, weights_only=True)
        state = language(given.model_name_or_path) | projector
        torch.save(state, os.path.join(given.output_dir, "pytorch_model.bin"))
        for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
            source = os.path.join(given.model_name_or_path, name)
            shutil.copyfile(source, os.path.join(given.output_dir, name))
    else:
        state = new_projector(given, int(config["hidden_size"]))
        torch.save(state, os.path.join(given.output_dir, "mm_projector.bin"))
    for name, fields in (("config", config), ("trainer_state", {"log_history": history})):
        with open(os.path.join(given.output_dir, f"{name}.json"), "w", encoding="utf-8") as file:
            json.dump(fields, file, indent=2)


def language(folder: str) -> dict:
    """The language model's tensors, all shards together."""
    from safetensors.torch import load_file

    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    return {k: v for name in names for k, v in load_file(os.path.join(folder, name)).items()}


def new_projector(given: argparse.Namespace, width: int) -> dict:
    """Projector and patch mining under their published names."""
    import torch

    with open(os.path.join(given.vision_tower, "config.json"), encoding="utf-8") as file:
        low = int(json.load(file)["vision_config"]["hidden_size"])
    weights = os.path.join(given.vision_tower_aux, "open_clip_pytorch_model.bin")
    trunk = torch.load(weights, weights_only=True)
    high = sum(trunk[f"visual.trunk.stages.{n}.blocks.0.gamma"].shape[0] for n in range(4))
    torch.manual_seed(42)
    state = {}
    for at, columns in (("0", low), ("2", width)):
        state[f"model.mm_projector.{at}.weight"] = torch.randn(width, columns) / columns**0.5
        state[f"model.mm_projector.{at}.bias"] = torch.zeros(width)
    for part, columns in (("query", low), ("aux", high), ("val", high)):
        name = f"model.vlm_uni_{part}_projector"
        state |= {f"{name}.0.weight": torch.ones(columns), f"{name}.0.bias": torch.zeros(columns)}
        state[f"{name}.1.weight"] = torch.randn(low, columns) / columns**0.5
        state[f"{name}.1.bias"] = torch.zeros(low)
    return {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}


if __name__ == "__main__":
    main()
