"""MiniGPT-4's files: the encoder, BLIP-2's Q-Former, a Vicuna folder, a stage's checkpoint.

A stage's checkpoint holds what was trained, `llama_proj`, and buffers that nothing
needs; the rest lies in three places that its configuration names. A folder with
all of them is read as it is, a checkpoint alone with the others named as parts.
No file says the number of heads or the template: for sizes that were never
published `minigpt4.json`, which writing adds, does.

Source: Vision-CAIR/MiniGPT-4@22d8888 (mini_gpt4.py, blip2.py, eva_vit.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.weights import (
    Lazy,
    has_weights,
    lazies,
    open_file,
    open_weights,
    read_pickle,
    write_weights,
)
from vlforge.models.minigpt4 import (
    BLIP,
    EVA,
    SETTINGS,
    SUFFIXES,
    Minigpt4Config,
    connector_state,
    files_named,
    is_eva,
    minigpt4_config,
    published_state,
    read_settings,
    vision_name,
    weights_file,
)
from vlforge.models.parts.eva_vit import fit_positions
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.language import text_config
from vlforge.models.parts.qformer import published_name
from vlforge.models.reading import read_config, write_json
from vlforge.text.minigpt4_templates import separator_doubt
from vlforge.text.templates import find_template
from vlforge.types import ModelError

STAGE, VICUNA = "checkpoint.pth", "vicuna"
_POSITIONS = "vision.eva.pos_embed"
_NEW = (
    "llama_proj is in none of the files: the connector starts at random, and answers mean "
    "nothing until a stage has trained it; give the stage's checkpoint if there is one"
)


@dataclass(frozen=True)
class _Files:
    """Where everything lies; `settings` is what `minigpt4.json` says."""

    stage: Path | None
    eva: Path
    blip: Path
    vicuna: Path
    settings: Mapping[str, Any]


class Minigpt4Layout:
    """`eva_vit_g.pth`, `blip2_pretrained_*.pth`, a Vicuna folder, `checkpoint_N.pth`."""

    name = "minigpt4"
    says = "MiniGPT-4: eva_vit_g.pth, blip2_pretrained_*.pth, a Vicuna folder, checkpoint_N.pth"

    def matches(self, path: Path) -> bool:
        """A stage's checkpoint, or a folder with the files' names in it."""
        if path.is_file():
            return path.suffix in SUFFIXES and _is_stage(path)
        if (path / SETTINGS).is_file():
            return True
        if not path.is_dir() or (path / "config.json").exists():
            return False
        return bool(files_named(path, EVA) or files_named(path, BLIP) or _stages(path))

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """Open the four; what `parts` does not name is looked for beside `path`."""
        files = _find(path, parts)
        eva, blip, words = _open(files.eva), _open(files.blip), open_weights(files.vicuna)
        fields = read_config(files.vicuna)
        config = _config(files, eva, blip, fields)
        depth = config.vision_config.num_hidden_layers
        weights = published_state(eva, blip, depth)
        unused = _unused_parts(eva, blip, depth)
        weights, notes = _with_stage(weights, files.stage, config, unused)
        _fit_positions(weights, config)
        for name, lazy in words.items():
            if name.endswith("rotary_emb.inv_freq"):
                unused.append(f"{name} (buffer, computed)")
            elif name == "lm_head.weight" and config.text_config.tie_word_embeddings:
                unused.append(f"{name} (the embeddings, tied)")
            else:
                weights.setdefault(f"language.{name}", lazy)
        template = str(files.settings.get("template", "minigpt4"))
        doubt = separator_doubt(find_template(template), fields, files.vicuna.name)
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=weights,
            tokenizer=files.vicuna if has_tokenizer(files.vicuna) else None,
            processor=ImageProcessor(config.vision_config.image_size, "stretch"),
            template=template,
            unused=tuple(unused),
            notes=(*notes, *([doubt] if doubt else [])),
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The four under the published names, and `minigpt4.json`."""
        config = checkpoint.config
        if not isinstance(config, Minigpt4Config):
            raise ModelError(
                f"MiniGPT-4's layout holds models of family minigpt4, not {checkpoint.family}"
            )
        groups: dict[str, dict[str, Lazy]] = {"eva": {}, "blip": {}, "stage": {}, "language": {}}
        for name, lazy in checkpoint.weights.items():
            group, theirs = _published(name)
            groups[group][theirs] = lazy.to(how.dtype) if how.dtype else lazy
        torch.save(_tensors(groups["eva"]), out / f"{EVA}.pth")
        torch.save({"model": _tensors(groups["blip"])}, out / f"{BLIP}.pth")
        torch.save({"model": _tensors(groups["stage"])}, out / STAGE)
        vicuna = out / VICUNA
        vicuna.mkdir()
        write_weights(
            groups["language"],
            vicuna,
            kind=how.kind,
            shard_bytes=how.shard_bytes,
            on_shard=how.on_shard,
        )
        write_json(vicuna / "config.json", config.text_config.to_dict())
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, vicuna)
        settings = {
            "image_size": config.vision_config.image_size,
            "vision_heads": config.vision_config.num_attention_heads,
            "qformer_heads": config.qformer_config.num_attention_heads,
            "template": checkpoint.template,
        }
        write_json(out / SETTINGS, settings)


