"""A training configuration of MiniGPT-4 as a recipe of one stage; what its demo loads, as words.

Paths are as MiniGPT-4 resolves them: beside the working folder. Where a default file still
holds a placeholder, the place is taken where `vlforge fetch minigpt4 .` puts the file.

Source: Vision-CAIR/MiniGPT-4@22d8888 (mini_gpt4.py, runner_base.py, builders, demo.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.minigpt4_config import Layered, leaves, read_layers
from vlforge.recipe.adopt.minigpt4_keys import LEFT, MUST_BE, TOP, USED
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

SYSTEM = "MiniGPT-4"
_HEADS = re.compile(r"^(model|datasets|run)\s*:", re.MULTILINE)
_ARCH = re.compile(r"(^|[\s{,])arch\s*:\s*['\"]?mini_?gpt", re.MULTILINE)
_PLACEHOLDERS = ("/path/to/", "please set this value", "path/to/")
_FETCHED = {
    "model.llama_model": "weights/vicuna-7b",
    "datasets.laion.build_info.storage": "laion_dataset/{00000..10488}.tar",
    "datasets.cc_sbu.build_info.storage": "cc_sbu_dataset/{00000..01255}.tar",
    "datasets.cc_sbu_align.build_info.storage": "cc_sbu_align",
}
"""What stands in for a placeholder."""
_EVA, _QFORMER = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"
_WORDS = {
    ("", "\n"): "minigpt4_pretrain",
    ("###Human: {} ###Assistant: ", "###"): "minigpt4",
    ("USER: {} ASSISTANT: ", "</s>"): "minigpt4_v1",
}
"""(prompt_template, end_sym) of the templates that there are."""
_CROPS = {"blip2_image_train": True, "blip2_image_eval": False}
_SIDE = 224
_WHY_LONE = "one dataset: there is nothing to weigh"


def recognises(foreign: Foreign) -> bool:
    """Whether it is a configuration of MiniGPT-4: its three parts and an `arch` of its own."""
    return set(_HEADS.findall(foreign.text)) >= {"model", "run"} and bool(
        _ARCH.search(foreign.text)
    )


def adopt_foreign(foreign: Foreign) -> AdoptedRecipe:
    """A stage's configuration as a recipe; every key is used, listed with a reason, or refused.

    Raises:
        RecipeError: with file and line: unknown keys and values that are not there. A
            configuration that trains nothing names the command that shows its model.
    """
    layers = read_layers(foreign.path, foreign.changes)
    given = layers.given
    if "init_lr" not in (layers.get("run") or {}):
        words = shlex.join(("vlforge", *demo_words(layers)))
        raise RecipeError(
            f"{foreign.path}: trains nothing (run has no init_lr): it is for the demo, which is "
            f"here: {words}"
        )
    name = Path(str(layers.get("run.output_dir") or foreign.path.stem)).name
    out = AdoptedRecipe(SYSTEM, foreign.path, re.sub(r"[^\w.-]+", "_", name))
    if layers.get("run.output_dir"):
        out.put("name", out.tree["name"], f"{layers.origin('run.output_dir')}, its last part")
    is_second = "cc_sbu_align" in given["datasets"]
    stage = _Stage(layers, out, "instruct" if is_second else "align")
    stage.put("kind", "train", "train.py")
    _put_model(stage)
    _put_data(stage)
    _put_words(stage)
    _put_budget(stage)
    _put_optimiser(stage)
    _put_rest(stage)
    _put_left(stage)
    return out


class _Stage:
    """The stage in the making, and which keys it took."""

    def __init__(self, layers: Layered, out: AdoptedRecipe, name: str):
        self.layers, self.out, self.name = layers, out, name
        self.taken: set[str] = set()

    def put(self, ours: str, value: Any, origin: str) -> None:
        """One setting of the stage."""
        self.out.put(f"stages.{self.name}.{ours}", value, origin)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which then counts as used."""
        self.taken.add(key)
        return self.layers.get(key, default)

    def copy(self, ours: str, key: str, *kinds: type) -> Any:
        """The value of a key as one setting, if it is there; of one of `kinds`.

        Raises:
            RecipeError: it is of another kind.
        """
        value = self.take(key)
        if value is None:
            return None
        value = self.checked(key, value, *kinds)
        self.put(ours, value, self.layers.origin(key))
        return value

    def checked(self, key: str, value: Any, *kinds: type) -> Any:
        """`value`, made a number where one is wanted.

        Raises:
            RecipeError: it is of another kind.
        """
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) not in kinds:
            wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
            raise self.wrong(key, f"give {wanted[kinds[0]]}")
        return value

    def wrong(self, key: str, remedy: str) -> RecipeError:
        """A value that cannot be, with its place."""
        value = self.layers.get(key)
        return RecipeError(f"{self.layers.where(key)}: {key} is {value!r}; {remedy}")


