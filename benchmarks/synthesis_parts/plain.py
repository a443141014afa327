"""Captioning as Data-Juicer does it: a sample at a time (1.4), and eight pictures (1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from .models import LONGEST


def caption_by(
    model: Any, processor: Any, rows: Sequence[Any], together: int, candidates: int = 1
) -> list[list[str]]:
    """Candidates per row, `together` pictures in a call of `generate` with its cache.

    One candidate is greedy, so that all ways must say the same; several are sampled, each
    by a call of its own, which encodes the pictures again.
    """
    said = []
    with torch.inference_mode():
        for at in range(0, len(rows), together):
            some = rows[at : at + together]
            pictures = [Image.open(row["images"][0]).convert("RGB") for row in some]
            inputs = processor(images=pictures, return_tensors="pt")
            calls = []
            for _ in range(candidates):
                ids = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=candidates > 1)
                calls.append(processor.batch_decode(ids, skip_special_tokens=True))
            said += [[text.strip() for text in texts] for texts in zip(*calls, strict=True)]
    return said
