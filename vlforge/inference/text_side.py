"""What turns samples of a model into ids: configuration, tokenizer, processor, no weights.

A folder's model, a native one, or the parts that a recipe names; opened in a second
whatever the model's size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import ConvNextConfig
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.checkpoint import Parts, meta_model
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.weights import lazies, open_file, read_pickle
from vlforge.data.images import header_size, load_rgb
from vlforge.inference.load import find_kind
from vlforge.inference.native import native_base
from vlforge.models.base import VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.encoding import Encoded
from vlforge.models.families import family_of, find_family
from vlforge.models.folder import META_NAME
from vlforge.models.llava import LlavaConfig
from vlforge.models.mgm import MgmConfig
from vlforge.models.minigpt4 import BLIP, EVA, minigpt4_config, read_settings, weights_file
from vlforge.models.native import NativeEncoded, NativeModel
from vlforge.models.native_folder import OWN_TEMPLATE, read_meta
from vlforge.models.parts import convnext
from vlforge.models.parts.anyres import read_pinpoints
from vlforge.models.parts.internlm2 import is_internlm2, llama_config
from vlforge.models.parts.language import text_config
from vlforge.models.parts.native_processor import open_processor
from vlforge.models.parts.qwen_vit import QwenVitConfig
from vlforge.models.parts.vision import vision_config
from vlforge.models.qwen_vl import QwenVlConfig, vit_config
from vlforge.models.reading import read_config, read_tokenizer
from vlforge.text.templates import Template, find_template
from vlforge.text.two_tokenizers import Dialect
from vlforge.types import ModelError, RecipeError, Sample


@dataclass(frozen=True)
class TextSide:
    """A model without its weights.

    template: None is a native model's own chat template.
    trained_with: name of the template that the folder was last trained with.
    """

    model: VisionLanguageModel | NativeModel
    tokenizer: Any
    template: Template | None = None
    trained_with: str | None = None

    @property
    def is_native(self) -> bool:
        """Whether transformers' own processor places the pictures."""
        return isinstance(self.model, NativeModel)

    def sizes(self, sample: Sample) -> list[tuple[int, int]]:
        """Width and height of the sample's pictures, from their headers."""
        return [tuple(header_size(image)) for image in sample.images]

    def encode(
        self, sample: Sample, max_length: int | None = None, compat: str | None = None
    ) -> Encoded | NativeEncoded:
        """The sample as ids and labels, as training has it.

        Raises:
            DataError: turns that the template cannot hold, or pictures that do not
                match, cannot be read or do not fit.
            RecipeError: `compat` for a native model.
        """
        if isinstance(self.model, NativeModel):
            if compat:
                raise RecipeError(f"compat {compat!r} is for our families, not for native models")
            images = [load_rgb(image) for image in sample.images]
            return self.model.encode(sample, images, self.template, max_length)
        if self.template is None:
            raise RecipeError("no template is given; name one with --template")
        sizes = self.sizes(sample) if self.model.needs_sizes else None
        how: dict[str, Any] = {"sizes": sizes, "compat": compat}
        return self.model.encode(sample, self.template, self.tokenizer, max_length, **how)


def open_text_side(
    model: ModelSpec | str | Path,
    template: str = "auto",
    dialect: Dialect = "auto",
    parts: Parts | None = None,
) -> TextSide:
    """Open a folder of any layout, or the parts that a recipe names.

    Args:
        template: "auto" is what the folder was trained with, or a native model's own.
        dialect: whose ids texts become; see `text.two_tokenizers`.
        parts: what a foreign layout leaves out.

    Raises:
        ModelError: no such folder, or one that is no model known here.
        RecipeError: no such template.
    """
    chosen = None if template == "auto" else find_template(template)
    if isinstance(model, ModelSpec):
        if dialect == "auto":
            dialect = model.tokenizer_dialect
        tokenizer = read_tokenizer(Path(model.tokenizer or model.language), dialect)
        return TextSide(meta_model(spec_config(model)), tokenizer, chosen)
    folder = Path(model)
    kind = find_kind(folder)
    if kind == "native":
        processor = open_processor(native_base(folder))
        native = NativeModel(nn.Identity(), processor)
        name = read_meta(folder).get("template", OWN_TEMPLATE)
        if chosen is None and template == OWN_TEMPLATE and name != OWN_TEMPLATE:
            chosen = find_template(name)
        return TextSide(native, processor.tokenizer, chosen, name)
    if kind != "family":
        raise ModelError(f"{folder} holds no model that reads conversations")
    return _family(folder, chosen, dialect, parts)


