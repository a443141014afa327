"""Runs of XTuner in small: what one leaves on disk, and the model that it had in memory."""

from __future__ import annotations

import json
import re
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

from tests.checkpoints.tiny_llava import LANGUAGES, SIZES, TOWERS

WIDTH = SIZES["hidden_size"]
LLM_LORA = {"r": 3, "lora_alpha": 6, "lora_dropout": 0.05}
VISION_LORA = {"r": 2, "lora_alpha": 5, "lora_dropout": 0.05}
LLM_TARGETS = ["q_proj", "v_proj", "down_proj", "gate_proj"]
VISION_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
RECIPE = """
import torch
from peft import LoraConfig
from xtuner.utils import PROMPT_TEMPLATE

llm_name_or_path = 'lmsys/vicuna-7b-v1.5'
visual_encoder_name_or_path = 'openai/' + 'clip-tiny'
prompt_template = PROMPT_TEMPLATE.phi3_chat
max_length = int(2048 - (336 / 14)**2)
model = dict(
    type=LLaVAModel,
    freeze_llm=True,
    llm=dict(pretrained_model_name_or_path=llm_name_or_path, torch_dtype=torch.float16),
    llm_lora=dict(type=LoraConfig, r=3, lora_alpha=6, lora_dropout=0.05, bias='none'),
    visual_encoder=dict(pretrained_model_name_or_path=visual_encoder_name_or_path),
    visual_encoder_lora=dict(type=LoraConfig, r=2, lora_alpha=5, lora_dropout=0.05))
llava_dataset = dict(type=LLaVADataset, pad_image_to_square=True)
"""
"""A configuration as XTuner's are written: names, calls and sums that are never run."""


class Projector(nn.Module):
    """XTuner's: linear layers with exact GELU between them, under `model`."""

    def __init__(self, inputs: int, outputs: int, depth: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, outputs)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(outputs, outputs)]
        self.model = nn.Sequential(*layers)

    def forward(self, tokens):
        return self.model(tokens)


class Run(nn.Module):
    """The three parts as a run holds them, LoRA within, under XTuner's names."""

    def __init__(self, llm, visual_encoder, projector):
        super().__init__()
        self.llm, self.visual_encoder, self.projector = llm, visual_encoder, projector

    def forward(self, ids, pixels):
        """Logits [L, V] of one row with one picture at -200."""
        states = self.visual_encoder(pixels, output_hidden_states=True).hidden_states
        picture = self.projector(states[-2][:, 1:])[0]
        at = ids.index(-200)
        words = self.llm.get_input_embeddings()
        before, after = (words(torch.tensor(part)) for part in (ids[:at], ids[at + 1 :]))
        return self.llm(inputs_embeds=torch.cat([before, picture, after])[None]).logits[0]


@dataclass
class Trained:
    """A run's folders and its model."""

    llm: Path
    clip: Path
    model: Run

    def state(self) -> OrderedDict[str, torch.Tensor]:
        """What XTuner saves: adapters or whole parts that learned, and the projector."""
        state = {as_then(name): value for name, value in self.model.state_dict().items()}
        kept = OrderedDict()
        for part in ("visual_encoder.", "llm."):
            own = {name: value for name, value in state.items() if name.startswith(part)}
            adapted = {name: value for name, value in own.items() if ".lora_" in name}
            learns = any(
                p.requires_grad for n, p in self.model.named_parameters() if n.startswith(part)
            )
            kept |= adapted or (own if learns else {})
        return kept | {n: v for n, v in state.items() if n.startswith("projector.")}


def as_then(name: str) -> str:
    """A name as transformers 4 has it: its CLIP keeps the encoder under `vision_model`."""
    parts = r"(^visual_encoder\.(?:base_model\.model\.)?)(?=embeddings|encoder|pre_|post_)"
    return re.sub(parts, r"\1vision_model.", name)