def _find(path: Path, parts: Parts) -> _Files:
    """Every part's place.

    Raises:
        ModelError: a part that is nowhere, or that several files may be.
    """
    if not path.exists():
        raise ModelError(f"no model at {path}; check the path")
    home = path if path.is_dir() else path.parent
    homes = [home, *([parts.base] if parts.base else [])]
    eva = _part(parts.vision, homes, EVA, "vision")
    blip = _part(parts.qformer, homes, BLIP, "qformer")
    return _Files(
        stage=path if path.is_file() else _last_stage(home),
        eva=eva,
        blip=blip,
        vicuna=_language(parts.language, homes),
        settings=read_settings(*homes, eva.parent, blip.parent),
    )


def _part(named: Path | None, homes: list[Path], stem: str, part: str) -> Path:
    if named is not None:
        return weights_file(named, stem)
    for home in homes:
        if files_named(home, stem):
            return weights_file(home, stem)
    raise ModelError(f"{homes[0]} has no {stem}*.pth; name that file as {part}")


def _language(named: Path | None, homes: list[Path]) -> Path:
    if named is not None:
        return named
    for home in homes:
        found = [
            folder
            for folder in sorted(home.iterdir())
            if folder.is_dir() and (folder / "config.json").is_file() and has_weights(folder)
        ]
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found)
            raise ModelError(f"{home} has several model folders ({names}); name one as language")
        if found:
            return found[0]
    raise ModelError(f"{homes[0]} has no Vicuna folder; name it as language")


def _stages(home: Path) -> list[Path]:
    """Files of a folder that hold a `llama_proj`."""
    others = {*files_named(home, EVA), *files_named(home, BLIP)}
    files = [file for file in sorted(home.iterdir()) if file.suffix in SUFFIXES]
    return [file for file in files if file not in others and _is_stage(file)]


def _is_stage(path: Path) -> bool:
    try:
        return "llama_proj.weight" in _open(path)
    except ModelError:
        return False


def _last_stage(home: Path) -> Path | None:
    """The checkpoint of the last epoch; None where there is none.

    Raises:
        ModelError: several whose order nothing tells, or one that cannot be read.
    """
    numbered = {
        int(found.group(1)): file
        for file in home.glob("checkpoint_*.pth")
        if (found := re.fullmatch(r"checkpoint_(\d+)\.pth", file.name))
    }
    if numbered:
        return numbered[max(numbered)]
    if (home / STAGE).is_file():
        return home / STAGE
    found = _stages(home)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelError(f"{home} has several stages' checkpoints ({names}); name one of them")
    return found[0] if found else None


def _open(path: Path) -> dict[str, Lazy]:
    """Tensors of one file, those under `model` where it holds more."""
    if path.suffix == ".safetensors" or not path.is_file():
        return open_file(path)
    state = read_pickle(path)
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    return lazies(state, path)


