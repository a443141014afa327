"""The `train` stage: a model, conversations, a budget; out comes a model folder.

Align, instruct and anything else differ only in what trains, on which data,
with which template. See `fit` for the optimiser loop itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vlforge.checkpoints.xtuner_projector import assemble_parts
from vlforge.models.base import PARTS
from vlforge.models.config import ModelSpec
from vlforge.models.folder import (
    ModelFolder,
    with_stage,
    write_folder,
)
from vlforge.models.native_folder import NativeFolder
from vlforge.models.new_tokens import add_new_tokens
from vlforge.models.reading import write_json
from vlforge.models.stages import resolve
from vlforge.text.doubts import template_doubts
from vlforge.text.encode import check_compat
from vlforge.text.templates import find_template
from vlforge.training.adapter_files import write_adapted
from vlforge.training.adapters import (
    Attached,
    attach,
    check_learning,
    digest,
    facts,
    learning,
    lighten,
)
from vlforge.training.augment import Augment
from vlforge.training.batching import Batching, crop_seed, in_order
from vlforge.training.budget import (
    accumulation_of,
    samples_to_see,
    settle_batch,
    steps_per_epoch,
)
from vlforge.training.config import TrainConfig
from vlforge.training.contradictions import check_settings
from vlforge.training.conversations import (
    ConversationData,
    ConversationTask,
    read_conversations,
)
from vlforge.training.devices import Devices, open_devices
from vlforge.training.encoded_rows import drop_encoded
from vlforge.training.feature_cache import HOME, DiskFeatures, keep_features
from vlforge.training.fit import (
    FitPlan,
    FitResult,
    drop_checkpoints,
    fit,
)
from vlforge.training.freezing import freeze
from vlforge.training.handover import with_aspect_ratio, write_connector
from vlforge.training.identity import facts_of
from vlforge.training.lean import make_lean
from vlforge.training.mixture import draw_order, mixtures
from vlforge.training.native_rows import read_native
from vlforge.training.native_stage import (
    check_native,
    is_native_stage,
    native_doubts,
    open_native_base,
    template_of,
    write_native_stage,
)
from vlforge.training.native_task import NativeTask, native_batching
from vlforge.training.optimiser_groups import optimiser_groups
from vlforge.training.precision import (
    Lightened,
    allow_tf32,
    frozen_dtype,
    seed_everything,
    settle_precision,
)
from vlforge.training.quantised import open_base, quantised_parts
from vlforge.training.rates import peak_memory_mb
from vlforge.training.rows import Sieve, say
from vlforge.training.selection import selections
from vlforge.training.sights import Ask, Stage, check_sight, sight_of
from vlforge.training.stopping import never
from vlforge.training.task_digest import task_digest
from vlforge.types import LogFn, ProgressFn, RecipeError, no_log, no_progress


def train(
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    stop: Callable[[], bool] = never,
    name: str = "train",
    ask: Ask | None = None,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Train one stage and write the model folder into `out`; give its summary.

    Beside the model: `metrics.jsonl` (a line per step), `summary.json` (no times) and
    `timing.json`. A stage that was stopped, or killed, ends with the same bytes.

    Args:
        seed: used where the configuration says "auto".
        device: "auto", "cpu", "cuda" or "cuda:1"; more processes by a launcher.
        threads: CPU threads of this process.
        stop: asked between steps whether to end early.
        name: what trackers call it; `PROJECT/RUN`.
        ask: asks the benchmarks of `evaluate`.

    Raises:
        RecipeError: settings that cannot work.
        DataError: a dataset without a usable row.
        ModelError: parts that do not fit, no memory, or a loss that is no number.
        StageStopped: it was asked to end; a checkpoint is written.
    """
    seed = seed if config.seed == "auto" else config.seed
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    config, devices = _begin(config, seed, device)
    folder = _open(config, devices.device)
    for doubt in _doubts(config, folder):
        log({"event": "warning", "text": doubt})
    adapters = attach(folder.model, config, seed)
    names = choose(config, folder.model, adapters)
    optimiser_groups(folder.model, config.optimiser, PARTS)
    data = _read(config, folder, threads, out, seed, progress, log)
    say(data.sieve, log)
    plan = make_plan(config, data, seed)
    frozen = frozen_dtype(config, devices.device)
    lightened = Lightened(folder.model, PARTS, frozen)
    lighten(adapters, frozen, devices.device)
    features = _spare(config, folder.model, data, plan, devices, names, out, log)
    task = _task(config, folder, data, Augment.of(config.augment, seed), features, names)
    log({"event": "train", "rows": len(data.rows), "cached": features is not None})
    stage = (plan.order, names, features is not None, out, seed, threads, name)
    sight = sight_of(Stage(config, folder, data, *stage), ask, devices, log)
    content = facts_of(config) | task_digest(task) | {"adapters": digest(adapters)}
    told: dict[str, Any] = {"stop": stop, "progress": progress, "log": log}
    result = fit(task, plan, out, devices, content=content, sight=sight, **told)
    devices.make_whole(task.module)
    if devices.is_main:
        lightened.restore()
    return _store(config, folder, data, result, names, out, devices, adapters)


