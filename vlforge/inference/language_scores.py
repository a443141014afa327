"""How likely texts are: under a language model, or under one that sees a picture too.

Rows are padded on the right, so that a token never sees what stands for nothing: in fp32
a text has the same probabilities alone and in any batch.

B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlforge.inference.prompts import Batches, Prompt, embed
from vlforge.types import (
    IGNORE_INDEX,
    LLAVA_IMAGE_TOKEN,
    DataError,
    ModelError,
    Refusal,
    Sample,
    Turn,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.load import Loaded
    from vlforge.inference.local import LocalModels

SPEAKING = ("family", "native", "language")
"""Kinds of models that hold a language model."""
LONGEST = 4096
"""Most positions of one window, whatever the model takes: logits of all of them are held."""
LOGITS_AT_ONCE = 1 << 28
"""Logits of one forward pass, 1 GiB in fp32; a window with more of them goes alone."""
UNSCORED = "caption cannot be scored"
"""Reason of pairs that the model's processor refuses."""


def open_language(models: LocalModels, path: str) -> LocalLanguage:
    """The language model in the folder `path`, or the one inside an image-text model.

    Raises:
        ModelError: no such folder, or a model that does not tell how likely a text is.
    """
    made: LocalLanguage = models.keep(
        ("language", path), lambda: LocalLanguage(models.loaded(path), models.batch)
    )
    return made


@dataclass(frozen=True)
class _Window:
    """Ids of one forward pass; the last `told` of them are told of."""

    text: int
    ids: tuple[int, ...]
    told: int


