"""Captioners by name: model folders and endpoints."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlforge.types import (
    LLAVA_IMAGE_TOKEN,
    Caption,
    Captioner,
    Drawing,
    Refusal,
    Sample,
    Turn,
    Writer,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.generate import Decoding
    from vlforge.inference.load import Loaded
    from vlforge.inference.local import LocalModels
    from vlforge.inference.native import NativePrompt
    from vlforge.inference.prompts import Prompt

DESCRIBE = "Describe the picture."
"""What a model that converses is asked for a caption when nobody says otherwise."""
CAPTION_TOKENS = 128
"""Longest caption, as in Data-Juicer's captioning."""
THEIR_TOP_K = 50
"""Tokens that transformers draws from where nobody says otherwise, and so Data-Juicer does."""
LONGEST_SIDE = 2048
"""Pixels of a picture that goes to a server; larger ones are shrunk."""
LARGEST_SENT = 4 << 20
"""Bytes of a file that goes to a server as it is."""
_QUALITY = 95
_ORIENTATION = 0x0112


def open_captioner(models: LocalModels, path: str) -> Captioner:
    """The captioner in the folder `path`, or behind the endpoint of that name."""
    if path in models.endpoints:
        spec = models.endpoints[path]
        return EndpointCaptioner(models.writer(path), spec.concurrency, models.temperature)
    return LocalCaptioner(models.loaded(path), models.batch, models.temperature, models.seed)


class LocalCaptioner:
    """Writes captions with an opened model; a `Captioner`.

    The first candidate is the greedy caption, further ones are sampled at
    `temperature` from the picture's key. A prompt begins the caption where the
    template knows captions only (and is not repeated in it), and is the
    question where it knows conversations. A picture is encoded once for all its
    candidates, except by models that only their own `generate` can run.
    """

    portion = 0

    def __init__(self, loaded: Loaded, batch: int = 32, temperature: float = 1.0, seed: int = 0):
        from vlforge.inference.answers import with_words
        from vlforge.inference.prompts import Batches

        self.loaded = with_words(loaded, "write captions", ("family", "native"))
        self.batches = Batches(batch)
        self.how: dict[str, Any] = {"temperature": temperature, "seed": seed}

    def prepare(self, image: Image) -> Any:
        """The picture as the model takes it, as far as that needs no model."""
        if self.loaded.kind == "native":
            from vlforge.inference.blip2 import fitted, is_blip2

            return fitted(self.loaded, image) if is_blip2(self.loaded.model) else image
        from vlforge.inference.prefetch import Fitted

        return Fitted(self.loaded.processor.fit(image), image.size)

    def caption(
        self,
        images: Sequence[Any],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
        all_drawn: bool = False,
    ) -> list[list[Caption] | Refusal]:
        """`count` candidates per image, greedy first; images as they are or as `prepare` gave."""
        from vlforge.inference.answers import draw_all

        items = [
            (key, self._prompt(image, prompt))
            for image, prompt, key in zip(images, prompts, keys, strict=True)
        ]
        made = draw_all(self.loaded, self.batches, items, self._decoding(count, all_drawn))
        return list(made)

    def _decoding(self, count: int, all_drawn: bool) -> Decoding:
        if all_drawn:
            own = getattr(self.loaded.language, "generation_config", None)
            how = self.how | {
                "temperature": getattr(own, "temperature", None) or 1.0,
                "top_k": getattr(own, "top_k", None) or THEIR_TOP_K,
                "top_p": getattr(own, "top_p", None) or 1.0,
            }
            return self.loaded.decoding(CAPTION_TOKENS, candidates=count, **how)
        if count == 1:
            return self.loaded.decoding(CAPTION_TOKENS)
        return self.loaded.decoding(CAPTION_TOKENS, candidates=count, greedy_first=True, **self.how)

    def _prompt(self, image: Any, prompt: str | None) -> Prompt | NativePrompt:
        from vlforge.inference.prompts import Prompt, prompt_of

        if self.loaded.kind == "native":
            from vlforge.inference.native import native_caption_prompt

            return native_caption_prompt(self.loaded, image, prompt, DESCRIBE)

        template = self.loaded.template
        speaks = template is None or template.words_from_user
        words = f"\n{prompt or DESCRIBE}" if speaks else ""
        # The path is a stand-in: the turn needs one picture, and the picture is here.
        sample = Sample("caption", ("",), (Turn("user", LLAVA_IMAGE_TOKEN + words),))
        ids = prompt_of(self.loaded, sample).ids
        if prompt and not speaks:
            ids += tuple(self.loaded.tokenizer.encode(prompt, add_special_tokens=False))
        return Prompt(ids, (image,))


class EndpointCaptioner:
    """Writes captions with a model behind an endpoint; a `Captioner`.

    The first candidate is asked for at temperature 0, further ones at `temperature`. How
    sure the server was is not known: confidences are the writer's.
    """

    def __init__(self, writer: Writer, concurrency: int = 8, temperature: float = 1.0):
        self.writer = writer
        self.temperature = temperature
        self.portion = 8 * concurrency

    def prepare_file(self, content: bytes) -> bytes | None:
        """The file as it is, where every server shows it as it is shown here."""
        from PIL import Image

        if len(content) > LARGEST_SENT:
            return None
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
                is_small = max(image.size) <= LONGEST_SIDE
                is_plain = image.mode in ("RGB", "L") and not image.info.get("transparency")
                is_upright = image.getexif().get(_ORIENTATION, 1) == 1
        except Exception:  # whatever is wrong with it, opening it in full says better
            return None
        return content if is_small and is_plain and is_upright else None

    def prepare(self, image: Image) -> bytes:
        """The upright picture as a JPEG."""
        image = image.convert("RGB")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return buffer.getvalue()

    def caption(
        self,
        images: Sequence[Any],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
        all_drawn: bool = False,
    ) -> list[list[Caption] | Refusal]:
        """`count` candidates per image, or why the server gave none."""
        samples = []
        for image, prompt, key in zip(images, prompts, keys, strict=True):
            data = image if isinstance(image, bytes) else self.prepare(image)
            turn = Turn("user", f"{LLAVA_IMAGE_TOKEN}\n{prompt or DESCRIBE}")
            samples.append(Sample(f"caption {key:x}", (data,), (turn,)))
        greedy = 0 if all_drawn else 1
        found: list[list[Caption] | Refusal] = [[] for _ in samples]
        for candidates, heat in ((greedy, 0.0), (count - greedy, self.temperature)):
            if candidates:
                how = Drawing(CAPTION_TOKENS, heat, candidates=candidates)
                made = self.writer.write(samples, how, keys)
                found = list(map(_joined, found, made))
        return found


def _joined(
    before: list[Caption] | Refusal, after: list[Caption] | Refusal
) -> list[Caption] | Refusal:
    if isinstance(before, Refusal):
        return before
    return after if isinstance(after, Refusal) else before + after