def _begin(config: TrainConfig, seed: int, device: str) -> tuple[TrainConfig, Devices]:
    """Checked settings, devices, precision and sizes of batches; libraries are seeded."""
    _check_settings(config)
    precision = settle_precision(config.precision, device)
    allow_tf32(config.tf32, precision)
    devices = open_devices(device, precision, config.parallel)
    seed_everything(seed)
    settled = settle_batch(replace(config, precision=precision), devices.count)
    devices.settle(settled)
    return settled, devices


def _open(config: TrainConfig, device: torch.device) -> ModelFolder:
    """The model that the stage goes on with."""
    if is_native_stage(config):
        return open_native_base(config, device)  # type: ignore[return-value]
    if isinstance(config.model, str):
        folder = open_base(config, Path(config.model), device)
    else:
        how = quantised_parts(config, config.model, device)
        folder = assemble_parts(_with_dialect(config.model, config), **how)
    add_new_tokens(folder.model, folder.tokenizer, find_template(config.template).new_tokens)
    return with_aspect_ratio(folder, config.image_aspect_ratio)


def choose(config: TrainConfig, model: Any, adapters: Sequence[Attached] = ()) -> list[str]:
    """Freeze all but what the stage trains; names of the parameters that learn."""
    known, unused = selections(model), model.unused_parameters
    wanted = resolve(config.train, known), resolve(config.freeze, known)
    train, stay = learning(adapters, *wanted)
    names = freeze(model, train, PARTS, unused, stay)
    check_learning(adapters, names, unused)
    return names


def _doubts(config: TrainConfig, folder: ModelFolder) -> list[str]:
    """Why the template may not fit the language model."""
    if isinstance(folder, NativeFolder):
        return native_doubts(config, folder)
    name = Path(config.model.language).name if isinstance(config.model, ModelSpec) else ""
    language = folder.model.language.config.to_dict()
    return template_doubts(find_template(config.template), folder.tokenizer, language, name)


def _with_dialect(spec: ModelSpec, config: TrainConfig) -> ModelSpec:
    """The stage's `tokenizer` comes before its model's."""
    if config.tokenizer == "auto":
        return spec
    return replace(spec, tokenizer_dialect=config.tokenizer)


def _check_settings(config: TrainConfig) -> None:
    """Raise for what can be known without reading anything."""
    if is_native_stage(config):
        check_native(config)
    else:
        check_compat(template_of(config), config.compat)  # type: ignore[arg-type]
    check_settings(config)
    check_sight(config)


