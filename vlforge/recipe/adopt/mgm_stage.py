"""One run of Mini-Gemini's or LLaVA's train.py as one `train` stage."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.recipe.adopt.earlier_runs import connector_left_in, model_left_in
from vlforge.recipe.adopt.mgm_arguments import Given, System, arguments_of
from vlforge.types import RecipeError

NAMES = {"mgm": "Mini-Gemini", "llava": "LLaVA"}
_PARTS = (
    "model_name_or_path", "vision_tower", "vision_tower_aux", "mm_projector_type",
    "mm_vision_select_layer", "mm_vision_select_feature", "mm_patch_merge_type", "image_size_aux",
    "image_grid", "image_global", "drop_path", "mm_use_im_start_end",
)  # fmt: skip
"""Arguments that say what a model is made of."""
_TRAINERS = frozenset(
    """optim output_dir lr_scheduler_type save_strategy deepspeed fsdp report_to group_by_length
    bf16 fp16 tf32 gradient_checkpointing dataloader_drop_last auto_find_batch_size torch_compile
    per_device_train_batch_size gradient_accumulation_steps max_steps warmup_steps
    save_total_limit seed learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon
    max_grad_norm num_train_epochs warmup_ratio save_steps""".split()
)
"""Arguments whose default is transformers' own."""
_SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay",
)  # fmt: skip
_ADAMW = ("adamw_torch", "adamw_hf", "adamw_torch_fused", "adamw_apex_fused", "adamw_torch_xla")
_TRACKERS = ("tensorboard", "wandb", "mlflow", "swanlab", "trackio")
_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_bias")
_HIGH = ("image_size_aux", "image_grid", "image_global", "drop_path", "optimize_vision_tower_aux")
_PLAIN_JSON = frozenset(
    """fp16 bf16 train_micro_batch_size_per_gpu train_batch_size gradient_accumulation_steps
    gradient_clipping zero_optimization steps_per_print wall_clock_breakdown""".split()
)
"""Keys of a DeepSpeed JSON that `zero2` and the like stand for."""


@dataclass(frozen=True)
class TrainCommand:
    """A train.py with its arguments: of which system, on how many GPUs, in which stage."""

    system: System
    given: Mapping[str, Given]
    stage: str
    folder: str = ""
    processes: int | None = None
    told: str = ""

    def path(self, name: str) -> str:
        """A path as the command finds it; "" where it is not said."""
        text = self.given[name].value
        return tidy_path(os.path.join(self.folder, text)) if text else ""

    @property
    def family(self) -> str:
        """The family that the arguments amount to."""
        return "mgm" if "vision_tower_aux" in self.given and self.path("vision_tower_aux") else (
            "llava"
        )  # fmt: skip

    @property
    def is_first(self) -> bool:
        """Whether it aligns: the connector alone learns."""
        return bool(self.given["tune_mm_mlp_adapter"].value)


def tidy_path(text: str) -> str:
    """`./a/../b` as `b`; a hub's name stays."""
    return os.path.normpath(text) if text else ""


def put_stage(out: AdoptedRecipe, command: TrainCommand, before: Sequence[TrainCommand]) -> None:
    """Write the stage that a command is; `before` are those that ran earlier.

    Raises:
        RecipeError: with file and line, what cannot be done here.
    """
    stage = _Stage(out, command)
    stage.put("kind", "train", f"a run of {NAMES[command.system]}'s train.py is a `train` stage")
    stage.model(before)
    stage.data()
    stage.learning()
    stage.amount()
    stage.optimiser()
    stage.machine()