def _put_model(stage: _Stage) -> None:
    layers = stage.layers
    stage.taken |= {"model.llama_model", "model.q_former_model", "model.ckpt"}
    ckpt = layers.get("model.ckpt") or ""
    resumed = stage.take("run.resume_ckpt_path") or ""
    whole = str(resumed or ckpt)
    key = "run.resume_ckpt_path" if resumed else "model.ckpt"
    if whole and (Path(whole) / "config.json").is_file():
        stage.put("model", whole, f"{layers.origin(key)}, the folder of a stage")
        return
    _check_size(stage)
    stage.put("model.family", "minigpt4", layers.origin("model.arch"))
    vision, origin = _encoder()
    stage.put("model.vision", vision, origin)
    stage.put("model.qformer", *_qformer(layers))
    stage.put("model.language", *_filled(layers, "model.llama_model"))
    if not whole:
        return
    stage.put("model.connector_weights", whole, layers.origin(key))
    if _is_placeholder(whole):
        stage.out.note(
            f"{key} ({layers.where(key)}) is the published placeholder: put the first stage's "
            "checkpoint, or its folder in runs/, into model.connector_weights"
        )
    if resumed:
        stage.out.note(
            "run.resume_ckpt_path gives its weights; the optimiser and the epoch of MiniGPT-4's "
            "own run begin anew. A run of ours goes on by itself when the command comes again"
        )


def _check_size(stage: _Stage) -> None:
    """Pictures as large as the encoder's file says, or `minigpt4.json` beside it.

    Raises:
        RecipeError: another size is asked for.
    """
    beside = Path(_encoder()[0]).with_name("minigpt4.json")
    try:
        told = json.loads(beside.read_text(encoding="utf-8")).get("image_size", _SIDE)
    except (OSError, ValueError, AttributeError):
        told = _SIDE
    keys = [
        f"datasets.{name}.vis_processor.train.image_size" for name in stage.layers.get("datasets")
    ]
    for key in ("model.image_size", *keys):
        if stage.layers.get(key, told) not in (told, _SIDE):
            remedy = f"the encoder takes {told}; `image_size` in {beside} makes it take others"
            raise stage.wrong(key, remedy)


def _encoder() -> tuple[str, str]:
    """EVA's file, which MiniGPT-4 downloads by itself."""
    return _downloaded(_EVA, "default of MiniGPT-4, model.vit_model")


def _qformer(layers: Layered) -> tuple[str, str]:
    given = layers.get("model.q_former_model")
    if given and not str(given).startswith(("http://", "https://")):
        return str(given), layers.origin("model.q_former_model")
    name = str(given).rpartition("/")[2] if given else _QFORMER
    return _downloaded(name, layers.origin("model.q_former_model"))


def _downloaded(name: str, origin: str) -> tuple[str, str]:
    """A file that MiniGPT-4 puts into torch's cache: there, or where fetch puts it."""
    fetched = Path("weights") / name
    home = os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"
    cached = Path(home) / "hub" / "checkpoints" / name
    if not fetched.exists() and cached.is_file():
        return str(cached), f"{origin}; in torch's cache, where MiniGPT-4 puts it"
    return str(fetched), f"{origin}; where `vlforge fetch minigpt4 .` puts it"


def _filled(layers: Layered, key: str) -> tuple[str, str]:
    """A path, and its origin; in place of a placeholder where fetch puts it."""
    value = str(layers.get(key) or "")
    if key in _FETCHED and (not value or _is_placeholder(value)):
        return _FETCHED[key], f"{layers.origin(key)}, a placeholder: where the data and weights go"
    return value, layers.origin(key)


