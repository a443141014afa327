"""A JSON of PaddleMIX's `supervised_finetune.py` as a recipe of one train stage.

What the JSON leaves out has PaddleNLP's default. `freeze_include` and `freeze_exclude` are
patterns over the names of weights, all of which are known: what is left learns. With `lora`
nothing but the adapters learns there, whatever the patterns say.

Source: PaddlePaddle/PaddleMIX@6afaf05 (tools/supervised_finetune.py, trainer/freeze_utils.py,
datasets/mixtoken_dataset.py), paddlenlp 3.0.0b2 (trainer/trainer.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe, Foreign
from vlforge.recipe.adopt.paddlemix_keys import DEFAULTS, IDLE, LEFT, ONLY
from vlforge.recipe.adopt.paddlemix_names import learning
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

SYSTEM = "PaddleMIX"
STAGE = "stages.tune"
_TOLD = {"model_name_or_path", "per_device_train_batch_size", "learning_rate", "output_dir"}
_TARGETS = [".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*"]
_SCHEDULES = {
    "cosine": "paddle_cosine",
    "linear": "paddle_linear",
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup",
    "polynomial": "polynomial",
}
_STAGES = {"stage1": "zero1", "stage2": "zero2", "stage3": "zero3"}
_TURNS = [
    "<|im_start|>user\n{{user}}<|im_end|>\n",
    "<|im_start|>assistant\n{{bot}}<|im_end|>\n",
]
_TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "visualdl": "tensorboard"}
_ALL_ROWS = 1_000_000
_NAMED, _LOOKED_AT = "<img>", 1 << 20


def recognises(foreign: Foreign) -> bool:
    """Whether it is a JSON object with PaddleMIX's arguments and datasets."""
    try:
        found = json.loads(foreign.text)
    except ValueError:
        return "model_name_or_path" in foreign.text and "chatml_dataset" in foreign.text
    return isinstance(found, dict) and "dataset" in found and len(_TOLD & set(found)) >= 2


def adopt_foreign(foreign: Foreign) -> AdoptedRecipe:
    """The arguments as a recipe; every one is used, listed with a reason, or refused.

    Raises:
        RecipeError: with file and line: no JSON, unknown arguments, values that are not there.
    """
    told = _Told(foreign)
    name = Path(str(told.get("output_dir") or foreign.path.stem)).name
    out = AdoptedRecipe(SYSTEM, foreign.path, re.sub(r"[^\w.-]+", "_", name))
    if told.get("output_dir"):
        out.put("name", out.tree["name"], f"{told.origin('output_dir')}, its last part")
    out.put(f"{STAGE}.kind", "train", "supervised_finetune.py")
    _put_model_and_data(told, out)
    _put_what_learns(told, out)
    _put_budget(told, out)
    _put_optimiser(told, out)
    _put_rest(told, out)
    _put_idle(told, out)
    return out


class _Told:
    """The arguments with their places; every one is known and has a value that there is."""

    def __init__(self, foreign: Foreign):
        self.foreign = foreign
        self.given = {**_read(foreign), **{k: _value(v) for k, v in foreign.changes.items()}}
        for key, value in self.given.items():
            if key not in DEFAULTS and key not in LEFT:
                hint = nearest(key, [*DEFAULTS, *LEFT])
                raise RecipeError(f"{self.where(key)}: unknown argument {key!r}{hint}")
            allowed, remedy = ONLY.get(key, ((value,), ""))
            if value not in allowed:
                raise self.wrong(key, remedy)

    def get(self, key: str) -> Any:
        """The value, by default PaddleNLP's."""
        value = self.given.get(key)
        return DEFAULTS.get(key) if value is None else value

    def number(self, key: str, *kinds: type) -> Any:
        """A number; a whole one where `kinds` has no float.

        Raises:
            RecipeError: it is none.
        """
        value = self.get(key)
        if isinstance(value, str):
            value = _value(value)
        if type(value) is int and float in kinds:
            return float(value)
        if type(value) is float and value.is_integer() and float not in kinds:
            return int(value)
        if type(value) not in kinds:
            raise self.wrong(key, "give a number" if float in kinds else "give a whole number")
        return value

    def truth(self, key: str) -> bool:
        """True or false.

        Raises:
            RecipeError: it is neither.
        """
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "give true or false")
        return value

    def where(self, key: str) -> str:
        """`file:line` of an argument."""
        if key in self.foreign.changes:
            return "command line"
        found = re.search(rf'"{re.escape(key)}"\s*:', self.foreign.text)
        line = self.foreign.text.count("\n", 0, found.start()) + 1 if found else 1
        return self.foreign.where(line)

    def origin(self, key: str) -> str:
        """Where a setting came from."""
        is_given = self.given.get(key) is not None
        return f"{self.where(key)} {key}" if is_given else f"default of PaddleNLP, {key}"

    def wrong(self, key: str, remedy: str) -> RecipeError:
        """A value that cannot be, with its place."""
        return RecipeError(f"{self.where(key)}: {key} is {self.get(key)!r}; {remedy}")


