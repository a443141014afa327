"""Conversations as training rows: read, encoded once, rows that teach nothing set aside.

Shapes: B rows, T ids, I pictures, N tokens a picture, S pixels a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.data.images import ImageError, header_size
from vlforge.models.base import PARTS, VisionLanguageModel
from vlforge.models.encoding import Encoded, encode_sample
from vlforge.models.parts.anyres import BLANK, Size
from vlforge.models.parts.packs import pack_plan
from vlforge.models.parts.splice import SplicePlan, plan_splice
from vlforge.text.templates import Template
from vlforge.text.tokenizers import adapt
from vlforge.training.augment import Augment
from vlforge.training.averaging import Cut
from vlforge.training.balance import Shares
from vlforge.training.batches import TokenRows
from vlforge.training.batching import Batching
from vlforge.training.mixture import Data, mixtures, samples_of
from vlforge.training.pictures import Found, Pictures, name_of
from vlforge.training.rows import Dropped, Sieve
from vlforge.types import DataError, Sample

_MISFIT = "does not fit the template"


@dataclass(frozen=True)
class ConversationData:
    """Usable rows of one or several datasets laid end to end; `sizes` has one entry each.

    words: of each row's turns as they came, tags of pictures too, [R].
    """

    rows: TokenRows
    sizes: tuple[int, ...]
    pictures: Pictures
    sieve: Sieve
    rows_read: int
    words: np.ndarray

    @property
    def dropped(self) -> Dropped:
        """Rows left out, by reason."""
        return self.sieve.dropped

    def count_late_drops(self) -> None:
        """Add rows whose picture turned out unreadable when it was decoded just in time."""
        for images in self.rows.images:
            for image in images:
                if image in self.pictures.bad:
                    name = name_of(self.pictures.sources[image])
                    self.dropped.add("unreadable picture", self.pictures.bad[image], name)
                    break

    def fingerprint(self) -> str:
        """Changes when any id or label changes."""
        whole = hashlib.sha256()
        for part in (*self.rows.ids, *self.rows.labels):
            whole.update(part.tobytes())
        return whole.hexdigest()


def read_conversations(
    data: Data,
    model: VisionLanguageModel,
    template: Template,
    tokenizer: Any,
    *,
    processor: Any,
    sieve: Sieve,
    image_root: str | None = None,
    threads: int = 1,
    scratch: Path | None = None,
    compat: str | None = None,
    crop_seed: int | None = None,
) -> ConversationData:
    """Read and encode datasets; a bad row costs only itself and is counted.

    `sieve` knows how long a row may be, and which are left out. With `compat` labels are
    those of a reference system, see `encode_turns`. `crop_seed` is that of `Pictures`.

    Pictures that the data hold themselves are set aside in a file in `scratch`.

    Raises:
        DataError: a file cannot be read, a row is refused, or a dataset has no usable row;
            says why.
    """
    tokens, dropped = adapt(tokenizer), sieve.dropped
    found = Found(scratch)
    encoded: list[list[_Row]] = []
    rows_read = 0
    for part in mixtures(data):
        name = Path(part.path).name
        encoded.append([])

        def bad(number: int, error: DataError, name: str = name) -> None:
            dropped.add("unreadable row", str(error), f"{name}:{number}")

        for sample in samples_of(part, image_root, bad):
            rows_read += 1
            place = f"{name}:{sample.id}"
            try:
                sizes = _sizes(sample, model)
                row = encode_sample(
                    sample,
                    template,
                    tokens,
                    image_tokens=model.count(sizes),
                    max_length=sieve.max_length,
                    compat=compat,
                )
            except DataError as error:
                what = "unreadable picture" if isinstance(error, ImageError) else _MISFIT
                dropped.add(what, str(error), place)
                continue
            if not sieve.keeps(row, place):
                continue
            images = tuple(map(found.number, row.images, sizes))
            encoded[-1].append(_Row.of(row, images, _words(sample), place))
    sieve.check()
    pictures = Pictures(found.sources, processor, threads, sizes=found.sizes, crop_seed=crop_seed)
    return _without_bad_pictures(data, encoded, pictures, sieve, rows_read)


@dataclass(frozen=True)
class _Row:
    """A usable row: what the model sees, its pictures' numbers, its words, where it stood.

    Arrays, since lists of numbers take nine times the memory.
    """

    ids: np.ndarray
    labels: np.ndarray
    length: int
    images: tuple[int, ...]
    words: int
    place: str

    @classmethod
    def of(cls, row: Encoded, images: tuple[int, ...], words: int, place: str) -> _Row:
        ids, labels = (np.asarray(part, dtype=np.int32) for part in (row.ids, row.labels))
        return cls(ids, labels, row.length, images, words, place)


def _sizes(sample: Sample, model: VisionLanguageModel) -> list[Size]:
    """Width and height of a sample's pictures from their headers, where tokens depend on them."""
    return [header_size(image) if model.needs_sizes else BLANK for image in sample.images]


def _words(sample: Sample) -> int:
    return sum(len(turn.text.split()) for turn in sample.turns if turn.role != "system")


