"""Checkpoints in the layout that Mini-Gemini writes, whole and `mm_projector.bin`.

Language keys as in Llama (Gemma, Mistral, Mixtral), `model.mm_projector.*`,
`model.vlm_uni_{query,aux,val}_projector.*`, CLIP under
`model.vision_tower.vision_tower.vision_model.*` and ConvNeXt under
`model.vision_tower_aux.*`; settings in `mm_*` and `image_*` keys of a flat config.json.

Source: dvlab-research/MGM@769820c.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, ConvNextConfig
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import read_hint, write_hint
from vlforge.checkpoints.languages import (
    OURS,
    Language,
    flat_config,
    legacy_fields,
    read_language,
    without_stale,
)
from vlforge.checkpoints.lora import is_adapter
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.towers import Tower, known_config, read_tower
from vlforge.checkpoints.weights import (
    INDEXES,
    Lazy,
    Weights,
    has_weights,
    open_file,
    open_weights,
    write_weights,
)
from vlforge.models.mgm import MINER_NAMES, MgmConfig, our_name
from vlforge.models.parts import convnext
from vlforge.models.parts.image_processor import FILE_NAME as PROCESSOR_NAME
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.vision import vision_config
from vlforge.models.reading import read_config, read_processor, write_json
from vlforge.text.templates import IM_START_END
from vlforge.types import ModelError

ADAPTER_NAME = "mm_projector.bin"
LANGUAGES = {
    "": "llama", "llama": "llama", "gemma": "gemma", "mistral": "mistral", "mixtral": "mixtral",
}  # fmt: skip
"""What stands behind `mgm_` in a `model_type`, and the language model's own."""
CLASSES = {
    "llama": "MGMLlamaForCausalLM", "gemma": "MGMGemmaForCausalLM",
    "mistral": "MGMMistralForCausalLM", "mixtral": "MGMMixtralForCausalLM",
}  # fmt: skip
TEMPLATES = {"gemma": "gemma", "mixtral": "mgm_mistral_instruct", "mistral": "mgm_mistral_instruct"}
"""Per language model the template of the published recipe; Vicuna's else."""
OPENAI_HEADS = {768: 12, 1024: 16}
"""Attention heads of OpenAI's CLIP encoders by width, which their weights do not tell."""
LLAMA_3_VOCABULARY, YI_VOCABULARY = 128_256, 64_000
LOW, HIGH = "vision.low.tower.", "vision.high.tower."
_KEPT = (
    "mm_vision_tower", "mm_vision_tower_aux", "tokenizer_padding_side",
    "tokenizer_model_max_length", "mm_use_im_patch_token",
    "image_grid_pinpoints",
)  # fmt: skip
"""Fields that mean nothing here but go back into a folder that is written again."""


@dataclass
class _Reading:
    """A checkpoint as it is put together."""

    path: Path
    fields: Mapping[str, Any]
    parts: Parts
    weights: dict[str, Lazy] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, theirs: Weights) -> None:
        """File every tensor under our name, or among the unused with the reason."""
        for key, lazy in theirs.items():
            name = our_name(key)
            if name is not None:
                self.weights[name] = lazy
            elif key.startswith(
                ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
            ):
                self.weights[OURS + key] = lazy
            else:
                self.unused.append(f"{lazy.where} (belongs to no part)")

    def of(self, prefix: str) -> dict[str, Lazy]:
        """The weights below `prefix`, without it."""
        return {
            name.removeprefix(prefix): lazy
            for name, lazy in self.weights.items()
            if name.startswith(prefix)
        }

    def folder(self, given: Path | None, key: str) -> Path | None:
        """The encoder's folder: as the user names it, else where the configuration points."""
        said = self.fields.get(key)
        if given is not None or not said:
            return given
        beside = self.path if self.path.is_dir() else self.path.parent
        return next((p for p in (beside / said, Path(said)) if p.is_dir()), None)


