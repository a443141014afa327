"""Our loop at real sizes on a GPU: random weights, made rows, what a stage really does."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from model_parts.cases import STAGES
from model_parts.real import peak_of, product_peak

from vlforge.models.cost import model_cost
from vlforge.models.folder import ModelFolder
from vlforge.models.sizes import SIZES
from vlforge.training import loop, pictures

from .cases import TINY, TrainCase
from .made import model_of, write_data
from .ours import config_of

_PHOTO: dict[str, Any] = {"size": (640, 480), "files": 512, "most": 1000, "longest": 2048}

REAL = (
    TrainCase("mgm-2b stage 1", SIZES["mgm-2b"], 1, "captions", text=60, batch=48, **_PHOTO),
    TrainCase(
        "mgm-2b stage 2", SIZES["mgm-2b"], 2, "answers", text=220, answer=27, batch=16,
        fit="pad", lr=2e-5, **_PHOTO,
    ),
    TrainCase(
        "llava-1.5-7b stage 1", SIZES["llava-1.5-7b"], 1, "captions", text=20, batch=32, **_PHOTO
    ),
    TrainCase(
        "llava-1.5-7b stage 2", SIZES["llava-1.5-7b"], 2, "answers", text=75, answer=5, batch=16,
        fit="pad", lr=2e-5, **_PHOTO,
    ),
    TrainCase(
        "minigpt4-7b stage 1", SIZES["minigpt4-7b"], 1, "minigpt4", text=25, batch=64,
        fit="stretch", lr=1e-4, **_PHOTO,
    ),
)  # fmt: skip
"""Rows of about 640, 900, 600, 830 and 60 tokens, the picture's among them."""

TINY_REAL = tuple(replace(case, batch=4) for case in TINY if "mixture" not in case.name)


def measure_real(
    case: TrainCase, device: str, threads: int, steps: int, warm: int
) -> dict[str, Any]:
    """Train a case and tell how fast that was; the model is not stored.

    Args:
        steps: of the run; rates are over those after the first `warm`. Losses are to be
            fetched after both, so that the device has done what it was given.
    """
    case = replace(case, steps=steps)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(case, folder)
        opened = model_of(case, folder, device)
        ends: list[float] = []
        config = replace(config_of(case, folder), export="connector")
        with _given(opened, ends):
            loop.train(config, folder / "out", device=device, threads=threads)
        summary = json.loads((folder / "out" / "summary.json").read_text())
        timing = json.loads((folder / "out" / "timing.json").read_text())
    return _told(case, opened, summary, timing, ends, warm, device)


@contextmanager
def _given(opened: ModelFolder, ends: list[float]) -> Iterator[None]:
    """The loop is given `opened` instead of a folder, and when its steps end is noted.

    Writing seven billion weights only to read them again would take longer than the run.
    Pictures are decoded as those of a set that memory does not hold.
    """
    open_base, fit, share = loop.open_base, loop.fit, pictures.MEMORY_SHARE

    def fit_watched(*given: Any, progress: Any, **named: Any) -> Any:
        def noted(*told: Any) -> None:
            ends.append(time.perf_counter())
            progress(*told)

        result = fit(*given, progress=noted, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends[-1] = time.perf_counter()
        return result

    loop.open_base = lambda *_: opened
    loop.fit, pictures.MEMORY_SHARE = fit_watched, 0.0
    try:
        yield
    finally:
        loop.open_base, loop.fit, pictures.MEMORY_SHARE = open_base, fit, share


def _told(
    case: TrainCase,
    opened: ModelFolder,
    summary: dict[str, Any],
    timing: dict[str, Any],
    ends: list[float],
    warm: int,
    device: str,
) -> dict[str, Any]:
    timed = case.steps - warm
    rate = timed * case.batch / (ends[-1] - ends[-1 - timed])
    length = summary["tokens"] / summary["samples"]
    supervised = summary["supervised_tokens"] / summary["samples"]
    text = length - opened.model.image_tokens
    train = opened.model.stages[STAGES[case.stage]]
    needed = model_cost(opened.model.config.to_dict()).sample_flops(text, supervised, 1, train)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    peaks = {"maker": peak_of(name), "product": product_peak(device) if name != "cpu" else None}
    return {
        "case": case.name,
        "device": name,
        "batch": case.batch,
        "steps": timed,
        "tokens_per_sample": round(length, 1),
        "supervised_per_sample": round(supervised, 1),
        "samples_per_s": float(f"{rate:.4g}"),
        "needed_tflop_per_sample": round(needed / 1e12, 3),
        **{
            f"mfu_of_{what}": round(needed * rate / peak, 3) for what, peak in peaks.items() if peak
        },
        "wait_share": timing.get("wait_share"),
        "peak_gib": round(timing["peak_mb"] / 1024, 1),
        "final_loss": summary["final_loss"],
    }
