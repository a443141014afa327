"""Operators that ask models, and models that note what they are asked, for the engine's tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import Drop, Filter, Grown, RowMapper
from vlforge.ops.batch import Batch
from vlforge.types import Caption, Drawing, Need, Refusal, Sample, Turn, VLForgeError


@dataclass(frozen=True, kw_only=True)
class BrightnessFilter(Filter):
    """Keeps rows whose first picture a scorer finds bright."""

    min_score: float = 0.0
    needs: ClassVar = Need.EMBEDDING
    stats: ClassVar = ("brightness",)

    def bounds(self):
        """From `min_score` on."""
        return ((self.min_score, None),)

    def measure(self, batch: Batch):
        """The scorer's word on each first picture."""
        images = [batch.files.rgb(files[0]) for files in batch.image_files(self)]
        return (batch.context.scorer("eye", "brightness").score(images, batch.texts("text")),)


@dataclass(frozen=True, kw_only=True)
class RewriteMapper(RowMapper):
    """Lets a writer rewrite the text."""

    model: str = "pen"
    needs: ClassVar = Need.MODEL

    def apply(self, batch: Batch) -> list[Grown | dict | Drop]:
        """One request per row."""
        rows = [item.row for item in batch.items]
        samples = [
            Sample(item.uid, tuple(item.row["images"]), (Turn("user", item.row["text"]),))
            for item in batch.items
        ]
        keys = [item.line for item in batch.items]
        found = batch.context.writer(self.model, "rewrite").write(samples, Drawing(), keys)
        return [
            Drop("", one.reason) if isinstance(one, Refusal) else {**row, "text": one[0].text}
            for row, one in zip(rows, found, strict=True)
        ]


@dataclass(frozen=True)
class NotingModels:
    """A `ModelSource` that notes each question in the file `notes`, from whatever process.

    `dies_at` kills the process with the question of that number, `fails_at` raises there;
    each once, which the file `notes` + ".once" remembers. Without the file `gate` no
    caption is answered: so a run that is to be killed cannot end before.
    """

    notes: str
    dies_at: int = 0
    fails_at: int = 0
    wait_s: float = 0.0
    wait_for: Callable[[int], None] | None = None
    gate: str = ""

    def captioner(self, path: str) -> Any:
        """This."""
        return self

    scorer = writer = embedder = captioner

    def caption(self, images, prompts, count, keys):
        """The picture's size, and the key."""
        self._note("caption", keys)
        while self.gate and not Path(self.gate).exists():
            time.sleep(0.005)
        return [
            [Caption(f"{image.size} {key % 1000} {n}", -float(n)) for n in range(count)]
            for image, key in zip(images, keys, strict=True)
        ]

    def score(self, images, texts):
        """The first pixel's red."""
        self._note("score", texts)
        return [float(image.getpixel((0, 0))[0]) for image in images]

    def embed_texts(self, texts):
        """A unit vector by the text's length and first letters."""
        import numpy as np

        self._note("embed", texts)
        turned = np.array([len(text) * 37 % 360 + len(text.split()) for text in texts])
        turned = np.deg2rad(turned.astype(np.float32))
        return np.stack([np.cos(turned), np.sin(turned)], 1)

    def write(self, samples, drawing, keys):
        """The words backwards; every 17th key is refused."""
        self._note("write", [sample.id for sample in samples])
        return [
            Refusal("no wish to") if key % 17 == 3 else
            [Caption(" ".join(reversed(sample.turns[-1].text.split())), 0.0)]
            for sample, key in zip(samples, keys, strict=True)
        ]  # fmt: skip

    def asked(self, kind: str) -> list[str]:
        """What was asked so far."""
        text = Path(self.notes).read_text() if Path(self.notes).exists() else ""
        # Another process may be in the middle of its last line.
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [line.split(" ", 2)[2] for line in lines if line.startswith(kind)]

    def processes(self) -> set[int]:
        """Those that asked."""
        return {int(line.split(" ")[1]) for line in Path(self.notes).read_text().splitlines()}

    def _note(self, kind: str, questions: Any) -> None:
        time.sleep(self.wait_s)
        before = len(self.asked(""))
        with open(self.notes, "a") as file:
            file.writelines(f"{kind} {os.getpid()} {one}\n" for one in questions)
        if self.wait_for is not None:
            self.wait_for(before)
        for bound, act in ((self.dies_at, self._die), (self.fails_at, self._fail)):
            # At least: two processes that ask at once may both pass the number.
            if bound and bound <= before + len(questions) and not self._was_there():
                act()

    def _was_there(self) -> bool:
        try:
            Path(f"{self.notes}.once").touch(exist_ok=False)
        except FileExistsError:
            return True
        return False

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self) -> None:
        raise VLForgeError("the model has had enough; run again")
