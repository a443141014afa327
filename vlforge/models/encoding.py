"""One sample as ids: what training and generation put into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.text.encode import EncodedText, encode_turns
from vlforge.text.templates import Template
from vlforge.types import IMAGE_INDEX, DataError, Sample

ANSWER_CUT = ("minigpt4",)
"""Systems whose limit counts the answer alone: 32 beside a picture of 32 tokens, as published."""


@dataclass(frozen=True)
class Encoded:
    """One sample as ids.

    ids, labels: -200 and -100 where a picture stands.
    images: paths of the pictures whose tag is still there, in order.
    length: tokens with pictures expanded.
    image_spans: (first, past last) position of each picture once expanded.
    problem: why nothing is supervised, in one line; None where something is.
    whole: tokens with pictures expanded before anything was cut.
    lost_images: pictures that did not fit.
    mismatch: what a reference system would print as it masks the row; with `compat`.
    """

    ids: list[int]
    labels: list[int]
    images: tuple[str, ...]
    length: int
    image_spans: tuple[tuple[int, int], ...]
    problem: str | None = None
    whole: int = 0
    lost_images: int = 0
    mismatch: str | None = None


def encode_sample(
    sample: Sample,
    template: Template,
    tokenizer: Any,
    *,
    image_tokens: int | Sequence[int],
    max_length: int | None = None,
    generation: bool = False,
    compat: str | None = None,
) -> Encoded:
    """Ids and labels of a sample, cut so that `max_length` holds the expanded row.

    A picture that does not fit whole is left out with everything after it; how much was
    cut stands in the result. With `compat: minigpt4` it is the answer alone that
    `max_length` cuts, and no picture.

    Args:
        tokenizer: a transformers tokenizer, or `vlforge.text.tokenizers.adapt` of it.
        image_tokens: tokens that a picture takes, one number for all or one each.
        generation: a prompt that leaves the assistant's turn open.
        compat: labels as a reference system has them; see `encode_turns`.

    Raises:
        DataError: turns that the template cannot hold, another number of `<image>`
            than of images, or, with `compat`, a row that loses one on the way.
    """
    counts = [image_tokens] * len(sample.images) if isinstance(image_tokens, int) else image_tokens
    text = encode_turns(
        template,
        tokenizer,
        sample.turns,
        max_length=max_length if compat else None,
        generation=generation,
        images=len(sample.images),
        compat=compat,
    )
    if compat and text.images != len(sample.images):
        raise DataError(
            f"compat {compat} shows {text.images} of the row's {len(sample.images)} images; "
            "leave compat out, or give the row one image"
        )
    is_cut_already = compat in ANSWER_CUT
    keep, length, spans = _fit(text.ids, counts, None if is_cut_already else max_length)
    cut = EncodedText(text.ids[:keep], text.labels[:keep], text.length, text.mismatch)
    return Encoded(
        ids=cut.ids,
        labels=cut.labels,
        images=tuple(sample.images[: len(spans)]),
        length=length,
        image_spans=tuple(spans),
        problem=None if generation else cut.loss_problem,
        whole=text.length - len(sample.images) + sum(counts[: len(sample.images)]),
        lost_images=len(sample.images) - len(spans),
        mismatch=text.mismatch,
    )


def _fit(
    ids: Sequence[int], counts: Sequence[int], max_length: int | None
) -> tuple[int, int, list[tuple[int, int]]]:
    """How many ids fit, how long they are expanded, and where their pictures stand."""
    spans: list[tuple[int, int]] = []
    keep = length = 0
    for token in ids:
        width = counts[len(spans)] if token == IMAGE_INDEX else 1
        if max_length is not None and length + width > max_length:
            break
        if token == IMAGE_INDEX:
            spans.append((length, length + width))
        keep, length = keep + 1, length + width
    return keep, length, spans
