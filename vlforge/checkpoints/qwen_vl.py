"""Checkpoints as Qwen-VL and Qwen-VL-Chat are published: safetensors or `.bin`, sharded.

Source: Qwen/Qwen-VL-Chat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import read_hint, write_hint
from vlforge.checkpoints.llava_lora import adapter_of, base_of, write_adapter
from vlforge.checkpoints.lora import is_adapter, open_adapter
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.weights import has_weights, open_weights, write_weights
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.language import text_config
from vlforge.models.parts.qwen_lm import QwenConfig
from vlforge.models.parts.qwen_vit import POSITIONS
from vlforge.models.qwen_vl import QwenVlConfig, end_ids, vit_config
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

CONNECTOR = ("attn_pool.", "ln_post.", "proj")
"""What of the published `visual` is the connector here."""
VISUAL = "transformer.visual."
TABLES = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias", ".logn_tensor")
"""Ends of names that older files carry; they are computed."""


class QwenVlLayout:
    """Qwen-VL(-Chat) as published: `transformer.visual.*`, `transformer.h.*`, `lm_head`."""

    name = "qwen_vl"
    says = "Qwen-VL and Qwen-VL-Chat: config.json (qwen, visual), model*.safetensors or .bin"

    def matches(self, path: Path) -> bool:
        """A folder with Qwen's configuration, `visual` settings in it, and torch's weights."""
        if not (path / "config.json").is_file() or not has_weights(path):
            return False
        fields = read_config(path)
        if fields.get("model_type") != "qwen" or "visual" not in fields:
            return False
        return any(key.startswith(VISUAL) for key in open_weights(path))

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """Everything lies in the folder; `parts` is not needed.

        Raises:
            ModelError: quantised weights, or settings that are missing.
        """
        fields = read_config(path)
        if "visual" not in fields:
            raise ModelError(f"{path}: config.json has no visual settings; this is no Qwen-VL")
        found = open_weights(path)
        if any(key.endswith(".qweight") for key in found):
            raise ModelError(f"{path} holds 4-bit weights (GPTQ); take the full Qwen-VL instead")
        unused = tuple(f"{key} (computed)" for key in found if key.endswith(TABLES))
        weights = {our_name(key): v for key, v in found.items() if not key.endswith(TABLES)}
        config = family_config(fields)
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=weights,
            tokenizer=path if has_tokenizer(path) else None,
            processor=processor_of(config),
            template=read_hint(path) or "qwen_vl",
            unused=unused,
            notes=() if has_tokenizer(path) else (f"{path} has no qwen.tiktoken",),
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The folder as Qwen publishes it, without its code.

        Raises:
            ModelError: another family, or another language model than Qwen-1.
        """
        check_family(checkpoint, self.name)
        cast = how.cast(checkpoint.weights)
        weights = {their_name(name): lazy for name, lazy in cast.items()}
        write_weights(
            weights, out, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard
        )
        fields = published_config(checkpoint.config)
        kinds = {lazy.dtype for lazy in weights.values()}
        if len(kinds) == 1:
            fields["torch_dtype"] = str(kinds.pop()).removeprefix("torch.")
        write_json(out / "config.json", fields)
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, out)
        write_hint(checkpoint, out)


class QwenVlLoraLayout:
    """A LoRA of Qwen-VL as its finetune.py leaves it: peft's files, the base elsewhere."""

    name = "qwen_vl_lora"
    says = "LoRA of Qwen-VL's finetune.py: adapter_model.*, adapter_config.json; needs --base"
    is_part = True

    def matches(self, path: Path) -> bool:
        """A folder of peft's whose adapter changes Qwen's blocks."""
        if not is_adapter(path):
            return False
        adapter = open_adapter(path)
        return any(name.startswith("transformer.h.") for name in [*adapter.pairs, *adapter.whole])

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The base, in any layout of Qwen-VL, with the adapter in it.

        Raises:
            ModelError: no base, one of another kind, or tensors that do not land.
        """
        from vlforge.checkpoints.index import read_checkpoint

        adapter = open_adapter(path).renamed(our_name)
        base = read_checkpoint(base_of(path, parts))
        check_family(base, self.name)
        weights = adapter.onto(base.weights)
        extra = {**base.extra, "adapter": adapter}
        return replace(base, path=path, layout=self.name, weights=weights, extra=extra)

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The adapter alone, for the same base.

        Raises:
            ModelError: the checkpoint was not read with an adapter.
        """
        check_family(checkpoint, self.name)
        write_adapter(adapter_of(checkpoint), out, how, their_name)
        write_hint(checkpoint, out)


def our_name(key: str) -> str:
    """The name of one of Qwen-VL's tensors in a `QwenVlModel`."""
    if not key.startswith(VISUAL):
        return f"language.{key}"
    inner = key.removeprefix(VISUAL)
    return ("connector." if inner.startswith(CONNECTOR) else "vision.") + inner


def their_name(name: str) -> str:
    """The published name of one of a `QwenVlModel`'s tensors."""
    part, _, inner = name.partition(".")
    return inner if part == "language" else VISUAL + inner


def family_config(fields: Mapping[str, Any]) -> QwenVlConfig:
    """Our configuration from Qwen-VL's.

    Raises:
        ModelError: `visual` settings that are missing, or a width that does not fit.
    """
    visual = dict(fields["visual"])
    text = text_config({**fields, "model_type": QwenConfig.model_type})
    width, queries = visual.get("output_dim", text.hidden_size), visual.get("n_queries", POSITIONS)
    if width != text.hidden_size or queries != POSITIONS:
        raise ModelError(
            f"config.json: visual gives {queries} tokens of width {width}, and the language "
            f"model takes {POSITIONS} of width {text.hidden_size}; they do not belong together"
        )
    start = int(visual.get("image_start_id", QwenVlConfig().image_start_id))
    if text.eos_token_id is None:
        text.eos_token_id, text.pad_token_id = end_ids(start), end_ids(start)[0]
    return QwenVlConfig(vision_config=vit_config(visual), text_config=text, image_start_id=start)


def published_config(config: Any) -> dict[str, Any]:
    """Qwen-VL's `config.json` for a model of ours."""
    names = [one.name for one in fields_of(QwenConfig) if one.name in QwenConfig.__annotations__]
    text, vision = config.text_config, config.vision_config
    fields = {name: getattr(text, name) for name in names if not name.endswith("_token_id")}
    sides = ("heads", "image_size", "layers", "mlp_ratio", "patch_size", "width")
    visual = {name: getattr(vision, name) for name in sides}
    visual |= {"image_start_id": config.image_start_id, "output_dim": text.hidden_size}
    return fields | {
        "architectures": ["QWenLMHeadModel"],
        "model_type": QwenConfig.model_type,
        "tokenizer_type": "QWenTokenizer",
        "visual": visual,
    }


def check_family(checkpoint: Checkpoint, layout: str) -> None:
    """Refuse a model that a layout of Qwen-VL cannot hold.

    Raises:
        ModelError: it is of another family, or its language model is no Qwen-1.
    """
    language = checkpoint.config.text_config.model_type
    if checkpoint.family != "qwen_vl" or language != QwenConfig.model_type:
        raise ModelError(
            f"layout {layout} holds Qwen-VL with Qwen-1, not {checkpoint.family} with {language}; "
            "write it as vlforge"
        )


def processor_of(config: QwenVlConfig) -> ImageProcessor:
    """Pictures are stretched to the encoder's square, with CLIP's colours."""
    return ImageProcessor(size=config.vision_config.image_size, fit_mode="stretch")
