"""Checkpoints of PaddleMIX's Qwen-VL and of MGen-VL: `.pdparams`, and LoRA beside them.

Linear weights lie there as [inputs, outputs]; which those are is told by their names,
since square ones look alike. A LoRA is added as PaddleNLP adds it, in the precision
that its `lora_config.json` names: bf16 rounds the product, its scaling and the sum.

R rank, I inputs, O outputs.
Source: PaddlePaddle/PaddleMIX@6afaf05 (models/qwen_vl, merge_lora_params.py), PaddleNLP's
peft/lora (LoRALinear.merge).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import read_hint, write_hint
from vlforge.checkpoints.pdparams import open_pdparams, read_pdparams, write_pdparams
from vlforge.checkpoints.qwen_vl import (
    CONNECTOR,
    check_family,
    family_config,
    processor_of,
    published_config,
)
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.weights import (
    Lazy,
    Weights,
    has_weights,
    open_weights,
    write_shards,
)
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

LINEAR = re.compile(
    r"(^|\.)((c_attn|c_proj|w1|w2|c_fc|in_proj|out_proj|kv_proj|lm_head)\.weight"
    r"|attn\.in_proj_weight|\w+\.lora_[AB]|lora_[AB])$"
)
"""Names of weights that Paddle stores transposed."""
LORA_STEM, LORA_CONFIG = "lora_model_state", "lora_config.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LANGUAGE = "transformer.llm."


class PaddleLayout:
    """Qwen-VL or MGen-VL as PaddleMIX writes it, or a LoRA of it together with its base."""

    name = "paddle"
    says = "PaddleMIX's Qwen-VL and MGen-VL: model_state*.pdparams; with --base also their LoRA"

    def matches(self, path: Path) -> bool:
        """A `.pdparams` file, a folder with one, or safetensors under Paddle's names."""
        if path.is_file():
            return path.suffix == ".pdparams"
        if any(path.glob("*.pdparams")) or any(path.glob("*.pdparams.index.json")):
            return True
        return has_weights(path) and any(key.startswith(LANGUAGE) for key in open_weights(path))

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """A whole model; a LoRA needs `parts.base`, in any layout of Qwen-VL.

        Raises:
            ModelError: a LoRA without base, or files that are missing or damaged.
        """
        folder = path if path.is_dir() else path.parent
        if _is_lora(path):
            if parts.base is None:
                raise ModelError(f"{path} is a LoRA; name the model that it belongs to with --base")
            return merged(folder, parts.base)
        found = in_torch_layout(_open(path))
        fields = read_config(folder)
        fields, made_up = _completed(fields, found)
        config = family_config(fields)
        has_text = has_tokenizer(folder)
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights={our_name(key): lazy for key, lazy in found.items()},
            tokenizer=folder if has_text else None,
            processor=processor_of(config),
            template=read_hint(folder) or "mgen_vl",
            notes=(*made_up, *(() if has_text else (f"{folder} has no qwen.tiktoken",))),
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """`model_state.pdparams` (or shards), `config.json` and the tokenizer.

        Raises:
            ModelError: another family, or another language model than Qwen-1.
        """
        check_family(checkpoint, self.name)
        cast = how.cast(checkpoint.weights)
        weights = {their_name(name): lazy for name, lazy in cast.items()}
        stored = in_torch_layout(weights)  # its own inverse
        write_shards(
            stored,
            out,
            write_pdparams,
            stem="model_state",
            suffix="pdparams",
            shard_bytes=how.shard_bytes,
            on_shard=how.on_shard,
        )
        fields = published_config(checkpoint.config)
        kinds = {lazy.dtype for lazy in weights.values()}
        if len(kinds) == 1:
            fields["dtype"] = str(kinds.pop()).removeprefix("torch.")
        write_json(out / "config.json", fields)
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, out)
        write_hint(checkpoint, out)


def our_name(key: str) -> str:
    """The name of one of PaddleMIX's tensors in a `QwenVlModel`."""
    if key.startswith(LANGUAGE):
        return "language.transformer." + key.removeprefix(LANGUAGE)
    if key.startswith("visual."):
        inner = key.removeprefix("visual.")
        return (
            f"connector.{inner}"
            if inner.startswith(CONNECTOR)
            else ("vision." + inner.removeprefix("vit."))
        )
    return f"language.{key}"


