"""The `train` stage: a model, conversations, a budget; out comes a model folder.

Align, instruct and anything else differ only in what trains, on which data,
with which template. See `fit` for the optimiser loop itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlforge.models.base import PARTS
from vlforge.models.config import ModelSpec
from vlforge.models.folder import (
    ModelFolder,
    assemble,
    read_folder,
    with_stage,
    write_folder,
)
from vlforge.models.reading import write_json
from vlforge.text.templates import find_template
from vlforge.training.augment import Augment
from vlforge.training.batches import group_by_length
from vlforge.training.config import TrainConfig
from vlforge.training.conversations import (
    ConversationData,
    ConversationTask,
    read_conversations,
)
from vlforge.training.fit import (
    FitPlan,
    FitResult,
    drop_checkpoints,
    fit,
    open_accelerator,
    peak_memory_mb,
)
from vlforge.training.freezing import freeze, optimiser_groups
from vlforge.training.mixture import (
    budget,
    check_mixing,
    draw_order,
    mixtures,
    names_its_rows,
)
from vlforge.training.pictures import cache_features, features_fit
from vlforge.types import LogFn, ProgressFn, RecipeError, no_log, no_progress


def train(
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Train one stage and write the model folder into `out`.

    Beside the model: `metrics.jsonl` (a line per step), `summary.json` (what was
    seen and where the loss ended; no times) and `timing.json`. A stage killed
    with `save_every_samples` set goes on from its last checkpoint and ends with
    the same bytes.

    Args:
        seed: used where the configuration says "auto".
        device: "auto", "cpu", "cuda" or "cuda:1"; more processes through
            accelerate's or torch's launcher.
        threads: CPU threads of this process.

    Returns:
        The summary.

    Raises:
        RecipeError: settings that cannot work.
        DataError: a dataset without a usable row.
        ModelError: parts that do not fit, no memory, or a loss that is no number.
    """
    seed = seed if config.seed == "auto" else config.seed
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    _check_settings(config)
    accelerator = open_accelerator(device, config.precision)
    folder = (
        assemble(config.model)
        if isinstance(config.model, ModelSpec)
        else read_folder(Path(config.model))
    )
    names = freeze(folder.model, config.train, PARTS, folder.model.unused_parameters)
    optimiser_groups(folder.model, config.optimiser, PARTS)
    data = _read(config, folder, threads, out)
    plan = make_plan(config, data, seed)
    features = _features(config, folder.model, data, plan, accelerator.device, names)
    augment = Augment.of(config.augment, seed)
    task = ConversationTask(folder.model, data, augment, features)
    log({"event": "train", "rows": len(data.rows), "cached": features is not None})
    result = fit(
        task, plan, out, accelerator, content=data.fingerprint(), progress=progress, log=log
    )
    return _store(config, folder, data, result, names, out, accelerator)


def _check_settings(config: TrainConfig) -> None:
    """Raise for what can be known without reading anything."""
    find_template(config.template)
    parts = mixtures(config.data)
    if config.samples is not None and config.epochs is not None:
        raise RecipeError("a train stage takes samples or epochs, one of them")
    if config.samples is None and config.epochs is None and not names_its_rows(parts):
        raise RecipeError("a train stage takes samples or epochs, or data that name their rows")
    check_mixing(parts, config.mixing, config.group_by_length)
    for name in ("batch", "max_length", "samples", "epochs", "micro_batch"):
        value = getattr(config, name)
        if isinstance(value, int | float) and value <= 0:
            raise RecipeError(f"{name} is {value}; give at least 1")


def _read(config: TrainConfig, folder: ModelFolder, threads: int, out: Path) -> ConversationData:
    data = read_conversations(
        config.data,
        folder.model,
        find_template(config.template),
        folder.tokenizer,
        processor=folder.processor,
        max_length=config.max_length,
        image_root=config.image_root,
        threads=threads,
        scratch=out,
    )
    _check_positions(folder.model, data, config)
    return data


def make_plan(config: TrainConfig, data: ConversationData, seed: int) -> FitPlan:
    """The order of rows and how it is stepped through.

    Raises:
        DataError: a dataset would get no row, or is smaller than a batch drawn from it.
    """
    parts = mixtures(config.data)
    samples = budget(parts, data.sizes, config.samples, config.epochs)
    order = draw_order(parts, data.sizes, samples, seed, config.mixing, config.batch)
    if config.group_by_length:
        order = group_by_length(order, data.rows.lengths, config.batch, seed)
    return FitPlan(
        order=order,
        batch=config.batch,
        optimiser=config.optimiser,
        seed=seed,
        micro_batch=config.micro_batch,
        precision=config.precision,
        save_every_samples=config.save_every_samples,
    )


def _check_positions(model: Any, data: ConversationData, config: TrainConfig) -> None:
    positions = getattr(model.config.text_config, "max_position_embeddings", None)
    longest = int(data.rows.lengths.max())
    if positions and longest > positions:
        raise RecipeError(
            f"a row has {longest} tokens and the language model {positions} positions; "
            f"set max_length (now {config.max_length}) to at most {positions}"
        )


def _features(
    config: TrainConfig,
    model: Any,
    data: ConversationData,
    plan: FitPlan,
    device: torch.device,
    trainable: list[str],
) -> torch.Tensor | None:
    """The frozen encoder's features of every picture that will be drawn, where they fit."""
    frozen = not any(name.startswith("vision.") for name in trainable)
    frozen = frozen and model.features_are_tensors
    drawn = {image for row in set(plan.order.tolist()) for image in data.rows.images[row]}
    width = model.config.vision_config.hidden_size
    if not frozen or config.augment is not False or not drawn or not data.pictures.all_in_memory:
        return None
    if not features_fit(len(data.pictures.sources), model.image_tokens, width):
        return None
    model.vision.to(device)
    return cache_features(model.vision, data.pictures, sorted(drawn), device)


def _store(
    config: TrainConfig,
    folder: ModelFolder,
    data: ConversationData,
    result: FitResult,
    names: list[str],
    out: Path,
    accelerator: Any,
) -> dict[str, Any]:
    model = folder.model
    data.count_late_drops()
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    summary = {
        "samples": result.samples,
        "steps": result.steps,
        "tokens": result.tokens,
        "supervised_tokens": result.supervised_tokens,
        "final_loss": result.final_loss,
        "trainable": sum(counts[name] for name in names),
        "parameters": sum(counts.values()),
        "data_rows": len(data.rows),
        "rows_read": data.rows_read,
        "dropped": data.dropped.counts,
        "dropped_rows": data.dropped.shown,
    }
    if accelerator.is_main_process:
        stage = {
            "kind": "train",
            "train": list(config.train),
            "template": config.template,
            "samples": result.samples,
            "final_loss": result.final_loss,
        }
        write_folder(with_stage(folder, config.template, stage), out)
        write_json(out / "summary.json", summary)
        write_timing(out, result)
        drop_checkpoints(out)
    accelerator.wait_for_everyone()
    return summary


def write_timing(out: Path, result: FitResult) -> None:
    """`timing.json`: what is left out of the summary because it differs from run to run."""
    rate = result.samples / result.seconds if result.seconds else 0.0
    fields = {
        "seconds": round(result.seconds, 3),
        "samples_per_second": round(rate, 1),
        "peak_mb": round(peak_memory_mb(), 1),
    }
    write_json(out / "timing.json", fields)
