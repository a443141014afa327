"""What both loops train: models of a configuration in a stage, rows of given lengths.

Scaled-down models are those of `model_parts.small`: as deep as the published ones, an
eighth or a sixteenth as wide, 8 x 8 tokens a picture where those have 24 x 24, with text,
vocabulary and files of pictures in proportion. So each part has about the share of a step
that it has at its real size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from model_parts.small import LLAVA, MGM, MINIGPT4

TEMPLATES = {"captions": "plain", "answers": "gemma", "minigpt4": "minigpt4_pretrain"}
"""Of each kind of rows. Gemma's has no system text, which would fill a scaled-down row."""

LONGEST = 250
"""Tokens of a row at most, the picture's among them; the small models have 256 positions."""


@dataclass(frozen=True)
class TrainCase:
    """A stage of a model over made rows.

    text: words of each row's answers on average; `answer` of them are one answer.
    spread: deviation of the logarithm of their number; 0 draws within a quarter of `text`.
    most: words at most.
    files: different pictures at most; 0 is one for each row.
    texts: share of the rows that have no picture.
    fit: how the published stage makes a picture square.
    size: width and height of the files, pixels.
    longest: tokens of a row at most.
    batch: rows of a step, in one pass.
    lean: settings of ours besides those that both loops share.
    wanted: times as many samples a second as the plain loop that the case is to have.
    """

    name: str
    config: Mapping[str, Any]
    stage: Literal[1, 2]
    kind: Literal["captions", "answers", "minigpt4"]
    text: int
    batch: int = 8
    steps: int = 6
    spread: float = 0.0
    most: int = 100
    answer: int = 12
    files: int = 0
    longest: int = LONGEST
    texts: float = 0.0
    fit: Literal["square", "pad", "stretch"] = "square"
    size: tuple[int, int] = (213, 160)
    lr: float = 1e-3
    lean: Mapping[str, Any] = field(default_factory=dict)
    wanted: float = 1.0

    @property
    def rows(self) -> int:
        """Rows in the file; each is seen once."""
        return self.batch * self.steps

    @property
    def template(self) -> str:
        """How rows become text."""
        return TEMPLATES[self.kind]

    def words(self) -> list[int]:
        """Words of each row's answers, the same at every call."""
        draw = np.random.default_rng(3)
        if self.spread:
            middle = math.log(self.text) - self.spread**2 / 2
            drawn = draw.lognormal(middle, self.spread, self.rows)
        else:
            drawn = draw.uniform(0.75 * self.text, 1.25 * self.text, self.rows)
        return [int(min(max(count, 2), self.most)) for count in drawn]


SMALL = (
    TrainCase("mgm-2b/8 stage 1", MGM, 1, "captions", text=6, wanted=2.5),
    TrainCase("mgm-2b/8 stage 2", MGM, 2, "answers", text=20, answer=27, fit="pad",
              lr=2e-5, wanted=1.5),
    TrainCase("llava-1.5-7b/16 stage 1", LLAVA, 1, "captions", text=3, batch=16),
    TrainCase("llava-1.5-7b/16 stage 2", LLAVA, 2, "answers", text=10, answer=5, fit="pad",
              lr=2e-5),
    TrainCase("minigpt4-7b/16 stage 1", MINIGPT4, 1, "minigpt4", text=20, fit="stretch", lr=1e-4),
    TrainCase(
        "llava-1.5-7b/16 stage 2, mixture", LLAVA, 2, "answers", text=30, batch=16, steps=3,
        spread=1.1, most=150, texts=0.06, fit="pad", lr=2e-5, lean={"pack": "isolated"},
        wanted=2.0,
    ),
)  # fmt: skip
"""Of text the share that the real stages have on average (`docs/training.md`), MiniGPT-4's
real length as its 32 tokens a picture are not scaled down. Lengths of the mixture are
log-normal, so that a padded batch is about half padding."""

_SHALLOW = {"num_hidden_layers": 2}
_TINY_TEXT = _SHALLOW | {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 500}


def _tiny(case: TrainCase) -> TrainCase:
    config = dict(case.config)
    config["text_config"] = config["text_config"] | _TINY_TEXT
    config["vision_config"] = config["vision_config"] | {"num_hidden_layers": 3}
    if "vision_high_config" in config:
        config["vision_high_config"] = config["vision_high_config"] | {"depths": [1, 1, 1, 1]}
    if "qformer_config" in config:
        config["qformer_config"] = config["qformer_config"] | _SHALLOW
    return replace(case, config=config)


TINY = tuple(map(_tiny, SMALL))
"""The same cases with models of two layers: what the tests run."""