def _read(foreign: Foreign) -> dict[str, Any]:
    try:
        found = json.loads(foreign.text)
    except json.JSONDecodeError as error:
        place = foreign.where(error.lineno)
        raise RecipeError(f"{place}: no valid JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise RecipeError(f"{foreign.where(1)}: arguments are a JSON object, this is a list")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _put_model_and_data(told: _Told, out: AdoptedRecipe) -> None:
    model = told.get("model_name_or_path")
    if not isinstance(model, str) or not model:
        raise RecipeError(f"{told.where('model_name_or_path')}: model_name_or_path is missing")
    out.put(f"{STAGE}.model", model, told.origin("model_name_or_path"))
    datasets = told.get("dataset")
    if not isinstance(datasets, dict) or not datasets.get("train"):
        raise RecipeError(f"{told.where('dataset')}: dataset has no `train`; name a data file")
    files = _files(told, datasets["train"])
    for name in files:
        _refuse_named_pictures(Path(name))
    shown: Any = files[0] if len(files) == 1 else files
    out.put(f"{STAGE}.data", shown, f"{told.where('data_files')} dataset.train data_files")
    out.put(f"{STAGE}.template", "mgen_vl", _template_origin(told, datasets["train"]))
    out.note(
        "each row is trained with its picture; the contest's baseline lost it, for want of "
        "<img> in its text (`compat: mgen-vl` gives its ids)"
    )


def _files(told: _Told, entries: Any) -> list[str]:
    """The data files of datasets.

    Raises:
        RecipeError: another kind of dataset, or none.
    """
    found: list[str] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if name != "chatml_dataset":
            raise RecipeError(
                f"{told.where('dataset')}: dataset {name!r} is not read; chatml_dataset is, and "
                "`vlforge convert` writes it (--to chatml_paddle)"
            )
        files = entry.get("data_files")
        files = [files] if isinstance(files, str) else files
        if not files or not all(isinstance(one, str) for one in files):
            raise RecipeError(f"{told.where('dataset')}: chatml_dataset without data_files")
        found += files
    return found


def _refuse_named_pictures(file: Path) -> None:
    """Rows of Qwen-VL's that name their pictures within the text, where they are words here.

    Raises:
        RecipeError: the first rows do so.
    """
    try:
        with file.open(encoding="utf-8") as rows:
            begins = rows.read(_LOOKED_AT)
    except (OSError, UnicodeDecodeError):
        return  # the stage says what is wrong with it
    if _NAMED in begins:
        line = begins.count("\n", 0, begins.index(_NAMED)) + 1
        raise RecipeError(
            f"{file}:{line}: a conversation names its picture within the text ({_NAMED}), where it "
            "would be words and no picture; give it as base64 under `image`, as convert_labels does"
        )


def _template_origin(told: _Told, entries: Any) -> str:
    """Where the words of a conversation came from.

    Raises:
        RecipeError: a template file whose words are others than ChatML's.
    """
    named = [entry.get("chat_template") for entry in entries if isinstance(entry, dict)]
    where = f"{told.where('chat_template')} chat_template"
    for name in dict.fromkeys(one for one in named if one):
        try:
            turns = json.loads(Path(name).read_text(encoding="utf-8"))["conversation"]
        except FileNotFoundError:
            where += ", not there yet: ChatML as published"
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{name}: no chat template ({error})") from None
        if turns != _TURNS:
            raise RecipeError(
                f"{name}: conversation is {turns!r}; only ChatML with {{{{user}}}} and "
                "{{bot}} is read: write the rows in it, or train with another template"
            )
    return where if any(named) else f"{told.where('dataset')} without chat_template: ChatML"


def _put_what_learns(told: _Told, out: AdoptedRecipe) -> None:
    include, exclude = (_patterns(told, key) for key in ("freeze_include", "freeze_exclude"))
    keys = [key for key in ("freeze_include", "freeze_exclude") if told.given.get(key)]
    if not told.truth("lora"):
        out.put(
            f"{STAGE}.train", learning(include, exclude),
            " and ".join(map(told.origin, keys)) or "lora is false and nothing is frozen",
        )  # fmt: skip
        for key in ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"):
            if key in told.given:
                out.leave(key, told.given[key], told.where(key), "lora is false")
        return
    out.put(f"{STAGE}.train", ["language"], f"{told.origin('lora')}: the adapters alone learn")
    for key in keys:
        why = "with lora nothing but the adapters learns, the resampler neither"
        out.leave(key, told.given[key], told.where(key), why)
    targets = told.get("lora_target_modules")
    if not isinstance(targets, list | str) or not targets:
        raise RecipeError(f"{told.where('lora')}: lora needs lora_target_modules")
    targets = [targets] if isinstance(targets, str) else targets
    ours: Any = [one.replace("transformer.llm.", "transformer.") for one in targets]
    out.put(f"{STAGE}.lora.rank", told.number("lora_rank", int), told.origin("lora_rank"))
    out.put(f"{STAGE}.lora.alpha", told.number("lora_alpha", int, float), told.origin("lora_alpha"))
    out.put(
        f"{STAGE}.lora.dropout", told.number("lora_dropout", float), told.origin("lora_dropout")
    )
    ours = "ad_captions" if sorted(targets) == sorted(_TARGETS) else ours
    out.put(f"{STAGE}.lora.targets", ours, told.origin("lora_target_modules"))


def _patterns(told: _Told, key: str) -> list[str]:
    found = told.get(key) or []
    found = [found] if isinstance(found, str) else found
    if not all(isinstance(one, str) for one in found):
        raise told.wrong(key, 'give patterns, such as ["*visual*"]')
    return list(found)


def _put_budget(told: _Told, out: AdoptedRecipe) -> None:
    steps = told.number("max_steps", int)
    if steps > 0:
        out.put(f"{STAGE}.steps", steps, told.origin("max_steps"))
        if "num_train_epochs" in told.given:
            place = told.where("num_train_epochs")
            out.leave("num_train_epochs", told.given["num_train_epochs"], place, "max_steps counts")
    else:
        epochs = told.number("num_train_epochs", float)
        shown = int(epochs) if epochs.is_integer() else epochs
        out.put(f"{STAGE}.epochs", shown, told.origin("num_train_epochs"))
    micro = told.number("per_device_train_batch_size", int)
    passes = told.number("gradient_accumulation_steps", int)
    why = "per_device_train_batch_size x gradient_accumulation_steps x processes"
    out.put(f"{STAGE}.batch", "auto", why)
    out.put(f"{STAGE}.micro_batch", micro, told.origin("per_device_train_batch_size"))
    parts = _parts(told)
    if passes % parts:
        raise told.wrong(
            "gradient_accumulation_steps",
            f"give a multiple of {parts}, the processes that share a row "
            "(tensor_parallel_degree x pipeline_parallel_degree)",
        )
    shared = f", over the {parts} processes that share a row there" if parts > 1 else ""
    origin = told.origin("gradient_accumulation_steps") + shared
    out.put(f"{STAGE}.accumulation", passes // parts, origin)
    why = "the mean of each pass, as there; tokens: the same however a batch is cut"
    out.put(f"{STAGE}.loss_mean", "micro_batches", why)
    length = told.number("max_length", int)
    out.put(f"{STAGE}.max_length", length, told.origin("max_length"))
    if told.truth("mixtoken"):
        out.put(f"{STAGE}.pack", "isolated", told.origin("mixtoken"))
        out.put(f"{STAGE}.pack_length", length, told.origin("max_length"))
        out.note(
            f"mixtoken: each of the {micro * passes} rows of a step is there a pack of as many "
            f"samples as {length} tokens hold; here batches count samples. Raise micro_batch "
            "(and lower accumulation) to what a pack holds"
        )


def _parts(told: _Told) -> int:
    """Processes that hold one copy of the model together."""
    keys = ("tensor_parallel_degree", "pipeline_parallel_degree")
    tensor, pipeline = (max(1, int(told.number(key, int))) for key in keys)
    return tensor * pipeline


def _put_optimiser(told: _Told, out: AdoptedRecipe) -> None:
    at = f"{STAGE}.optimiser"
    out.put(f"{at}.lr", told.number("learning_rate", float), told.origin("learning_rate"))
    name = str(told.get("lr_scheduler_type")).lower()
    if name not in _SCHEDULES:
        hint = nearest(name, _SCHEDULES) or f"; known: {', '.join(_SCHEDULES)}"
        raise told.wrong("lr_scheduler_type", f"it is not there{hint}")
    out.put(f"{at}.schedule", _SCHEDULES[name], told.origin("lr_scheduler_type"))
    warmup = told.number("warmup_steps", int)
    if warmup > 0:
        out.put(f"{at}.warmup_steps", warmup, told.origin("warmup_steps"))
        if "warmup_ratio" in told.given:
            ratio, place = told.given["warmup_ratio"], told.where("warmup_ratio")
            out.leave("warmup_ratio", ratio, place, "warmup_steps counts")
    else:
        ratio = told.number("warmup_ratio", float)
        out.put(f"{at}.warmup_ratio", ratio, told.origin("warmup_ratio"))
    if name == "polynomial":
        out.put(f"{at}.min_lr", told.number("lr_end", float), told.origin("lr_end"))
        out.put(f"{at}.power", told.number("power", float), told.origin("power"))
    if name == "cosine" and told.number("num_cycles", float) != DEFAULTS["num_cycles"]:
        out.put(f"{at}.cycles", told.number("num_cycles", float), told.origin("num_cycles"))
    decay = told.number("weight_decay", float)
    out.put(f"{at}.weight_decay", decay, told.origin("weight_decay"))
    betas = [told.number(key, float) for key in ("adam_beta1", "adam_beta2")]
    out.put(f"{at}.betas", betas, told.origin("adam_beta2"))
    for ours, theirs in (("eps", "adam_epsilon"), ("max_grad_norm", "max_grad_norm")):
        if theirs in told.given:
            out.put(f"{at}.{ours}", told.number(theirs, float), told.origin(theirs))
    out.put(f"{at}.groups", "paddle", "PaddleNLP's rule of what decays")


def _put_rest(told: _Told, out: AdoptedRecipe) -> None:
    _put_precision(told, out)
    _put_parallel(told, out)
    _put_saving(told, out)
    _put_held_out(told, out)
    if told.truth("recompute"):
        out.put(f"{STAGE}.checkpointing", ["vision", "language"], told.origin("recompute"))
    wanted = told.get("report_to")
    named = [wanted] if isinstance(wanted, str) else list(wanted or [])
    trackers = [_TRACKERS[one] for one in named if one in _TRACKERS]
    if trackers:
        out.put(f"{STAGE}.trackers", trackers, told.origin("report_to"))
    elif named:
        out.leave("report_to", wanted, told.where("report_to"), "every step is logged")
    out.put(f"{STAGE}.seed", told.number("seed", int), told.origin("seed"))


def _put_idle(told: _Told, out: AdoptedRecipe) -> None:
    """Every argument that set nothing, with the reason."""
    words = " ".join(out.origins.values())
    named = {one.key for one in out.unused} | set(re.findall(r"\w+", words))
    for key, value in told.given.items():
        if key in LEFT:
            out.leave(key, value, told.where(key), LEFT[key] or "as it is by default")
        elif key not in named:
            why = IDLE.get(key, "off" if value in (False, None, "no") else "not needed here")
            out.leave(key, value, told.where(key), why)


def _put_precision(told: _Told, out: AdoptedRecipe) -> None:
    halves = [key for key in ("fp16", "bf16") if told.truth(key)]
    level = str(told.get("fp16_opt_level"))
    if len(halves) == 2:
        raise told.wrong("fp16", "bf16 is true, too: give one of them")
    if level not in ("O0", "O1", "O2"):
        raise told.wrong("fp16_opt_level", "give O1 or O2")
    if halves and level != "O0":
        why = "half precision, bf16 where the GPU has it"
        out.put(f"{STAGE}.precision", "auto", f"{told.origin(halves[0])}: {why}")
    else:
        out.put(f"{STAGE}.precision", "fp32", told.origin("fp16"))
    if "fp16_opt_level" in told.given:
        why = (
            "frozen weights lie in half precision; those that learn are fp32 with half products, "
            "as O2 computes with its master weights"
        )
        out.leave("fp16_opt_level", level, told.where("fp16_opt_level"), why)


def _put_parallel(told: _Told, out: AdoptedRecipe) -> None:
    degree = told.number("sharding_parallel_degree", int)
    sharding = told.get("sharding") or ""
    words = " ".join(sharding) if isinstance(sharding, list) else str(sharding)
    stage = next((one for one in words.split() if one in _STAGES), "")
    if words and not stage:
        raise told.wrong("sharding", f"give {', '.join(_STAGES)}, with offload at the end or not")
    is_sharded = bool(stage) and degree != 1
    names = ("tensor_parallel_degree", "pipeline_parallel_degree")
    shared = [key for key in names if told.number(key, int) > 1]
    if is_sharded and not shared:
        end = "_offload" if "offload" in words.split() else ""
        out.put(f"{STAGE}.parallel", f"{_STAGES[stage]}{end}", told.origin("sharding"))
    elif shared:
        why = "weights are shared out over the processes, a row stays with one"
        out.put(f"{STAGE}.parallel", "fsdp2", f"{told.origin(shared[0])}: {why}")
    for key in (*names, "sharding", "sharding_parallel_degree"):
        is_used = key in shared or (is_sharded and key.startswith("sharding"))
        if key in told.given and not is_used:
            why = "1: nothing is shared out" if key != "sharding" else "its degree is 1"
            out.leave(key, told.given[key], told.where(key), why)


def _put_saving(told: _Told, out: AdoptedRecipe) -> None:
    strategy = str(told.get("save_strategy"))
    rows = told.number("per_device_train_batch_size", int)
    rows *= told.number("gradient_accumulation_steps", int)
    if strategy == "steps":
        steps = told.number("save_steps", int)
        origin = f"{told.origin('save_steps')}, of {rows} rows"
        out.put(f"{STAGE}.save_every_samples", steps * rows, origin)
    else:
        why = {"epoch": "the end of the stage is written", "no": "the end of the stage is written"}
        if strategy not in why:
            raise told.wrong("save_strategy", "give steps, epoch or no")
        for key in ("save_strategy", "save_steps"):
            if key in told.given:
                out.leave(key, told.given[key], told.where(key), why[strategy])
    if told.get("save_total_limit") is not None:
        limit = told.number("save_total_limit", int)
        out.put(f"{STAGE}.keep_last", limit, told.origin("save_total_limit"))


def _put_held_out(told: _Told, out: AdoptedRecipe) -> None:
    strategy = str(told.get("evaluation_strategy"))
    if strategy not in ("no", "steps", "epoch"):
        raise told.wrong("evaluation_strategy", "give steps, epoch or no")
    entries = (told.get("dataset") or {}).get("eval")
    if strategy == "no" or not entries:
        return
    files = _files(told, entries)
    at = f"{STAGE}.evaluate"
    out.put(f"{at}.data", files[0] if len(files) == 1 else files,
            f"{told.where('evaluation_strategy')} dataset.eval data_files")  # fmt: skip
    most = told.number("max_evaluate_steps", int)
    each = told.number("per_device_eval_batch_size", int)
    count = most * each if most > 0 else _ALL_ROWS
    out.put(f"{at}.rows", count, told.origin("max_evaluate_steps"))
    if strategy == "steps":
        key = "eval_steps" if told.get("eval_steps") else "logging_steps"
        rows = told.number("per_device_train_batch_size", int)
        rows *= told.number("gradient_accumulation_steps", int) * told.number(key, int)
        out.put(f"{at}.every_samples", rows, told.origin(key))
    elif told.get("max_steps") <= 0 and told.number("num_train_epochs", float) > 1:
        out.note("held-out rows are looked at at the end; `evaluate.every_samples` for each epoch")
    if told.truth("load_best_model_at_end"):
        out.put(f"{STAGE}.keep_best", True, told.origin("load_best_model_at_end"))
