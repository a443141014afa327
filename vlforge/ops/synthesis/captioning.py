"""Writing captions for the pictures of a row by a model."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from vlforge.data.ahead import one_ahead
from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch, Context, drop_of
from vlforge.ops.dedup.simhash import simhash, word_windows
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.types import Caption, Captioner, Drop, Need, Refusal, Row

CONFIDENCE = "caption_confidence"
"""Statistic of captioned rows: mean log-probability per token, one per picture."""
_NAME = "image_captioning_mapper"
_PORTION_BYTES = 128 << 20
"""Most bytes of opened pictures that wait together for the model."""
_OTHER_MEDIA = "<__dj__(?:video|audio)>"


@dataclass(frozen=True, kw_only=True)
class ImageCaptioningMapper(RowMapper):
    """Write new captions for a row's pictures.

    `hf_img2seq` is the folder of a captioner: BLIP-2, BLIP or any other image-text model
    of transformers, a model that VLForge trained, or the name of one of the recipe's
    `endpoints`. Each chunk of the text becomes its image tokens, each with a new caption
    after it, and the end-of-chunk token; a chunk without pictures keeps that token alone.
    Of `caption_num` candidates per picture, the greedy one first and the others sampled,
    `keep_candidate_mode` takes one by chance, the one whose words are nearest to the
    chunk's old text, or all (then a row per candidate). With `keep_original_sample` the
    old row stays before the new ones. A field `prompt_key` of the row goes before
    `prompt`; both begin the caption (BLIP-2), or are the question to a model that
    converses. Sampling is seeded by the run and the row, so a row's captions do not
    depend on its neighbours. `gpu_batch_size` pictures (8 in Data-Juicer) go into the
    model together, fewer when memory runs out; the next ones are opened meanwhile. New
    rows tell in `provenance` which candidate of which model they are. Candidates without
    words are left out. A row whose image tokens do not match its pictures, where
    Data-Juicer loses the batch with an IndexError or ignores the pictures left over, is
    dropped, as is one with a bad picture, or without any if the old row shall not stay.

    `compat: data_juicer` writes all captions of a chunk after its first image token, the
    last one first, samples the first candidate too (of the 50 likeliest tokens), draws
    candidates in the order of rows as Python's `random` does after `random.seed(seed)`,
    ignores pictures left over and keeps to Data-Juicer's fields. `caption_order:
    data_juicer` brings back that order alone.
    """

    hf_img2seq: str = "Salesforce/blip2-opt-2.7b"
    caption_num: int = 1
    keep_candidate_mode: Literal["random_any", "similar_one_simhash", "all"] = "random_any"
    keep_original_sample: bool = True
    prompt: str | None = None
    prompt_key: str | None = None
    gpu_batch_size: int = 32
    caption_order: Literal["own_image", "data_juicer"] = "own_image"

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        if self.caption_num < 1 or self.gpu_batch_size < 1:
            raise ValueError("caption_num and gpu_batch_size are 1 or more")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of these parameters."""
        if self.prompt is None or self.prompt_key is None:
            return ()
        return (f"prompt is for rows without a text in {self.prompt_key!r}",)

    @property
    def is_theirs(self) -> bool:
        """Whether Data-Juicer's ways are asked for."""
        return self.compat == "data_juicer"

    def apply(self, batch: Batch) -> list[Grown | Drop]:
        """Caption the pictures of all rows together."""
        work = [
            self._work(batch, at, text, files)
            for at, (text, files) in enumerate(
                zip(batch.texts(self.text_key), batch.image_files(self), strict=True)
            )
        ]
        asked = [
            _Asked(one, number, file, self._prompt(one.row))
            for one in work
            if one.fault is None
            for number, file in enumerate(one.files)
        ]
        if asked:
            self._caption(batch, asked)
        drawn = random.Random(batch.context.seed) if self.is_theirs else None
        return [one.fault or self._grown(batch.context, one, drawn) for one in work]

    def _work(self, batch: Batch, at: int, text: str, files: Sequence[ImageFile]) -> _Work:
        """What there is to do for a row."""
        item, context = batch.items[at], batch.context
        chunks = [chunk for chunk in text.split(context.eoc_token) if chunk.strip()]
        work = _Work(item.uid, item.row, chunks, list(files))
        if self.is_theirs:
            work.files = work.files[: text.count(context.image_token)]
        ignores_tokens = self.is_theirs and not files
        work.fault = None if ignores_tokens else context.unmatched(text, work.files)
        if work.fault is None and not work.files and not self.keep_original_sample:
            work.fault = Drop("", "no image to caption")
        return work

    def _caption(self, batch: Batch, asked: Sequence[_Asked]) -> None:
        """Give each row its candidates, or its fault; pictures are opened one portion ahead."""
        captioner = batch.context.captioner(self.hf_img2seq, _NAME)
        most = max(self.gpu_batch_size, getattr(captioner, "portion", 0))
        opening = _Opening(batch, asked, most, captioner)
        how = {"all_drawn": True} if self.is_theirs else {}
        for some, images in one_ahead(opening.portions()):
            keys = [_key(batch.context.seed, one.work.uid, one.number) for one in some]
            prompts = [one.prompt for one in some]
            written = captioner.caption(images, prompts, self.caption_num, keys, **how)
            for one, candidates in zip(some, written, strict=True):
                if isinstance(candidates, Refusal):
                    detail = candidates.detail or None
                    one.work.fault = Drop("", candidates.reason, None, detail, None)
                else:
                    one.work.captions[one.number] = candidates

    def _prompt(self, row: Row) -> str | None:
        own = look_up(row, self.prompt_key) if self.prompt_key else None
        return own if isinstance(own, str) else self.prompt

    def _grown(self, context: Context, work: _Work, drawn: random.Random | None) -> Grown | Drop:
        """The new rows of one row, from the candidates of its pictures."""
        if not work.captions:
            return Grown(True)
        pick = drawn or random.Random(_key(context.seed, work.uid, -1))
        versions = self._versions(context, work, pick)
        if not versions and not self.keep_original_sample:
            return Drop("", "the model wrote no caption")
        rows, stats = [], []
        for version in versions:
            chosen = [work.captions[at][place] for at, place in enumerate(version)]
            text = self._text(work.chunks, [caption.text for caption in chosen], context)
            row = replaced(work.row, self.text_key, text)
            rows.append(row if self.is_theirs else self._with_origin(row, work, version, context))
            stats.append({CONFIDENCE: [caption.confidence for caption in chosen]})
        return Grown(self.keep_original_sample, tuple(rows), tuple(stats))

    def _with_origin(self, row: Row, work: _Work, version: Sequence[int], context: Context) -> Row:
        prompt = self._prompt(work.row)
        entry = origin(
            _NAME,
            work.uid,
            model=self.hf_img2seq,
            prompt="" if prompt is None else Prompt("", prompt).hash,
            seed=context.seed,
            candidate=list(version),
        )
        return with_origin(row, entry)

    def _versions(self, context: Context, work: _Work, pick: random.Random) -> list[list[int]]:
        """For each row to write, the place of one candidate per picture."""
        pictures = [work.captions[number] for number in range(len(work.files))]
        usable = [
            [place for place, one in enumerate(found) if one.text.strip() or self.is_theirs]
            for found in pictures
        ]
        if self.keep_candidate_mode == "all":
            every = range(self.caption_num)
            return [[k] * len(usable) for k in every if all(k in places for places in usable)]
        if not all(usable):
            return []
        if self.keep_candidate_mode == "random_any":
            return [[pick.choice(places) for places in usable]]
        old = [
            context.plain(chunk)
            for chunk in work.chunks
            for _ in range(chunk.count(context.image_token))
        ]
        each = zip(pictures, usable, old, strict=True)
        return [[_nearest(found, places, text) for found, places, text in each]]

    def _text(self, chunks: Sequence[str], captions: Sequence[str], context: Context) -> str:
        left = iter(captions)
        parts = []
        token = context.image_token
        for chunk in chunks:
            own = [next(left) for _ in range(chunk.count(token))]
            if not self.is_theirs and self.caption_order == "own_image":
                parts.append("".join(f"{token} {caption} " for caption in own))
            else:
                said = "".join(f" {caption} " for caption in reversed(own))
                media = "".join(re.findall(f"{re.escape(token)}|{_OTHER_MEDIA}", chunk))
                parts.append(media.replace(token, token + said, 1))
            parts.append(context.eoc_token)
        return "".join(parts)


@dataclass
class _Work:
    """A row, its chunks with words or pictures, and by picture the candidates written."""

    uid: str
    row: Row
    chunks: list[str]
    files: list[ImageFile]
    fault: Drop | None = None
    captions: dict[int, list[Caption]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """One picture to caption, and its place in its row."""

    work: _Work
    number: int
    file: ImageFile
    prompt: str | None


@dataclass
class _Opening:
    """Opens pictures in portions, ready for the captioner; it runs in a thread of its own."""

    batch: Batch
    asked: Sequence[_Asked]
    most: int
    captioner: Captioner

    def portions(self) -> Iterator[tuple[list[_Asked], list[Any]]]:
        """At most `most` pictures at a time, fewer where they are huge."""
        some: list[_Asked] = []
        images: list[Any] = []
        size = 0
        for one in self.asked:
            if one.work.fault is not None:
                continue
            try:
                images.append(self._opened(one.file))
            except ImageError as error:
                one.work.fault = drop_of(error)
                continue
            some.append(one)
            size += _bytes(images[-1])
            if len(some) == self.most or size >= _PORTION_BYTES:
                yield some, images
                some, images, size = [], [], 0
        if some:
            yield some, images

    def _opened(self, file: ImageFile) -> Any:
        """The picture as far as the captioner can begin with it: see `FileCaptioner`."""
        prepare_file = getattr(self.captioner, "prepare_file", None)
        if prepare_file is not None:
            ready = prepare_file(file.content())
            file.let_go()
            if ready is not None:
                return ready
        prepare = getattr(self.captioner, "prepare", None)
        image = self.batch.files.rgb(file)
        return image if prepare is None else prepare(image)


def _bytes(image: Any) -> int:
    """Memory of an opened or prepared picture."""
    if isinstance(image, bytes):
        return len(image)
    if hasattr(image, "pixels"):
        return int(image.pixels.nbytes)
    return image.width * image.height * 3 if hasattr(image, "width") else 1 << 20


def _nearest(candidates: Sequence[Caption], places: Sequence[int], text: str) -> int:
    """The candidate whose word pairs are nearest to the text's by simhash; the first of equals."""
    wanted = simhash(word_windows(text, 2))
    distances = {
        place: (simhash(word_windows(candidates[place].text, 2)) ^ wanted).bit_count()
        for place in places
    }
    return min(places, key=distances.__getitem__)


def _key(seed: int, uid: str, number: int) -> int:
    """63 bits for one picture of one row."""
    told = f"{seed}:{uid}:{number}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) >> 1