def _config(
    files: _Files, eva: Mapping[str, Lazy], blip: Mapping[str, Lazy], language: dict[str, Any]
) -> Minigpt4Config:
    """What the shapes tell, with what `minigpt4.json` adds.

    Raises:
        ModelError: the encoder and the Q-Former do not belong together, or one
            file is something else.
    """
    shapes = [{name: lazy.shape for name, lazy in part.items()} for part in (eva, blip)]
    try:
        return minigpt4_config(*shapes, text_config(language), files.settings)
    except ModelError as error:
        raise ModelError(f"{files.eva}, {files.blip}: {error}") from None


def _with_stage(
    weights: dict[str, Lazy], stage: Path | None, config: PreTrainedConfig, unused: list[str]
) -> tuple[dict[str, Lazy], list[str]]:
    """The weights with what a stage trained, and what to know of it."""
    width = config.text_config.hidden_size
    if stage is None:
        return weights | _new_connector(config.qformer_config.hidden_size, width), [_NEW]
    found = _open(stage)
    trained: dict[str, Lazy] = connector_state(found, stage, width)
    for key, lazy in found.items():
        name = vision_name(key)
        if key.startswith("llama_model.") and not key.endswith("rotary_emb.inv_freq"):
            name = "language." + key.removeprefix("llama_model.")
        if name is not None:
            trained[name] = lazy
        elif not key.startswith("llama_proj."):
            unused.append(f"{key} ({_reason(key)})")
    others = len(trained) - 2
    notes = []
    if others:
        notes.append(f"{others} more weights of {stage.name} take the place of the parts' own")
    return weights | trained, notes


def _new_connector(inputs: int, width: int) -> dict[str, Lazy]:
    """A linear layer as torch starts it, the same every time."""

    def draw(shape: tuple[int, ...], seed: int) -> Lazy:
        def read() -> Tensor:
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
            return (2 * noise - 1) * inputs**-0.5

        return Lazy(shape, torch.float32, read, "a new llama_proj")

    return {"connector.weight": draw((width, inputs), 0), "connector.bias": draw((width,), 1)}


def _fit_positions(weights: dict[str, Lazy], config: PreTrainedConfig) -> None:
    """Bring the position table to the size that pictures have."""
    lazy = weights.get(_POSITIONS)
    side = config.vision_config.image_size // config.vision_config.patch_size
    if lazy is not None and lazy.shape[1] != 1 + side * side:
        shape = (1, 1 + side * side, lazy.shape[2])
        weights[_POSITIONS] = Lazy(
            shape, torch.float32, lambda: fit_positions(lazy.read(), side), lazy.where
        )


def _unused_parts(eva: Mapping[str, Lazy], blip: Mapping[str, Lazy], depth: int) -> list[str]:
    left = [f"{name} (not run)" for name in eva if not is_eva(name, depth)]
    return left + [f"{key} ({_reason(key)})" for key in blip if vision_name(key) is None]


def _reason(key: str) -> str:
    if key.endswith(("position_ids", "inv_freq")):
        return "buffer, computed"
    if key.startswith("Qformer."):
        return "text side of the Q-Former"
    if key.startswith(("t5_proj", "opt_proj")):
        return "connector to BLIP-2's own language model"
    return "no part of MiniGPT-4"


def _published(name: str) -> tuple[str, str]:
    """The file that one of our tensors goes into, and its name there."""
    part, rest = name.split(".", 1)
    if part == "connector":
        return "stage", f"llama_proj.{rest}"
    if part == "language":
        return "language", rest
    module, inner = rest.split(".", 1)
    if module == "eva":
        return "eva", inner
    return "blip", published_name(inner) if module == "qformer" else rest


def _tensors(weights: Mapping[str, Lazy]) -> dict[str, Tensor]:
    """Tensors for torch's pickle, which writes all of the memory that a view looks at."""
    found = {}
    for name, lazy in weights.items():
        tensor = lazy.read().contiguous()
        is_view = tensor.untyped_storage().nbytes() != tensor.nbytes
        found[name] = tensor.clone() if is_view else tensor
    return found
