"""Models asked as their own projects' chats ask them: their defaults, and MiniGPT-4's sampling.

Sources: LLaVA's and Mini-Gemini's cli.py; Qwen-VL-Chat's generation_config.json;
Vision-CAIR/MiniGPT-4@22d8888 demo.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlforge.inference.speaking import LocalSpeaker, with_system
from vlforge.inference.writers import Asked
from vlforge.inference.writers import asked as asked_of
from vlforge.types import Drawing, ModelError, Piece, Sample, VLForgeError

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded
    from vlforge.text.template import Template

DEFAULTS = {
    "llava": Drawing(512, 0.2),
    "mgm": Drawing(512, 0.2),
    "qwen_vl": Drawing(512, 1.0, 0.3),
    "minigpt4": Drawing(300, 1.0, 0.9),
}
"""How the published chat of each family draws where it is told nothing."""


def reference_speaker(speaker: LocalSpeaker) -> tuple[LocalSpeaker | DemoSpeaker, Drawing]:
    """What answers as the family's own chat does, and how that draws by default.

    Raises:
        ModelError: a model of no family that has a chat of its own.
    """
    from vlforge.models.families import family_of

    loaded = speaker.loaded
    family = family_of(getattr(loaded.model.config, "model_type", "")) or ""
    if loaded.kind != "family" or family not in DEFAULTS:
        raise ModelError(
            f"{loaded.path} is of no family with a chat of its own ({', '.join(DEFAULTS)}); leave "
            "--style out"
        )
    if family == "minigpt4":
        return DemoSpeaker(loaded, speaker.system), DEFAULTS[family]
    if family == "mgm":
        speaker = MgmSpeaker(loaded, speaker.batch, speaker.system)
    return speaker, DEFAULTS[family]


class MgmSpeaker(LocalSpeaker):
    """Counts several pictures out to the model, as Mini-Gemini's chat does."""

    def asked(self, sample: Sample, key: int) -> Asked:
        """A request in which two pictures and more are numbered: `Image 1:`, `Image 2:`, …"""
        loaded = self.loaded
        if loaded.template is not None and len(sample.images) > 1:
            loaded = replace(loaded, template=counting(loaded.template))
        return asked_of(loaded, sample, key)


def counting(template: Template) -> Template:
    """The template with each picture's number before it."""
    return replace(template, image_label="Image {}:")


class DemoSpeaker:
    """Answers as MiniGPT-4's demo does, one after the other; a `serving.talking.Speaker`.

    Beams sample, too. The key seeds torch, so that the same is said again.
    """

    samples_beams = True
    sees = True

    def __init__(
        self, loaded: Loaded, system: str = "", stops: Sequence[Sequence[int]] | None = None
    ):
        """Speak with `loaded`; `stops` are ids that end an answer, None those of `###`."""
        self.loaded, self.system, self.stops = loaded, system, stops

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the model as it was loaded, a line each."""
        return self.loaded.notes

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        """Each answer as one piece."""
        for place, (sample, key) in enumerate(zip(samples, keys, strict=True)):
            try:
                yield self._answer(place, with_system(sample, self.system), drawing, key)
            except VLForgeError as error:
                yield Piece(place, str(error), "refused")

    def _answer(self, place: int, sample: Sample, drawing: Drawing, key: int) -> Piece:
        import torch

        from vlforge.inference.minigpt4 import DemoSettings, demo_answer

        settings = DemoSettings(
            max_new_tokens=drawing.max_new_tokens,
            beams=drawing.beams,
            sample=drawing.temperature > 0,
            temperature=drawing.temperature,
            top_p=drawing.top_p,
        )
        device = self.loaded.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(key)
            reply = demo_answer(self.loaded, sample, settings, self.stops)
        text = reply.text
        for stop in drawing.stop:
            text = text.split(stop)[0].strip()
        is_cut = len(reply.ids) >= drawing.max_new_tokens
        return Piece(place, text, "length" if is_cut else "stop", 0, len(reply.ids))
