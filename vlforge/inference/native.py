"""Any image-text model of transformers (BLIP-2, LLaVA-HF, ...) through its own `generate`.

Its processor places the picture's tokens and its own code splices them; here are
batching, keyed sampling and confidences, as `generate` gives them for our models.

B rows, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlforge.checkpoints.lora import open_adapter
from vlforge.checkpoints.vlforge_adapter import ADAPTED, FOLDERS, WHOLE
from vlforge.checkpoints.weights import Lazy, open_file
from vlforge.data.images import load_rgb
from vlforge.inference.blip2 import blip2_generate, is_blip2, settle_placeholder
from vlforge.inference.generate import Decoding, Drawing, Generated, LengthError
from vlforge.inference.image_to_text import ends_of, inputs_of, whole_processor, words_apart
from vlforge.inference.keyed import keyed_draw, read_drawn
from vlforge.models.native import message
from vlforge.models.parts.native_processor import open_processor
from vlforge.models.reading import first_line
from vlforge.text.render import render
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, ModelError, Sample, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.load import Loaded


class PromptError(ModelError):
    """Pictures or words that a model's processor refuses."""


@dataclass(frozen=True)
class NativePrompt:
    """What the model's processor takes: a text (None: picture only) and its pictures."""

    text: str | None
    images: tuple[Image | str, ...] = ()

    def __len__(self) -> int:
        return len(self.text or "")


def is_native(model_type: Any) -> bool:
    """Whether transformers has an image-text class for the type."""
    from transformers.models.auto import modeling_auto

    return model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def bare_native(folder: Path) -> Any:
    """The model without memory: names and shapes only."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))


def is_adapted_native(folder: Path) -> bool:
    """Whether a train stage left adapters of a native model there."""
    return (folder / ADAPTED).is_file() and _told(folder).get("family") == "native"


def native_base(folder: Path) -> Path:
    """The folder of the model that a stage's adapters belong to; of a whole model itself.

    Raises:
        ModelError: it is not where it was.
    """
    return native_base(adapted_model(folder)) if is_adapted_native(folder) else folder


def adapted_model(folder: Path) -> Path:
    """What a stage's adapters were trained on, which may have adapters itself.

    Raises:
        ModelError: it is not where it was.
    """
    base = _told(folder)["base"]
    places = (Path(base["path"]), folder / base["beside"])
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ModelError(
            f"{folder} adapts {base['path']}, which is not there; put it back, or name it: vlforge "
            f"merge BASE {folder} OUT"
        )
    return found


def _told(folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((folder / ADAPTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def open_native(folder: Path, dtype: torch.dtype, **how: Any) -> tuple[Any, Any]:
    """Model and processor; a stage's adapters are merged into their base.

    Args:
        how: more for `from_pretrained`: where weights go, and quantised how.

    Raises:
        ModelError: a part is missing, or weights do not fit.
    """
    if is_adapted_native(folder):
        model, processor = open_native(adapted_model(folder), dtype, **how)
        merge_adapters(model, folder)
        return model, processor
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        processor = open_processor(folder)
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, **how
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from None
    for fault, names in (("lacks", "missing_keys"), ("has unknown", "unexpected_keys")):
        if info[names]:
            first = sorted(info[names])[0]
            raise ModelError(f"{folder} {fault} weights, {len(info[names])} in all, as {first}")
    processor = whole_processor(folder, model, processor)
    if not hasattr(processor, "tokenizer"):
        raise ModelError(f"{folder} has no processor for pictures and text; copy its files there")
    if is_blip2(model):
        settle_placeholder(model, processor)
    return model, ready_to_answer(processor)


def ready_to_answer(processor: Any) -> Any:
    """The processor, which from now on pads prompts on the left."""
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


@torch.no_grad()
def merge_adapters(model: Any, folder: Path) -> int:
    """Add a stage's adapters, summed in fp32 and rounded once, and put in what else it trained.

    Returns:
        How many tensors changed.

    Raises:
        ModelError: a quantised base, or tensors that have no place in it.
    """
    if getattr(model, "is_quantized", False):
        raise ModelError(f"{folder} holds adapters; merge them before quantising (vlforge merge)")
    named = dict(model.named_parameters(remove_duplicate=False))
    weights: dict[str, Lazy] = {name: Lazy.of(value, name) for name, value in named.items()}
    changed: set[str] = set()
    if (folder / WHOLE).is_file():
        whole = open_file(folder / WHOLE)
        if lost := sorted(set(whole) - set(weights)):
            raise ModelError(f"{folder / WHOLE}: {lost[0]} has no place in the base")
        weights |= whole
        changed |= set(whole)
    for part in _told(folder)["roots"]:
        adapter = open_adapter(folder / FOLDERS[part])
        weights = adapter.onto(weights)
        changed |= set(adapter.pairs) | set(adapter.whole)
    for name in sorted(changed):
        named[name].copy_(weights[name].read())
    return len(changed)


def native_prompt(loaded: Loaded, sample: Sample) -> NativePrompt:
    """A conversation in the template asked for, else in the model's own.

    A model without conversations (BLIP-2) takes the words of a single turn.
    """
    if loaded.template is not None or getattr(loaded.processor, "chat_template", None):
        return NativePrompt(native_text(loaded, sample.turns, generation=True), sample.images)
    if len(sample.turns) > 1:
        raise DataError(f"{loaded.path} takes one question, not a conversation; ask anew")
    if not sample.images:
        raise DataError(f"{loaded.path} takes a picture with every question; this one has none")
    words = sample.turns[0].text.replace(LLAVA_IMAGE_TOKEN, "").strip()
    return NativePrompt(words or None, sample.images)


def native_text(loaded: Loaded, turns: Sequence[Turn], *, generation: bool = False) -> str:
    """A conversation in the template asked for, else the model's own; open for an answer or not."""
    if loaded.template is not None:
        words = render(loaded.template, turns, generation=generation).text
        tag = getattr(loaded.processor, "image_token", LLAVA_IMAGE_TOKEN)
        return words.replace(LLAVA_IMAGE_TOKEN, tag)
    messages = [message(turn.role, turn.text) for turn in turns]
    return loaded.processor.apply_chat_template(
        messages, add_generation_prompt=generation, tokenize=False
    )


