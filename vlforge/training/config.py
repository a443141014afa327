"""The `tokenizer`, `pretrain` and `train` stages of a recipe. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vlforge.models.config import ModelSpec, SmallLanguageSpec, SmallVisionSpec


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a tokenizer on datasets of any format and on plain text."""

    data: tuple[str, ...]
    type: Literal["word"] = "word"
    max_vocab: int = 4096
    extra_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Optimiser:
    """AdamW and its schedule. `lr` may be overruled per part of the model."""

    lr: float = 1e-3
    lr_parts: dict[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Literal["cosine", "linear", "constant", "one_cycle"] = "cosine"
    warmup_ratio: float = 0.03


@dataclass(frozen=True)
class Mixture:
    """One dataset of several, and how much of it is seen.

    `weight` is its share of the samples, relative to the others'; or `rows` or
    `epochs` of it are seen; without any of them it counts by its rows.
    `PATH#0.7w`, `PATH#1000` and `PATH#2.5e` are short for these. `format` is one
    of `vlforge list formats`, judged by content unless named; `image_root` is
    where this dataset's relative picture paths start. `captions: blip` makes its
    answers small letters without marks, at most 50 words, as BLIP-2 and MiniGPT-4's
    first stage learn them.
    """

    path: str
    weight: float | None = None
    rows: int | None = None
    epochs: float | None = None
    format: str = "auto"
    image_root: str | None = None
    captions: Literal["as_is", "blip"] = "as_is"


@dataclass(frozen=True)
class Mixing:
    """How several datasets become one order.

    `exact` meets every share to the row and shuffles all; `per_sample` draws a
    dataset for each row, `per_batch` for each global batch, whose rows are then
    all of one dataset. `temperature` T, without weights, counts a dataset of n
    rows as n^(1/T): above 1 the small ones come more often.
    """

    draw: Literal["exact", "per_sample", "per_batch"] = "exact"
    temperature: float = 1.0


@dataclass(frozen=True)
class AugmentSpec:
    """How far pictures may change: `shift` as a share of the side, the rest of full scale."""

    shift: float = 0.05
    brightness: float = 0.1
    contrast: float = 0.15
    noise: float = 0.03


@dataclass(frozen=True)
class PretrainConfig:
    """Train one part alone: an encoder by tagging, or a decoder on text.

    `objective: tags` trains `vision` to name the caption's words somewhere on
    the picture; `objective: text` trains `language` on texts. `tag_sharpness`
    says how near to the best place on the map a tag's score is. Words on fewer
    than `tag_min_count` pictures, or on a larger share of them than
    `tag_max_share`, are no tags.
    """

    objective: Literal["tags", "text"]
    data: str | tuple[str | Mixture, ...]
    tokenizer: str
    samples: int
    vision: SmallVisionSpec = field(default_factory=SmallVisionSpec)
    language: SmallLanguageSpec = field(default_factory=SmallLanguageSpec)
    batch: int = 16
    mixing: Mixing = Mixing()
    tag_sharpness: float = 1.0
    tag_max_share: float = 1.0
    tag_min_count: int = 1
    optimiser: Optimiser = Optimiser()
    augment: bool | AugmentSpec = False
    group_by_length: bool = False
    image_root: str | None = None
    save_every_samples: int = 0
    seed: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class TrainConfig:
    """One stage of VLM training: align, instruct, or any other.

    `model` is three nouns to assemble, or the folder of a model to go on with.
    `train` names the parts that learn: vision, connector, language, or regular
    expressions over parameter names; everything else is frozen.
    `samples` (or `epochs`) is the budget, unless the entries of `data` name their
    rows or epochs; `batch` is the global batch, worked down to `micro_batch` times
    accumulation. `data` is of any format, pictures in the data included.
    """

    model: ModelSpec | str
    data: str | tuple[str | Mixture, ...]
    samples: int | None = None
    epochs: float | None = None
    mixing: Mixing = Mixing()
    template: str = "plain"
    train: tuple[str, ...] = ("connector",)
    batch: int = 16
    micro_batch: int | Literal["auto"] = "auto"
    max_length: int = 256
    optimiser: Optimiser = Optimiser()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    augment: bool | AugmentSpec = False
    group_by_length: bool = False
    image_root: str | None = None
    save_every_samples: int = 0
    seed: int | Literal["auto"] = "auto"
