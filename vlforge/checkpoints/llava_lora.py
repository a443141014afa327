"""LLaVA's LoRA folders: the language model's adapter, and what was trained whole beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import write_hint
from vlforge.checkpoints.languages import Language, read_language
from vlforge.checkpoints.llava_fields import (
    checkpoint_of,
    is_llava,
    our_name,
    their_config,
    their_name,
)
from vlforge.checkpoints.lora import (
    CONFIG_NAME,
    PREFIX,
    Adapter,
    LoraPair,
    is_adapter,
    open_adapter,
    plain_name,
)
from vlforge.checkpoints.tokenizers import copy_tokenizer
from vlforge.checkpoints.towers import known_config
from vlforge.checkpoints.weights import Lazy, Weights, open_file, write_weights
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

WHOLE = "non_lora_trainables.bin"
"""File of what was trained whole: the connector."""


class LlavaLoraLayout:
    """`adapter_config.json`, `adapter_model.*`, `non_lora_trainables.bin`, `config.json`."""

    name = "llava_lora"
    says = "LLaVA's LoRA folder: adapter_model.*, non_lora_trainables.bin; needs --base"
    is_part = True

    def matches(self, path: Path) -> bool:
        """A folder with an adapter and `non_lora_trainables.bin`, of LLaVA's configuration."""
        if not is_adapter(path) or not (path / WHOLE).is_file():
            return False
        if (path / "config.json").is_file():
            return is_llava(read_config(path))
        return not any("vlm_uni_" in name for name in open_file(path / WHOLE))  # Mini-Gemini's

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The base with the adapter in it; each tensor of the adapter has to land.

        The base is a language model, or a LLaVA checkpoint with its own connector.
        """
        adapter = open_adapter(path).renamed(our_name)
        whole = {our_name(plain_name(k)): lazy for k, lazy in open_file(path / WHOLE).items()}
        base = base_of(path, parts)
        language, fields, held = read_base(base, parts)
        if (path / "config.json").is_file():
            fields = fields | read_config(path)
        parts = with_tower(path, fields, parts, base)
        checkpoint = checkpoint_of(path, self.name, fields, {**held, **whole}, parts, language)
        trained = Adapter(adapter.settings, adapter.pairs, {**adapter.whole, **whole})
        return replace(
            checkpoint,
            weights=adapter.onto(checkpoint.weights),
            extra={**checkpoint.extra, "adapter": trained},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The adapter and the connector alone, for the same base."""
        adapter = adapter_of(checkpoint)
        whole = {
            name: lazy
            for name, lazy in checkpoint.weights.items()
            if name in adapter.whole or name.startswith("connector.") or name == "image_newline"
        }
        write_adapter(adapter, out, how, their_name)
        named = {PREFIX + their_name(name): lazy.read() for name, lazy in how.cast(whole).items()}
        torch.save(named, out / WHOLE)
        write_json(out / "config.json", their_config(checkpoint, holds_tower=False))
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, out)
        write_hint(checkpoint, out)


def adapter_of(checkpoint: Checkpoint) -> Adapter:
    """The adapter that a checkpoint was read with.

    Raises:
        ModelError: it has none apart.
    """
    adapter = checkpoint.extra.get("adapter")
    if not isinstance(adapter, Adapter):
        raise ModelError(
            f"{checkpoint.path} holds no adapter apart from its weights; write the whole model "
            "(--to llava)"
        )
    return adapter


def write_adapter(adapter: Adapter, out: Path, how: Writing, name_of: Callable[[str], str]) -> None:
    """Pairs and configuration as peft writes them; `name_of` gives the base's parameter names."""
    tensors: dict[str, Lazy] = {}
    modules = []
    for name, pair in adapter.pairs.items():
        modules.append(name_of(name).removesuffix(".weight"))
        for suffix, lazy in _tensors(pair).items():
            tensors[PREFIX + modules[-1] + suffix] = lazy
    write_weights(how.cast(tensors), out, kind=how.kind, stem="adapter_model", shard_bytes=2**62)
    fields = dict(adapter.settings.fields)
    targets = fields.get("target_modules")
    if not isinstance(targets, list) or not all(m.endswith(tuple(targets)) for m in modules):
        targets = modules  # an expression over the old names would not find the new ones
    write_json(out / CONFIG_NAME, fields | {"target_modules": targets})


def _tensors(pair: LoraPair) -> dict[str, Lazy]:
    if pair.is_embedding:
        return {".lora_embedding_A": pair.a, ".lora_embedding_B": pair.b}
    length = {} if pair.length is None else {".lora_magnitude_vector": pair.length}
    return {".lora_A.weight": pair.a, ".lora_B.weight": pair.b, **length}


def base_of(path: Path, parts: Parts) -> Path:
    """The folder of the model that an adapter or a connector belongs to.

    Raises:
        ModelError: the user names none and what the files name is not here.
    """
    given = parts.base or parts.language
    if given is not None:
        return given
    names = []
    for file, key in (
        (CONFIG_NAME, "base_model_name_or_path"),
        ("config.json", "_name_or_path"),
    ):
        if (path / file).is_file():
            names.append(_field(path / file, key))
    for name in filter(None, names):
        for folder in (path / name, Path(name)):
            if folder != path and (folder / "config.json").is_file():
                return folder
    named = next(filter(None, names), "")
    raise ModelError(
        f"{path} needs the model it was trained on{f' ({named})' if named else ''}; "
        "name its folder with --base"
    )


def _field(file: Path, key: str) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get(key) or "")
    except (OSError, ValueError, AttributeError):
        return ""


def with_tower(path: Path, fields: Mapping[str, Any], parts: Parts, base: Path) -> Parts:
    """The parts, the base's encoder among them where the checkpoint's own is not to be found."""
    name = str(fields.get("mm_vision_tower") or "")
    is_here = parts.vision or known_config(name) or (path / name / "config.json").is_file()
    theirs = str(read_config(base).get("mm_vision_tower") or "")
    if is_here or not theirs or not (base / theirs / "config.json").is_file():
        return parts
    return replace(parts, vision=base / theirs)


def read_base(base: Path, parts: Parts) -> tuple[Language, dict[str, Any], Weights]:
    """A base: its language model, and if it is a LLaVA itself its settings and other weights."""
    fields: Mapping[str, Any] = read_config(base)
    if not is_llava(fields):
        return read_language(base), {}, {}
    from vlforge.checkpoints.llava import LlavaLayout

    whole = LlavaLayout().read(base, replace(parts, base=None))
    text = {name: lazy for name, lazy in whole.weights.items() if name.startswith("language.")}
    rest = {name: lazy for name, lazy in whole.weights.items() if name not in text}
    return Language(whole.config.text_config, text, whole.tokenizer), dict(fields), rest
