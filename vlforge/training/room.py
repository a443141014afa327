"""Whether what waits for the backward pass fits, and what is computed twice where it does not.

No torch here: the plan of a recipe and the stage itself ask the same questions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from vlforge.models.config import Lean
from vlforge.models.cost import ModelCost

GIB = 2**30
SHARE = 0.85
"""Part of a device's memory that may be counted on; the rest is fragments and libraries."""
ROWS_WANTED = 8
"""Rows of a pass that have to fit before a GPU's passes are halved instead of recomputed."""
CACHE_PAYS = 1.1
"""Gain in speed from which on features on disk are worth their place."""
CHOICES: tuple[tuple[str, ...], ...] = ((), ("language",), ("vision", "language"))
"""What auto tries, the quickest first."""


@dataclass(frozen=True)
class Pass:
    """The largest pass of a stage, as a device sees it.

    text_tokens, supervised, images: of its longest row. learning: parts in which something
    learns. state: bytes of weights, gradients and optimiser. number: bytes of a kept one.
    """

    rows: int
    text_tokens: float
    supervised: float
    images: float
    learning: tuple[str, ...]
    state: float
    number: int = 2

    def needs(self, cost: ModelCost, twice: Collection[str] = (), lean: Lean = Lean()) -> float:
        """Bytes, with layers of the parts in `twice` computed twice."""
        row = cost.sample_bytes(
            self.text_tokens, self.supervised, self.images, self.learning, twice, lean
        )
        return self.state + self.rows * row * self.number / 2


@dataclass(frozen=True)
class Room:
    """What is computed twice, and why: bytes without, bytes with it, and those there are."""

    twice: tuple[str, ...]
    without: float
    needed: float
    memory: float

    def said(self) -> str:
        """In one line."""
        gib = f"{self.memory / GIB:,.0f} GiB"
        if not self.twice:
            return f"nothing is computed twice: {self.without / GIB:,.1f} of {gib} are needed"
        told = (
            f"layers of {' and '.join(self.twice)} are computed twice: {self.needed / GIB:,.1f} "
            f"instead of {self.without / GIB:,.1f} GiB of {gib}"
        )
        fits = self.needed <= SHARE * self.memory
        return told if fits else f"{told}, still too many: lower micro_batch or set parallel: zero3"


def choose_twice(
    asked: Literal["auto"] | Collection[str],
    cost: ModelCost,
    largest: Pass,
    memory: float,
    lean: Lean = Lean(),
) -> Room:
    """The parts named, or the first of `CHOICES` with which the largest pass fits.

    Depends on its arguments alone: a stage that goes on after a kill decides as before.
    """
    needs = {choice: largest.needs(cost, choice, lean) for choice in CHOICES}
    if asked == "auto":
        fitting = [choice for choice in CHOICES if needs[choice] <= SHARE * memory]
        twice = fitting[0] if fitting else min(CHOICES, key=needs.__getitem__)
    else:
        twice = tuple(part for part in ("vision", "language") if part in asked)
    return Room(twice, needs[()], largest.needs(cost, twice, lean), memory)


def rows_of_pass(micro_batch: int | str, share: int, halves: bool) -> int:
    """Rows of the largest pass; `halves` where a pass too large is cut by itself."""
    if isinstance(micro_batch, int):
        return min(micro_batch, share)
    return min(share, ROWS_WANTED) if halves else share


def cache_advice(
    pictures: int, each: float, vision_share: float, samples_a_second: float, seen: float
) -> str:
    """Whether a cache of features on disk pays, in one line.

    Args:
        pictures: how many there are.
        each: bytes of a picture's features.
        vision_share: of the FLOPs of a step.
        samples_a_second: without the cache.
        seen: times that a picture is looked at.
    """
    gain = 1 / (1 - min(vision_share, 0.99))
    rate, whole = each * samples_a_second * gain / 1e6, pictures * each
    pays = gain >= CACHE_PAYS and seen >= 2
    once = " (pictures are looked at once)" if gain >= CACHE_PAYS and not pays else ""
    size = f"{whole / 1e12:,.2f} TB" if whole >= 1e11 else f"{whole / 1e9:,.2f} GB"
    return (
        f"cache: {'on' if pays else 'off'} is advised{once}: {size}, read at {rate:,.0f} MB/s, "
        f"spares {vision_share:.0%} of the FLOPs"
    )
