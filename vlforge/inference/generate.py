"""Batched decoding over spliced embeddings: greedy, keyed sampling, streaming, beams.

A prompt is the matrix of input embeddings of one sample, image features already
in place. Prompts of unequal length are padded on the left; each row counts its
positions from its own first token, so that a row reads the same alone and in a
batch. Sampling draws one number per token from (seed, key, candidate, step) and
nothing else: neither the batch nor the order of the samples changes an answer.

B rows, L prompt positions, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlforge.types import ModelError

GREEDY = -1
"""Place of a candidate that is the greedy answer."""
SHRINK_AT = 0.75
"""Finished rows leave the batch once the running ones are at most this share of it."""
SHOWN_AT_ONCE = 256
"""Tokens after which an answer is shown two tokens at a time, after twice as many three, …"""


class LengthError(ModelError):
    """Prompts that the model has no room for; `lengths` is by their places among those given."""

    def __init__(self, lengths: Mapping[int, int], limit: int):
        place, length = next(iter(lengths.items()))
        super().__init__(
            f"prompt {place} has {length} tokens and the model takes {limit}; "
            "shorten the conversation or use fewer images"
        )
        self.lengths, self.limit = dict(lengths), limit

    def __reduce__(self) -> tuple[Any, ...]:
        return LengthError, (self.lengths, self.limit)


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn and where they end.

    `temperature` 0 is greedy. `candidates` answers are drawn per prompt; with
    greedy decoding or beams they would all be equal, so only one is allowed.
    An answer ends at an id of `eos_ids`, at a string of `stop_strings` (cut
    off), after `max_new_tokens`, or where the model's positions run out. With
    `greedy_first` the first of the candidates is the greedy answer all the same.
    `repetition_penalty` divides logits above 0 of tokens that the answer has already, and
    multiplies those below, as transformers does where a prompt is embeddings.
    """

    max_new_tokens: int = 128
    eos_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    candidates: int = 1
    beams: int = 1
    greedy_first: bool = False
    repetition_penalty: float = 1.0

    @property
    def places(self) -> range:
        """The candidates as their sampling knows them; `GREEDY` is drawn without."""
        return range(GREEDY, self.candidates - 1) if self.greedy_first else range(self.candidates)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ModelError(f"max_new_tokens is {self.max_new_tokens}; give at least 1")
        if self.candidates > 1 and self.temperature <= 0:
            raise ModelError(
                f"{self.candidates} greedy candidates would be equal; give a temperature above 0"
            )
        if self.beams > 1 and self.temperature > 0:
            raise ModelError("beams search without sampling; leave temperature at 0 with beams")
        if self.repetition_penalty <= 0:
            raise ModelError(f"repetition_penalty is {self.repetition_penalty:g}; give above 0")
        if self.beams > 1 and self.repetition_penalty != 1:
            raise ModelError("beams search without a repetition_penalty; leave it at 1 with beams")


@dataclass(frozen=True)
class Generated:
    """One answer: its ids without the end token, its text, and how sure the model was.

    `confidence` is the mean log-probability (natural log, at temperature 1) of
    the tokens drawn, the end token included. `is_finished` is false where the
    budget ended the answer. `tokens_in` are the prompt's positions, `tokens_out` the
    tokens drawn.
    """

    ids: tuple[int, ...]
    text: str
    confidence: float
    is_finished: bool
    tokens_in: int = 0
    tokens_out: int = 0


class Told(NamedTuple):
    """A piece of an answer to the prompt at `place`; the last one brings the whole answer."""

    place: int
    text: str
    made: Generated | None = None


@dataclass
class Drawing:
    """An answer while it grows: candidate `candidate` of prompt `prompt`, of `length` tokens."""

    prompt: int
    candidate: int
    key: int
    length: int
    budget: int
    ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    drawn: int = 0
    is_finished: bool = False
    is_running: bool = True


def generate(
    language: Any,
    tokenizer: Any,
    prompts: Sequence[Tensor],
    decoding: Decoding,
    keys: Sequence[int] | None = None,
) -> list[list[Generated]]:
    """`decoding.candidates` answers for each prompt, in the order of the prompts.

    Args:
        language: a transformers causal language model.
        tokenizer: turns ids into text (`decode`).
        prompts: input embeddings, [L, D] each, on the model's device.
        decoding: how to draw and where to end.
        keys: one integer per prompt that its sampling depends on; its index if None.

    Raises:
        LengthError: prompts that fill the model's positions.
        ModelError: logits that are not finite, or an empty prompt.
    """
    if not prompts:
        return []
    if decoding.beams > 1:
        return [[made] for made in _beam_search(language, tokenizer, prompts, decoding)]
    rows = _start_rows(language, prompts, decoding, keys)
    for _ in _decode_steps(language, tokenizer, prompts, rows, decoding):
        pass
    answers: list[list[Generated]] = [[] for _ in prompts]
    for row in rows:
        answers[row.prompt].append(_finish(row, tokenizer, decoding))
    return answers


