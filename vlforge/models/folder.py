"""A model folder: weights, tokenizer, image processor, and how the model was trained.

`config.json` and `model.safetensors` as transformers writes them, tokenizer
files, `preprocessor_config.json`, and `vlforge.json` with the family, the
template and the history of stages.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vlforge import __version__
from vlforge.models.config import ModelSpec
from vlforge.models.llava import LlavaConfig, LlavaModel
from vlforge.models.parts import image_processor
from vlforge.models.parts.image_processor import ImageProcessor, small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.tags import HEAD_NAME, Tagger
from vlforge.models.parts.vision import vision_config
from vlforge.models.parts.word_connector import word_connector
from vlforge.types import ModelError

META_NAME = "vlforge.json"


@dataclass(frozen=True)
class ModelFolder:
    """A model with all that is needed to talk to it.

    `template` is the conversation template it was last trained with; `history`
    has one entry per stage, oldest first.
    """

    model: LlavaModel
    tokenizer: Any
    processor: ImageProcessor
    template: str = "plain"
    history: tuple[dict[str, Any], ...] = ()


def assemble(spec: ModelSpec) -> ModelFolder:
    """Put a model together from a vision folder and a language folder, in fp32.

    The connector is new: seed torch before calling.

    Raises:
        ModelError: a part that is missing, of an unknown type, or does not fit.
    """
    vision = _read_vision(Path(spec.vision))
    language = read_language(Path(spec.language))
    tokenizer = read_tokenizer(Path(spec.tokenizer or spec.language))
    _check_vocabulary(tokenizer, language)
    connector = _initial_connector(spec, tokenizer, language)
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        connector=spec.connector,
        connector_width=None if connector is None else connector[0].out_features,
        select_layer=spec.select_layer,
        select_feature=spec.select_feature,
        image_aspect_ratio=spec.image_aspect_ratio,
    )
    model = LlavaModel(config)
    model.vision.load(vision)
    model.language = language
    if connector is not None:
        model.connector = connector
    processor = _read_processor(Path(spec.vision), vision.config, spec.image_aspect_ratio)
    if processor.size != model.vision.image_size:
        raise ModelError(
            f"{spec.vision}: pictures of {processor.size} pixels for an encoder of "
            f"{model.vision.image_size}; mend its {image_processor.FILE_NAME}"
        )
    return ModelFolder(model, tokenizer, processor)


def _initial_connector(spec: ModelSpec, tokenizer: Any, language: Any) -> Any:
    """The connector where it does not start at random; None where it does."""
    if spec.connector_init == "random":
        return None
    if spec.connector != "mlp2x_gelu":
        raise ModelError(f"connector_init tags needs connector mlp2x_gelu, not {spec.connector!r}")
    if not (Path(spec.vision) / HEAD_NAME).exists():
        raise ModelError(
            f"{spec.vision}: connector_init tags needs an encoder that was trained on tags "
            f"(no {HEAD_NAME} here)"
        )
    embeddings = language.get_input_embeddings().weight.detach()
    return word_connector(
        Tagger.load(Path(spec.vision)), tokenizer, embeddings, spec.connector_gain
    )


def read_folder(path: Path, *, dtype: torch.dtype = torch.float32) -> ModelFolder:
    """Load a folder that `write_folder` wrote.

    Raises:
        ModelError: the folder is not a VLForge model, or weights are missing.
    """
    fields = read_config(path)
    if fields.get("model_type") != LlavaConfig.model_type:
        raise ModelError(
            f"{path} holds a model of type {fields.get('model_type')!r}, not a LLaVA-shaped one; "
            "give vision and language folders, or the output of a train stage"
        )
    model = _load(LlavaModel, path, dtype)
    meta = json.loads((path / META_NAME).read_text()) if (path / META_NAME).exists() else {}
    processor = _read_processor(path, model.config.vision_config, model.config.image_aspect_ratio)
    return ModelFolder(
        model=model,
        tokenizer=read_tokenizer(path),
        processor=processor,
        template=meta.get("template", "plain"),
        history=tuple(meta.get("history", ())),
    )


def write_folder(folder: ModelFolder, out: Path) -> None:
    """Write everything that `read_folder` reads; the same model gives the same bytes."""
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    config = folder.model.config
    for part in (config, config.vision_config, config.text_config, folder.model.language.config):
        part._name_or_path = ""  # where a part came from is history, not a property of the model
    folder.model.save_pretrained(out)
    folder.tokenizer.save_pretrained(out)
    write_json(out / image_processor.FILE_NAME, folder.processor.to_json())
    meta = {
        "family": "llava",
        "template": folder.template,
        "image_aspect_ratio": folder.model.config.image_aspect_ratio,
        "history": list(folder.history),
        "vlforge_version": __version__,
    }
    write_json(out / META_NAME, meta)


def with_stage(folder: ModelFolder, template: str, stage: dict[str, Any]) -> ModelFolder:
    """The folder after one more stage of training with `template`."""
    return replace(folder, template=template, history=(*folder.history, stage))


def read_config(path: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        ModelError: no such folder, or no readable configuration in it.
    """
    file = path / "config.json"
    try:
        fields = json.loads(file.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path} is not a model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise ModelError(f"{file} does not hold a configuration")
    return fields


def read_tokenizer(path: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{path} has no tokenizer.json or tokenizer.model; name a tokenizer")
    level = transformers_logging.get_verbosity()
    try:
        # It reads config.json on the way and warns of a model type that it does not know.
        transformers_logging.set_verbosity_error()
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its tokenizer cannot be read: {_first_line(error)}") from None
    finally:
        transformers_logging.set_verbosity(level)


def read_language(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The causal language model in a folder."""
    read_config(path)
    return _load(AutoModelForCausalLM, path, dtype)


def write_json(path: Path, fields: Any) -> None:
    """Write sorted, indented JSON; a killed writer leaves the old file."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(draft, path)


def _read_vision(path: Path) -> PreTrainedModel:
    config = vision_config(read_config(path))
    if isinstance(config, SmallVisionConfig):
        return _load(SmallVisionModel, path, torch.float32)
    return _load(CLIPVisionModel, path, torch.float32)


def _load(kind: Any, path: Path, dtype: torch.dtype) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {_first_line(error)}") from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{path} lacks {len(missing)} weights, the first is {missing[0]}")
    if info["unexpected_keys"] and kind.__name__ != "CLIPVisionModel":  # a whole CLIP has more
        unused = sorted(info["unexpected_keys"])
        raise ModelError(f"{path} has {len(unused)} weights of no use, the first is {unused[0]}")
    return model


def _read_processor(path: Path, vision: Any, fit_mode: str) -> ImageProcessor:
    file = path / image_processor.FILE_NAME
    if file.exists():
        return ImageProcessor.from_json(json.loads(file.read_text()), fit_mode)
    if isinstance(vision, SmallVisionConfig):
        return small_processor(vision.image_size)
    return ImageProcessor(size=vision.image_size, fit_mode=fit_mode)


def _check_vocabulary(tokenizer: Any, language: PreTrainedModel) -> None:
    rows = language.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the language model {rows} embeddings; "
            "they do not belong together"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
