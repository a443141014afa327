"""The words every package shares: rows, turns, needs, drops, errors, model protocols.

Nothing here imports torch, transformers or any other package of VLForge.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

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


@dataclass(frozen=True)
class EndpointSpec:
    """An OpenAI-compatible server and what may be spent on it.

    `url` is the address up to `/v1`; the key comes from the environment variable `key_env`
    and is never written anywhere (a server without keys needs none). At most `concurrency`
    requests are under way, `requests_per_minute` and `tokens_per_minute` above 0 slow them
    down. What may pass (429, 5xx, a lost connection, a reply that is none) is tried
    `retries` times more, each wait twice as long, or as long as the server says. Prices are
    for a million tokens; asking ends when `max_cost` is spent (0: no limit) on all replies of
    the model that are kept, whichever run paid them.
    """

    model: str
    url: str = "https://api.openai.com/v1"
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    retries: int = 6
    timeout_s: float = 120.0
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Caption:
    """A generated text and the mean log-probability of its tokens (natural log)."""

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """How answers are drawn: greedy at temperature 0, else by the key of each.

    `top_k` above 0 draws among so many likeliest tokens. `repetition_penalty` above 1 makes
    tokens that the answer has already less likely, greedy ones too.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    candidates: int = 1
    stop: tuple[str, ...] = ()
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request got no answer; `reason` is the same for all with this fault."""

    reason: str
    detail: str = ""


class Piece(NamedTuple):
    """A piece of an answer that is being made, by the place of its request.

    `ended` stands in the last one: stop (it is finished), length (its budget is spent),
    stopped (nobody read on), refused (`text` says why there is no answer).
    """

    place: int
    text: str
    ended: Literal["", "stop", "length", "stopped", "refused"] = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """A find in a picture: left, top, right, bottom in pixels; `phrase` is its place among
    the phrases asked for, `score` from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float
    phrase: int


class Captioner(Protocol):
    """Writes captions for images."""

    def caption(
        self,
        images: Sequence[Image],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
        all_drawn: bool = False,
    ) -> list[list[Caption] | Refusal]:
        """`count` candidates per image, or why there are none (a server may refuse one).

        The first candidate is the likeliest caption, unless all shall be drawn as Data-Juicer
        draws them; `keys` seed the sampling of each image on its own.
        """
        ...


class PreparingCaptioner(Captioner, Protocol):
    """A captioner that can begin with a picture before it writes: in a thread beside it.

    `portion` is how many pictures make a call worth while; 0: no matter.
    """

    portion: int

    def prepare(self, image: Image) -> Any:
        """What `caption` takes in the picture's place, smaller than the picture."""
        ...


class FileCaptioner(PreparingCaptioner, Protocol):
    """A captioner that may need no pixels."""

    def prepare_file(self, content: bytes) -> Any:
        """What `caption` takes for the picture in a file; None: it has to be decoded."""
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


class Writer(Protocol):
    """Answers requests of words and pictures, many at once."""

    def write(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> list[list[Caption] | Refusal]:
        """`drawing.candidates` answers per sample, in order, or why there is none.

        `keys` are what the sampling of each depends on; an answer never depends on the others.
        """
        ...


class Classifier(Protocol):
    """Sorts pictures or texts into the classes it was trained on."""

    labels: tuple[str, ...]

    def classify_images(self, images: Sequence[Image]) -> list[list[float]]:
        """Probabilities per picture, in the order of `labels`."""
        ...

    def classify_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Probabilities per text, in the order of `labels`."""
        ...


class Head(Protocol):
    """Judges pictures by their embeddings."""

    def judge(self, vectors: Any) -> list[float]:
        """One number per row of the unit vectors [N, D]."""
        ...


class Grounder(Protocol):
    """Finds what words name in pictures."""

    def ground(self, images: Sequence[Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Boxes per picture, the surest first, of any of the picture's own phrases."""
        ...


class LanguageScorer(Protocol):
    """Says how likely texts are under a language model."""

    def log_probs(self, texts: Sequence[tuple[str, str]]) -> list[list[float]]:
        """For (before, text) the natural log-probability of each token of `text` behind `before`.

        An empty `before` is the start of a document. Without tokens to tell of: an empty list.
        """
        ...


class Painter(Protocol):
    """Draws new pictures from pictures and words."""

    def paint(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        keys: Sequence[int],
        **how: Any,
    ) -> list[Image | Refusal]:
        """One new picture per picture; `keys` seed each on its own."""
        ...


class ModelSource(Protocol):
    """Gives operators the models they name; implemented by `inference`, injected by `runs`.

    A name is a folder, or what the recipe's `endpoints` call a server.
    """

    def captioner(self, path: str) -> Captioner:
        """The captioner stored at `path`."""
        ...

    def scorer(self, path: str) -> Scorer:
        """The image-text scorer stored at `path`: cosine, matching, tags or likelihood."""
        ...

    def embedder(self, path: str) -> Embedder:
        """The encoder of pictures and texts stored at `path`."""
        ...

    def writer(self, path: str | EndpointSpec) -> Writer:
        """A model that answers: a folder, an endpoint of the recipe, or one told here."""
        ...

    def classifier(self, path: str) -> Classifier:
        """The picture or text classifier stored at `path`."""
        ...

    def head(self, path: str) -> Head:
        """What judges embeddings: a file of weights, or a folder of encoder and head."""
        ...

    def grounder(self, path: str) -> Grounder:
        """The open-vocabulary detector stored at `path`."""
        ...

    def language(self, path: str) -> LanguageScorer:
        """The language model stored at `path`, to score with."""
        ...

    def painter(self, path: str) -> Painter:
        """The diffusion model stored at `path`."""
        ...
