"""BLIP-2: a picture goes through encoder and Q-Former once, then the language model writes.

The picture's embeddings are put before the words here, so it does not matter which token
a checkpoint means to stand for a picture, or whether its processor places any: published
folders disagree (huggingface/transformers issues 34223 and 42203). All that transformers'
own `generate` would give is given, and greedy ids are the same.

B prompts, I pictures, Q queries, L positions, D width, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlforge.data.images import load_rgb
from vlforge.inference.generate import Decoding, Drawing, Generated, generate, pad_left
from vlforge.inference.keyed import keyed_draw, read_drawn
from vlforge.inference.prefetch import Fitted
from vlforge.types import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.load import Loaded
    from vlforge.inference.native import NativePrompt


CPU_PICTURES = 8
"""Pictures that a CPU encodes at a time: what lies between two layers then stays in its cache."""


def is_blip2(model: Any) -> bool:
    """Whether this is the BLIP-2 that writes."""
    return getattr(model.config, "model_type", "") == "blip-2"


def settle_placeholder(model: Any, processor: Any) -> None:
    """Let config and processor mean the same token by a picture, for whoever goes by tokens.

    Older folders say neither which token it is nor how many there are; then pictures would
    be left out without a word.
    """
    processor.num_query_tokens = model.config.num_query_tokens
    token = getattr(processor.image_token, "content", processor.image_token)
    place = processor.tokenizer.convert_tokens_to_ids(token)
    if place < model.get_input_embeddings().num_embeddings:
        model.config.image_token_index = place


def fitted(loaded: Loaded, image: Image) -> Fitted:
    """A picture as the encoder takes it: normalised, fp32, [3, S, S]."""
    made = loaded.processor.image_processor(images=image, return_tensors="np")
    return Fitted(made["pixel_values"][0], image.size)


@torch.inference_mode()
def blip2_embed(loaded: Loaded, prompts: Sequence[NativePrompt]) -> list[Tensor]:
    """[Q + L, D] for each prompt: its picture's embeddings, then those of its words.

    A picture that stands in several prompts is encoded once.

    Raises:
        DataError: a prompt with no picture, or with several.
    """
    for prompt in prompts:
        if len(prompt.images) != 1:
            count = len(prompt.images)
            raise DataError(f"{loaded.path} looks at one picture at a time, not at {count}")
    shown = [prompt.images[0] for prompt in prompts]
    names = [image if isinstance(image, str) else id(image) for image in shown]
    unique = dict(zip(names, shown, strict=True))
    features = dict(zip(unique, _features(loaded, list(unique.values())), strict=True))
    embed = loaded.model.get_input_embeddings()
    made = []
    for name, prompt in zip(names, prompts, strict=True):
        ids = torch.tensor(_ids(loaded, prompt.text), dtype=torch.long, device=loaded.device)
        words = embed(ids)
        made.append(torch.cat([features[name].to(words.device, words.dtype), words]))
    return made


def _features(loaded: Loaded, images: Sequence[Any]) -> Tensor:
    """Pictures -> what the language model reads of them, [I, Q, D]."""
    ready = [
        image if isinstance(image, Fitted) else fitted(loaded, _opened(image)) for image in images
    ]
    pixels = torch.stack([torch.from_numpy(image.pixels) for image in ready])
    most = CPU_PICTURES if loaded.device.type == "cpu" else len(ready)
    return torch.cat([_encoded(loaded, some) for some in pixels.split(most)])


def _encoded(loaded: Loaded, pixels: Tensor) -> Tensor:
    """[I, 3, S, S] -> [I, Q, D], all in one pass."""
    model = loaded.model
    encoded = model.vision_model(
        pixels.to(loaded.device, model.vision_model.dtype)
    ).last_hidden_state
    found = model.qformer(
        query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
        encoder_hidden_states=encoded,
        encoder_attention_mask=encoded.new_ones(encoded.shape[:2], dtype=torch.long),
    ).last_hidden_state
    # The Q-Former is kept in fp32 whatever the rest is in.
    return model.language_projection(found.to(encoded.dtype))


def _opened(image: Any) -> Image:
    return load_rgb(image) if isinstance(image, str | bytes) else image


def _ids(loaded: Loaded, text: str | None) -> list[int]:
    """The words behind the picture; without any, where the language model begins."""
    if text is not None:
        ids: list[int] = loaded.tokenizer(text)["input_ids"]
        return ids
    config = loaded.model.config.text_config
    begin = config.bos_token_id
    return [config.eos_token_id if begin is None else begin]


def blip2_generate(
    loaded: Loaded, prompts: Sequence[NativePrompt], decoding: Decoding, keys: Sequence[int]
) -> list[list[Generated]]:
    """`decoding.candidates` answers per prompt, in order, without the prompt's words."""
    embeds = blip2_embed(loaded, prompts)
    language = loaded.model.language_model
    if not language.config.is_encoder_decoder:
        return generate(language, loaded.tokenizer, embeds, decoding, keys)
    return _generate_from_encoder(loaded, embeds, decoding, keys)


@torch.inference_mode()
def _generate_from_encoder(
    loaded: Loaded, embeds: Sequence[Tensor], decoding: Decoding, keys: Sequence[int]
) -> list[list[Generated]]:
    """The same where the language model reads with an encoder (T5): that runs once."""
    from transformers.modeling_outputs import BaseModelOutput

    language = loaded.model.language_model
    padded, mask, _ = pad_left(embeds)
    read = language.get_encoder()(inputs_embeds=padded, attention_mask=mask).last_hidden_state
    rows = [
        Drawing(place, k, key, len(embeds[place]), decoding.max_new_tokens)
        for place, key in enumerate(keys)
        for k in decoding.places
    ]
    output = language.generate(
        encoder_outputs=BaseModelOutput(read.repeat_interleave(decoding.candidates, 0)),
        attention_mask=mask.repeat_interleave(decoding.candidates, 0),
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=decoding.beams,
        logits_processor=keyed_draw(rows, decoding),
        eos_token_id=list(decoding.eos_ids) or None,
        pad_token_id=loaded.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return read_drawn(rows, output, language, loaded.tokenizer, decoding)
