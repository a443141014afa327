"""Opens a model folder of any kind this project can use, or says what the folder is instead."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, meta_model
from vlforge.checkpoints.index import match, read_checkpoint
from vlforge.inference.generate import Decoding
from vlforge.inference.native import (
    bare_native,
    is_adapted_native,
    is_native,
    native_base,
    open_native,
)
from vlforge.inference.notes import notes_of
from vlforge.inference.placing import input_device, part_in_family, placing
from vlforge.inference.text_models import (
    PLAIN_STOP,
    bare_text_model,
    is_plain,
    is_text_model,
    open_text_model,
)
from vlforge.models.attention import check_attention, set_attention
from vlforge.models.families import family_of, find_family
from vlforge.models.folder import ModelFolder, read_folder
from vlforge.models.native import NativeModel
from vlforge.models.native_folder import OWN_TEMPLATE, read_meta
from vlforge.models.parts.image_processor import FILE_NAME as PROCESSOR_NAME
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.reading import (
    check_vocabulary,
    first_line,
    read_config,
    read_processor,
    read_tokenizer,
)
from vlforge.text.templates import Template, find_template
from vlforge.text.two_tokenizers import with_dialect
from vlforge.types import Loading, ModelError

Kind = Literal["family", "native", "language", "clip", "tagger"]
"""What a folder holds: our model or one of transformers that chat and caption; a language
model without eyes; a model that compares by embedding; one that compares by tags."""

ACCEPTED = "the folder of a train stage, or an image-text model of transformers"
NATIVE_LAYOUTS = ("llava_hf", "llava_hf_nested")
"""Layouts that transformers opens itself."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model on its device with all that it takes to use it; frozen, in evaluation mode.

    `template` is None where the model holds no conversations, or has a template of its
    own. `device` is where pixels and ids go; `notes` are for the user, a line each;
    `stops` end answers where no template says what does.
    """

    kind: Kind
    path: str
    model: Any
    tokenizer: Any
    processor: Any
    device: torch.device
    template: Template | None = None
    notes: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()

    @property
    def language(self) -> Any:
        """The part that writes: the language model of ours, the whole of a native one."""
        return self.model.language if self.kind == "family" else self.model

    def decoding(self, max_new_tokens: int, **how: Any) -> Decoding:
        """How answers of this model end: its end tokens and its template's stop strings."""
        ends = getattr(self.language.generation_config, "eos_token_id", None)
        ids = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        stops = self.template.stop_strings if self.template else self.stops
        return Decoding(
            max_new_tokens=max_new_tokens,
            eos_ids=tuple(sorted(ids - {None})),
            stop_strings=stops,
            **how,
        )


def load_model(
    path: str | Path,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    *,
    template: str = "auto",
    parts: Parts | None = None,
    quantise: Literal["none", "8bit", "4bit"] = "none",
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = "auto",
    device_map: Literal["none", "auto"] | dict[str, str] = "none",
) -> Loaded:
    """Load a model folder; every tensor of it is used, and none is made up.

    Any layout of `vlforge list layouts` is opened as it lies; an adapter is merged.

    Args:
        device: "auto" takes a GPU where there is one.
        template: "auto" is the one the model was last trained with.
        parts: what a foreign layout leaves out.
        quantise, attention, device_map: see `Loading`. Models that only compare
            pictures and texts are small and stay whole, on one device.

    Raises:
        ModelError: no folder there, a folder of something else, weights that do not
            fit, a library or a device that is missing; one line that says which.
    """
    folder = Path(path)
    kind = find_kind(folder)
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    where, dtype = pick_device(device), PRECISIONS[precision]
    check_attention(attention, where, dtype)
    loading = Loading(precision, quantise, attention, device_map)
    loaders = {
        "family": lambda *how: _load_family(*how, parts or Parts(), loading),
        "native": lambda *how: _load_native(*how, loading),
        "language": lambda *how: _load_text(*how, loading),
        "clip": _load_clip,
        "tagger": _load_tagger,
    }
    with quiet():
        loaded = loaders[kind](folder, where, dtype, template)
        if kind != "tagger" and not getattr(loaded.model.config, "is_encoder_decoder", False):
            set_attention(loaded.model, attention, loaded.device, dtype)
    loaded.model.eval().requires_grad_(False)
    return replace(loaded, notes=(*loaded.notes, *notes_of(loaded, loading)))


