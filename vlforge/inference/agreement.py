"""How many answers change with the batch that they are drawn in.

In fp32 none should. In bf16 and fp16 a product is rounded by how the library cuts it
up, which depends on the batch; where two tokens are about equally likely, the other
one may win, and the answer goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from vlforge.inference.generate import Decoding, Generated, generate
from vlforge.inference.load import Loaded
from vlforge.inference.native import native_generate, native_prompt
from vlforge.inference.prompts import embed, prompt_of
from vlforge.types import Sample


@dataclass(frozen=True)
class Agreement:
    """Answers drawn in batches of two sizes, held against each other.

    answers: how many were drawn in each size. differing: how many are not the same,
    token by token. first: the earliest token at which two answers part, counted from
    1; 0 where all agree.
    """

    sizes: tuple[int, int]
    answers: int
    differing: int
    first: int = 0

    def __str__(self) -> str:
        small, large = self.sizes
        said = f"{self.differing} of {self.answers} answers differ between batch {small} and "
        return said + (
            f"{large}, the first at token {self.first}" if self.differing else f"{large}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def compare_batches(
    loaded: Loaded,
    samples: Sequence[Sample],
    decoding: Decoding,
    sizes: tuple[int, int] = (1, 8),
) -> Agreement:
    """Ask a model the same questions in batches of two sizes and count what differs."""
    keys = list(range(len(samples)))

    def draw(start: int, size: int) -> list[list[Generated]]:
        rows, own = samples[start : start + size], keys[start : start + size]
        if loaded.kind == "native":
            return native_generate(loaded, [native_prompt(loaded, r) for r in rows], decoding, own)
        prompts = embed(loaded, [prompt_of(loaded, row) for row in rows])
        return generate(loaded.language, loaded.tokenizer, prompts, decoding, own)

    drawn = [
        [one for start in range(0, len(samples), size) for one in draw(start, size)]
        for size in sizes
    ]
    return count_differing(drawn[0], drawn[1], sizes)


def compare_prompts(
    language: Any,
    tokenizer: Any,
    prompts: Sequence[Tensor],
    decoding: Decoding,
    sizes: tuple[int, int] = (1, 8),
) -> Agreement:
    """The same for prompts that are embedded already, [L, D] each."""
    drawn = []
    for size in sizes:
        answers: list[list[Generated]] = []
        for start in range(0, len(prompts), size):
            keys = list(range(start, min(start + size, len(prompts))))
            some = prompts[start : start + size]
            answers += generate(language, tokenizer, some, decoding, keys)
        drawn.append(answers)
    return count_differing(drawn[0], drawn[1], sizes)


def count_differing(
    left: Sequence[Sequence[Generated]],
    right: Sequence[Sequence[Generated]],
    sizes: tuple[int, int],
) -> Agreement:
    """Hold candidates against candidates of the same place."""
    pairs = [
        (one.ids, other.ids)
        for ones, others in zip(left, right, strict=True)
        for one, other in zip(ones, others, strict=True)
    ]
    partings = [_parting(one, other) for one, other in pairs if one != other]
    return Agreement(sizes, len(pairs), len(partings), min(partings, default=0))


def _parting(one: Sequence[int], other: Sequence[int]) -> int:
    """The first token that differs, counted from 1; one answer may be the other's beginning."""
    both = list(zip(one, other, strict=False))
    return next((n for n, (a, b) in enumerate(both, 1) if a != b), len(both) + 1)
