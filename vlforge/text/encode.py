"""Turns to token ids and labels.

Labels follow spans: what the template calls supervised is supervised, whatever
the tokenizer. The reference systems count tokens instead and give up on a row
where the count is off; `compat` reproduces them, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.text import compat as references
from vlforge.text import qwen_compat
from vlforge.text.encoded import EncodedText
from vlforge.text.render import Piece, render
from vlforge.text.templates import Template
from vlforge.text.tokenizers import TextTokenizer, adapt
from vlforge.types import (
    IGNORE_INDEX,
    IMAGE_INDEX,
    LLAVA_IMAGE_TOKEN,
    DataError,
    RecipeError,
    Turn,
)

__all__ = ["EncodedText", "check_compat", "encode_turns"]


def encode_turns(
    template: Template,
    tokenizer: Any,
    turns: Sequence[Turn],
    *,
    max_length: int | None,
    compat: str | None = None,
    generation: bool = False,
    images: int | None = None,
    image_marks: tuple[str, str] = ("", ""),
) -> EncodedText:
    """Token ids and labels of a conversation, -200 standing for each image.

    Args:
        tokenizer: a `TextTokenizer` or a tokenizer of transformers.
        turns: see `render.render`; with `compat`, whatever the reference accepts.
        max_length: tokens to keep, an image counting as one; None keeps all.
        compat: "llava", "mgm", "xtuner", "minigpt4", "qwen-vl", "paddlemix" or "mgen-vl" for
            the ids and labels of that system.
        generation: a prompt with an open assistant turn, nothing supervised.
        images: images the sample has; 0 makes a literal `<image>` ordinary text,
            None takes every `<image>` for an image.
        image_marks: text around each image, as LLaVA's mm_use_im_start_end asks.

    Raises:
        DataError: turns the template cannot hold, another number of `<image>`
            than of images, or a prompt longer than `max_length`.
        RecipeError: the template has no such `compat`.
    """
    tokens = adapt(tokenizer)
    if compat is not None and not generation:
        check_compat(template, compat)
        rule = template.references[compat]
        row = references.ReferenceRow(
            template, tokens, tuple(turns), max_length, images != 0, image_marks, rule
        )
        if rule in qwen_compat.RULES:
            return qwen_compat.encode(row)
        return references.encode(row)
    rendered = render(
        template,
        turns,
        generation=generation,
        with_images=images != 0,
        image_marks=image_marks,
        eos=tokens.eos_token,
    )
    _check_images(rendered.text, images)
    tokenise = _tokenise_apart if template.words_are_text else _tokenise
    ids, labels = tokenise(template, tokens, rendered.pieces, images != 0)
    if generation:
        labels = [IGNORE_INDEX] * len(ids)
        if max_length is not None and len(ids) > max_length:
            raise DataError(f"the prompt has {len(ids)} tokens and {max_length} fit; shorten it")
    return EncodedText.cut(ids, labels, max_length)


def check_compat(template: Template, compat: str | None) -> None:
    """Refuse a reference system that has no such template.

    Raises:
        RecipeError: it has none; names those that have.
    """
    if compat is not None and compat not in template.references:
        known = ", ".join(template.references) or "none"
        raise RecipeError(f"template {template.name!r} has no compat {compat!r}; it has: {known}")


def _check_images(text: str, images: int | None) -> None:
    if not images:
        return
    tags = text.count(LLAVA_IMAGE_TOKEN)
    if tags != images:
        raise DataError(f"the turns hold {tags} <image> and the sample has {images} images")


@dataclass(slots=True)
class _Chunk:
    """Text between two images and, per piece in it, where it starts and its kind."""

    text: str
    starts: list[tuple[int, bool]]


def _tokenise(
    template: Template, tokens: TextTokenizer, pieces: Sequence[Piece], with_images: bool
) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []

    def add(new: list[int], new_labels: list[int]) -> None:
        ids.extend(new)
        labels.extend(new_labels)

    def begin() -> None:
        if tokens.adds_bos and tokens.bos_token_id is not None:
            add([tokens.bos_token_id], [IGNORE_INDEX])

    begin()
    groups = [list(pieces)] if template.joined else [[piece] for piece in pieces]
    for place, group in enumerate(groups):
        for number, chunk in enumerate(_chunks(group, with_images)):
            if number:
                add([IMAGE_INDEX], [IGNORE_INDEX])
            add(*_labelled(tokens, chunk))
        ends = group[-1].ends_sequence and tokens.eos_token_id is not None
        if ends and tokens.eos_token_id is not None:
            add([tokens.eos_token_id], [tokens.eos_token_id])
        if place and template.eos_after_answer and _round_ends(pieces, place):
            begin()
    return ids, labels


def _tokenise_apart(
    template: Template, tokens: TextTokenizer, pieces: Sequence[Piece], with_images: bool
) -> tuple[list[int], list[int]]:
    """Ids and labels where what people wrote is no markup, whatever it spells.

    A tokenizer without `plain_ids` reads its special tokens everywhere.
    """
    plain = getattr(tokens, "plain_ids", tokens.ids)
    ids: list[int] = []
    labels: list[int] = []
    for piece in pieces:
        for segment, is_written in piece.segments:
            parts = _marked(template, segment, with_images) if is_written else [(segment, False)]
            for part, is_word in parts:
                is_image = part == LLAVA_IMAGE_TOKEN and not is_word
                new = [IMAGE_INDEX] if is_image else (plain if is_word else tokens.ids)(part)
                ids += new
                labels += new if piece.supervised else [IGNORE_INDEX] * len(new)
    labels = [IGNORE_INDEX if label == IMAGE_INDEX else label for label in labels]
    return ids, labels


def _marked(template: Template, text: str, with_images: bool) -> Iterator[tuple[str, bool]]:
    """A written text in parts, each with whether it is words: else `<image>` or a mark at it."""
    before, after = template.image_marks
    parts = text.split(LLAVA_IMAGE_TOKEN) if with_images else [text]
    for number, part in enumerate(parts):
        if number:
            yield from ((LLAVA_IMAGE_TOKEN, False), (after, False))
            part = part.removeprefix(after)
        if number + 1 < len(parts):
            yield from ((part.removesuffix(before), True), (before, False))
        else:
            yield part, True


def _round_ends(pieces: Sequence[Piece], place: int) -> bool:
    """Whether piece `place` is the last of a round that another round follows."""
    return (
        place + 1 < len(pieces)
        and pieces[place].role == "assistant"
        and pieces[place + 1].role == "user"
    )


def _chunks(pieces: Sequence[Piece], with_images: bool) -> list[_Chunk]:
    chunks = [_Chunk("", [])]
    for piece in pieces:
        parts = piece.text.split(LLAVA_IMAGE_TOKEN) if with_images else [piece.text]
        for number, part in enumerate(parts):
            if number:
                chunks.append(_Chunk("", []))
            if part:
                chunks[-1].starts.append((len(chunks[-1].text), piece.supervised))
                chunks[-1].text += part
    return chunks


def _labelled(tokens: TextTokenizer, chunk: _Chunk) -> tuple[list[int], list[int]]:
    """Ids of a chunk; a token belongs to the piece in which it starts."""
    located = tokens.ids_and_offsets(chunk.text)
    if located is None:
        ids = tokens.ids(chunk.text)
        firsts = [(_first_token(tokens, chunk.text, at, ids), kind) for at, kind in chunk.starts]
        positions = list(range(len(ids)))
    else:
        ids, offsets = located
        firsts = chunk.starts
        positions = [start for start, _ in offsets]
    labels = []
    for token, position in zip(ids, positions, strict=True):
        kinds = [kind for first, kind in firsts if first <= position]
        labels.append(token if kinds and kinds[-1] else IGNORE_INDEX)
    return ids, labels


def _first_token(tokens: TextTokenizer, text: str, at: int, ids: list[int]) -> int:
    """Index of the first token after character `at`, for tokenizers without offsets."""
    head = tokens.ids(text[:at]) if at else []
    count = 0
    while count < min(len(head), len(ids)) and head[count] == ids[count]:
        count += 1
    return count