def their_name(name: str) -> str:
    """PaddleMIX's name of one of a `QwenVlModel`'s tensors."""
    part, _, inner = name.partition(".")
    if part == "vision":
        return f"visual.vit.{inner}"
    if part == "connector":
        return f"visual.{inner}"
    decoder = "transformer."
    return LANGUAGE + inner.removeprefix(decoder) if inner.startswith(decoder) else inner


def in_torch_layout(weights: Weights) -> dict[str, Lazy]:
    """Paddle's tensors as torch lays them out, or torch's as Paddle does."""
    return {
        key: lazy.map(torch.t, lazy.shape[::-1]) if LINEAR.search(key) else lazy
        for key, lazy in weights.items()
    }


def read_weights(path: Path) -> dict[str, Lazy]:
    """The tensors of a `.pdparams` file or folder under Paddle's names, in torch's layout.

    Raises:
        ModelError: no such file, or one that cannot be read.
    """
    return in_torch_layout(_open(path))


@dataclass(frozen=True)
class PaddleLora:
    """A LoRA of Paddle: `a` [I, R] and `b` [R, O] by the name of the weight they change.

    whole: tensors that replace the base's own (`trainable_modules`, biases).
    """

    pairs: Mapping[str, tuple[Lazy, Lazy]]
    whole: Mapping[str, Lazy]
    scale: float
    dtype: torch.dtype

    @classmethod
    def read(cls, folder: Path) -> PaddleLora:
        """A folder with `lora_model_state.pdparams` and `lora_config.json`.

        Raises:
            ModelError: files that are missing, or a kind of LoRA that is not read.
        """
        fields = _lora_fields(folder / LORA_CONFIG)
        found = open_pdparams(folder, LORA_STEM)
        pairs = {}
        for key, lazy in found.items():
            if not key.endswith(".lora_A"):
                continue
            module = key.removesuffix(".lora_A")
            if f"{module}.lora_B" not in found:
                raise ModelError(f"{lazy.where} has no lora_B; copy the LoRA's files again")
            pairs[f"{module}.weight"] = (lazy, found[f"{module}.lora_B"])
        if not pairs:
            raise ModelError(f"{folder / LORA_STEM}.pdparams holds no lora_A")
        whole = {key: v for key, v in in_torch_layout(found).items() if "lora_" not in key}
        rank = fields["r"]
        root = math.sqrt(rank) if fields.get("rslora") else rank
        dtype = DTYPES[str(fields.get("dtype") or "float32")]
        return cls(pairs, whole, fields["lora_alpha"] / root, dtype)

    def renamed(self) -> PaddleLora:
        """The same under our names."""
        pairs = {our_name(key): pair for key, pair in self.pairs.items()}
        return replace(self, pairs=pairs, whole={our_name(k): v for k, v in self.whole.items()})

    def onto(self, base: Weights) -> dict[str, Lazy]:
        """The base in torch's layout with this LoRA in it, all of it in the LoRA's precision.

        Raises:
            ModelError: a tensor of the LoRA that the base has no place for.
        """
        out = {name: lazy.to(self.dtype) for name, lazy in base.items()}
        for name, (a, b) in self.pairs.items():
            shape = (b.shape[1], a.shape[0])
            if name not in out or out[name].shape != shape:
                has = f"has shape {list(out[name].shape)}" if name in out else "is not there"
                raise ModelError(
                    f"{a.where} changes {name} of shape {list(shape)}, which in the base {has}; "
                    "the LoRA belongs to another model"
                )
            out[name] = Lazy.joined([out[name], a, b], self._add, shape, self.dtype)
        lost = sorted(set(self.whole) - set(out))
        if lost:
            raise ModelError(f"{self.whole[lost[0]].where} has no place in the base model")
        return out | {name: lazy.to(self.dtype) for name, lazy in self.whole.items()}

    def _add(self, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return weight + (a.to(self.dtype) @ b.to(self.dtype) * self.scale).t()


def merged(folder: Path, base: Path) -> Checkpoint:
    """A LoRA's folder and the Qwen-VL or MGen-VL it was trained on, as one model.

    Raises:
        ModelError: a base of another kind, or of other sizes.
    """
    from vlforge.checkpoints.index import read_checkpoint

    lora = PaddleLora.read(folder).renamed()
    whole = read_checkpoint(base)
    check_family(whole, PaddleLayout.name)
    weights = lora.onto(whole.weights)
    note = f"LoRA of {folder} added to {base} in {str(lora.dtype).removeprefix('torch.')}"
    return replace(whole, path=folder, layout="paddle", weights=weights, notes=(*whole.notes, note))


def _is_lora(path: Path) -> bool:
    if path.is_file():
        return path.name.startswith(LORA_STEM)
    has_lora = any(path.glob(f"{LORA_STEM}*"))
    return has_lora and not any(path.glob("model_state*")) and not has_weights(path)


def _open(path: Path) -> dict[str, Lazy]:
    if path.suffix == ".pdparams":
        return read_pdparams(path)
    return open_weights(path) if has_weights(path) else open_pdparams(path)


def _lora_fields(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        rank, alpha = int(fields["r"]), float(fields["lora_alpha"])
    except OSError:
        raise ModelError(f"{file.parent} lacks {file.name}; copy it from the LoRA's run") from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{file} names no r and lora_alpha; copy it again") from None
    odd = [name for name in ("pissa", "lora_use_mixer", "do_qat") if fields.get(name)]
    if odd or rank < 1 or str(fields.get("dtype") or "float32") not in DTYPES:
        what = odd[0] if odd else f"r {rank}, dtype {fields.get('dtype')!r}"
        raise ModelError(f"{file}: {what} is not read; merge it with PaddleNLP")
    return {**fields, "r": rank, "lora_alpha": alpha}


def _completed(fields: dict[str, Any], found: Weights) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings with what they leave to another file taken from the weights, and a note of it.

    PaddleMIX's configuration may only name its language model.
    """
    told = {**fields, "visual": dict(fields.get("visual") or {})}
    sizes, visual = _sizes(found)
    lost = [name for name in sizes if name not in fields]
    lost_visual = [name for name in visual if name not in told["visual"]]
    told |= {name: sizes[name] for name in lost}
    told["visual"] |= {name: visual[name] for name in lost_visual}
    if not lost and not lost_visual:
        return told, ()
    names = ", ".join([*lost, *(f"visual.{name}" for name in lost_visual)])
    return told, (f"config.json does not say {names}; taken from the weights' shapes",)


def _sizes(found: Weights) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes of the language model and of the encoder, from shapes and published defaults."""
    first, vit = LANGUAGE + "h.0.", "visual.vit."
    wanted = (f"{LANGUAGE}wte.weight", f"{first}attn.c_attn.weight", f"{first}mlp.w1.weight",
              f"{vit}conv1.weight", f"{vit}transformer.resblocks.0.mlp.c_fc.weight")  # fmt: skip
    lost = [name for name in wanted if name not in found]
    if lost:
        raise ModelError(f"the weights lack {lost[0]}; this is no Qwen-VL of PaddleMIX")
    words, triple, inner, patch, hidden = (found[name].shape for name in wanted)
    heads = max(triple[0] // 3 // 128, 1)
    language = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "num_hidden_layers": _count(found, LANGUAGE + r"h\.(\d+)\."),
        "num_attention_heads": heads,
        "kv_channels": triple[0] // 3 // heads,
        "intermediate_size": 2 * inner[0],
    }
    visual = {
        "width": patch[0],
        "patch_size": patch[2],
        "image_size": 448,
        "layers": _count(found, vit + r"transformer\.resblocks\.(\d+)\."),
        "heads": 16,
        "mlp_ratio": (hidden[0] + 0.5) / patch[0],
    }
    return language, visual


def _count(found: Weights, pattern: str) -> int:
    numbers = (re.match(pattern, key) for key in found)
    return 1 + max((int(match.group(1)) for match in numbers if match), default=-1)
