"""Conversations as training rows: read, encoded once, rows that teach nothing set aside.

Shapes: B rows, T ids, I pictures, N tokens a picture, S pixels a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.data.images import header_size
from vlforge.kernels.moving import moved
from vlforge.models.base import VisionLanguageModel
from vlforge.models.parts.anyres import BLANK, Size
from vlforge.models.parts.packs import pack_plan
from vlforge.models.parts.splice import SplicePlan, plan_splice
from vlforge.text.templates import Template
from vlforge.training.augment import Augment
from vlforge.training.batches import TokenRows
from vlforge.training.batching import Batching
from vlforge.training.config import Mixture
from vlforge.training.encoded_rows import WrittenRows
from vlforge.training.feature_cache import DiskFeatures
from vlforge.training.mixture import Data, mixtures
from vlforge.training.picture_sources import name_of
from vlforge.training.pictures import Pictures
from vlforge.training.row_coding import RowCoder, rows_key
from vlforge.training.row_task import RowTask
from vlforge.training.row_writing import check_usable, write_or_find
from vlforge.training.rows import SHOWN_DROPS, Dropped, Sieve
from vlforge.types import LogFn, ProgressFn, no_log, no_progress


@dataclass(frozen=True)
class ConversationData:
    """Usable rows of one or several datasets laid end to end; `sizes` has one entry each.

    words: of each row's turns as they came, tags of pictures too, [R].
    numbers: of each row among those that were encoded, [R].
    """

    rows: TokenRows
    sizes: tuple[int, ...]
    pictures: Pictures
    sieve: Sieve
    rows_read: int
    words: np.ndarray
    numbers: np.ndarray
    written: WrittenRows
    noted: set[int] = field(default_factory=set)
    keeps_alive: Any = None
    log: LogFn = no_log

    @property
    def dropped(self) -> Dropped:
        """Rows left out, by reason."""
        return self.sieve.dropped

    def place(self, row: int) -> str:
        """A row's dataset and id, as messages name it."""
        return self.written.places[int(self.numbers[row])]

    def note_late(self, images: list[int]) -> None:
        """Write down which of these turned out unreadable: a stage that goes on must know.

        Raises:
            WriteError: the disk is full.
        """
        for image in images:
            if image in self.pictures.bad and image not in self.noted:
                self.noted.add(image)
                why = self.pictures.bad[image]
                self.written.add_late(image, why)
                if len(self.noted) <= SHOWN_DROPS:
                    name = name_of(self.pictures.sources[image])
                    self.log({"event": "warning", "text": f"unreadable picture {name}: {why}"})

    def count_late_drops(self) -> None:
        """Add rows whose picture turned out unreadable when it was decoded just in time.

        Whoever decoded it: this process, another of the stage, or one that was killed.
        """
        late = self.written.late() | self.pictures.bad
        for row in self.rows.images.having(late).tolist():
            image = next(image for image in self.rows.images[row] if image in late)
            name = name_of(self.pictures.sources[image])
            self.dropped.add("unreadable picture", late[image], name)

    def fingerprint(self) -> str:
        """Changes when any id, label or picture of a row changes."""
        whole = hashlib.sha256(self.written.digest.encode())
        whole.update(self.numbers.tobytes())
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
    decode: Literal["auto", "threads", "processes"] = "threads",
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> ConversationData:
    """Read and encode datasets; a bad row costs only itself and is counted.

    What was encoded stays in `scratch` until `drop_encoded`: called again with the same
    arguments, after a kill or by another process, nothing is encoded again.

    `sieve` knows how long a row may be, and which are left out. With `compat` labels are
    those of a reference system, see `encode_turns`. `crop_seed` and `decode` are those of
    `Pictures`.

    Raises:
        DataError: a file cannot be read, a row is refused, or a dataset has no usable row;
            says why.
        WriteError: no room for what is encoded.
    """
    coder = RowCoder(template, tokenizer, sieve.max_length, compat)
    parts = mixtures(data)
    key = rows_key(parts, image_root, model, coder, (sieve.on_too_long, sieve.on_no_labels))

    def measure(images: Sequence[str | bytes]) -> tuple[tuple[Size, ...], tuple[int, ...]]:
        # Headers are read where what a picture takes depends on its size.
        found = [header_size(one) if model.needs_sizes else BLANK for one in images]
        return tuple(found), tuple(model.count(found))

    run: dict[str, Any] = {"threads": threads, "progress": progress, "log": log}
    written, own = write_or_find(
        parts, image_root, coder, measure, sieve, key, scratch=scratch, **run
    )
    bad = written.bad_at_start()
    how: dict[str, Any] = {"crop_seed": crop_seed, "decode": decode, "known_bad": bad}
    sizes = written.picture_sizes
    pictures = Pictures(written.sources, processor, threads, sizes=sizes, **how)
    if bad is None:
        bad = written.keep_bad_at_start(dict(pictures.bad))
    pictures.bad |= written.late()
    usable = _without_bad_pictures(parts, written, bad, pictures, sieve)
    return replace(usable, keeps_alive=own, log=log)