class LocalLanguage:
    """Log-probabilities of texts under an opened model; a `LanguageScorer`.

    A document begins with the model's own first token, or its end-of-text where it has
    none, so that the first word has a probability too; with neither it has none. A text
    longer than the model's positions is read in windows that overlap by half.
    """

    def __init__(self, loaded: Loaded, batch: int = 32):
        if loaded.kind not in SPEAKING:
            raise ModelError(
                f"{loaded.path} holds a {loaded.kind} model, which says nothing of how likely a "
                "text is; give the folder of a causal language model or of an image-text model"
            )
        self.language = _speaker(loaded)
        if getattr(self.language.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{loaded.path} is a model from text to text; give a causal language model"
            )
        self.loaded = loaded
        self.batches = Batches(batch)
        self.start = _first_token(loaded)
        self.limit = _positions(self.language)
        forward = inspect.signature(self.language.forward).parameters
        self._keeps_some = "logits_to_keep" in forward

    def log_probs(self, texts: Sequence[tuple[str, str]]) -> list[list[float]]:
        """For (before, text) the natural log-probability of each token of `text`.

        What the two make together is cut into tokens at once; a token that holds letters of
        both is the text's.
        """
        windows = [w for at, pair in enumerate(texts) for w in self._windows(at, *pair)]
        told = self.batches.run(windows, self._told, length=lambda window: len(window.ids))
        found: list[list[float]] = [[] for _ in texts]
        for window, values in zip(windows, told, strict=True):
            found[window.text] += values
        return found

    def _windows(self, at: int, before: str, text: str) -> Iterator[_Window]:
        if not text:
            return
        known = [*self.start, *self._ids(before)]
        ids = [*self.start, *self._ids(before + text)]
        first = next(
            (n for n, (a, b) in enumerate(zip(known, ids, strict=False)) if a != b),
            min(len(known), len(ids)),
        )
        first = max(first, 1)
        begin = max(0, min(first - self.limit // 2, len(ids) - self.limit))
        while first < len(ids):
            end = min(begin + self.limit, len(ids))
            yield _Window(at, tuple(ids[begin:end]), end - first)
            first, begin = end, end - self.limit // 2

    def _ids(self, text: str) -> list[int]:
        made = self.loaded.tokenizer(_sound(text), add_special_tokens=False, verbose=False)
        ids: list[int] = list(made["input_ids"])
        return ids

    def _told(self, group: list[_Window]) -> list[list[float]]:
        """Log-probabilities of each window's last tokens."""
        longest = max(len(window.ids) for window in group)
        size = max(1, LOGITS_AT_ONCE // (longest * len(self.loaded.tokenizer)))
        some = [group[at : at + size] for at in range(0, len(group), size)]
        return [row for windows in some for row in self._some(windows)]

    @torch.inference_mode()
    def _some(self, group: list[_Window]) -> list[list[float]]:
        longest = max(len(window.ids) for window in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        mask = torch.zeros(len(group), longest, dtype=torch.long)
        for row, window in enumerate(group):
            ids[row, : len(window.ids)] = torch.tensor(window.ids)
            mask[row, : len(window.ids)] = 1
        device = self.loaded.device
        kept = longest - min(len(window.ids) - 1 - window.told for window in group)
        how = {"logits_to_keep": kept} if self._keeps_some else {}
        logits = self.language(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **how
        ).logits
        out = []
        for row, window in enumerate(group):
            said = torch.tensor(window.ids[len(window.ids) - window.told :])
            end = len(window.ids) - 1 - (longest - logits.shape[1])
            out.append(_picked(logits[row, end - window.told : end], said))
        return out

    def caption_log_probs(
        self, images: Sequence[Image], texts: Sequence[str], question: str
    ) -> list[list[float] | Refusal]:
        """The same of each text as the answer about its picture, with the end of the answer.

        Or why there is none: the model's processor may refuse a picture.

        Args:
            question: what the model is asked, where its template knows questions; may be empty.

        Raises:
            ModelError: the model sees no pictures, or cannot be asked.
        """
        if self.loaded.kind == "language":
            raise ModelError(f"{self.loaded.path} sees no pictures; give an image-text model")
        pairs = list(zip(images, map(_sound, texts), strict=True))
        read = _reader(self.loaded)
        return self.batches.run(
            pairs,
            lambda group: read(self.loaded, group, question),
            length=lambda pair: len(pair[1]),
        )


_Told = list[list[float] | Refusal]
_Reader = Callable[["Loaded", Sequence[tuple["Image", str]], str], _Told]


def _reader(loaded: Loaded) -> _Reader:
    """How pairs are told to a model of this kind.

    Raises:
        ModelError: it cannot be asked for a caption.
    """
    from vlforge.inference.blip2 import is_blip2

    if loaded.kind == "family":
        return _family_told
    if is_blip2(loaded.model):
        return _blip2_told
    if not (loaded.template or getattr(loaded.processor, "chat_template", None)):
        raise ModelError(f"{loaded.path} has no chat template, so it cannot be asked for a caption")
    return _native_told


def _blip2_told(loaded: Loaded, group: Sequence[tuple[Image, str]], question: str) -> _Told:
    """BLIP-2 knows no questions, and its captions no end: the words behind the picture."""
    from vlforge.inference.blip2 import blip2_embed
    from vlforge.inference.generate import log_probs
    from vlforge.inference.native import NativePrompt

    embeds = blip2_embed(loaded, [NativePrompt(None, (image,)) for image, _ in group])
    words = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for _, text in group]
    return [*log_probs(loaded.model.language_model, embeds, words)]


def _family_told(loaded: Loaded, group: Sequence[tuple[Image, str]], question: str) -> _Told:
    from vlforge.inference.generate import log_probs
    from vlforge.text.encode import encode_turns

    prompts, answers = [], []
    for image, text in group:
        ids, labels = _turns_of(loaded, text, question, encode_turns)
        first = next(place for place, label in enumerate(labels) if label >= 0)
        room = loaded.language.config.max_position_embeddings - first
        room -= loaded.model.count([image.size])[0]
        prompts.append(Prompt(tuple(ids[:first]), (image,)))
        answers.append([label for label in labels[first:] if label >= 0][: max(room, 1)])
    return [*log_probs(loaded.language, embed(loaded, prompts), answers)]


def _turns_of(
    loaded: Loaded, text: str, question: str, encode: Any
) -> tuple[Sequence[int], Sequence[int]]:
    """Ids and labels of a caption as the model's template writes it."""
    speaks = loaded.template is None or loaded.template.words_from_user
    asked = f"{LLAVA_IMAGE_TOKEN}\n{question}".strip() if speaks else LLAVA_IMAGE_TOKEN
    turns = (Turn("user", asked), Turn("assistant", text))
    made = encode(loaded.template, loaded.tokenizer, turns, max_length=None, images=1)
    return made.ids, made.labels


@torch.inference_mode()
def _native_told(loaded: Loaded, group: Sequence[tuple[Image, str]], question: str) -> _Told:
    from vlforge.models.native import NativeModel

    native = NativeModel(loaded.model, loaded.processor)
    asked = Turn("user", f"{LLAVA_IMAGE_TOKEN}\n{question}".strip())
    found: list[Any] = [None] * len(group)
    rows = {}
    for at, (image, text) in enumerate(group):
        sample = Sample("caption", ("",), (asked, Turn("assistant", text)))
        try:
            rows[at] = native.encode(sample, [image], loaded.template)
        except DataError as error:
            found[at] = Refusal(UNSCORED, str(error))
    if not rows:
        return found
    batch = native.collate(list(rows.values()))
    labels = batch.pop("labels")
    logits = loaded.model(
        **{name: value.to(loaded.device) for name, value in batch.items()}, use_cache=False
    ).logits
    for row, at in enumerate(rows):
        places = (labels[row] != IGNORE_INDEX).nonzero()[:, 0]
        found[at] = _picked(logits[row, (places - 1).to(logits.device)], labels[row, places])
    return found


def _picked(logits: Tensor, said: Tensor) -> list[float]:
    """Log-probability of each id of `said` [L] under its row of logits [L, V]."""
    scores = torch.log_softmax(logits.float(), -1)
    picked: list[float] = scores.gather(-1, said.to(scores.device)[:, None])[:, 0].tolist()
    return picked


def _first_token(loaded: Loaded) -> list[int]:
    """What stands before a document: the first token, else the one that ends texts, if any."""
    tokenizer = loaded.tokenizer
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token]
    return []


def _speaker(loaded: Loaded) -> Any:
    """The part that takes words alone: BLIP-2 as a whole wants a picture with them."""
    from vlforge.inference.blip2 import is_blip2

    return loaded.model.language_model if is_blip2(loaded.model) else loaded.language


def _sound(text: str) -> str:
    """The text without halves of characters, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _positions(language: Any) -> int:
    """Positions of a window: what the model takes, as far as memory does."""
    config = language.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    taken = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0)
    return max(2, min(int(taken or LONGEST), LONGEST))
