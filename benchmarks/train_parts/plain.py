"""A training loop as the references have it, restated plainly: what ours is held against.

- A torch Dataset opens, fits, rescales and transposes each picture in fp32 and tokenises
  its row, every time it is drawn; four worker processes run it (the published
  dataloader_num_workers); rows without a picture get one of zeros (LLaVA, Mini-Gemini).
- The collator pads every row of a batch to the longest.
- The step is `model_parts.published`: all encoder layers, mining key by key, the language
  model's layers checkpointed where the scripts say so, logits of every row, a shifted
  cross-entropy over all of them.
- transformers' Trainer around it: AdamW in two groups, cosine with warmup, gradients
  clipped to 1, the loss fetched at every step.

Weights, tokenizer, labels and the order of rows are those of our run, so that losses must
be equal. Frozen parts are in evaluation mode, as the references leave or set them.

Sources: haotian-liu/LLaVA@c121f04, dvlab-research/MGM@769820c, Vision-CAIR/MiniGPT-4@22d8888.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_parts.cases import STAGES, Batch
from model_parts.published import published_loss, published_setting
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import get_cosine_schedule_with_warmup
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlforge.data.detect import read_samples
from vlforge.models.base import PARTS, VisionLanguageModel
from vlforge.models.encoding import encode_sample
from vlforge.models.folder import ModelFolder, read_folder
from vlforge.text.templates import find_template
from vlforge.training.freezing import freeze
from vlforge.types import IGNORE_INDEX

from .cases import TrainCase
from .made import DATA, MODEL
from .measuring import Meter

WORKERS = 4
WARMUP, CLIP_TO = 0.03, 1.0


class Rows(Dataset):
    """Rows of a LLaVA file, each made when it is asked for.

    side: of the first encoder's view, where the second one's picture is made smaller for it
    (Mini-Gemini); 0 elsewhere.
    """

    def __init__(self, case: TrainCase, folder: Path, opened: ModelFolder):
        self.case, self.folder = case, folder
        self.samples = list(read_samples(folder / DATA))
        self.template, self.tokenizer = find_template(case.template), opened.tokenizer
        self.tokens = opened.model.image_tokens
        self.size = opened.model.image_size
        is_mgm = opened.model.family == "mgm"
        self.side = opened.model.vision.low.image_size if is_mgm else 0
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / MODEL)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        sample = self.samples[number]
        encoded = encode_sample(
            sample,
            self.template,
            self.tokenizer,
            image_tokens=self.tokens,
            max_length=self.case.longest,
        )
        row = {"ids": torch.tensor(encoded.ids), "labels": torch.tensor(encoded.labels)}
        if sample.images:
            row["image"] = self._pixels(Image.open(sample.images[0]).convert("RGB"))
        else:
            row["image"] = torch.zeros(3, self.size, self.size)
        if self.side:
            sides = (self.side, self.side)
            row["view"] = F.interpolate(
                row["image"][None], size=sides, mode="bilinear", align_corners=False
            )[0]
        return row

    def _pixels(self, image: Image.Image) -> Tensor:
        if self.case.fit == "pad":
            image = expand2square(image, tuple(int(255 * c) for c in self.processor.image_mean))
        return self.processor.preprocess(image, return_tensors="pt")["pixel_values"][0]


def expand2square(image: Image.Image, ground: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square of its longer side."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), ground)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def collate(rows: Sequence[dict[str, Tensor]]) -> Batch:
    """Rows padded to the longest, pictures on top of each other."""
    pad = nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(row["ids"]) for row in rows])
    ids = pad([row["ids"] for row in rows], batch_first=True)
    labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORE_INDEX)
    views = torch.stack([row["view"] for row in rows]) if "view" in rows[0] else None
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return Batch(ids, labels, mask, torch.stack([row["image"] for row in rows]), views)


def decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The Trainer's two: what decays, and biases and norms, which do not."""
    norms = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__
        for own, _ in module.named_parameters(recurse=False)
    }
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [p for name, p in learning if name in norms or name.endswith("bias")]
    kept = {id(parameter) for parameter in spared}
    return [
        {"params": [p for _, p in learning if id(p) not in kept], "weight_decay": decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def train_plainly(
    case: TrainCase, folder: Path, order: Sequence[int], meter: Meter, device: str = "cpu"
) -> list[float]:
    """Train on the rows of `order`; the loss of every step.

    The model is opened before `meter` starts and not stored: both loops do that alike.
    """
    opened = read_folder(folder / MODEL)
    model = opened.model.to(device)
    freeze(model, model.stages[STAGES[case.stage]], PARTS, model.unused_parameters)
    meter.start(model)
    rows = Rows(case, folder, opened)
    loader = DataLoader(
        rows, case.batch, sampler=list(order), num_workers=WORKERS, collate_fn=collate
    )
    optimiser = torch.optim.AdamW(decay_groups(model, 0.0), lr=case.lr, betas=(0.9, 0.999))
    warmup = int(np.ceil(len(loader) * WARMUP))
    schedule = get_cosine_schedule_with_warmup(optimiser, warmup, len(loader))
    with meter.watching():
        losses = [_step(model, batch, optimiser, schedule) for batch in meter.waiting(loader)]
    meter.stop()
    return losses


def _step(model: VisionLanguageModel, batch: Batch, optimiser: Any, schedule: Any) -> float:
    with published_setting(model):
        loss = published_loss(model, batch)
        loss.backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    nn.utils.clip_grad_norm_(learning, CLIP_TO)
    optimiser.step()
    schedule.step()
    optimiser.zero_grad()
    return float(loss)
