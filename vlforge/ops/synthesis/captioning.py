"""Writing captions for the pictures of a row by a model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch, Context, drop_of
from vlforge.ops.dedup.simhash import simhash, word_windows
from vlforge.types import Caption, Drop, Need

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIDENCE = "caption_confidence"
"""Statistic of captioned rows: mean log-probability per token, one per picture."""


@dataclass(frozen=True, kw_only=True)
class ImageCaptioningMapper(RowMapper):
    """Write new captions for a row's pictures.

    Each chunk of the text becomes its image tokens, each with a new caption
    after it, and the end-of-chunk token; a chunk without pictures keeps that
    token alone. Of `caption_num` candidates per picture, `keep_candidate_mode`
    takes one by chance, the one whose words are nearest to the chunk's old text,
    or all (then a row per candidate). With `keep_original_sample` the old row
    stays before the new ones. Sampling is seeded by the run and the row, so a
    row's captions do not depend on its neighbours.

    `caption_order: data_juicer` repeats what Data-Juicer does with two pictures
    in one chunk: all captions after the first token, the last one first.
    """

    hf_img2seq: str = "Salesforce/blip2-opt-2.7b"
    caption_num: int = 1
    keep_candidate_mode: Literal["random_any", "similar_one_simhash", "all"] = "random_any"
    keep_original_sample: bool = True
    prompt: str | None = None
    prompt_key: str | None = None
    gpu_batch_size: int = 8
    caption_order: Literal["own_image", "data_juicer"] = "own_image"

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        if self.caption_num < 1 or self.gpu_batch_size < 1:
            raise ValueError("caption_num and gpu_batch_size are 1 or more")

    def apply(self, batch: Batch) -> list[Grown | Drop]:
        faults = dict(enumerate(self._faults(batch)))
        asked = [
            _Asked(at, number, file)
            for at, files in enumerate(batch.image_files(self))
            if faults[at] is None
            for number, file in enumerate(files)
        ]
        captions: dict[int, list[list[Caption]]] = {}
        for some in _portions(asked, self.gpu_batch_size):
            self._caption(batch, some, faults, captions)
        texts = batch.texts(self.text_key)
        return [
            faults[at] or self._grown(batch, at, text, captions.get(at, []))
            for at, text in enumerate(texts)
        ]

    def _faults(self, batch: Batch) -> Iterator[Drop | None]:
        files = batch.image_files(self)
        for text, pictures in zip(batch.texts(self.text_key), files, strict=True):
            count = text.count(batch.context.image_token)
            if count != len(pictures):
                detail = f"{count} image tokens but {len(pictures)} images"
                yield Drop("", "image tokens do not match images", None, detail, None)
            elif not pictures and not self.keep_original_sample:
                yield Drop("", "no image to caption")
            else:
                yield None

    def _caption(
        self,
        batch: Batch,
        some: Sequence[_Asked],
        faults: dict[int, Drop | None],
        captions: dict[int, list[list[Caption]]],
    ) -> None:
        """Caption a portion of pictures; a row with a bad one gets its fault."""
        images: list[Image] = []
        usable: list[_Asked] = []
        for one in some:
            try:
                images.append(batch.files.rgb(one.file))
                usable.append(one)
            except ImageError as error:
                faults[one.row] = drop_of(error)
        if not usable:
            return
        captioner = batch.context.captioner(self.hf_img2seq, "image_captioning_mapper")
        prompts = [self._prompt(batch.items[one.row].row) for one in usable]
        keys = [_key(batch.context.seed, batch.items[one.row].uid, one.number) for one in usable]
        written = captioner.caption(images, prompts, self.caption_num, keys)
        for one, candidates in zip(usable, written, strict=True):
            captions.setdefault(one.row, []).append(candidates)

    def _prompt(self, row: dict[str, Any]) -> str | None:
        own = look_up(row, self.prompt_key) if self.prompt_key else None
        return own if isinstance(own, str) else self.prompt

    def _grown(
        self, batch: Batch, at: int, text: str, captions: Sequence[Sequence[Caption]]
    ) -> Grown:
        """The new rows of one row, from the candidates of its pictures."""
        if not captions:
            return Grown(True)
        item, context = batch.items[at], batch.context
        chunks = [chunk for chunk in text.split(context.eoc_token) if chunk.strip()]
        old = [
            context.plain(chunk)
            for chunk in chunks
            for _ in range(chunk.count(context.image_token))
        ]
        pick = random.Random(_key(context.seed, item.uid, -1))
        versions = self._versions(captions, old, pick)
        rows = [
            replaced(item.row, self.text_key, self._text(chunks, [c.text for c in v], context))
            for v in versions
        ]
        stats = [{CONFIDENCE: [caption.confidence for caption in v]} for v in versions]
        return Grown(self.keep_original_sample, tuple(rows), tuple(stats))

    def _versions(
        self, captions: Sequence[Sequence[Caption]], old: Sequence[str], pick: random.Random
    ) -> list[list[Caption]]:
        """One caption per picture for each row to write."""
        if self.keep_candidate_mode == "all":
            return [list(version) for version in zip(*captions, strict=True)]
        if self.keep_candidate_mode == "random_any":
            return [[pick.choice(candidates) for candidates in captions]]
        return [[nearest(c, text) for c, text in zip(captions, old, strict=True)]]

    def _text(self, chunks: Sequence[str], captions: Sequence[str], context: Context) -> str:
        left = iter(captions)
        parts = []
        for chunk in chunks:
            own = [next(left) for _ in range(chunk.count(context.image_token))]
            if self.caption_order == "data_juicer" and own:
                said = "".join(f" {caption} " for caption in reversed(own))
                parts.append(context.image_token + said + context.image_token * (len(own) - 1))
            else:
                parts.append("".join(f"{context.image_token} {caption} " for caption in own))
            parts.append(context.eoc_token)
        return "".join(parts)


@dataclass(frozen=True)
class _Asked:
    """One picture to caption: its row's place in the batch, its own in the row."""

    row: int
    number: int
    file: ImageFile


def nearest(candidates: Sequence[Caption], text: str) -> Caption:
    """The candidate whose word pairs are nearest to the text's by simhash; the first of equals."""
    wanted = simhash(word_windows(text, 2))
    return min(candidates, key=lambda c: (simhash(word_windows(c.text, 2)) ^ wanted).bit_count())


def _key(seed: int, uid: str, number: int) -> int:
    """63 bits for one picture of one row."""
    told = f"{seed}:{uid}:{number}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) >> 1


def _portions(asked: Sequence[_Asked], size: int) -> Iterator[Sequence[_Asked]]:
    for at in range(0, len(asked), size):
        yield asked[at : at + size]
