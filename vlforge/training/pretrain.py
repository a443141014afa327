"""The `pretrain` stage: one part alone, from scratch.

`tags`: a small vision encoder learns to find the words of captions on pictures.
`text`: a small Llama learns to write, so that aligning it later only has to
teach it to look.

Shapes: B rows, T ids, S pixels a side, V tags.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from vlforge.kernels.lean_loss import lean_loss
from vlforge.models.parts import image_processor
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.tags import Tagger, tag_names, tag_targets
from vlforge.models.reading import read_tokenizer, write_json
from vlforge.training.augment import Augment
from vlforge.training.batches import TokenRows, group_by_length
from vlforge.training.config import PretrainConfig
from vlforge.training.devices import open_devices
from vlforge.training.fit import FitPlan, FitResult, drop_checkpoints, fit
from vlforge.training.identity import facts_of
from vlforge.training.loop import write_timing
from vlforge.training.mixture import check_mixing, draw_order, mixtures, samples_of
from vlforge.training.picture_sources import Found, Stored
from vlforge.training.pictures import Pictures
from vlforge.training.rows import Dropped
from vlforge.training.stopping import never
from vlforge.training.texts import encode_texts, read_marked_texts
from vlforge.types import (
    LLAVA_IMAGE_TOKEN,
    DataError,
    LogFn,
    ProgressFn,
    RecipeError,
    no_log,
    no_progress,
)


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    stop: Callable[[], bool] = never,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Train one part and write its folder into `out`; files and errors as `loop.train`.

    `tags` writes a `SmallVisionModel` folder with its tag head and the
    tokenizer whose words are the tags; `text` a Llama folder with tokenizer.
    """
    seed = seed if config.seed == "auto" else config.seed
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    if config.samples < 1 or config.batch < 1:
        raise RecipeError(f"{config.samples} samples in batches of {config.batch}: give at least 1")
    parts = mixtures(config.data)
    check_mixing(parts, config.mixing, config.group_by_length)
    transformers_logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = read_tokenizer(Path(config.tokenizer))
    make = _tag_stage if config.objective == "tags" else _text_stage
    task, sizes, content, save = make(config, tokenizer, seed, threads, out)
    order = draw_order(parts, sizes, config.samples, seed, config.mixing, config.batch)
    if config.group_by_length:
        order = group_by_length(order, task.lengths, config.batch, seed)
    plan = FitPlan(
        order=order,
        batch=config.batch,
        optimiser=config.optimiser,
        seed=seed,
        save_every_samples=config.save_every_samples,
    )
    devices = open_devices(device, plan.precision)
    facts = facts_of(config) | {"data": content}
    result = fit(task, plan, out, devices, content=facts, stop=stop, progress=progress, log=log)
    summary = _summary(result, task, sum(sizes))
    if devices.is_main:
        save(out)
        tokenizer.save_pretrained(out)
        write_json(out / "summary.json", summary)
        write_timing(out, result)
        drop_checkpoints(out)
    devices.wait()
    return summary


def _summary(result: FitResult, task: Any, rows: int) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in task.module.parameters())
    return {
        "samples": result.samples,
        "steps": result.steps,
        "tokens": result.tokens,
        "supervised_tokens": result.supervised_tokens,
        "final_loss": result.final_loss,
        "trainable": parameters,
        "parameters": parameters,
        "data_rows": rows,
        "dropped": task.dropped.counts,
        "dropped_rows": task.dropped.shown,
    }


class TagLoss(nn.Module):
    """Summed binary cross-entropy of a tagger."""

    def __init__(self, tagger: Tagger):
        super().__init__()
        self.tagger = tagger

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """pixels [B, 3, S, S], targets [B, V] of 0 and 1 -> scalar."""
        logits = self.tagger(pixels)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