def _is_placeholder(value: str) -> bool:
    return value.startswith(_PLACEHOLDERS)


def _put_data(stage: _Stage) -> None:
    layers = stage.layers
    names = list(layers.get("datasets"))
    ratios = [stage.take(f"datasets.{name}.sample_ratio") for name in names]
    prompts = stage.take("model.prompt_path") or ""
    crops: dict[bool, str] = {}
    stage.put("data", [{} for _ in names], "datasets")
    for number, name in enumerate(names):
        here, at = f"data.{number}", f"datasets.{name}"
        stage.taken.add(f"{at}.build_info.storage")
        stage.put(f"{here}.path", *_filled(layers, f"{at}.build_info.storage"))
        if len(names) > 1:
            _put_weight(stage, here, f"{at}.sample_ratio", ratios, number)
        elif ratios[0] is not None:
            place = layers.where(f"{at}.sample_ratio")
            stage.out.leave(f"{at}.sample_ratio", ratios[0], place, _WHY_LONE)
        _put_captions(stage, here, at, name)
        if prompts:
            stage.put(f"{here}.prompts", prompts, layers.origin("model.prompt_path"))
        crops.setdefault(_crops(stage, f"{at}.vis_processor.train.name"), at)
    if len(names) > 1:
        stage.put("draw", "per_batch", "MiniGPT-4 draws a dataset for each batch")
    if len(crops) > 1:
        raise RecipeError(
            f"{stage.layers.where(crops[True])}: {crops[True]} has blip2_image_train and "
            f"{crops[False]} blip2_image_eval; a stage cuts all pictures at random or none"
        )
    key = f"{next(iter(crops.values()))}.vis_processor.train.name"
    stage.put("random_crop", next(iter(crops)), layers.origin(key))


def _put_weight(stage: _Stage, here: str, key: str, ratios: list[Any], number: int) -> None:
    layers, ratio = stage.layers, ratios[number]
    if ratios[0] is None:
        stage.put(f"{here}.weight", 1, "MiniGPT-4 draws alike: the first has no sample_ratio")
        if ratio is not None:
            stage.out.leave(key, ratio, layers.where(key), "not read: the first dataset has none")
        return
    if ratio is None:
        dataset = key.rpartition(".")[0]
        raise RecipeError(
            f"{layers.where(dataset)}: {dataset} has no sample_ratio, and the first dataset has "
            "one; give it to all or to none"
        )
    stage.checked(key, ratio, float)
    stage.put(f"{here}.weight", ratio, layers.origin(key))


def _put_captions(stage: _Stage, here: str, at: str, name: str) -> None:
    key = f"{at}.text_processor.train.name"
    processor = stage.take(key)
    if processor not in (None, "blip_caption"):
        raise stage.wrong(key, "there is blip_caption")
    if name == "cc_sbu_align":
        if processor:
            place = stage.layers.where(key)
            why = "MiniGPT-4 keeps this dataset's captions as they are"
            stage.out.leave(key, processor, place, why)
    elif processor:
        stage.put(f"{here}.captions", "blip", stage.layers.origin(key))


def _crops(stage: _Stage, key: str) -> bool:
    name = stage.take(key)
    if name is None:
        raise RecipeError(
            f"{stage.layers.where(key)}: {key} is missing; give blip2_image_train, "
            "or blip2_image_eval"
        )
    if name not in _CROPS:
        raise stage.wrong(key, f"there are {' and '.join(_CROPS)}{nearest(str(name), _CROPS)}")
    return _CROPS[name]


def _put_words(stage: _Stage) -> None:
    layers = stage.layers
    stage.taken |= {"model.prompt_template", "model.end_sym"}
    key = "model.prompt_template" if layers.get("model.prompt_path") else "model.end_sym"
    stage.put("template", template_of(layers), layers.origin(key))
    stage.put("compat", "minigpt4", "max_txt_len counts the caption alone, and cuts its end sign")
    length = stage.take("model.max_txt_len", 32)
    stage.put(
        "max_length", stage.checked("model.max_txt_len", length, int),
        layers.origin("model.max_txt_len"),
    )  # fmt: skip