def find_kind(folder: Path) -> Kind:
    """What the folder holds, from `config.json` and the names of its files.

    Raises:
        ModelError: nothing that can be used; names what was found instead.
    """
    if not folder.exists():
        raise ModelError(f"no model at {folder}; give {ACCEPTED}")
    if folder.is_file():
        if match(folder) is None:
            raise ModelError(f"{folder} is a file; give {ACCEPTED}")
        return "family"
    _check_freed(folder)
    if is_adapted_native(folder):
        return "native"
    if not (folder / "config.json").is_file():
        if match(folder) is None:
            raise ModelError(f"{folder} {_without_config(folder)}")
        return "family"
    model_type = read_config(folder).get("model_type")
    if family_of(model_type):
        return "family"
    if model_type == "clip":
        return "clip"
    if model_type == "vlforge_small_vision" and (folder / "tags.json").is_file():
        return "tagger"
    foreign = match(folder)
    if foreign is not None and foreign.name not in NATIVE_LAYOUTS:
        return "family"
    if is_native(model_type):
        return "native"
    if is_text_model(read_config(folder)):
        return "language"
    raise ModelError(f"{folder} holds {_named(model_type)}; give {ACCEPTED}")


def pick_device(device: str) -> torch.device:
    """The device a name stands for.

    Raises:
        ModelError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"{device!r} is no device; give auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: torch finds no GPU here; give cpu or auto")
    return chosen


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' reports to itself: what matters of them is raised as one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # Its readers of old configurations warn of their own fields.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            warnings.filterwarnings("ignore", category=UserWarning, module="accelerate")
            yield
    finally:
        logging.set_verbosity(level)


def _check_freed(folder: Path) -> None:
    """Refuse a stage whose weights `vlforge clean` has removed.

    Raises:
        ModelError: they were.
    """
    try:
        freed = json.loads((folder / "done.json").read_text(encoding="utf-8")).get("freed")
    except (OSError, ValueError, AttributeError):
        return
    if freed:
        raise ModelError(
            f"{folder}: vlforge clean has freed its weights; take the stage that went on from it, "
            "or vlforge run --until this stage, which makes them again"
        )


def _without_config(folder: Path) -> str:
    if (folder / "graph.json").is_file():
        return f"is a run; give one of its train stages{_last_train_stage(folder)}"
    if (folder / "checkpoint").is_dir():
        return "is a training stage that has not ended; give the same command again to finish it"
    if (folder / "done.json").is_file():
        return f"is a finished stage without a model; give {ACCEPTED}"
    return f"has no config.json; give {ACCEPTED}"


def _last_train_stage(run: Path) -> str:
    try:
        nodes = json.loads((run / "graph.json").read_text(encoding="utf-8"))["nodes"]
        stage = [run / node["folder"] for node in nodes if node["kind"] == "train"][-1]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return f", such as {stage}"


def _named(model_type: Any) -> str:
    known = {
        "vlforge_small_vision": "a vision encoder alone",
        "clip_vision_model": "a vision encoder alone",
    }
    return known.get(model_type, f"a model of type {model_type!r}, which is not supported yet")


def _load_family(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    template: str,
    parts: Parts,
    loading: Loading,
) -> Loaded:
    if folder.is_dir() and (folder / "config.json").is_file():
        is_ours = family_of(read_config(folder).get("model_type")) is not None
    else:
        is_ours = False
    if is_ours:
        kind = find_family(str(family_of(read_config(folder)["model_type"])))
        config = kind.config_class.from_pretrained(folder)
        made = read_folder(folder, dtype=dtype, **_placed(config, loading, device, dtype))
    else:
        made = _foreign(folder, device, dtype, parts, loading)
    name = template
    if template == "auto":
        name = find_template(made.template).asked_as or made.template
    return Loaded(
        kind="family",
        path=str(folder),
        model=_to(made.model, device),
        tokenizer=made.tokenizer,
        processor=made.processor,
        device=input_device(made.model, device),
        template=find_template(name),
    )


def _placed(
    config: Any, loading: Loading, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    if loading.quantise == "none" and loading.device_map == "none":
        return {}
    return placing(loading, device, dtype, meta_model(config), part_in_family)


def _to(model: Any, device: torch.device) -> Any:
    """The model on a device, unless it was put in its place while it was read."""
    is_there = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    return model if is_there else model.to(device)


def _foreign(
    path: Path, device: torch.device, dtype: torch.dtype, parts: Parts, loading: Loading
) -> ModelFolder:
    """A model in another project's layout, as if it were a folder of ours."""
    found = read_checkpoint(path, parts)
    if found.tokenizer is None:
        raise ModelError(f"{path} has no tokenizer; name the folder that has it with --language")
    tokenizer = with_dialect(read_tokenizer(found.tokenizer), found.tokenizer, found.dialect)
    model = found.build(dtype, **_placed(found.config, loading, device, dtype))
    check_vocabulary(tokenizer, model.language)
    ends = _end_tokens(found)
    if ends is not None:
        model.language.generation_config.eos_token_id = ends
    vision = found.config.vision_config
    processor = found.processor or read_processor(path, vision, found.config.image_aspect_ratio)
    return ModelFolder(model, tokenizer, model.adapt_processor(processor), found.template)


