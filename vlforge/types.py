"""The words every package shares: rows, turns, needs, drops, errors, model protocols.

Nothing here imports torch, transformers or any other package of VLForge.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_TOKEN = "<__dj__image>"
"""Data-Juicer's placeholder for one image in a text."""
EOC_TOKEN = "<|__dj__eoc|>"
"""Data-Juicer's end-of-chunk mark."""
LLAVA_IMAGE_TOKEN = "<image>"
"""LLaVA's placeholder for one image in a turn."""
IGNORE_INDEX = -100
"""Label of a token that is not supervised."""
IMAGE_INDEX = -200
"""Token id that stands for one image before its features are spliced in."""

Row = dict[str, Any]
"""One dj row: `text`, `images` and whatever else the file carried."""

ProgressFn = Callable[[int, int | None, str], None]
"""`progress(done, total, note)`; `total` is None where it is not known yet."""
LogFn = Callable[[Mapping[str, Any]], None]
"""Takes one event for `log.jsonl`."""


def no_progress(done: int, total: int | None, note: str) -> None:
    """A `ProgressFn` that shows nothing."""


def no_log(event: Mapping[str, Any]) -> None:
    """A `LogFn` that keeps nothing."""


class VLForgeError(Exception):
    """A mistake the user can mend: one line that names the object, the value and the remedy."""


class RecipeError(VLForgeError):
    """A recipe that cannot be read or does not fit the schema."""


class DataError(VLForgeError):
    """A data file that cannot be read, or that holds no usable row."""


class WriteError(VLForgeError):
    """The disk refuses what is written: no row's fault, so it ends the run; nothing half stays."""


class StageStopped(VLForgeError):
    """A stage that was asked to end early and has; the same command goes on from there."""


class ModelError(VLForgeError):
    """A model folder that cannot be loaded or does not fit its use."""


class Need(enum.IntEnum):
    """What an operator has to look at, cheapest first."""

    TEXT = 0
    HEADER = 1
    BYTES = 2
    PIXELS = 3
    EMBEDDING = 4
    MODEL = 5


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or chat sample: images and the turns that speak of them.

    `turns` hold `<image>` once per entry of `images`, in order. `images` are
    absolute paths, or encoded pictures that the data holds itself. `extra` carries
    fields the file had and nobody used.
    """

    id: str
    images: tuple[str | bytes, ...]
    turns: tuple[Turn, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row left the data: the operator, what it saw and the bound it broke."""

    op: str
    reason: str
    stat: str | None = None
    value: Any = None
    bound: str | None = None


@dataclass(frozen=True)
class Loading:
    """How a model is put into memory.

    `quantise` keeps the language model's matrices in 8 or 4 bits (bitsandbytes; encoders
    and connector stay as they are). `attention`: flash needs flash-attn and a GPU, auto
    takes the best that is here. `device_map`: auto spreads the layers over the GPUs and,
    where they are full, the CPU; a mapping places parts by name (`language: cuda:1`).
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = "auto"
    device_map: Literal["none", "auto"] | dict[str, str] = "none"


@dataclass(frozen=True, slots=True)
class Caption:
    """A generated text and the mean log-probability of its tokens (natural log)."""

    text: str
    confidence: float


class Captioner(Protocol):
    """Writes captions for images."""

    def caption(
        self,
        images: Sequence[Image],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
    ) -> list[list[Caption]]:
        """`count` candidates per image; `keys` seed the sampling of each image on its own."""
        ...


class Scorer(Protocol):
    """Says how well texts agree with images."""

    def score(self, images: Sequence[Image], texts: Sequence[str]) -> list[float]:
        """One score per pair, higher is better; the scale is the model's own."""
        ...


class Embedder(Protocol):
    """Turns images and texts into comparable unit vectors."""

    def embed_images(self, images: Sequence[Image]) -> Any:
        """[N, D] float32."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Any:
        """[N, D] float32."""
        ...


class Chat(Protocol):
    """Answers questions about images."""

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[Caption]:
        """One greedy answer per sample; the last turn is the user's."""
        ...

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        """Pieces of one answer as they are made."""
        ...


class ModelSource(Protocol):
    """Gives operators the models they name; implemented by `inference`, injected by `runs`."""

    def captioner(self, path: str) -> Captioner:
        """The captioner stored at `path`."""
        ...

    def scorer(self, path: str) -> Scorer:
        """The image-text scorer stored at `path`."""
        ...