class MgmLayout:
    """A whole Mini-Gemini: flat config.json, weights with the encoders inside or not."""

    name = "mgm"
    says = "Mini-Gemini: config.json (mgm*), model.mm_projector.*, model.vlm_uni_*, encoders"

    def matches(self, path: Path) -> bool:
        """A folder with weights whose configuration is Mini-Gemini's."""
        if not (path / "config.json").is_file() or is_adapter(path) or not has_weights(path):
            return False
        return _is_mgm(read_config(path))

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """Encoders that are not inside come from `parts` or from where the configuration points."""
        work = _Reading(path, read_config(path), parts)
        work.take(open_weights(path))
        language = Language(_language_of(work), {}, path if has_tokenizer(path) else None)
        return _finish(work, language, self.name)

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """With both encoders inside, and always with an index, which MGM's loader asks for."""
        weights = _their_weights(checkpoint, how)
        files = write_weights(
            weights, out, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard
        )
        if len(files) == 1:
            index = INDEXES[0] if how.kind == "safetensors" else INDEXES[1]
            total = sum(lazy.nbytes for lazy in weights.values())
            weight_map = dict.fromkeys(weights, files[0].name)
            write_json(out / index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        write_beside(checkpoint, out, weights)


class MgmProjectorLayout:
    """What Mini-Gemini's first stage leaves: mm_projector.bin, config.json beside it."""

    name = "mgm_projector"
    says = "Mini-Gemini's first stage: mm_projector.bin (with encoders or not); needs --base"
    is_part = True

    def matches(self, path: Path) -> bool:
        """Such a file, or a folder with it and without a whole model's weights."""
        file = path / ADAPTER_NAME if path.is_dir() else path
        if not file.is_file() or file.suffix != ".bin" or (path.is_dir() and has_weights(path)):
            return False
        try:
            return any("vlm_uni_" in key for key in open_file(file))
        except ModelError:
            return False

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The language model comes from `parts.base` (or `parts.language`)."""
        file = path / ADAPTER_NAME if path.is_dir() else path
        base = parts.base or parts.language
        if base is None:
            raise ModelError(
                f"{file} is a connector; name the language model it belongs to with --base"
            )
        beside = file.with_name("config.json")
        fields = read_config(file.parent) if beside.is_file() else {}
        work = _Reading(path, fields, parts)
        if not fields:
            work.notes.append(f"no config.json beside {file.name}: image settings are the defaults")
        theirs = open_file(file)
        work.take({k: v for k, v in theirs.items() if our_name(k) is not None})
        others = [lazy.where for key, lazy in theirs.items() if our_name(key) is None]
        work.unused += [f"{where} (the base has its own)" for where in others]
        language = _base_language(base)
        work.weights |= language.weights
        return _finish(work, language, self.name)

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """One file with the connector and both encoders, as published."""
        kept = _their_weights(checkpoint, how)
        kept = {key: lazy for key, lazy in kept.items() if our_name(key) is not None}
        torch.save({key: lazy.read() for key, lazy in kept.items()}, out / ADAPTER_NAME)
        write_beside(checkpoint, out, kept)


def _is_mgm(fields: Mapping[str, Any]) -> bool:
    kind = str(fields.get("model_type") or "")
    return kind.startswith(("mgm", "mini_gemini")) or bool(fields.get("mm_vision_tower_aux"))


def _language_of(work: _Reading) -> PreTrainedConfig:
    """The language model's configuration; judged by its weights where the file does not say."""
    said = str(work.fields.get("model_type") or "").replace("mini_gemini", "mgm")
    kind = LANGUAGES.get(said.removeprefix("mgm").removeprefix("_"))
    if not said.startswith("mgm") or kind is None:
        kind = "llama"
        if any(".block_sparse_moe." in name for name in work.weights):
            kind = "mixtral"
        elif str(work.fields.get("hidden_act")).startswith("gelu"):
            kind = "gemma"
        elif "sliding_window" in work.fields:
            kind = "mistral"
        work.notes.append(f"config.json names no model_type; by its weights it is a {kind}")
    # Training leaves `use_cache` off, which is for training alone.
    return flat_config(dict(work.fields) | {"use_cache": True}, kind, work.path)


def _base_language(base: Path) -> Language:
    """A language model's folder, or the language model of a Mini-Gemini."""
    if not (base / "config.json").is_file() or not _is_mgm(read_config(base)):
        return read_language(base)
    work = _Reading(base, read_config(base), Parts())
    work.take(open_weights(base))
    weights = {name: lazy for name, lazy in work.weights.items() if name.startswith(OURS)}
    return Language(_language_of(work), weights, base if has_tokenizer(base) else None)


def _finish(work: _Reading, language: Language, layout: str) -> Checkpoint:
    """Encoders, settings and notes."""
    fields, text = work.fields, language.config
    if fields.get("mm_vision_select_feature", "patch") != "patch":
        raise ModelError(
            f"{work.path}: mining takes patches; cls_patch has a token without a place"
        )
    ratio = "pad" if fields.get("image_aspect_ratio") == "pad" else "square"
    tower, high = _low_encoder(work, ratio), _high_encoder(work)
    weights, left = without_stale(work.weights, text)
    config = MgmConfig(
        vision_config=tower.config,
        vision_high_config=high,
        text_config=text,
        connector=fields.get("mm_projector_type") or _connector_kind(work),
        select_layer=fields.get("mm_vision_select_layer", -2),
        image_aspect_ratio=ratio,
        image_size_high=fields.get("image_size_aux", 768),
        image_grid=fields.get("image_grid", 1),
        image_global=bool(fields.get("image_global", False)),
    )
    size = config.image_size_high
    processor = tower.processor or ImageProcessor(size=size, fit_mode=ratio)
    return Checkpoint(
        path=work.path,
        layout=layout,
        config=config,
        weights=weights,
        tokenizer=language.tokenizer,
        processor=replace(processor, size=size, edge=size),
        template=read_hint(work.path) or _template(text, fields),
        unused=(*work.unused, *(f"{where} ({reason})" for where, reason in left)),
        notes=tuple(work.notes),
        extra={"mgm": {key: fields[key] for key in _KEPT if key in fields}},
    )


def _connector_kind(work: _Reading) -> str:
    """Which connector weights are those of, where no configuration says it."""
    names = [name for name in work.of("connector.projector.") if name.endswith("weight")]
    if not names:
        return "identity"
    return "linear" if names == ["weight"] else f"mlp{len(names)}x_gelu"


def _template(text: PreTrainedConfig, fields: Mapping[str, Any]) -> str:
    name = TEMPLATES.get(text.model_type, "vicuna_v1")
    if text.model_type == "llama":
        name = "llama_3" if text.vocab_size >= LLAMA_3_VOCABULARY else name
        name = "chatml_direct" if text.vocab_size == YI_VOCABULARY else name
    return f"{name}+{IM_START_END}" if fields.get("mm_use_im_start_end") else name


def _low_encoder(work: _Reading, ratio: str) -> Tower:
    """CLIP's configuration and processor; its weights too where the checkpoint has none."""
    folder = work.folder(work.parts.vision, "mm_vision_tower")
    inside = work.of(LOW)
    if folder is not None:
        tower = read_tower(folder, ratio)
        if not inside:
            work.weights |= {LOW + name: lazy for name, lazy in tower.weights.items()}
        return tower
    said = str(work.fields.get("mm_vision_tower") or "")
    if not inside:
        raise ModelError(
            f"{work.path} holds no CLIP and {said!r} is not here; name its folder with --vision"
        )
    beside = work.path if work.path.is_dir() else work.path.parent
    given = work.fields.get("mm_vision_config")
    config = vision_config(given) if given else _clip_by_weights(work, inside, known_config(said))
    has_file = (beside / PROCESSOR_NAME).is_file()
    return Tower(config, {}, read_processor(beside, config, ratio) if has_file else None)


def _clip_by_weights(
    work: _Reading, inside: Weights, known: PreTrainedConfig | None
) -> PreTrainedConfig:
    """The published encoder that the checkpoint names, else what OpenAI's of these shapes is."""
    width = inside["embeddings.class_embedding"].shape[0]
    if known is not None and known.hidden_size == width:
        return known
    if width not in OPENAI_HEADS:
        raise ModelError(
            f"{work.path}: a CLIP {width} wide is none of OpenAI's; name its folder with --vision"
        )
    patch = inside["embeddings.patch_embedding.weight"].shape[-1]
    places = inside["embeddings.position_embedding.weight"].shape[0] - 1
    layers = {name.split(".")[2] for name in inside if name.startswith("encoder.layers.")}
    work.notes.append(
        f"CLIP's configuration is taken from its weights, with OpenAI's {OPENAI_HEADS[width]} heads"
    )
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inside["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=OPENAI_HEADS[width],
        image_size=round(places**0.5) * patch,
        patch_size=patch,
        projection_dim=width * 3 // 4,
    )


def _high_encoder(work: _Reading) -> ConvNextConfig:
    """ConvNeXt's configuration; its weights too where the checkpoint has none."""
    inside = work.of(HIGH)
    if inside:
        if not work.fields.get("optimize_vision_tower_aux"):
            work.notes.append(
                "ConvNeXt's weights are those in the checkpoint; MGM's own loader takes the folder "
                "of mm_vision_tower_aux unless optimize_vision_tower_aux is set"
            )
    else:
        folder = work.folder(work.parts.vision_high, "mm_vision_tower_aux")
        if folder is None:
            raise ModelError(
                f"{work.path} holds no ConvNeXt and {work.fields.get('mm_vision_tower_aux')!r} is "
                "not here; name its folder with --vision-high"
            )
        inside = convnext.trunk(open_file(convnext.openclip_weights_file(folder)))
        work.weights |= {HIGH + name: lazy for name, lazy in inside.items()}
    return convnext.config_of({name: lazy.shape for name, lazy in inside.items()})


_MINER_KEYS = {ours: theirs for theirs, ours in MINER_NAMES.items()}


def their_name(name: str) -> str:
    """The published name of one of our tensors."""
    if name.startswith("language."):
        return name.removeprefix("language.")
    if name.startswith("connector.projector."):
        return "model.mm_projector." + name.removeprefix("connector.projector.")
    if name.startswith("connector.miner."):
        part, rest = name.removeprefix("connector.miner.").split(".", 1)
        return f"model.vlm_uni_{_MINER_KEYS[part]}_projector.{rest}"
    if name.startswith(LOW):
        return "model.vision_tower.vision_tower.vision_model." + name.removeprefix(LOW)
    return "model.vision_tower_aux.vision_" + convnext.timm_name(name.removeprefix(HIGH))


def _their_weights(checkpoint: Checkpoint, how: Writing) -> dict[str, Lazy]:
    """The tensors under the published names, of a model that the layout can hold."""
    if checkpoint.family != "mgm":
        raise ModelError(f"Mini-Gemini's layout holds no {checkpoint.family} model")
    config: Any = checkpoint.config
    kind = config.text_config.model_type
    if kind not in CLASSES:
        raise ModelError(f"Mini-Gemini's layout has no {kind}; it takes {', '.join(CLASSES)}")
    if config.image_aspect_ratio not in ("pad", "square"):
        raise ModelError(
            f"Mini-Gemini fits pictures by pad or square, not {config.image_aspect_ratio}"
        )
    return {their_name(name): lazy for name, lazy in how.cast(checkpoint.weights).items()}


def write_beside(checkpoint: Checkpoint, out: Path, weights: Weights) -> None:
    """config.json, tokenizer and image processor."""
    config: Any = checkpoint.config
    text, kind = config.text_config, config.text_config.model_type
    suffix = "" if kind == "llama" else f"_{kind}"
    defaults = {
        "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
        "mm_vision_tower_aux": (
            "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"
        ),
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": text.max_position_embeddings,
        "mm_use_im_patch_token": False,
        "image_grid_pinpoints": None,
        "optimize_vision_tower": False,
        # MGM reads ConvNeXt from the checkpoint only where this says so.
        "optimize_vision_tower_aux": True,
    }
    dtype = next(iter(weights.values())).dtype
    fields = legacy_fields(text) | defaults | dict(checkpoint.extra.get("mgm", {}))
    fields |= {
        "torch_dtype": str(dtype).removeprefix("torch."),
        "architectures": [CLASSES[kind]],
        "model_type": f"mgm{suffix}",
        "use_mm_proj": True,
        "mm_use_im_start_end": checkpoint.template.endswith(f"+{IM_START_END}"),
        "mm_projector_type": config.connector,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_hidden_size_aux": sum(config.vision_high_config.hidden_sizes),
        "mm_vision_select_layer": config.select_layer,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": config.image_aspect_ratio,
        "image_size_aux": config.image_size_high,
        "image_grid": config.image_grid,
        "image_global": config.image_global,
        "mm_vision_config": json.loads(config.vision_config.to_json_string(use_diff=True)),
    }
    write_json(out / "config.json", fields)
    write_hint(checkpoint, out)
    if checkpoint.tokenizer is not None:
        copy_tokenizer(checkpoint.tokenizer, out)
    if checkpoint.processor is not None:
        write_json(out / PROCESSOR_NAME, checkpoint.processor.to_json())
