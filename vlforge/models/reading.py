"""Reading the parts of a model from folders: every weight lands, or one line says which did not."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaTokenizer
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from vlforge.models.parts import image_processor
from vlforge.models.parts.image_processor import ImageProcessor, small_processor
from vlforge.models.parts.internlm2 import Heads, is_internlm2, llama_config, llama_state
from vlforge.models.parts.language import build_language, language_class, text_config
from vlforge.models.parts.small_vision import SmallVisionConfig
from vlforge.models.parts.vision import WHOLE_MODELS, vision_class, vision_config
from vlforge.text import qwen_tokenizer
from vlforge.text.two_tokenizers import Dialect, with_dialect
from vlforge.types import ModelError


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


def read_tokenizer(path: Path, dialect: Dialect = "auto") -> Any:
    """The tokenizer in a folder.

    Args:
        dialect: whose ids its texts become; see `text.two_tokenizers`.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        if (path / qwen_tokenizer.FILE_NAME).exists():
            return qwen_tokenizer.QwenTokenizer.from_pretrained(path)
        raise ModelError(f"{path} has no tokenizer.json or tokenizer.model; name a tokenizer")
    level = transformers_logging.get_verbosity()
    try:
        # It reads config.json on the way and warns of a model type that it does not know.
        transformers_logging.set_verbosity_error()
        if _is_internlm2_tokenizer(path):
            whole = LlamaTokenizer.from_pretrained(path)
        else:
            whole = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its tokenizer cannot be read: {first_line(error)}") from None
    finally:
        transformers_logging.set_verbosity(level)
    return with_dialect(whole, path, dialect)


def _is_internlm2_tokenizer(path: Path) -> bool:
    """Whether a tokenizer is InternLM2's, whose own code adds nothing to sentencepiece's.

    Source: convert2llama.py, which saves it as Llama's.
    """
    file = path / "tokenizer_config.json"
    if not file.is_file() or not (path / "tokenizer.model").is_file():
        return False
    name = str(json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class"))
    return name.startswith("InternLM2Tokenizer") and not (path / "tokenizer.json").is_file()


def read_language(path: Path, dtype: torch.dtype = torch.float32, **how: Any) -> PreTrainedModel:
    """The causal language model in a folder, with the activation that its file says.

    An InternLM2 is read as the Llama that it is.

    Args:
        how: more for `from_pretrained`: where weights go, and quantised how.

    Raises:
        ModelError: as `load_weights`, or an InternLM2 that is to be quantised.
    """
    fields = read_config(path)
    if is_internlm2(fields):
        if how:
            raise ModelError(
                f"{path}: an InternLM2 is quantised as a Llama; write it as one first "
                "(vlforge convert-model --to llama)"
            )
        return _read_as_llama(path, llama_config(fields), dtype)
    config = text_config(fields)
    return load_weights(language_class(config), path, dtype, config=config, **how)


def _read_as_llama(path: Path, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """An InternLM2, one of its files in memory at a time."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init.no_init_weights():
            model = build_language(config)
    finally:
        torch.set_default_dtype(before)
    heads, places = Heads.of(config), model.state_dict()
    left = set(places) - set(getattr(model, "all_tied_weights_keys", ()))
    for file in weight_files(path):
        for theirs, tensor in read_tensors(file).items():
            parts = llama_state(theirs, tensor, heads)
            left -= _fill(places, parts, f"{file}: {theirs} {list(tensor.shape)}")
    if left:
        raise ModelError(f"{path} lacks {len(left)} weights, the first is {min(left)}")
    model.tie_weights()
    return model.eval()


def _fill(places: Mapping[str, Tensor], parts: Mapping[str, Tensor], where: str) -> set[str]:
    """Copy tensors to their places; their names.

    Raises:
        ModelError: one without a place, or of another shape.
    """
    for name, part in parts.items():
        place = places.get(name)
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if place is None:
            raise ModelError(f"{where} is of no use: config.json has no {name}")
        if place.shape != part.shape:
            raise ModelError(f"{where} does not make {name} {list(place.shape)}")
        place.copy_(part)
    return set(parts)


def weight_files(path: Path) -> list[Path]:
    """The files of a model folder's weights: one, or the shards that its index names.

    Raises:
        ModelError: none there, or an index that cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = path / f"{name}.index.json"
        if index.is_file():
            try:
                names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            except (OSError, ValueError, LookupError, AttributeError):
                raise ModelError(f"{index} is no index of shards; copy the file again") from None
            return [path / Path(str(one)).name for one in sorted(set(names))]
        if (path / name).is_file():
            return [path / name]
    raise ModelError(f"{path} holds no weights (model.safetensors, pytorch_model.bin, or shards)")


def read_vision(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The vision encoder in a folder; of a whole CLIP or SigLIP its tower."""
    fields = read_config(path)
    kind = vision_class(vision_config(fields))
    return load_weights(kind, path, dtype, is_part=fields["model_type"] in WHOLE_MODELS)


def load_weights(
    kind: Any, path: Path, dtype: torch.dtype, *, is_part: bool = False, **how: Any
) -> Any:
    """`kind.from_pretrained`, strict: nothing is made up, nothing is left over.

    Args:
        is_part: the folder holds a larger model, of which the rest is left.

    Raises:
        ModelError: weights that are missing, have no place, or cannot be read.
    """
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    try:
        # What is missing or left over is said below; of a part the rest is no news.
        transformers_logging.set_verbosity_error()
        model, info = kind.from_pretrained(path, dtype=dtype, output_loading_info=True, **how)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}") from None
    finally:
        transformers_logging.set_verbosity(level)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{path} lacks {len(missing)} weights, the first is {missing[0]}")
    if info["unexpected_keys"] and not is_part:
        unused = sorted(info["unexpected_keys"])
        raise ModelError(f"{path} has {len(unused)} weights of no use, the first is {unused[0]}")
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file of weights; of a checkpoint with more in it, those of `model`.

    `.pth` and `.bin` are unpickled without running anything that they ask for, and
    mapped from disk where the file allows it.

    Raises:
        ModelError: no such file, or none of plain tensors.
    """
    if not path.is_file():
        raise ModelError(f"no weights at {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise ModelError(f"{path} is no pickle of plain tensors; nothing of it was run") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)}); copy it again") from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping):
        raise ModelError(f"{path} holds a {type(state).__name__}, not weights by name")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def read_processor(path: Path, vision: Any, fit_mode: str) -> ImageProcessor:
    """The folder's own image processor, or the one that the encoder's configuration implies."""
    file = path / image_processor.FILE_NAME
    if file.exists():
        return ImageProcessor.from_json(json.loads(file.read_text()), fit_mode)
    if isinstance(vision, SmallVisionConfig):
        return small_processor(vision.image_size)
    return ImageProcessor(size=vision.image_size, fit_mode=fit_mode)


def check_vocabulary(tokenizer: Any, language: PreTrainedModel) -> None:
    """Refuse a tokenizer with more tokens than the language model has embeddings.

    Raises:
        ModelError: it has.
    """
    rows = language.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens and the language model {rows} embeddings; "
            "they do not belong together"
        )


def first_line(error: Exception) -> str:
    """What an error says first; its type where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def write_json(path: Path, fields: Any) -> None:
    """Write sorted, indented JSON; a killed writer leaves the old file."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(draft, path)