def stream(
    language: Any,
    tokenizer: Any,
    prompt: Tensor,
    decoding: Decoding,
    key: int = 0,
) -> Iterator[str]:
    """Pieces of one answer as they are drawn; together they are the text of `generate`.

    What may still turn out to be a stop string, half a character or trailing
    space is held back until the next token decides.
    """
    for told in stream_many(language, tokenizer, [prompt], decoding, [key]):
        yield from filter(None, [told.text])


def stream_many(
    language: Any,
    tokenizer: Any,
    prompts: Sequence[Tensor],
    decoding: Decoding,
    keys: Sequence[int],
) -> Iterator[Told]:
    """`stream` for several prompts in one batch; pieces come in the order of the steps.

    One answer per prompt. Beams give theirs as one piece each.

    Raises:
        LengthError: prompts that fill the model's positions; before any piece.
    """
    if decoding.beams > 1:
        for place, made in enumerate(_beam_search(language, tokenizer, prompts, decoding)):
            yield Told(place, made.text, made)
        return
    rows = _start_rows(language, prompts, decoding, keys)
    bytes_known = byte_ids(tokenizer)
    growing = {place: Growing(bytes_known) for place in range(len(rows))}
    for _ in _decode_steps(language, tokenizer, prompts, rows, decoding):
        for place in tuple(growing):
            row = rows[place]
            text = growing[place].more(row.ids, tokenizer, decoding) if row.is_running else ""
            made = None if row.is_running else _finish(row, tokenizer, decoding)
            if made is not None:
                text = growing.pop(place).rest(made)
            if text or made is not None:
                yield Told(place, text, made)