class TagTask:
    """Which words a picture's caption has."""

    parts = ("tagger",)
    longest = 0

    def __init__(
        self,
        tagger: Tagger,
        pictures: Pictures,
        rows: Sequence[tuple[int, list[int]]],
        augment: Augment | None,
        dropped: Dropped,
    ):
        self.module: nn.Module = TagLoss(tagger)
        self.pictures, self.augment, self.dropped = pictures, augment, dropped
        self.images = np.asarray([image for image, _ in rows], dtype=np.int64)
        self.targets = torch.zeros(len(rows), len(tagger.tags), dtype=torch.uint8)
        for number, (_, tags) in enumerate(rows):
            self.targets[number, tags] = 1
        self.lengths = self.targets.sum(1).numpy()

    def count(self, rows: np.ndarray) -> int:
        """Samples: the loss is summed over tags and averaged over pictures."""
        return len(rows)

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tags of the pictures, all of them supervised."""
        tags = int(self.lengths[rows].sum())
        return tags, tags

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Start decoding, where pictures are not kept."""
        self.pictures.prefetch(self.images[rows])

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Pixels and targets."""
        pictures = self.pictures.take(self.images[rows])
        if self.augment:
            pictures = self.augment(pictures, positions)
        return {
            "pixels": self.pictures.processor.normalise(pictures.to(device)),
            "targets": self.targets[torch.from_numpy(rows)].to(device).float(),
        }


def _tag_stage(config: PretrainConfig, tokenizer: Any, seed: int, threads: int, out: Path) -> tuple:
    captions = _read_captions(config, out)
    texts, sizes, dropped = captions.texts, captions.sizes, captions.dropped
    processor = small_processor(config.vision.image_size)
    pictures = Pictures(captions.found.sources, processor, threads)
    tags = _choose_tags(texts, tokenizer, config)
    if not tags:
        raise DataError(f"{config.data}: its captions hold none of the tokenizer's words")
    found = tag_targets(texts, tokenizer, tags)
    rows, kept_sizes, place = [], [], 0
    for size in sizes:
        before = len(rows)
        for number in range(place, place + size):
            image = captions.images[number]
            if image in pictures.bad:
                dropped.add("unreadable picture", pictures.bad[image], captions.place(image))
            elif not found[number]:
                dropped.add("no tag", "the caption has no known word", captions.place(image))
            else:
                rows.append((image, found[number]))
        kept_sizes.append(len(rows) - before)
        place += size
    if not rows:
        raise DataError(f"{config.data}: no usable row; {dropped.counts}")
    share = torch.bincount(torch.tensor([t for _, row in rows for t in row]), minlength=len(tags))
    share = ((share + 0.5) / (len(rows) + 1.0)).clamp(max=1 - 0.5 / (len(rows) + 1.0))
    vision = SmallVisionModel(SmallVisionConfig.of(config.vision))
    tagger = Tagger(vision, tags, torch.logit(share), config.tag_sharpness)
    augment = Augment.of(config.augment, seed)
    task = TagTask(tagger, pictures, rows, augment, dropped)

    def save(out: Path) -> None:
        tagger.save(out)
        write_json(out / image_processor.FILE_NAME, processor.to_json())

    return task, kept_sizes, f"{len(rows)} {tags}", save


@dataclass
class _Captions:
    """Per row with one picture: what the assistant says, and the picture's number."""

    found: Found
    texts: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    dropped: Dropped = field(default_factory=Dropped)

    def place(self, image: int) -> str:
        """How a picture is named where a row is dropped for it."""
        source = self.found.sources[image]
        return source.name if isinstance(source, Stored) else source


def _read_captions(config: PretrainConfig, out: Path) -> _Captions:
    captions = _Captions(Found(out))
    texts, dropped = captions.texts, captions.dropped
    for part in mixtures(config.data):
        before, name = len(texts), Path(part.path).name

        def bad(number: int, error: DataError, name: str = name) -> None:
            dropped.add("unreadable row", str(error), f"{name}:{number}")

        for sample in samples_of(part, config.image_root, bad):
            if len(sample.images) != 1:
                dropped.add("not one picture", f"{len(sample.images)}", f"{name}:{sample.id}")
                continue
            said = [turn.text for turn in sample.turns if turn.role == "assistant"]
            texts.append(" ".join(said).replace(LLAVA_IMAGE_TOKEN, ""))
            captions.images.append(captions.found.number(sample.images[0]))
        captions.sizes.append(len(texts) - before)
        if not captions.sizes[-1]:
            raise DataError(
                f"{part.path}: no usable row; tags are learned from rows with a picture"
            )
    return captions


def _choose_tags(texts: Sequence[str], tokenizer: Any, config: PretrainConfig) -> list[str]:
    """Words that are in enough captions and not in nearly all, in the tokenizer's order."""
    least, most = config.tag_min_count, config.tag_max_share * len(texts)
    names = tag_names(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    counts: Counter[str] = Counter()
    for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        counts.update({names[i] for i in ids if names[i] is not None})
    return list(dict.fromkeys(n for n in names if n is not None and least <= counts[n] <= most))


class TextLoss(nn.Module):
    """Summed next-token cross-entropy of a language model."""

    def __init__(self, language: LlamaForCausalLM):
        super().__init__()
        self.language = language

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """ids and labels [B, T], padded on the right -> scalar."""
        hidden = self.language.model(input_ids=ids, use_cache=False).last_hidden_state
        return lean_loss(self.language.lm_head, hidden, labels)


class TextTask:
    """Every token of a line from those before it."""

    parts = ("language",)

    def __init__(self, language: LlamaForCausalLM, rows: TokenRows, dropped: Dropped):
        self.module: nn.Module = TextLoss(language)
        self.rows, self.dropped, self.lengths = rows, dropped, rows.lengths
        self.longest = int(rows.lengths.max())

    def count(self, rows: np.ndarray) -> int:
        """Supervised tokens."""
        return int(self.rows.supervised[rows].sum())

    def tokens(self, rows: np.ndarray) -> tuple[int, int]:
        """Tokens, and those with a loss."""
        return int(self.rows.lengths[rows].sum()), self.count(rows)

    def prefetch(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Texts are at hand."""

    def batch(self, rows: np.ndarray, positions: np.ndarray, device: torch.device) -> dict:
        """Padded ids and labels."""
        ids, labels, _ = self.rows.pad(rows)
        return {"ids": ids.to(device), "labels": labels.to(device)}


def _text_stage(
    config: PretrainConfig, tokenizer: Any, seed: int, threads: int, out: Path
) -> tuple:
    spec, dropped = config.language, Dropped()
    rows, sizes = [], []
    for part in mixtures(config.data):
        found = read_marked_texts(Path(part.path), part.format)
        texts = [text for text in found if text.text.strip()]
        if not texts:
            raise DataError(f"{part.path}: no text to learn from")
        rows += encode_texts(texts, tokenizer, spec.max_positions)
        sizes.append(len(texts))
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.heads,
            max_position_embeddings=spec.max_positions,
            initializer_range=spec.initializer_range,
            tie_word_embeddings=spec.tie_embeddings,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    task = TextTask(language, TokenRows.of(rows), dropped)
    digest = f"{len(rows)} {math.fsum(row[3] for row in rows)}"
    return task, sizes, digest, language.save_pretrained
