"""What the plug-ins share: questions and settings as other tools give them, and the answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlforge.types import LLAVA_IMAGE_TOKEN, Loading, ModelError, Sample, Turn

if TYPE_CHECKING:
    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded

MAX_NEW_TOKENS = 1024
"""Longest answer where a tool names none."""

_UNDERSTOOD = {
    *("until", "max_new_tokens", "max_gen_toks", "temperature", "top_p", "top_k"),
    *("num_beams", "do_sample", "seed"),
}


@dataclass(frozen=True)
class Ask:
    """One conversation, open for the answer, and what its sampling depends on.

    `turns` are (role, text); `images` are paths or opened pictures, which stand before the
    first turn's text unless the texts hold an `<image>` for each.
    """

    turns: tuple[tuple[Literal["system", "user", "assistant"], str], ...]
    images: tuple[Any, ...] = ()
    key: int = 0

    def sample(self) -> Sample:
        """The conversation as models here take it."""
        from vlforge.data.images import to_rgb

        turns = list(self.turns)
        if sum(text.count(LLAVA_IMAGE_TOKEN) for _, text in turns) != len(self.images):
            place = next(n for n, (role, _) in enumerate(turns) if role == "user")
            marks = f"{LLAVA_IMAGE_TOKEN}\n" * len(self.images)
            turns[place] = ("user", marks + turns[place][1])
        images: Any = tuple(
            str(image) if isinstance(image, str | Path) else to_rgb(image) for image in self.images
        )
        return Sample(str(self.key), images, tuple(Turn(role, text) for role, text in turns))


class Answerer:
    """A model folder that answers what other tools ask, each question in its own way."""

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        template: str = "auto",
        batch: int = 1,
        loading: Loading = Loading(),
    ):
        """Open `model`.

        Raises:
            ModelError: no model there that answers questions.
        """
        from vlforge.inference.local import LocalChat

        self.chat = LocalChat(model, device=device, template=template, batch=batch, loading=loading)
        self._told: set[str] = set()
        for note in self.chat.notes:
            warnings.warn(note, stacklevel=2)

    @property
    def loaded(self) -> Loaded:
        """The model."""
        return self.chat.loaded

    def answers(self, asks: Sequence[Ask], settings: Sequence[Mapping[str, Any]]) -> list[str]:
        """One text per question, in the order given.

        Args:
            settings: per question, under transformers' names; `until` ends an answer and is
                cut off. Temperature 0, or none, is greedy.

        Raises:
            DataError: a question or picture that cannot be used.
            ModelError: settings that exclude each other, a question too long.
        """
        groups: dict[Decoding, list[int]] = {}
        for place, how in enumerate(settings):
            groups.setdefault(self._decoding(how), []).append(place)
        found: dict[int, str] = {}
        for decoding, places in groups.items():
            some = [asks[place] for place in places]
            samples, keys = [ask.sample() for ask in some], [ask.key for ask in some]
            made = self.chat.answer_as(samples, decoding, keys)
            found.update((place, one.text) for place, one in zip(places, made, strict=True))
        return [found[place] for place in range(len(asks))]

    def losses(self, asks: Sequence[Ask], texts: Sequence[str]) -> list[tuple[float, bool]]:
        """How unlikely each text is as the answer, and whether it is the greedy one.

        The mean negative log-probability of its tokens (natural log), pictures in view.

        Raises:
            ModelError: an empty text, or a model of transformers' own, which is not weighed yet.
        """
        from vlforge.inference.generate import weigh
        from vlforge.inference.prompts import embed, prompt_of

        loaded = self.loaded
        if loaded.kind != "family":
            raise ModelError(
                f"{loaded.path}: likelihoods are for models of this project; convert it with "
                "`vlforge convert-model` first"
            )
        items = [
            (prompt_of(loaded, ask.sample()), self._ids(text))
            for ask, text in zip(asks, texts, strict=True)
        ]

        def work(group: list[Any]) -> list[tuple[float, bool]]:
            embeds = embed(loaded, [prompt for prompt, _ in group])
            weighed = weigh(loaded.language, embeds, [ids for _, ids in group])
            return [(-sum(scores) / len(scores), is_best) for scores, is_best in weighed]

        return self.chat.batches.run(items, work, length=lambda item: len(item[0]) + len(item[1]))

    def _ids(self, text: str) -> list[int]:
        return list(self.loaded.tokenizer.encode(text, add_special_tokens=False))

    def _decoding(self, how: Mapping[str, Any]) -> Decoding:
        for name in sorted(set(how) - _UNDERSTOOD - self._told):
            self._told.add(name)
            warnings.warn(f"generation setting {name!r} is not used here", stacklevel=3)
        decoding = self.loaded.decoding(**decoding_of(how))
        stops = (*decoding.stop_strings, *_listed(how.get("until")))
        return replace(decoding, stop_strings=tuple(dict.fromkeys(filter(None, stops))))


def decoding_of(how: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers' generation settings in this project's words.

    `do_sample` false is greedy whatever the temperature; true without a temperature draws
    at 1, as transformers does. A temperature alone samples, as lmms-eval's models do.
    """
    named = how.get("temperature")
    temperature = float(named if named is not None else 1.0 if how.get("do_sample") else 0.0)
    if how.get("do_sample") is False:
        temperature = 0.0
    longest = how.get("max_new_tokens") or how.get("max_gen_toks") or MAX_NEW_TOKENS
    found: dict[str, Any] = {
        "max_new_tokens": int(longest),
        "temperature": temperature,
        "beams": int(how.get("num_beams") or 1),
    }
    if temperature:
        found |= {"top_p": float(how.get("top_p") or 1.0), "top_k": int(how.get("top_k") or 0)}
        found["seed"] = int(how.get("seed") or 0)
    return found


def _listed(until: Any) -> list[str]:
    if until is None:
        return []
    return [until] if isinstance(until, str) else [str(one) for one in until]