def run(
    folder: Path,
    *,
    language: str = "llama",
    llm: str = "lora",
    vision: str = "lora",
    depth: int = 2,
) -> Trained:
    """A run over new parts; `llm` and `vision` are "lora", "full" or "frozen"."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LANGUAGES[language]())
    clip = CLIPVisionModel(TOWERS["clip"]())
    base.save_pretrained(folder / "llm")
    clip.save_pretrained(folder / "clip")
    (folder / "clip" / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 8}, "crop_size": 8, "resample": 3})
    )
    projector = Projector(clip.config.hidden_size, WIDTH, depth)
    parts = [
        _learning(base, llm, LLM_LORA, LLM_TARGETS, "CAUSAL_LM"),
        _learning(clip, vision, VISION_LORA, VISION_TARGETS, None),
        projector,
    ]
    for parameter in (p for part in parts for p in part.parameters() if p.requires_grad):
        parameter.data += 0.2 * torch.randn_like(parameter)
    return Trained(folder / "llm", folder / "clip", Run(*parts).eval())


def _learning(model, how: str, lora, targets, task):
    model.requires_grad_(how == "full")
    if how != "lora":
        return model
    config = peft.LoraConfig(**lora, target_modules=targets, task_type=task)
    return peft.get_peft_model(model, config)


def write_pth(path: Path, run: Trained, *, recipe: str | None = RECIPE, **more) -> Path:
    """`iter_N.pth` as mmengine writes it."""
    meta = {"iter": 7, "seed": 0} | ({} if recipe is None else {"cfg": recipe})
    torch.save({"meta": meta, "state_dict": run.state(), **more}, path)
    return path


def write_hf(out: Path, run: Trained) -> Path:
    """What `xtuner convert pth_to_hf` makes, without its two Python files."""
    model = run.model
    for part, adapter, whole in (
        (model.llm, "llm_adapter", "."),
        (model.visual_encoder, "visual_encoder_adapter", "visual_encoder"),
    ):
        if isinstance(part, peft.PeftModel):
            part.save_pretrained(out / adapter)
            _rename(out / adapter / "adapter_model.safetensors")
        elif any(parameter.requires_grad for parameter in part.parameters()):
            part.save_pretrained(out / whole)
            _rename(out / whole / "model.safetensors")
    (out / "projector").mkdir(parents=True)
    save_file(dict(model.projector.state_dict()), out / "projector" / "model.safetensors")
    depth = len(model.projector.state_dict()) // 2
    fields = {"model_type": "projector", "depth": depth, "hidden_act": "gelu", "bias": True}
    (out / "projector" / "config.json").write_text(json.dumps(fields))
    (out / "xtuner_config.py").write_text(RECIPE)
    return out


def _rename(file: Path) -> None:
    """The file's names as transformers 4 writes them."""
    part = "visual_encoder." if "visual_encoder" in str(file.parent.name) else ""
    tensors = load_file(file)
    save_file({as_then(part + key).removeprefix(part): t for key, t in tensors.items()}, file)


def write_zero(out: Path, run: Trained, stage: int, ranks: int) -> Path:
    """The same as DeepSpeed's folder: a plain restatement of how ZeRO cuts parameters."""
    out.mkdir(parents=True)
    state = run.state()
    names = list(state)
    groups = [names[::2], names[1::2]]
    shapes = [OrderedDict((name, state[name].shape) for name in group) for group in groups]
    pieces: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        flat = [state[name].float().flatten() for name in group]
        if stage < 3:
            whole = torch.cat(flat)
            padded = nn.functional.pad(whole, (0, -len(whole) % (2 * ranks)))
            cut = padded.chunk(ranks)
        else:
            each = [nn.functional.pad(one, (0, -len(one) % ranks)).chunk(ranks) for one in flat]
            cut = [torch.cat([one[rank] for one in each]) for rank in range(ranks)]
        for rank, part in enumerate(cut):
            pieces[rank].append(part.clone())
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    for rank in range(ranks):
        scaler = foreign("deepspeed.runtime.fp16.loss_scaler", "LossScaler")
        optimizer = {"zero_stage": stage, "partition_count": ranks, "loss_scaler": scaler}
        optimizer[key] = pieces[rank]
        name = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": optimizer, "ds_version": "0.16.2"}, out / name)
    model = {
        "module": {name: value.half() for name, value in state.items()} if stage < 3 else {},
        "buffer_names": [], "param_shapes": shapes, "frozen_param_shapes": None,
        "shared_params": {}, "ds_version": "0.16.2", "meta": {"iter": 7, "cfg": RECIPE},
    }  # fmt: skip
    prefix = "zero_pp_rank_0_" if stage == 3 else ""
    torch.save(model, out / f"{prefix}mp_rank_00_model_states.pt")
    return out


def foreign(module: str, name: str):
    """An object of a class that is only there while it is written."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(parts[depth - 1]))
    made = sys.modules[module]
    if not hasattr(made, name):
        kind = type(name, (), {"__module__": module, "mean": _mean})
        kind.mean.__module__, kind.mean.__qualname__ = module, f"{name}.mean"
        setattr(made, name, kind)
    thing = getattr(made, name)()
    thing.log, thing.how = np.arange(3.0), getattr(made, name).mean
    return thing


def _mean(history) -> float:
    return float(history.log.mean())


def forget_foreign() -> None:
    """Take the made-up modules away again."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmengine", "deepspeed")]:
        del sys.modules[name]


__all__ = [
    "CLIPVisionConfig",
    "foreign",
    "forget_foreign",
    "run",
    "write_hf",
    "write_pth",
    "write_zero",
]  # fmt: skip
