"""What language models without eyes are asked, and how they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlforge.inference.generate import Decoding, Generated, LengthError, generate
from vlforge.inference.native import draw_natively
from vlforge.inference.prompts import Prompt, embed, prompt_of
from vlforge.inference.text_models import TRANSLATORS, takes_embeddings
from vlforge.types import ModelError, Sample, Turn

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded

_SPEAKERS = {"system": "", "user": "User: ", "assistant": "Assistant: "}


def text_prompt(loaded: Loaded, sample: Sample) -> Prompt:
    """A conversation in the template asked for, the tokenizer's own, or plain words.

    A model from text to text gets its turns a line each; a translator the first turn of
    the user alone, which is what is to be translated.

    Raises:
        ModelError: pictures.
        DataError: turns that the template cannot hold.
    """
    if sample.images:
        raise ModelError(
            f"{loaded.path} is a language model, which sees no pictures; name an image-text model"
        )
    if loaded.template is not None:
        return prompt_of(loaded, sample)
    tokenizer = loaded.tokenizer
    if loaded.model.config.is_encoder_decoder:
        return Prompt(tuple(tokenizer.encode(_source(loaded, sample.turns))))
    if getattr(tokenizer, "chat_template", None):
        return Prompt(tuple(tokenizer.encode(own_words(tokenizer, sample.turns),
                                             add_special_tokens=False)))  # fmt: skip
    return Prompt(tuple(tokenizer.encode(plain_words(sample.turns))))


def own_words(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """The conversation in the tokenizer's chat template, open for an answer.

    Models that can think before they answer are told not to.
    """
    words: str = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,
    )
    return words


def plain_words(turns: Sequence[Turn]) -> str:
    """The conversation as a transcript, open for an answer."""
    lines = [_SPEAKERS[turn.role] + turn.text for turn in turns]
    return "\n".join([*lines, "Assistant:"])


def _source(loaded: Loaded, turns: Sequence[Turn]) -> str:
    if loaded.model.config.model_type in TRANSLATORS:
        return next((turn.text for turn in turns if turn.role == "user"), "")
    return "\n".join(turn.text for turn in turns)


def text_generate(
    loaded: Loaded, prompts: Sequence[Prompt], decoding: Decoding, keys: Sequence[int]
) -> list[list[Generated]]:
    """`decoding.candidates` answers per prompt, in order.

    Raises:
        LengthError: prompts that the model has no room for.
    """
    if takes_embeddings(loaded.model):
        embeds = embed(loaded, prompts)
        return generate(loaded.language, loaded.tokenizer, embeds, decoding, keys)
    groups: dict[int, list[int]] = {}
    for place, budget in enumerate(_budgets(loaded, prompts, decoding)):
        groups.setdefault(budget, []).append(place)
    answers: dict[int, list[Generated]] = {}
    for budget, places in groups.items():
        how = replace(decoding, max_new_tokens=budget)
        inputs = _padded(loaded, [prompts[place] for place in places for _ in decoding.places])
        made = draw_natively(loaded, inputs, how, [keys[place] for place in places])
        answers.update(zip(places, made, strict=True))
    return [answers[place] for place in range(len(prompts))]


def _budgets(loaded: Loaded, prompts: Sequence[Prompt], decoding: Decoding) -> list[int]:
    """How many tokens each answer may have, whatever its neighbours."""
    config = loaded.model.config
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return [decoding.max_new_tokens] * len(prompts)
    # A decoder of its own begins anew, behind one token that starts it.
    used = [1 if config.is_encoder_decoder else len(prompt) for prompt in prompts]
    most = limit if config.is_encoder_decoder else limit - 1
    if long := {place: len(prompt) for place, prompt in enumerate(prompts) if len(prompt) > most}:
        raise LengthError(long, limit)
    return [min(decoding.max_new_tokens, limit - one) for one in used]


def _padded(loaded: Loaded, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Prompts of one length; padded on the right for an encoder, which counts from the left."""
    longest = max(map(len, prompts))
    is_right = loaded.model.config.is_encoder_decoder
    ids_BL = torch.full((len(prompts), longest), loaded.tokenizer.pad_token_id or 0)
    mask_BL = torch.zeros_like(ids_BL)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if is_right else slice(longest - len(prompt), longest)
        ids_BL[row, place] = torch.tensor(prompt.ids)
        mask_BL[row, place] = 1
    return {"input_ids": ids_BL.to(loaded.device), "attention_mask": mask_BL.to(loaded.device)}
