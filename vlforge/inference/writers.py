"""Writers by name: model folders of any kind that answers, and endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.inference.endpoint.writer import UNFIT, UNREADABLE, EndpointWriter
from vlforge.types import (
    LLAVA_IMAGE_TOKEN,
    Caption,
    DataError,
    Drawing,
    EndpointSpec,
    ModelError,
    Refusal,
    Sample,
    Turn,
    Writer,
)

if TYPE_CHECKING:
    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded
    from vlforge.inference.local import LocalModels

_PICTURE_TOKENS = 600
TOO_LONG = "conversation too long"
"""Reason of refusals, beside those that endpoints have too."""


def open_writer(models: LocalModels, path: str | EndpointSpec) -> Writer:
    """What answers: the endpoint of that name, a model folder, or an endpoint told here.

    A name of the recipe's `endpoints` stands before a folder, and before what an operator
    says of a model of that name.

    Raises:
        ModelError: neither a folder nor an endpoint, or a model that does not answer.
    """
    name = path if isinstance(path, str) else path.model
    spec = models.endpoints.get(name, None if isinstance(path, str) else path)
    if spec is not None:
        return EndpointWriter(models.endpoint(spec))
    if not Path(name).exists():
        known = ", ".join(sorted(models.endpoints)) or "none"
        raise ModelError(
            f"{name!r} is neither a model folder here nor an endpoint of the recipe; give a "
            f"folder, or a server under endpoints (there are: {known})"
        )
    return LocalWriter(models.loaded(name), models.batch)


@dataclass(frozen=True)
class Asked:
    """A conversation on its way to a model: its key, and its prompt or why there is none."""

    key: int
    prompt: Any

    def __len__(self) -> int:
        """What batches are made by: pictures count for as many tokens as they commonly take."""
        if isinstance(self.prompt, Refusal):
            return 0
        return len(self.prompt) + _PICTURE_TOKENS * len(self.prompt.images)

    @property
    def is_open(self) -> bool:
        """Whether it still waits for an answer."""
        return not isinstance(self.prompt, Refusal)


class LocalWriter:
    """Answers with an opened model; a `Writer`.

    Requests go in batches of about equal length; the next batch's pictures are opened
    while this one is answered. In fp32 an answer depends on its request and key only.
    """

    def __init__(self, loaded: Loaded, batch: int = 32):
        from vlforge.inference.answers import with_words
        from vlforge.inference.prompts import Batches

        self.loaded = with_words(loaded, "answer")
        self.batches = Batches(batch)

    @property
    def translates(self) -> bool:
        """Whether it takes a bare text and gives its translation, and knows no instructions."""
        from vlforge.inference.text_models import TRANSLATORS

        return self.loaded.model.config.model_type in TRANSLATORS

    def write(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> list[list[Caption] | Refusal]:
        """`drawing.candidates` answers per sample, in order, or why there is none.

        Raises:
            ModelError: pictures for a model without eyes, or a drawing that cannot be.
        """
        decoding = decoding_of(self.loaded, drawing)
        requests = [
            asked(self.loaded, sample, key) for key, sample in zip(keys, samples, strict=True)
        ]
        return self.batches.run(
            requests,
            lambda group: self._answers(group, decoding),
            len,
            lambda group: with_opened(self.loaded, group),
        )

    def _answers(self, group: list[Asked], decoding: Decoding) -> list[list[Caption] | Refusal]:
        """One batch; requests that the model cannot take are refused, the others go on."""
        from vlforge.inference.answers import draw
        from vlforge.inference.generate import LengthError
        from vlforge.inference.native import PromptError

        found: dict[int, Any] = {n: one.prompt for n, one in enumerate(group) if not one.is_open}
        left = [n for n, one in enumerate(group) if one.is_open]
        while left:
            prompts, keys = [group[n].prompt for n in left], [group[n].key for n in left]
            try:
                found.update(zip(left, draw(self.loaded, prompts, decoding, keys), strict=True))
                break
            except LengthError as error:
                for at, length in error.lengths.items():
                    told = f"{length} tokens, and the model takes {error.limit}"
                    found[left[at]] = Refusal(TOO_LONG, told)
                left = [n for n in left if n not in found]
            except (PromptError, DataError) as error:
                if len(left) > 1:
                    alone = [self._answers([group[n]], decoding)[0] for n in left]
                    found.update(zip(left, alone, strict=True))
                else:
                    found[left[0]] = Refusal(UNFIT, str(error))
                break
        return [found[n] for n in range(len(group))]


def asked(loaded: Loaded, sample: Sample, key: int) -> Asked:
    """A request with the model's prompt, pictures still closed.

    A system turn that the model's template does not know leads the first.

    Raises:
        ModelError: pictures for a model without eyes.
    """
    from jinja2 import TemplateError

    from vlforge.inference.answers import prompt_for

    marks = sum(turn.text.count(LLAVA_IMAGE_TOKEN) for turn in sample.turns)
    count = len(sample.images)
    if marks != count and (count or loaded.kind == "native"):
        return Asked(key, Refusal(UNFIT, f"{marks} {LLAVA_IMAGE_TOKEN} and {count} pictures"))
    try:
        try:
            return Asked(key, prompt_for(loaded, sample))
        except TemplateError:
            return Asked(key, prompt_for(loaded, replace(sample, turns=_folded(sample.turns))))
    except (DataError, TemplateError) as error:
        return Asked(key, Refusal(UNFIT, str(error)))


def with_opened(loaded: Loaded, group: Sequence[Asked]) -> list[Asked]:
    """Requests with their pictures opened; those with one that cannot be are refused."""
    from vlforge.inference.prefetch import opened

    rows = [one.prompt.images if one.is_open else () for one in group]
    ready = []
    for one, images in zip(group, opened(loaded, rows), strict=True):
        if isinstance(images, Exception):
            one = replace(one, prompt=Refusal(UNREADABLE, str(images)))
        elif images:
            one = replace(one, prompt=replace(one.prompt, images=images))
        ready.append(one)
    return ready


def decoding_of(loaded: Loaded, drawing: Drawing) -> Decoding:
    """How a model's answers are drawn as `drawing` asks.

    Raises:
        ModelError: a drawing that cannot be.
    """
    decoding = loaded.decoding(
        drawing.max_new_tokens,
        temperature=drawing.temperature,
        top_p=drawing.top_p,
        top_k=drawing.top_k,
        repetition_penalty=drawing.repetition_penalty,
        beams=drawing.beams,
        candidates=drawing.candidates,
    )
    return replace(decoding, stop_strings=(*decoding.stop_strings, *drawing.stop))


def _folded(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns without a system one: its words begin the user's first."""
    if len(turns) < 2 or turns[0].role != "system":
        return tuple(turns)
    first = Turn(turns[1].role, f"{turns[0].text}\n\n{turns[1].text}")
    return (first, *turns[2:])