def native_caption_prompt(
    loaded: Loaded, image: Image, prompt: str | None, describe: str
) -> NativePrompt:
    """What makes the model describe a picture: a question if it converses, else a beginning."""
    if loaded.template is None and not getattr(loaded.processor, "chat_template", None):
        return NativePrompt(prompt, (image,))
    words = f"{LLAVA_IMAGE_TOKEN}\n{prompt or describe}"
    asked = native_prompt(loaded, Sample("caption", ("",), (Turn("user", words),)))
    return replace(asked, images=(image,))


def native_generate(
    loaded: Loaded, prompts: Sequence[NativePrompt], decoding: Decoding, keys: Sequence[int]
) -> list[list[Generated]]:
    """`decoding.candidates` answers per prompt, in order."""
    if is_blip2(loaded.model):
        return blip2_generate(loaded, prompts, decoding, keys)
    answers: dict[int, list[Generated]] = {}
    for places in words_apart(loaded.model, [prompt.text for prompt in prompts]):
        some, theirs = [prompts[n] for n in places], [keys[n] for n in places]
        try:
            made = run_native(loaded, some, decoding, theirs)
        except LengthError as error:
            lengths = {places[place]: length for place, length in error.lengths.items()}
            raise LengthError(lengths, error.limit) from None
        answers.update(zip(places, made, strict=True))
    return [answers[place] for place in range(len(prompts))]


def run_native(
    loaded: Loaded, prompts: list[NativePrompt], decoding: Decoding, keys: list[int], **how: Any
) -> list[list[Generated]]:
    """Answers to prompts that all have a text, or all have none; `how` is for `generate`.

    Raises:
        LengthError: prompts that the model has no room for.
    """
    inputs = native_inputs(loaded, [prompt for prompt in prompts for _ in decoding.places])
    _refuse_long(loaded, inputs, decoding.candidates)
    return draw_natively(loaded, inputs_of(loaded, inputs), decoding, keys, **how)


def _refuse_long(loaded: Loaded, inputs: Any, candidates: int) -> None:
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    mask = inputs.get("attention_mask")
    if limit is None or mask is None:
        return
    lengths = enumerate(mask.sum(-1).tolist()[::candidates])
    if long := {place: length for place, length in lengths if length >= limit}:
        raise LengthError(long, limit)


@torch.inference_mode()
def draw_natively(
    loaded: Loaded, inputs: Any, decoding: Decoding, keys: Sequence[int], **how: Any
) -> list[list[Generated]]:
    """Answers by transformers' `generate`; `inputs` hold each prompt `candidates` times."""
    shown = inputs.get("attention_mask")
    lengths = [0] * len(keys) if shown is None else shown.sum(-1).tolist()[:: decoding.candidates]
    rows = [
        Drawing(place, k, key, lengths[place], decoding.max_new_tokens)
        for place, key in enumerate(keys)
        for k in decoding.places
    ]
    decoding, ends = ends_of(loaded, decoding)
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=decoding.beams,
        logits_processor=keyed_draw(rows, decoding),
        return_dict_in_generate=True,
        output_logits=True,
        **ends,
        **how,
    )
    return read_drawn(rows, output, loaded.model, loaded.tokenizer, decoding)


def native_inputs(loaded: Loaded, prompts: list[NativePrompt]) -> Any:
    """What the processor makes of prompts that all have a text, or all have none."""
    opened = [
        [load_rgb(image) if isinstance(image, str | bytes) else image for image in prompt.images]
        for prompt in prompts
    ]
    flat = [image for images in opened for image in images]
    texts = None if prompts[0].text is None else [prompt.text for prompt in prompts]
    try:
        inputs = loaded.processor(
            images=flat or None, text=texts, padding=texts is not None, return_tensors="pt"
        )
    except (ValueError, TypeError) as error:
        raise PromptError(
            f"{loaded.path}: its processor refuses the prompt: {first_line(error)}"
        ) from None
    return inputs.to(loaded.device, loaded.model.dtype)