def _without_bad_pictures(
    data: Data,
    encoded: Sequence[Sequence[_Row]],
    pictures: Pictures,
    sieve: Sieve,
    rows_read: int,
) -> ConversationData:
    rows, sizes, words, dropped = [], [], [], sieve.dropped
    for part, dataset in zip(mixtures(data), encoded, strict=True):
        before = len(rows)
        for row in dataset:
            unreadable = [pictures.bad[image] for image in row.images if image in pictures.bad]
            if unreadable:
                dropped.add("unreadable picture", unreadable[0], row.place)
                continue
            rows.append((row.ids, row.labels, row.images, row.length))
            words.append(row.words)
        sizes.append(len(rows) - before)
        if not sizes[-1]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.counts.items())
            raise DataError(f"{part.path}: no usable row ({reasons or 'the file is empty'})")
    counted = np.asarray(words, dtype=np.int64)
    return ConversationData(TokenRows.of(rows), tuple(sizes), pictures, sieve, rows_read, counted)


class ConversationLoss(nn.Module):
    """A model as the loop calls it: a laid-out batch in, summed loss out."""

    def __init__(self, model: VisionLanguageModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Tensor,
        plan: SplicePlan,
        pixels: Tensor | None = None,
        features: Tensor | None = None,
        sizes: list[Size] | None = None,
        is_dummy: bool = False,
    ) -> Tensor:
        """Scalar. A dummy picture runs the tower without touching the loss.

        It runs where a picture does, before the language model and behind it backwards:
        processes that share the layers out gather them in the same order.
        """
        model = self.model
        if not is_dummy:
            return model.loss_sum(model.lay_out(plan, ids, pixels, features=features, sizes=sizes))
        if features is not None:
            unseen = model.project(features, sizes)
        else:
            assert pixels is not None
            unseen = model.encode_images(pixels, sizes)
        joined = unseen if isinstance(unseen, Tensor) else torch.cat(unseen)
        spliced = model.lay_out(plan, ids)
        return model.loss_sum(replace(spliced, embeds=spliced.embeds + joined.sum() * 0.0))


class ConversationTask:
    """Next-token loss over the assistant's turns."""

    parts = PARTS

    def __init__(
        self,
        model: VisionLanguageModel,
        data: ConversationData,
        augment: Augment | None = None,
        features: Tensor | None = None,
        batching: Batching = Batching(),
    ):
        self.module: nn.Module = ConversationLoss(model)
        self.data, self.augment, self.features = data, augment, features
        self.model, self.batching = model, batching
        self.longest = max(int(data.rows.lengths.max()), batching.pack_length)
        self.needs_dummy = any(
            parameter.requires_grad
            for part in (model.vision, model.connector)
            for parameter in part.parameters()
        )

    def count(self, rows: np.ndarray) -> int:
        """Supervised tokens."""
        return int(self.data.rows.supervised[rows].sum())

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens with pictures expanded, and supervised tokens."""
        return int(self.data.rows.lengths[rows].sum()), self.count(rows)

    def share(self, rows: np.ndarray, cut: Cut) -> Shares:
        """Which device sees which rows in which pass."""
        return self.batching.shares(rows, cut)

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Start decoding the pictures of these rows, where they are not kept."""
        if self.features is None and not self.data.pictures.all_in_memory:
            self.data.pictures.prefetch(*self._images(rows, positions))

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Padded or packed ids, their plan, and pixels or cached features."""
        images, places = self._images(rows, positions)
        sizes = [self.data.pictures.sizes[image] for image in images]
        batch: dict[str, Any] = {}
        if not images and self.needs_dummy:
            batch = {"is_dummy": True} | self._blank(device)
        elif images and self.features is not None:
            batch = {"features": self.features[torch.tensor(images)].to(device)}
        elif images:
            batch = {"pixels": self._pixels(images, places, device)}
        if images and self.model.needs_sizes:
            batch["sizes"] = sizes
        ids, labels, mask = self.data.rows.pad(rows)
        if not self.data.pictures.all_in_memory:
            self._silence(rows, labels)
        plan = plan_splice(ids, self.model.count(sizes), labels=labels, mask=mask)
        if self.batching.packs:
            attention = str(self.model.language.get_decoder().config._attn_implementation)
            plan = pack_plan(plan, self.batching.grouped(plan.lengths.tolist(), attention))
        return batch | {"ids": ids.to(device), "plan": plan.to(device)}

    def _pixels(self, images: list[int], places: np.ndarray, device: torch.device) -> Tensor:
        """Normalised pixels of the pictures, or of all their tiles."""
        pictures = self.data.pictures.take(images, places)
        if self.augment:
            tiles = [self.data.pictures.tiles(image) for image in images]
            pictures = self.augment(pictures, np.repeat(places, tiles))
        return self.data.pictures.processor.normalise(pictures.to(device))

    def _images(
        self, rows: np.ndarray, positions: np.ndarray | None = None
    ) -> tuple[list[int], np.ndarray]:
        """Picture numbers of the rows, and for each a number that is its draw's own."""
        images, places = [], []
        for place, row in enumerate(rows):
            for number, image in enumerate(self.data.rows.images[row]):
                images.append(image)
                places.append((int(positions[place]) if positions is not None else 0, number))
        return images, np.asarray([place * 64 + number for place, number in places], dtype=int)

    def _silence(self, rows: np.ndarray, labels: Tensor) -> None:
        """A row whose picture turned out unreadable teaches nothing."""
        bad = self.data.pictures.bad
        for place, row in enumerate(rows):
            if any(image in bad for image in self.data.rows.images[row]):
                labels[place] = -100

    def _blank(self, device: torch.device) -> dict[str, Any]:
        if self.features is not None:
            return {"features": torch.zeros_like(self.features[:1]).to(device)}
        size = self.data.pictures.processor.size
        blank = {"pixels": torch.zeros(1, 3, size, size, device=device)}
        return blank | ({"sizes": [BLANK]} if self.model.needs_sizes else {})
