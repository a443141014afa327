"""One sample as ids: what training and generation put into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.text.encode import EncodedText, encode_turns
from vlforge.text.templates import Template
from vlforge.types import IMAGE_INDEX, Sample


@dataclass(frozen=True)
class Encoded:
    """One sample as ids.

    ids, labels: -200 and -100 where a picture stands.
    images: paths of the pictures whose tag is still there, in order.
    length: tokens with pictures expanded.
    image_spans: (first, past last) position of each picture once expanded.
    problem: why nothing is supervised, in one line; None where something is.
    """

    ids: list[int]
    labels: list[int]
    images: tuple[str, ...]
    length: int
    image_spans: tuple[tuple[int, int], ...]
    problem: str | None = None


def encode_sample(
    sample: Sample,
    template: Template,
    tokenizer: Any,
    *,
    image_tokens: int | Sequence[int],
    max_length: int | None = None,
    generation: bool = False,
) -> Encoded:
    """Ids and labels of a sample, cut so that `max_length` holds the expanded row.

    A picture that does not fit whole is left out with everything after it.

    Args:
        tokenizer: a transformers tokenizer, or `vlforge.text.tokenizers.adapt` of it.
        image_tokens: tokens that a picture takes, one number for all or one each.
        generation: a prompt that leaves the assistant's turn open.

    Raises:
        DataError: turns that the template cannot hold, or another number of
            `<image>` than of images.
    """
    text = encode_turns(
        template,
        tokenizer,
        sample.turns,
        max_length=None,
        generation=generation,
        images=len(sample.images),
    )
    keep, length, spans = 0, 0, []
    for token in text.ids:
        width = 1
        if token == IMAGE_INDEX:
            width = image_tokens if isinstance(image_tokens, int) else image_tokens[len(spans)]
        if max_length is not None and length + width > max_length:
            break
        if token == IMAGE_INDEX:
            spans.append((length, length + width))
        keep, length = keep + 1, length + width
    cut = EncodedText(text.ids[:keep], text.labels[:keep], text.length, text.mismatch)
    problem = None if generation else cut.loss_problem
    images = tuple(sample.images[: len(spans)])
    return Encoded(cut.ids, cut.labels, images, length, tuple(spans), problem)