def _read(
    config: TrainConfig,
    folder: ModelFolder,
    threads: int,
    out: Path,
    seed: int,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> ConversationData:
    sieve = Sieve(config.max_length, config.on_too_long, config.on_no_labels)
    if isinstance(folder, NativeFolder):
        own = {"threads": threads, "scratch": out, "progress": progress, "log": log}
        data = read_native(config, folder.model, template_of(config), sieve, **own)
        _check_positions(folder.model, data, config)
        return data
    data = read_conversations(
        config.data,
        folder.model,
        find_template(config.template),
        folder.tokenizer,
        processor=folder.processor,
        sieve=sieve,
        image_root=config.image_root,
        threads=threads,
        scratch=out,
        compat=config.compat,
        crop_seed=crop_seed(config, folder.model, seed),
        decode=config.decode,
        progress=progress,
        log=log,
    )
    _check_positions(folder.model, data, config)
    return data


def _task(
    config: TrainConfig,
    folder: ModelFolder,
    data: ConversationData,
    augment: Augment | None,
    features: torch.Tensor | DiskFeatures | None,
    names: list[str],
) -> ConversationTask | NativeTask:
    """The stage's batches and their loss, by what its model is."""
    if isinstance(folder, NativeFolder):
        batching = native_batching(config, folder.model, data, names)
        return NativeTask(folder.model, data, batching)
    batching = Batching.of(config, folder.model, data, names)
    return ConversationTask(folder.model, data, augment, features, batching)


def make_plan(config: TrainConfig, data: ConversationData, seed: int) -> FitPlan:
    """The order of rows and how it is stepped through.

    Raises:
        DataError: a dataset would get no row, or is smaller than a batch drawn from it.
    """
    parts, batch = mixtures(config.data), int(config.batch)
    samples = samples_to_see(config, data.sizes, batch)
    order = draw_order(parts, data.sizes, samples, seed, config.mixing, batch)
    order = in_order(config, order, data, batch, seed)
    return FitPlan(
        order=order,
        batch=batch,
        optimiser=config.optimiser,
        seed=seed,
        micro_batch=config.micro_batch,
        precision="fp32" if config.precision == "auto" else config.precision,
        save_every_samples=config.save_every_samples,
        epoch=steps_per_epoch(config, sum(data.sizes), batch),
        passes=accumulation_of(config),
        loss_mean=config.loss_mean,
        resume=config.resume,
        keep_last=config.keep_last,
        keep_best=config.keep_best,
    )


def _check_positions(model: Any, data: ConversationData, config: TrainConfig) -> None:
    positions = getattr(model.config.text_config, "max_position_embeddings", None)
    longest = int(data.rows.lengths.max())
    if positions and longest > positions:
        raise RecipeError(
            f"a row has {longest} tokens and the language model {positions} positions; "
            f"set max_length (now {config.max_length}) to at most {positions}"
        )


def _spare(
    config: TrainConfig,
    model: Any,
    data: ConversationData,
    plan: FitPlan,
    devices: Devices,
    names: list[str],
    out: Path,
    log: LogFn,
) -> torch.Tensor | DiskFeatures | None:
    """Leave out what no number depends on; features of pictures that were made before."""
    drawn, home = set(plan.order.tolist()), out.parent / HOME
    features = keep_features(config, model, data, drawn, devices, names, home, log)
    log({"event": "lean"} | make_lean(config, model, data, names, devices))
    return features


def _store(
    config: TrainConfig,
    folder: ModelFolder,
    data: ConversationData,
    result: FitResult,
    names: list[str],
    out: Path,
    devices: Devices,
    adapters: Sequence[Attached] = (),
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
    summary |= data.sieve.summary() | result.seen
    if result.best:
        summary["best"] = dict(zip(("step", "eval_loss"), result.best, strict=True))
    if adapters:
        summary["adapters"] = facts(adapters)
    if devices.is_main:
        stage = {
            "kind": "train",
            "train": [config.train] if isinstance(config.train, str) else list(config.train),
            "template": config.template,
            "samples": result.samples,
            "final_loss": result.final_loss,
        }
        whole = with_stage(folder, config.template, stage | _adapted(config, adapters))
        if isinstance(whole, NativeFolder):
            write_native_stage(whole, adapters, config, names, out)
        elif config.export != "connector" and adapters:
            has_new = bool(find_template(config.template).new_tokens)
            write_adapted(whole, adapters, config.model, names, out, has_new_tokens=has_new)
        elif config.export != "connector":
            write_folder(whole, out)
        if config.export != "model":
            write_connector(model, out, config.epochs)
        write_json(out / "summary.json", summary)
        write_timing(out, result)
        drop_checkpoints(out)
        drop_encoded(out)
    devices.wait()
    return summary


def _adapted(config: TrainConfig, adapters: Sequence[Attached]) -> dict[str, Any]:
    """What the model's history says of its adapters."""
    if not adapters:
        return {}
    kept = {one.part: {"rank": one.spec.rank, "alpha": one.spec.alpha} for one in adapters}
    return {"adapters": kept, "quantise": config.quantise}


def write_timing(out: Path, result: FitResult) -> None:
    """`timing.json`: what is left out of the summary because it differs from run to run."""
    rate = result.samples / result.seconds if result.seconds else 0.0
    fields = {
        "seconds": round(result.seconds, 3),
        "samples_per_second": round(rate, 1),
        "peak_mb": round(peak_memory_mb(), 1),
    } | result.timing
    write_json(out / "timing.json", fields)