class _Stage:
    """A stage in the making."""

    def __init__(self, out: AdoptedRecipe, command: TrainCommand):
        self.out = out
        self.command = command
        self.given = command.given
        self.at = f"stages.{command.stage}"

    def put(self, key: str, value: Any, origin: str) -> None:
        self.out.put(f"{self.at}.{key}", value, origin)

    def take(self, key: str, name: str, value: Any = None, remark: str = "") -> None:
        """Put what an argument says, or `value` for it."""
        made = self.given[name].value if value is None else value
        self.put(key, _tidy(made), self.origin(name) + (f": {remark}" if remark else ""))

    def value(self, name: str) -> Any:
        """An argument's value; None where the system has no such argument."""
        return self.given[name].value if name in self.given else None

    def origin(self, *names: str) -> str:
        """Where arguments stand, or whose defaults they are."""
        told = []
        for name in names:
            whose = "transformers' Trainer" if name in _TRAINERS else NAMES[self.command.system]
            given = self.given[name]
            told.append(given.where if given.is_given else f"default of {whose}, {name}")
        return "; ".join(told)

    def where(self, name: str) -> str:
        """`file:line` of an argument for errors."""
        given = self.given[name]
        return given.where if given.is_given else f"{self.out.path.name}: --{name}"

    def leave(self, name: str, why: str) -> None:
        if name in self.given and self.given[name].is_given:
            value = _tidy(self.given[name].value)
            self.out.leave(f"--{name}", value, self.given[name].where, why)

    # What the model is made of, and where it comes from.

    def model(self, before: Sequence[TrainCommand]) -> None:
        command = self.command
        adapter = command.path("pretrain_mm_mlp_adapter")
        earlier = next((one for one in reversed(before) if _left(one, adapter)), None)
        whole = next((one for one in reversed(before) if _is_output(one, command)), None)
        if whole is not None:
            why = f"{self.origin('model_name_or_path')}: what stage {whole.stage} leaves"
            self.put("model", f"${whole.stage}", why)
        elif earlier is not None and _same_parts(earlier, command):
            why = f"{self.origin('pretrain_mm_mlp_adapter')}: what stage {earlier.stage} leaves"
            self.put("model", f"${earlier.stage}", why)
        elif not command.is_first and not adapter and _sees(command.path("model_name_or_path")):
            path = command.path("model_name_or_path")
            left = model_left_in(path) if not (Path(path) / "config.json").is_file() else None
            self.take("model", "model_name_or_path", str(left or path), "sees already")
        else:
            self._parts(earlier)
            return
        self.put("image_aspect_ratio", self._ratio(), self.origin("image_aspect_ratio"))

    def _ratio(self) -> str:
        ratio = self.value("image_aspect_ratio")
        if ratio not in ("square", "pad"):
            self.out.note(f"image_aspect_ratio {ratio}: train.py reads pad alone; it is square")
        return "pad" if ratio == "pad" else "square"

    def _parts(self, earlier: TrainCommand | None) -> None:
        """Encoders, connector and language model by themselves."""
        command = self.command
        if not self.value("vision_tower"):
            where = self.where("model_name_or_path")
            raise RecipeError(f"{where}: without --vision_tower no pictures are seen; add it")
        if not self.given["model_name_or_path"].is_given:
            raise RecipeError(f"{self.out.path.name}: no --model_name_or_path is given; add it")
        chosen = "a second vision tower is given" if command.family == "mgm" else "one vision tower"
        self.put("model.family", command.family, chosen)
        self.take("model.vision", "vision_tower", command.path("vision_tower"))
        if command.family == "mgm":
            self.take("model.vision_high", "vision_tower_aux", command.path("vision_tower_aux"))
        self.take("model.language", "model_name_or_path", command.path("model_name_or_path"))
        self.take("model.connector", "mm_projector_type")
        self.take("model.select_layer", "mm_vision_select_layer")
        self._feature()
        self.put("model.image_aspect_ratio", self._ratio(), self.origin("image_aspect_ratio"))
        if command.family == "mgm":
            self.take("model.image_size_high", "image_size_aux")
            self.take("model.image_grid", "image_grid")
            self.take("model.image_global", "image_global")
            drop, why = (0.1, "OpenCLIP's 0.1") if self.value("drop_path") else (0.0, "none")
            self.take("model.drop_path", "drop_path", drop, why)
        else:
            for name in _HIGH:
                self.leave(name, "there is no second vision tower")
        self._connector(earlier)

    def _feature(self) -> None:
        feature = self.value("mm_vision_select_feature")
        if feature not in ("patch", "cls_patch") or (
            feature != "patch" and self.command.family == "mgm"
        ):
            where = self.where("mm_vision_select_feature")
            raise RecipeError(f"{where}: {feature!r} is not possible; take patch")
        self.take("model.select_feature", "mm_vision_select_feature")
        if self.value("mm_patch_merge_type") not in (None, "flat"):
            self.take("model.patch_merge", "mm_patch_merge_type")

    def _connector(self, earlier: TrainCommand | None) -> None:
        """A connector that was trained before."""
        adapter = self.command.path("pretrain_mm_mlp_adapter")
        if earlier is not None:
            left = f"${earlier.stage}/mm_projector.bin"
            self.take("model.connector_weights", "pretrain_mm_mlp_adapter", left)
            why = f"stage {self.command.stage} begins with its connector"
            self.out.put(f"stages.{earlier.stage}.export", "both", why)
        elif adapter:
            found = connector_left_in(adapter)
            remark = "" if found == adapter else "of an earlier run"
            self.take("model.connector_weights", "pretrain_mm_mlp_adapter", found, remark)
        elif not self.command.is_first:
            self.out.note(
                f"stage {self.command.stage} begins with an untrained connector: no "
                "--pretrain_mm_mlp_adapter is given"
            )

    # What it learns from.

    def data(self) -> None:
        if not self.value("data_path"):
            raise RecipeError(f"{self.out.path.name}: no --data_path is given; add it")
        self.take("data", "data_path", self.command.path("data_path"))
        if self.value("image_folder"):
            self.take("image_root", "image_folder", self.command.path("image_folder"))
        self.put("template", *self._template())
        if self._is_slow():
            self.put("tokenizer", "slow", "read with use_fast=False there")
        self.take("max_length", "model_max_length")

    def _template(self) -> tuple[str, str]:
        """The template, and why."""
        from vlforge.text.llava_templates import LLAVA_TEMPLATES

        version, told = self.value("version"), self.origin("version")
        names = {one.name for one in LLAVA_TEMPLATES}
        if self.command.system == "mgm" and version == "mistral_instruct":
            name, told = "mgm_mistral_instruct", f"{told}: Mini-Gemini's has <s> in every round"
        elif version in ("v0", "v0.5"):
            name, told = "v1", f"{told}: train.py keeps its default, v1, then"
        elif version in names:
            name = version
        else:
            near = "gemma" if "gemma" in version else "llama_3" if "llama_3" in version else "v1"
            name, told = near, f"{told}: an unknown version is {near} there"
        if not self.value("mm_use_im_start_end"):
            return name, told
        if self.command.is_first:
            where = self.where("mm_use_im_start_end")
            raise RecipeError(
                f"{where}: with --tune_mm_mlp_adapter their model stops, too; take False"
            )
        return f"{name}+im_start_end", f"{told}; {self.origin('mm_use_im_start_end')}"

    def _is_slow(self) -> bool:
        """Whether the tokenizer is the slow one, and there is such a one."""
        model = self.command.path("model_name_or_path")
        is_fast = "gemma" in model and self.command.system == "mgm"
        is_bare = re.search(r"llama[-_]?3", model.lower()) or "llama_3" in self.value("version")
        if is_fast or is_bare or "mpt" in model:
            return False
        folder = Path(model)
        return not folder.is_dir() or (folder / "tokenizer.model").is_file()

    # What of it learns.

    def learning(self) -> None:
        self._train()
        is_lora = self.value("lora_enable") and not self.command.is_first
        if is_lora:
            self.take("lora.rank", "lora_r")
            self.take("lora.alpha", "lora_alpha")
            self.take("lora.dropout", "lora_dropout")
            self.take("lora.bias", "lora_bias")
            self.put("lora.targets", "all_linear", "every linear layer but the output, as there")
        else:
            why = "the connector alone learns" if self.command.is_first else "lora_enable is not on"
            for name in ("lora_enable", *_LORA) if self.value("lora_enable") else _LORA:
                self.leave(name, why)
        bits = self.value("bits")
        if bits not in (4, 8, 16):
            raise RecipeError(f"{self.where('bits')}: {bits} bits are not possible; 4, 8 or 16")
        self.take("quantise", "bits", "none" if bits == 16 else f"{bits}bit")
        if self.value("group_by_modality_length"):
            self.take("group", "group_by_modality_length", self.command.system)
        elif self.value("group_by_length"):
            self.take("group", "group_by_length", "length")

    def _train(self) -> None:
        """The parts that learn, in the order of train.py's own switches."""
        is_first, given = self.command.is_first, self.value
        names = [name for name in _SWITCHES if name in self.given and self.given[name].is_given]
        parts = ["connector"] if is_first else ["connector", "language"]
        if not is_first and given("bits") in (4, 8) and not given("lora_enable"):
            parts, names = ["connector"], [*names, "bits"]
        elif not is_first and given("freeze_backbone") and not given("lora_enable"):
            is_tied = "gemma" in self.command.path("model_name_or_path").lower()
            parts = ["connector"] if is_tied else ["connector", r"language\.lm_head"]
        if given("freeze_mm_mlp_adapter"):
            parts = ["connector.miner" if part == "connector" else part for part in parts]
            parts = [p for p in parts if self.command.family == "mgm" or p != "connector.miner"]
        if given("optimize_vision_tower"):
            parts.append("vision_last_half")
        if given("optimize_vision_tower_aux") and self.command.family == "mgm":
            parts.append("vision_high_last_blocks")
        if not parts:
            raise RecipeError(f"{self.where('freeze_mm_mlp_adapter')}: nothing would learn")
        published = {("connector",): "align", ("connector", "language"): "instruct"}
        value: Any = published.get(tuple(parts), parts)
        if given("lora_enable") and not is_first:
            value = parts
        self.put("train", value, self.origin(*names) if names else "all of it but the encoders")

    # How much of it.

    def amount(self) -> None:
        command = self.command
        if self.value("max_steps") > 0:
            self.take("steps", "max_steps")
        else:
            self.take("epochs", "num_train_epochs")
        micro = self.value("per_device_train_batch_size")
        passes = self.value("gradient_accumulation_steps")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if self.value(name) < 1:
                raise RecipeError(f"{self.where(name)}: {self.value(name)} is no number from 1")
        if command.processes is not None:
            total = micro * passes * command.processes
            told = f"{micro} x {passes} x {command.processes} GPUs ({command.told})"
            self.put("batch", total, told)
        else:
            self.put("batch", "auto", "micro_batch x accumulation x GPUs, as there")
        if self.value("auto_find_batch_size"):
            self.take("micro_batch", "auto_find_batch_size", "auto")
        else:
            self.take("micro_batch", "per_device_train_batch_size")
        if command.processes is None:
            self.take("accumulation", "gradient_accumulation_steps")
        self._checkpoints(micro * passes)
        if self.value("dataloader_drop_last"):
            self.take("drop_last", "dataloader_drop_last")
        self.take("seed", "seed")

    def _checkpoints(self, share: int) -> None:
        strategy, steps = self.value("save_strategy"), self.value("save_steps")
        if strategy == "steps" and steps >= 1:
            devices = self.command.processes or _devices_here()
            told = f"{self.origin('save_steps')}: {steps:g} steps of {share * devices} samples"
            self.put("save_every_samples", int(steps) * share * devices, told)
        else:
            self.take("save_every_samples", "save_strategy", 0, "at the end alone")
        limit = self.value("save_total_limit")
        if limit is None:
            self.take("keep_last", "save_total_limit", 1, "one is enough to go on from")
        else:
            self.take("keep_last", "save_total_limit", max(1, limit))

    # How it learns.

    def optimiser(self) -> None:
        kind = self.value("optim")
        if kind not in (*_ADAMW, "sgd"):
            where = self.where("optim")
            raise RecipeError(f"{where}: {kind!r} is not possible here; take adamw_torch or sgd")
        self.take("optimiser.type", "optim", "sgd" if kind == "sgd" else "adamw")
        self.take("optimiser.lr", "learning_rate")
        self._rates()
        schedule = self.value("lr_scheduler_type")
        if schedule not in _SCHEDULES:
            where = self.where("lr_scheduler_type")
            raise RecipeError(f"{where}: {schedule!r} is no schedule; take {', '.join(_SCHEDULES)}")
        self.take("optimiser.schedule", "lr_scheduler_type")
        if self.value("warmup_steps") > 0:
            self.take("optimiser.warmup_steps", "warmup_steps")
        self.take("optimiser.warmup_ratio", "warmup_ratio")
        self.take("optimiser.weight_decay", "weight_decay")
        betas = [self.value("adam_beta1"), self.value("adam_beta2")]
        self.put("optimiser.betas", betas, self.origin("adam_beta1", "adam_beta2"))
        self.take("optimiser.eps", "adam_epsilon")
        self.take("optimiser.max_grad_norm", "max_grad_norm")
        why = f"{NAMES[self.command.system]}'s rule of what decays"
        self.put("optimiser.groups", self.command.system, why)
        why = "the mean of each pass, as Trainer has it; tokens: the same however a batch is cut"
        self.put("loss_mean", "micro_batches", why)

    def _rates(self) -> None:
        """Rates of their own."""
        if self.value("mm_projector_lr"):
            rates = {"mm_projector": self.value("mm_projector_lr")}
            self.take("optimiser.lr_parts", "mm_projector_lr", rates)
            self.leave("lr_multi", "mm_projector_lr comes before it")
        elif self.value("lr_multi"):
            self.take("optimiser.lr_multi", "lr_multi", self._multiples())

    def _multiples(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in self.value("lr_multi").split(","):
            name, _, times = item.partition(":")
            try:
                found[name.strip()] = _tidy(float(times))
            except ValueError:
                where = self.where("lr_multi")
                raise RecipeError(f"{where}: {item!r} is not NAME:TIMES") from None
        return found

    # On what.

    def machine(self) -> None:
        bf16, fp16 = self.value("bf16"), self.value("fp16")
        if bf16 and fp16:
            raise RecipeError(f"{self.where('fp16')}: bf16 and fp16 are both on; take one")
        if bf16:
            self.take("precision", "bf16", "auto", "bf16 on a GPU, fp32 on a CPU")
        elif fp16:
            self.take("precision", "fp16", "fp16")
        else:
            self.put("precision", "fp32", self.origin("bf16", "fp16"))
        tf32 = self.value("tf32")
        if tf32 and (bf16 or fp16):
            self.take("tf32", "tf32", "auto", "allowed, as precision is not fp32")
        else:
            self.take("tf32", "tf32", bool(tf32))
        self.take("checkpointing", "gradient_checkpointing", "auto", "where memory asks for it")
        if self.value("torch_compile"):
            self.take("compile", "torch_compile", "on")
        self._sharing()
        self._trackers()
        if self.command.is_first:
            self.put("export", "both", "train.py leaves mm_projector.bin")
        why = "the run's folder is runs/NAME, or what --out names"
        self.leave("output_dir", why)
        for name, one in arguments_of(self.command.system).items():
            if one.fate == "no effect":
                self.leave(name, one.remark)

    def _sharing(self) -> None:
        if self.value("deepspeed"):
            self.take("parallel", "deepspeed", _parallel(self.command.path("deepspeed")))
        elif self.value("fsdp"):
            has_offload = "offload" in self.value("fsdp")
            self.take("parallel", "fsdp", "fsdp2_offload" if has_offload else "fsdp2")
        else:
            self.put("parallel", "auto", "no --deepspeed, no --fsdp")

    def _trackers(self) -> None:
        words = str(self.value("report_to")).replace(",", " ").split()
        wanted = [word for word in words if word in _TRACKERS]
        told = self.given["report_to"].is_given
        self.take("trackers", "report_to", wanted if told else [])
        others = [word for word in words if word not in (*_TRACKERS, "none")]
        if others and told:
            known = ", ".join(_TRACKERS)
            self.out.note(f"report_to {' '.join(others)} is not known here; known: {known}")


_SWITCHES = ("tune_mm_mlp_adapter", "freeze_backbone", "freeze_mm_mlp_adapter", "lora_enable",
             "optimize_vision_tower", "optimize_vision_tower_aux")  # fmt: skip


def _tidy(value: Any) -> Any:
    """1.0 as 1."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def _left(one: TrainCommand, adapter: str) -> bool:
    """Whether a connector's file is what an earlier command left in its folder."""
    folder = one.path("output_dir")
    return bool(adapter and folder) and adapter == os.path.join(folder, "mm_projector.bin")


def _is_output(one: TrainCommand, command: TrainCommand) -> bool:
    folder = one.path("output_dir")
    return bool(folder) and folder == command.path("model_name_or_path")


def _same_parts(one: TrainCommand, other: TrainCommand) -> bool:
    """Whether two commands train the same model."""
    return all(
        one.given[name].value == other.given[name].value
        for name in _PARTS
        if name in one.given and name in other.given
    )


def _sees(path: str) -> bool:
    """Whether a language model's folder is one of LLaVA or Mini-Gemini already."""
    config = Path(path) / "config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        return "mm_vision_tower" in found or "mm_projector_type" in found
    except (OSError, ValueError, TypeError):
        return bool(re.search(r"llava|mgm|mini-?gemini", Path(path).name.lower()))


def _devices_here() -> int:
    """GPUs of this machine, at least 1."""
    from vlforge.data.machine import visible_gpus

    return max(1, len(visible_gpus()))


def _parallel(path: str) -> str:
    """The name of what a DeepSpeed JSON says, or its path where it says more."""
    by_name = re.fullmatch(r"zero([123])(_offload)?", Path(path).stem)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        zero = found["zero_optimization"]
        stage = int(zero["stage"])
    except (OSError, ValueError, TypeError, KeyError):
        return by_name.group() if by_name else path
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    if set(found) - _PLAIN_JSON or any(found.get(key, "auto") != "auto" for key in sizes):
        return path
    if stage not in (1, 2, 3):
        return "ddp"
    return f"zero{stage}" + ("_offload" if _offloads(zero) else "")


def _offloads(zero: Mapping[str, Any]) -> bool:
    """Whether moments or weights lie in main memory."""
    places = [zero.get("offload_optimizer") or {}, zero.get("offload_param") or {}]
    return any(place.get("device", "none") not in ("none", None) for place in places)