def template_of(layers: Layered) -> str:
    """The template that `prompt_template` and `end_sym` describe; prompts bring the former.

    Raises:
        RecipeError: there is none.
    """
    prompt = layers.get("model.prompt_template", "") if layers.get("model.prompt_path") else ""
    end = layers.get("model.end_sym", "\n")
    if (prompt, end) in _WORDS:
        return _WORDS[prompt, end]
    known = "; ".join(f"{name}: {words!r} and {sign!r}" for (words, sign), name in _WORDS.items())
    raise RecipeError(
        f"{layers.where('model.end_sym')}: prompt_template {prompt!r} with end_sym {end!r} is no "
        f"template here; known: {known}"
    )


def _put_budget(stage: _Stage) -> None:
    layers = stage.layers
    parts = [
        (not stage.layers.get(f"model.{key}", True), key, pattern)
        for key, pattern in (
            ("freeze_vit", r"vision\.(eva|ln_vision)\."),
            ("freeze_qformer", r"vision\.(qformer|query_tokens)"),
        )
    ]
    learns = [pattern for is_on, _, pattern in parts if is_on]
    which = ", ".join(f"model.{key}" for is_on, key, _ in parts if is_on)
    if learns:
        stage.put("train", ["connector", *learns], f"{which} false: these learn, too")
    else:
        stage.put("train", stage.name, "freeze_vit, freeze_qformer: llama_proj alone learns")
    stage.copy("epochs", "run.max_epoch", int)
    if stage.copy("iters_per_epoch", "run.iters_per_epoch", int) is None:
        if stage.name == "align":
            stage.put("iters_per_epoch", 10_000, "default of MiniGPT-4 for streams of tar files")
        else:
            stage.put("drop_last", True, "an epoch of MiniGPT-4 has whole batches only")
    key = _batch_key(stage)
    micro = stage.checked(key, layers.get(key), int)
    stage.put("batch", "auto", "micro_batch x accumulation x processes, as torchrun has it")
    stage.put("micro_batch", micro, f"{layers.origin(key)}, of each process")
    passes = stage.take("run.accum_grad_iters", 1)
    if passes != 1:
        stage.copy("accumulation", "run.accum_grad_iters", int)
    iters = stage.out.get(f"stages.{stage.name}.iters_per_epoch")
    if iters:
        stage.put("save_every_samples", iters * micro, "a checkpoint an epoch, of one process")
    stage.put("export", "both", "checkpoint_N.pth beside the model, as train.py leaves it")
    stage.out.note(f"each process has batches of {micro}: `--processes 4` trains with {4 * micro}")


def _batch_key(stage: _Stage) -> str:
    """Where the batch size stands: in `run`, or alike in every dataset (later releases)."""
    keys = [f"datasets.{name}.batch_size" for name in stage.layers.get("datasets")]
    sizes = [stage.take(key) for key in keys]
    if any(size is not None for size in sizes):
        if len(set(sizes)) > 1:
            at = next(i for i, size in enumerate(sizes) if size != sizes[0])
            raise stage.wrong(keys[at], f"the first dataset has {sizes[0]}: give all the same")
        stage.taken.add("run.batch_size_train")
        return keys[0]
    if stage.take("run.batch_size_train") is None:
        where = stage.layers.where("run.batch_size_train")
        raise RecipeError(f"{where}: run.batch_size_train is missing; give the rows of a process")
    return "run.batch_size_train"


def _put_optimiser(stage: _Stage) -> None:
    layers = stage.layers
    name = stage.take("run.lr_sched")
    if name != "linear_warmup_cosine_lr":
        raise stage.wrong("run.lr_sched", "there is linear_warmup_cosine_lr")
    stage.copy("optimiser.lr", "run.init_lr", float)
    stage.copy("optimiser.min_lr", "run.min_lr", float)
    warmup = stage.take("run.warmup_lr", -1)
    stage.put(
        "optimiser.warmup_lr", stage.checked("run.warmup_lr", warmup, float),
        layers.origin("run.warmup_lr"),
    )  # fmt: skip
    steps = stage.take("run.warmup_steps", 0)
    stage.put(
        "optimiser.warmup_steps", stage.checked("run.warmup_steps", steps, int),
        layers.origin("run.warmup_steps"),
    )  # fmt: skip
    why = "its fall where warmup ends is kept; `cosine` mends it"
    stage.put("optimiser.schedule", "lavis", f"{layers.origin('run.lr_sched')}; {why}")
    stage.copy("optimiser.weight_decay", "run.weight_decay", float)
    beta = stage.take("run.beta2", 0.999)
    if beta != 0.999:
        second = stage.checked("run.beta2", beta, float)
        stage.put("optimiser.betas", [0.9, second], layers.origin("run.beta2"))
    stage.put("optimiser.groups", "lavis", "MiniGPT-4's rule of what decays")
    stage.put("optimiser.max_grad_norm", 0.0, "MiniGPT-4 clips nothing")
    stage.put("loss_mean", "lavis", "MiniGPT-4 adds accumulated losses up undivided")


