"""How likely a model finds each of the options that a question offers.

Options of one question share its prompt, which is read once. Natural logarithms.

R options of all questions together, B questions, L prompt positions, T option tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from vlforge.inference.generate import pad_left
from vlforge.inference.native import native_inputs, native_prompt, native_text
from vlforge.inference.prompts import Batches, Prompt, embed
from vlforge.text.encode import encode_turns
from vlforge.types import DataError, ModelError, Sample, Turn

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded

Way = Literal["letter", "mean", "sum"]
Ids = tuple[int, ...]


def option_scores(
    loaded: Loaded,
    samples: Sequence[Sample],
    options: Sequence[Sequence[str]],
    way: Way,
    batch: int = 32,
) -> list[list[float]]:
    """One log-likelihood per option of each sample, as the answer to its last turn.

    Args:
        way: `letter` sums over the letter's own tokens; `mean` and `sum` are over an
            option's text with the end of the turn, so that no option is likely only
            because another begins with it.
        batch: options at once; a GPU whose memory they do not fit gets fewer.

    Raises:
        DataError: an option without a token.
        ModelError: a prompt longer than the model takes, a model that tells none.
    """
    if loaded.kind == "native":
        scored = [_native(loaded, s, texts, way) for s, texts in zip(samples, options, strict=True)]
    else:
        items = [_spoken(loaded, s, o, way) for s, o in zip(samples, options, strict=True)]
        widest = max((len(texts) for texts in options), default=1)
        groups = Batches(max(1, batch // widest))
        scored = groups.run(
            items, lambda group: _family(loaded, group), length=lambda item: len(item[0])
        )
    total = {"letter": sum, "sum": sum, "mean": lambda values: sum(values) / len(values)}[way]
    return [[float(total(values)) for values in row] for row in scored]


def _spoken(
    loaded: Loaded, sample: Sample, options: Sequence[str], way: Way
) -> tuple[Prompt, list[Ids]]:
    """The prompt, and the ids of every option as the template writes an answer."""
    assert loaded.template is not None, "models of ours hold conversations"
    begins, said = set(), []
    for text in options:
        turns = (*sample.turns, Turn("assistant", text))
        encoded = encode_turns(
            loaded.template, loaded.tokenizer, turns, max_length=None, images=len(sample.images)
        )
        labels = list(encoded.labels)
        while labels and labels[-1] < 0:
            labels.pop()
        spoken = list(takewhile(lambda label: label >= 0, reversed(labels)))[::-1]
        begins.add(tuple(encoded.ids[: len(labels) - len(spoken)]))
        said.append(tuple(spoken))
    if len(begins) > 1:
        raise DataError(f"{sample.id}: its options change how the prompt is split into tokens")
    return Prompt(begins.pop(), sample.images), _without_end(sample, said, way)


def _without_end(sample: Sample, said: list[Ids], way: Way) -> list[Ids]:
    """Letters without what follows each of them, the end of the turn."""
    if way == "letter":
        backwards = zip(*(ids[::-1] for ids in said), strict=False)
        shared = len(list(takewhile(lambda tokens: len(set(tokens)) == 1, backwards)))
        said = [ids[: len(ids) - shared] for ids in said]
    if not all(said):
        raise DataError(f"{sample.id}: an option without a word, or two that are equal")
    return said


def _family(loaded: Loaded, group: list[tuple[Prompt, list[Ids]]]) -> list[list[list[float]]]:
    embeds = embed(loaded, [prompt for prompt, _ in group])
    return shared_log_probs(loaded.language, embeds, [said for _, said in group])


@torch.inference_mode()
def shared_log_probs(
    language: Any, prompts: Sequence[Tensor], continuations: Sequence[Sequence[Ids]]
) -> list[list[list[float]]]:
    """Log-probability of each token of each continuation of each prompt; prompts are read once.

    Args:
        language: a transformers causal language model.
        prompts: input embeddings, [L, D] each.
        continuations: token ids, at least one each.

    Raises:
        ModelError: a prompt and its continuation exceed the model's positions.
    """
    from transformers import DynamicCache

    _check_room(language, prompts, continuations)
    embeds, mask, positions = pad_left(prompts)
    cache = DynamicCache()
    how = {"past_key_values": cache, "use_cache": True}
    logits = language(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, logits_to_keep=1, **how
    ).logits[:, -1]
    owner = torch.tensor([n for n, some in enumerate(continuations) for _ in some])
    said = [ids for some in continuations for ids in some]
    logits_RTV = logits[owner][:, None]
    longest = max(map(len, said)) - 1
    if longest:
        ids_RT = mask.new_zeros(len(said), longest)
        shown_RT = mask.new_zeros(len(said), longest)
        for row, ids in enumerate(said):
            ids_RT[row, : len(ids) - 1] = mask.new_tensor(ids[:-1])
            shown_RT[row, : len(ids) - 1] = 1
        cache.batch_select_indices(owner)
        more = language(
            input_ids=ids_RT,
            attention_mask=torch.cat([mask[owner], shown_RT], 1),
            position_ids=positions[owner, -1:] + 1 + torch.arange(longest, device=mask.device),
            **how,
        ).logits
        logits_RTV = torch.cat([logits_RTV, more.to(logits_RTV.device)], 1)
    found = iter(_picked(logits_RTV, said))
    return [[next(found) for _ in some] for some in continuations]


def _check_room(
    language: Any, prompts: Sequence[Tensor], continuations: Sequence[Sequence[Ids]]
) -> None:
    limit = getattr(language.config, "max_position_embeddings", None)
    for prompt, some in zip(prompts, continuations, strict=True):
        needed = prompt.shape[0] + max(map(len, some)) - 1
        if limit is not None and needed > limit:
            raise ModelError(
                f"a question with its options has {needed} tokens and the model takes {limit}; "
                "shorten it or use fewer images"
            )


def _picked(logits_RTV: Tensor, said: Sequence[Ids]) -> list[list[float]]:
    """The log-probability of the ids said, token t read off position t."""
    found = []
    for logits_TV, ids in zip(logits_RTV, said, strict=True):
        scores = torch.log_softmax(logits_TV[: len(ids)].float(), -1)
        wanted = torch.tensor(ids, device=scores.device)[:, None]
        found.append(scores.gather(-1, wanted)[:, 0].tolist())
    return found


@torch.inference_mode()
def _native(loaded: Loaded, sample: Sample, options: Sequence[str], way: Way) -> list[list[float]]:
    """The same with a model of transformers' own, whose code alone knows its positions.

    All options of a question at once, each behind the whole prompt.
    """
    prompt = native_prompt(loaded, sample)
    if prompt.text is None or getattr(loaded.model.config, "is_encoder_decoder", False):
        raise ModelError(f"{loaded.path} tells no likelihood of an answer; answer_by: generation")
    said = [
        tuple(loaded.tokenizer.encode(_rest(loaded, sample, prompt.text, text),
                                      add_special_tokens=False))
        for text in options
    ]  # fmt: skip
    said = _without_end(sample, said, way)
    inputs = dict(native_inputs(loaded, [prompt] * len(options)))
    ids_RL, longest = inputs["input_ids"], max(map(len, said))
    more, shown = ids_RL.new_zeros(len(said), longest), ids_RL.new_zeros(len(said), longest)
    for row, ids in enumerate(said):
        more[row, : len(ids)] = ids_RL.new_tensor(ids)
        shown[row, : len(ids)] = 1
    added = {"input_ids": more, "attention_mask": shown}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids_RL.shape:
            tail = added.get(name, torch.zeros_like(more)).to(value.dtype)
            inputs[name] = torch.cat([value, tail], 1)
    logits = loaded.model(**inputs, use_cache=False).logits
    return _picked(logits[:, ids_RL.shape[1] - 1 : -1], said)


def _rest(loaded: Loaded, sample: Sample, begin: str, text: str) -> str:
    """What stands behind the prompt where the answer is `text`."""
    whole = native_text(loaded, (*sample.turns, Turn("assistant", text)))
    return whole[len(begin) :].rstrip("\n") if whole.startswith(begin) else text