@dataclass
class Growing:
    """What has been shown of an answer that is being drawn; `bytes` are the tokenizer's."""

    bytes: frozenset[int] = frozenset()
    shown: str = ""

    def more(self, ids: Sequence[int], tokenizer: Any, decoding: Decoding) -> str:
        """What the tokens drawn so far add, as far as no later token can take it back.

        All of them are read again each time, so long answers are shown a few tokens at a time.
        """
        if len(ids) % max(1, len(ids) // SHOWN_AT_ONCE):
            return ""
        count = len(ids)
        while count and ids[count - 1] in self.bytes:
            count -= 1
        ids = ids[:count]
        text = held_back(tokenizer.decode(ids, skip_special_tokens=True), decoding)
        if len(text) <= len(self.shown) or not text.startswith(self.shown):
            return ""
        new, self.shown = text[len(self.shown) :], text
        return new

    def rest(self, made: Generated) -> str:
        """What is left of the whole answer."""
        return made.text[len(self.shown) :]


def byte_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that are bytes, as Llama's tokenizers have them; empty for others.

    A run of them is read as a whole: one that does not fit spoils them all.
    """
    id_of = getattr(tokenizer, "convert_tokens_to_ids", None)
    if id_of is None:
        return frozenset()
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    unknown = {None, getattr(tokenizer, "unk_token_id", None)}
    return frozenset({id_of(name) for name in names} - unknown)


def log_probs(
    language: Any, prompts: Sequence[Tensor], continuations: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probability of each token of each continuation, given its prompt and the tokens before.

    Args:
        prompts: input embeddings, [L, D] each, L > 0.
        continuations: token ids, at least one each.
    """
    return [scores for scores, _ in weigh(language, prompts, continuations)]


@torch.inference_mode()
def weigh(
    language: Any, prompts: Sequence[Tensor], continuations: Sequence[Sequence[int]]
) -> list[tuple[list[float], bool]]:
    """`log_probs`, and whether greedy decoding would write the continuation."""
    embed = language.get_input_embeddings()
    device = prompts[0].device
    wholes = []
    for prompt, ids in zip(prompts, continuations, strict=True):
        if not ids:
            raise ModelError("an empty text has no likelihood; leave it out of the scoring")
        before = torch.tensor(list(ids[:-1]), dtype=torch.long, device=device)
        wholes.append(torch.cat([prompt, embed(before).to(prompt.dtype)]))
    embeds, mask, positions = pad_left(wholes)
    longest = max(len(ids) for ids in continuations)
    logits = language(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=longest,
    ).logits
    scores = torch.log_softmax(logits.float(), -1)
    out = []
    for row, ids in enumerate(continuations):
        at = scores[row, -len(ids) :]
        said = torch.tensor(list(ids), device=at.device)
        picked = at.gather(-1, said[:, None])[:, 0]
        out.append((picked.tolist(), bool((at.argmax(-1) == said).all())))
    return out


def pad_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts [L, D] -> embeddings [B, L, D], mask [B, L], positions [B, L], padded on the left."""
    longest = max(prompt.shape[0] for prompt in prompts)
    first = prompts[0]
    embeds = first.new_zeros(len(prompts), longest, first.shape[1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=first.device)
    for row, prompt in enumerate(prompts):
        start = longest - prompt.shape[0]
        embeds[row, start:] = prompt
        mask[row, start:] = 1
    return embeds, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def uniform(seed: int, key: int, candidate: int, step: int) -> float:
    """A number in [0, 1) that depends on its four arguments only."""
    name = f"{seed}/{key}/{candidate}/{step}".encode()
    bits = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    return (bits >> 11) / (1 << 53)


def _start_rows(
    language: Any, prompts: Sequence[Tensor], decoding: Decoding, keys: Sequence[int] | None
) -> list[Drawing]:
    limit = getattr(language.config, "max_position_embeddings", None)
    rows = []
    lengths = {index: prompt.shape[0] for index, prompt in enumerate(prompts)}
    if limit is not None and max(lengths.values()) >= limit:
        long = {index: length for index, length in lengths.items() if length >= limit}
        raise LengthError(long, limit)
    for index, length in lengths.items():
        if length == 0:
            raise ModelError(f"prompt {index} is empty; give it at least one token")
        budget = decoding.max_new_tokens
        if limit is not None:
            budget = min(budget, limit - length)
        key = index if keys is None else keys[index]
        for candidate in decoding.places:
            rows.append(Drawing(index, candidate, key, length, budget))
    return rows


@torch.inference_mode()
def _decode_steps(
    language: Any,
    tokenizer: Any,
    prompts: Sequence[Tensor],
    rows: list[Drawing],
    decoding: Decoding,
) -> Iterator[None]:
    """Grow all rows by one token per step until none runs."""
    from transformers import DynamicCache

    embeds, mask, positions = pad_left(prompts)
    cache = DynamicCache()
    logits = language(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    position = positions[:, -1]
    if decoding.candidates > 1:
        cache.batch_repeat_interleave(decoding.candidates)
        logits, mask, position = (
            value.repeat_interleave(decoding.candidates, 0) for value in (logits, mask, position)
        )
    batch = list(rows)
    while True:
        tokens = _draw(logits.to(mask.device), batch, tokenizer, decoding)
        yield
        running = [slot for slot, row in enumerate(batch) if row.is_running]
        if not running:
            return
        if len(running) <= SHRINK_AT * len(batch):
            kept = torch.tensor(running)  # on the CPU: layers may lie on several devices
            cache.batch_select_indices(kept)
            mask, position, tokens = mask[kept], position[kept], tokens[kept]
            batch = [batch[slot] for slot in running]
        mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
        position = position + 1
        logits = language(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def _draw(logits_BV: Tensor, batch: list[Drawing], tokenizer: Any, decoding: Decoding) -> Tensor:
    """Give every running row its next token; returns what to feed next, [B]."""
    logits_BV = logits_BV.float()
    scores_BV = torch.log_softmax(logits_BV, -1)
    step = next((row.drawn for row in batch if row.is_running), 0)
    tokens = draw_token(logits_BV, batch, decoding, step)
    chosen = scores_BV.gather(-1, tokens[:, None])[:, 0].tolist()
    for row, token, log_prob in zip(batch, tokens.tolist(), chosen, strict=True):
        if row.is_running:
            _advance(row, token, log_prob, tokenizer, decoding)
    return tokens


def draw_token(
    logits_BV: Tensor,
    rows: Sequence[Drawing],
    decoding: Decoding,
    step: int,
    said: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """The next token of each row, [B]: the best one, or one drawn at the temperature.

    Inverse-transform sampling in vocabulary order, one keyed uniform number per row. `said`
    are the tokens of each answer so far, where the rows do not keep them.
    """
    if decoding.repetition_penalty != 1:
        said = [row.ids for row in rows] if said is None else said
        logits_BV = _penalised(logits_BV, said, decoding.repetition_penalty)
    best = logits_BV.argmax(-1)
    if not decoding.temperature or all(row.candidate == GREEDY for row in rows):
        return best
    logits_BV = logits_BV / decoding.temperature
    if decoding.top_k:
        least = logits_BV.topk(min(decoding.top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least, -math.inf)
    if decoding.top_p < 1:
        ordered, order = logits_BV.sort(-1, descending=True)
        shares = ordered.softmax(-1)
        is_out = shares.cumsum(-1) - shares >= decoding.top_p
        logits_BV = logits_BV.masked_fill(is_out.scatter(-1, order, is_out), -math.inf)
    cumulated = logits_BV.double().softmax(-1).cumsum(-1)
    draws = [uniform(decoding.seed, row.key, row.candidate, step) for row in rows]
    target = torch.tensor(draws, dtype=torch.float64, device=logits_BV.device)[:, None]
    found = torch.searchsorted(cumulated, target * cumulated[:, -1:], right=True)[:, 0]
    found = found.clamp(max=logits_BV.shape[-1] - 1)
    if not decoding.greedy_first:
        return found
    is_greedy = torch.tensor([row.candidate == GREEDY for row in rows], device=found.device)
    return torch.where(is_greedy, best, found)


def _penalised(logits_BV: Tensor, said: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Logits with the tokens that each row's answer has already made less likely."""
    logits_BV = logits_BV.clone()
    for slot, ids in enumerate(said):
        held = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits_BV.device)
        scores = logits_BV[slot, held]
        logits_BV[slot, held] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits_BV