def _put_rest(stage: _Stage) -> None:
    layers = stage.layers
    if stage.take("run.amp", False):
        why = "bf16 where the GPU has it; fp16, as published: `precision: fp16`"
        stage.put("precision", "auto", f"{layers.origin('run.amp')}: {why}")
    else:
        stage.put("precision", "fp32", layers.origin("run.amp"))
    if layers.get("model.vit_precision") == "fp32":
        stage.put("frozen_precision", "fp32", layers.origin("model.vit_precision"))
    if stage.take("model.low_resource", False):
        stage.put("quantise", "8bit", layers.origin("model.low_resource"))
    if stage.take("model.use_grad_checkpoint", False):
        stage.put("checkpointing", ["vision"], layers.origin("model.use_grad_checkpoint"))
    if stage.take("run.wandb_log", False):
        stage.put("trackers", ["wandb"], layers.origin("run.wandb_log"))
    stage.put("export", "both", "checkpoint_N.pth with what learned, beside the model")
    stage.taken.add("run.output_dir")
    stage.copy("seed", "run.seed", int)


def _put_left(stage: _Stage) -> None:
    """Every key that the file or the options name and nothing took, with the reason.

    Raises:
        RecipeError: one that is not known, or a value that would train something else.
    """
    named: dict[str, Any] = {".".join(keys): value for keys, value in leaves(stage.layers.given)}
    named |= {key: stage.layers.get(key) for key in stage.layers.options}
    for key, value in named.items():
        pattern = next((one for one in LEFT if fnmatchcase(key, one)), None)
        allowed = MUST_BE.get(pattern or "")
        if allowed is not None and (
            value not in allowed or isinstance(value, bool) != (isinstance(allowed[0], bool))
        ):
            raise stage.wrong(key, f"only {allowed[0]!r} is there")
        if key in stage.taken or value is None:
            continue
        if pattern is None:
            shown = [one.replace("*", "NAME") for one in (*USED, *LEFT)]
            last = key.rpartition(".")[2]
            hint = nearest(key, [*shown, *TOP]) or nearest(
                last, [k.rpartition(".")[2] for k in USED]
            )
            raise RecipeError(f"{stage.layers.where(key)}: unknown key {key!r}{hint}")
        stage.out.leave(key, value, stage.layers.where(key), LEFT[pattern])


def demo_words(layers: Layered, device: str = "auto") -> tuple[str, ...]:
    """`web MODEL …`: what shows the model that a configuration describes, as demo.py does.

    Raises:
        RecipeError: no checkpoint is named.
    """
    ckpt = str(layers.get("model.ckpt") or "")
    if not ckpt or _is_placeholder(ckpt):
        raise RecipeError(
            f"{layers.where('model.ckpt')}: model.ckpt is {ckpt!r}; name the checkpoint of a "
            "stage (prerained_minigpt4_7b.pth), here or with --options model.ckpt=FILE"
        )
    words = ["web", ckpt]
    if not (Path(ckpt) / "config.json").is_file():
        words += ["--vision", _encoder()[0], "--qformer", _qformer(layers)[0]]
        words += ["--language", _filled(layers, "model.llama_model")[0]]
        if layers.get("model.end_sym") == "</s>":
            words += ["--template", "minigpt4_v1_chat"]
    if device != "auto":
        words += ["--device", device]
    return (*words, *(["--low-resource"] if layers.get("model.low_resource") else []))


def demo_layers(path: Path, options: Mapping[str, str]) -> Layered:
    """The configuration that demo.py is given, merged.

    Raises:
        RecipeError: as `read_layers`.
    """
    return read_layers(path, options)