def _without_bad_pictures(
    parts: Sequence[Mixture],
    written: WrittenRows,
    bad: dict[int, str],
    pictures: Pictures,
    sieve: Sieve,
) -> ConversationData:
    """The rows of which every picture could be read when the stage began."""
    rows = written.rows
    lost = rows.images.having(bad)
    for row in lost.tolist():
        why = next(bad[image] for image in rows.images[row] if image in bad)
        sieve.dropped.add("unreadable picture", why, written.places[row])
    usable = np.ones(len(rows), dtype=bool)
    usable[lost] = False
    starts = (0, *written.ends[:-1])
    sizes = tuple(int(usable[a:b].sum()) for a, b in zip(starts, written.ends, strict=True))
    check_usable(parts, sizes, sieve.dropped)
    numbers = np.flatnonzero(usable)
    return ConversationData(
        rows=rows.chosen(numbers) if len(lost) else rows,
        sizes=sizes,
        pictures=pictures,
        sieve=sieve,
        rows_read=written.facts["rows_read"],
        words=written.words[numbers],
        numbers=numbers,
        written=written,
    )


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


class ConversationTask(RowTask):
    """Next-token loss over the assistant's turns."""

    def __init__(
        self,
        model: VisionLanguageModel,
        data: ConversationData,
        augment: Augment | None = None,
        features: Tensor | DiskFeatures | None = None,
        batching: Batching = Batching(),
    ):
        super().__init__(model, data, batching)
        self.module: nn.Module = ConversationLoss(model)
        self.model, self.augment, self.features = model, augment, features

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Start decoding the pictures of these rows, where they are not kept."""
        if isinstance(self.features, DiskFeatures):
            self.features.prefetch(self._images(rows, positions)[0])
        elif self.features is None and not self.data.pictures.all_in_memory:
            self.data.pictures.prefetch(*self._images(rows, positions))

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Padded or packed ids, their plan, and pixels or cached features."""
        images, places = self._images(rows, positions)
        sizes = [self.data.pictures.size(image) for image in images]
        batch: dict[str, Any] = {}
        if not images and self.needs_dummy:
            batch = {"is_dummy": True} | self._blank(device)
        elif images and self.features is not None:
            batch = {"features": moved(self.features[torch.tensor(images)], device)}
        elif images:
            batch = {"pixels": self._pixels(images, places, device)}
        if images and self.model.needs_sizes:
            batch["sizes"] = sizes
        ids, labels, mask = self.data.rows.pad(rows)
        if self.data.pictures.bad:
            self.data.note_late(images)
            self._silence(rows, labels)
        plan = plan_splice(ids, self.model.count(sizes), labels=labels, mask=mask)
        if self.batching.packs:
            attention = str(self.model.language.get_decoder().config._attn_implementation)
            plan = pack_plan(plan, self.batching.grouped(plan.lengths.tolist(), attention))
        return batch | {"ids": moved(ids, device), "plan": plan.to(device)}

    def _pixels(self, images: list[int], places: np.ndarray, device: torch.device) -> Tensor:
        """Normalised pixels of the pictures, or of all their tiles."""
        pictures = self.data.pictures.take(images, places)
        if self.augment:
            tiles = [self.data.pictures.tiles(image) for image in images]
            pictures = self.augment(pictures, np.repeat(places, tiles))
        return self.data.pictures.processor.normalise(moved(pictures, device))

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