def _end_tokens(found: Checkpoint) -> int | list[int] | None:
    """Where answers end, as the folder's `generation_config.json` says."""
    file = (found.tokenizer or found.path) / "generation_config.json"
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return None
    return ends if isinstance(ends, int | list) else None


def _load_native(
    folder: Path, device: torch.device, dtype: torch.dtype, template: str, loading: Loading
) -> Loaded:
    how: dict[str, Any] = {}
    if loading.quantise != "none" or loading.device_map != "none":
        base = native_base(folder)
        how = placing(loading, device, dtype, bare_native(base), NativeModel.part_of)
    model, processor = open_native(folder, dtype, **how)
    name = _trained_with(folder, processor) if template == "auto" else template
    return Loaded(
        kind="native",
        path=str(folder),
        model=_to(model, device),
        tokenizer=processor.tokenizer,
        processor=processor,
        device=input_device(model, device),
        template=None if name == OWN_TEMPLATE else find_template(name),
    )


def _trained_with(folder: Path, processor: Any) -> str:
    """The template of a native folder.

    `convert-model` fits the folder's own to the ids of training, which the template of that
    name gives another tokenizer's.
    """
    meta = read_meta(folder)
    is_converted = meta.get("family", "native") != "native"
    if is_converted and getattr(processor, "chat_template", None):
        return OWN_TEMPLATE
    return str(meta.get("template", OWN_TEMPLATE))


def _load_text(
    folder: Path, device: torch.device, dtype: torch.dtype, template: str, loading: Loading
) -> Loaded:
    how: dict[str, Any] = {}
    if loading.quantise != "none" or loading.device_map != "none":
        how = placing(loading, device, dtype, bare_text_model(folder), lambda name: "language")
    model, tokenizer = open_text_model(folder, dtype, **how)
    is_bare, notes = is_plain(tokenizer, model), ()
    if template != "auto" and not is_bare:
        # One name is for all models of a recipe, and meant for those without a way of their own.
        notes = (f"{folder} is asked in its own way; template {template} is for other models",)
        template = "auto"
    return Loaded(
        kind="language",
        path=str(folder),
        model=_to(model, device),
        tokenizer=tokenizer,
        processor=None,
        device=input_device(model, device),
        template=None if template == "auto" else find_template(template),
        notes=notes,
        stops=(PLAIN_STOP,) if is_bare and template == "auto" else (),
    )


def _load_clip(folder: Path, device: torch.device, dtype: torch.dtype, template: str) -> Loaded:
    from transformers import CLIPModel

    try:
        model, info = CLIPModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from None
    for fault, names in (("lacks", "missing_keys"), ("has unknown", "unexpected_keys")):
        if info[names]:
            first = sorted(info[names])[0]
            raise ModelError(f"{folder} {fault} weights, {len(info[names])} in all, as {first}")
    return Loaded(
        kind="clip",
        path=str(folder),
        model=model.to(device),
        tokenizer=read_tokenizer(folder),
        processor=_processor(folder),
        device=device,
    )


def _load_tagger(folder: Path, device: torch.device, dtype: torch.dtype, template: str) -> Loaded:
    from vlforge.models.parts.tags import Tagger

    return Loaded(
        kind="tagger",
        path=str(folder),
        model=Tagger.load(folder).to(device),  # small: fp32 whatever was asked for
        tokenizer=read_tokenizer(folder),
        processor=_processor(folder),
        device=device,
    )


def _processor(folder: Path) -> ImageProcessor:
    fields = folder / PROCESSOR_NAME
    if not fields.is_file():
        raise ModelError(f"{folder} has no {PROCESSOR_NAME}; copy it from where the model is from")
    return ImageProcessor.from_json(json.loads(fields.read_text(encoding="utf-8")))