def _advance(row: Drawing, token: int, log_prob: float, tokenizer: Any, decoding: Decoding) -> None:
    if not math.isfinite(log_prob):
        raise ModelError(
            f"prompt {row.prompt} got logits that are not finite at token {row.drawn}; "
            "load the model in fp32, or look for broken weights"
        )
    row.log_prob += log_prob
    row.drawn += 1
    if token in decoding.eos_ids:
        row.is_finished = True
    else:
        row.ids.append(token)
        row.is_finished = _meets_stop(row.ids, tokenizer, decoding.stop_strings)
    row.is_running = not row.is_finished and row.drawn < row.budget


def _meets_stop(ids: list[int], tokenizer: Any, stop_strings: tuple[str, ...]) -> bool:
    if not stop_strings:
        return False
    # A token may decode to nothing, so look a little further back than the longest string.
    window = max(map(len, stop_strings)) + 8
    tail = tokenizer.decode(ids[-window:], skip_special_tokens=False)
    return any(stop in tail for stop in stop_strings)


def settle(
    row: Drawing,
    tokens: Sequence[int],
    log_probs: Sequence[float],
    tokenizer: Any,
    decoding: Decoding,
) -> Generated:
    """The answer that tokens drawn elsewhere make, up to where it ends."""
    for token, log_prob in zip(tokens, log_probs, strict=True):
        if row.is_running:
            _advance(row, token, log_prob, tokenizer, decoding)
    return _finish(row, tokenizer, decoding)


def _finish(row: Drawing, tokenizer: Any, decoding: Decoding) -> Generated:
    text = _cut(tokenizer, row.ids, decoding.stop_strings)
    sure = row.log_prob / row.drawn
    return Generated(tuple(row.ids), text, sure, row.is_finished, row.length, row.drawn)


def _cut(tokenizer: Any, ids: Sequence[int], stop_strings: tuple[str, ...]) -> str:
    """The text before the first stop string, without special tokens and outer space."""
    ids = list(ids)
    if stop_strings and _meets_stop(ids, tokenizer, stop_strings):
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        found = [plain.find(stop) for stop in stop_strings if stop in plain]
        return (plain[: min(found)] if found else plain).strip()
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def held_back(text: str, decoding: Decoding) -> str:
    """The part of a growing text that no later token can take back."""
    text = text.lstrip()
    for stop in decoding.stop_strings:
        for size in range(min(len(stop), len(text)), 0, -1):
            if text.endswith(stop[:size]):
                text = text[:-size]
                break
    return text.rstrip("\ufffd").rstrip()


def _beam_search(
    language: Any, tokenizer: Any, prompts: Sequence[Tensor], decoding: Decoding
) -> Iterator[Generated]:
    """Beams by transformers' `generate`, one prompt at a time, scored like greedy answers."""
    for row in _start_rows(language, prompts, decoding, None):
        embeds, mask, _ = pad_left([prompts[row.prompt]])
        with torch.inference_mode():
            found = language.generate(
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=row.budget,
                num_beams=decoding.beams,
                do_sample=False,
                eos_token_id=list(decoding.eos_ids) or None,
                pad_token_id=0,
            )[0].tolist()
        scores = log_probs(language, [prompts[row.prompt]], [found])[0]
        yield settle(row, found, scores, tokenizer, decoding)