def _family(
    folder: Path, chosen: Template | None, dialect: Dialect, parts: Parts | None
) -> TextSide:
    has_config = folder.is_dir() and (folder / "config.json").is_file()
    fields = read_config(folder) if has_config else {}
    family = family_of(fields.get("model_type"))
    if family is not None:
        config = find_family(family).config_class.from_dict(dict(fields))
        meta = folder / META_NAME
        known = json.loads(meta.read_text(encoding="utf-8")) if meta.is_file() else {}
        tokens, name = folder, known.get("template", "plain")
    else:
        found = read_checkpoint(folder, parts)
        tokens = found.tokenizer or (parts.language if parts else None)
        if tokens is None:
            raise ModelError(
                f"{folder} has no tokenizer; name the folder that has it with --language"
            )
        config, name = found.config, found.template
    tokenizer = read_tokenizer(tokens, dialect)
    return TextSide(meta_model(config), tokenizer, chosen or find_template(name), name)


def spec_config(spec: ModelSpec) -> PreTrainedConfig:
    """The configuration of the model that a recipe's parts make; no weight is read.

    Raises:
        ModelError: a part that is missing, of an unknown type, or does not fit.
    """
    fields = read_config(Path(spec.language))
    language = llama_config(fields) if is_internlm2(fields) else text_config(fields)
    made: Mapping[str, Callable[[ModelSpec, Any], PreTrainedConfig]] = {
        "llava": _llava, "mgm": _mgm, "minigpt4": _minigpt4, "qwen_vl": _qwen_vl,
    }  # fmt: skip
    return made[spec.family](spec, language)


def _llava(spec: ModelSpec, language: Any) -> PreTrainedConfig:
    vision = vision_config(read_config(Path(spec.vision)))
    pinpoints: Sequence[Any] = spec.image_grid_pinpoints
    if pinpoints:
        pinpoints = read_pinpoints(spec.image_grid_pinpoints, vision.image_size)
    return LlavaConfig(
        vision_config=vision,
        text_config=language,
        connector=spec.connector,
        select_layer=spec.select_layer,
        select_feature=spec.select_feature,
        image_aspect_ratio=spec.image_aspect_ratio,
        patch_merge=spec.patch_merge,
        image_grid_pinpoints=list(pinpoints) or None,
    )


def _mgm(spec: ModelSpec, language: Any) -> PreTrainedConfig:
    if spec.vision_high is None:
        raise ModelError("family mgm needs vision_high, the folder of OpenCLIP's ConvNeXt")
    high = Path(spec.vision_high)
    if (high / convnext.CONFIG_NAME).is_file():
        weights = convnext.trunk(open_file(convnext.openclip_weights_file(high)))
        second = convnext.config_of({name: lazy.shape for name, lazy in weights.items()})
    else:
        second = ConvNextConfig.from_dict(read_config(high))
    return MgmConfig(
        vision_config=vision_config(read_config(Path(spec.vision))),
        vision_high_config=second,
        text_config=language,
        connector=spec.connector,
        select_layer=spec.select_layer,
        image_aspect_ratio=spec.image_aspect_ratio,
        image_size_high=spec.image_size_high,
        image_grid=spec.image_grid,
        image_global=spec.image_global,
    )


def _minigpt4(spec: ModelSpec, language: Any) -> PreTrainedConfig:
    if spec.qformer is None:
        raise ModelError("family minigpt4 needs qformer, the file blip2_pretrained_*.pth")
    files = [weights_file(spec.vision, EVA), weights_file(spec.qformer, BLIP)]
    eva, blip = map(_shapes, files)
    return minigpt4_config(eva, blip, language, read_settings(*(file.parent for file in files)))


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".safetensors":
        return {name: lazy.shape for name, lazy in open_file(file).items()}
    state = read_pickle(file)
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    return {name: lazy.shape for name, lazy in lazies(state, file).items()}


def _qwen_vl(spec: ModelSpec, language: Any) -> PreTrainedConfig:
    fields = read_config(Path(spec.vision))
    own = fields.get("model_type") == QwenVitConfig.model_type
    if not own and "visual" not in fields:
        raise ModelError(f"{spec.vision} holds a {fields.get('model_type')!r}, not Qwen-VL's eyes")
    vision = QwenVitConfig.from_dict(fields) if own else vit_config(fields["visual"])
    return QwenVlConfig(vision_config=vision, text_config=language)
