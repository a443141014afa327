"""Every argument of Mini-Gemini's and LLaVA's train.py, and what becomes of it here.

Names, types and defaults are those of their dataclasses and of transformers'
TrainingArguments (4.36 to 4.39); `HfArgumentParser` reads them as `read_arguments` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from vlforge.recipe.adopt.shell_words import Word, names_of
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

Kind = Literal["text", "whole", "number", "truth"]
Fate = Literal["used", "no effect", "refused"]
System = Literal["mgm", "llava"]
TRUE = ("yes", "true", "t", "y", "1")
FALSE = ("no", "false", "f", "n", "0")


class Argument(NamedTuple):
    """One argument: its type and default there, its fate here, and a remark.

    The remark of a used one is the setting that it becomes. `refused` ones are refused with a
    value other than the default. `only` is the one system that has it.
    """

    name: str
    kind: Kind
    default: Any
    fate: Fate
    remark: str
    only: System | None = None


class Given(NamedTuple):
    """An argument's value, where it stands, and whether somebody wrote it."""

    value: Any
    where: str
    is_given: bool = True


def _used(kind: Kind, text: str) -> list[Argument]:
    """`name default setting; …`: - is None, '' nothing."""
    return [Argument(name, kind, default, "used", remark, only) for name, default, remark, only in
            _rows(kind, text)]  # fmt: skip


def _idle(kind: Kind, remark: str, text: str) -> list[Argument]:
    """Names that do nothing here for one reason; `name=default`."""
    found = []
    for word in text.split():
        name, _, default = word.partition("=")
        found.append(Argument(name, kind, _read(kind, default or "-"), "no effect", remark))
    return found


def _rows(kind: Kind, text: str) -> Iterable[tuple[str, Any, str, System | None]]:
    for line in text.strip().splitlines():
        name, default, remark = line.strip().split(maxsplit=2)
        only: System | None = "mgm" if remark.endswith(" (mgm)") else None
        only = "llava" if remark.endswith(" (llava)") else only
        yield name, _read(kind, default), remark.removesuffix(f" ({only})"), only


def _read(kind: Kind, text: str) -> Any:
    if text == "-":
        return None
    if kind == "truth":
        return text == "True"
    if kind == "text":
        return text.strip("'")
    return int(text) if kind == "whole" else float(text)


_LOADER = "rows are read by the stage's own workers; no number depends on it"
_HUB = "models are folders here; nothing is downloaded or uploaded"
_LOGS = "each step is logged in metrics.jsonl"
_CHECKPOINTS = "a checkpoint is our own"
_STARTED = "who is who is found out at the start (docs/multi-node.md)"
_PRECISION = "`precision` alone says it"
_NO_EVALUATION = "their trainer is given no data to evaluate; `evaluate` of a stage does it"
_SPEED = "changes speed or memory there; ours has settings of its own (docs/training.md)"

ARGUMENTS: tuple[Argument, ...] = (
    *_used("text", """
        model_name_or_path facebook/opt-125m model.language
        version v0 template
        vision_tower - model.vision
        vision_tower_aux - model.vision_high (mgm)
        pretrain_mm_mlp_adapter - model, or model.connector_weights
        mm_projector_type linear model.connector
        mm_vision_select_feature patch model.select_feature
        mm_patch_merge_type flat model.patch_merge (llava)
        data_path - data
        image_folder - image_root
        image_aspect_ratio square image_aspect_ratio
        lora_bias none lora.bias
        lr_multi - optimiser.lr_multi (mgm)
        output_dir - the recipe's name
        optim adamw_torch optimiser.type
        lr_scheduler_type linear optimiser.schedule
        save_strategy steps save_every_samples
        deepspeed - parallel
        fsdp '' parallel
        report_to all trackers
    """),
    *_used("truth", """
        freeze_backbone False train
        tune_mm_mlp_adapter False train
        freeze_mm_mlp_adapter False train
        optimize_vision_tower False train (mgm)
        optimize_vision_tower_aux False train (mgm)
        drop_path True model.drop_path (mgm)
        image_global False model.image_global (mgm)
        mm_use_im_start_end False template
        group_by_modality_length False group
        group_by_length False group
        lora_enable False lora
        bf16 False precision
        fp16 False precision
        tf32 - tf32
        gradient_checkpointing False checkpointing
        dataloader_drop_last False drop_last
        auto_find_batch_size False micro_batch
        torch_compile False compile
    """),
    *_used("whole", """
        mm_vision_select_layer -1 model.select_layer
        image_size_aux 320 model.image_size_high (mgm)
        image_grid 1 model.image_grid (mgm)
        model_max_length 512 max_length
        bits 16 quantise
        lora_r 64 lora.rank
        lora_alpha 16 lora.alpha
        per_device_train_batch_size 8 micro_batch
        gradient_accumulation_steps 1 accumulation
        max_steps -1 steps
        warmup_steps 0 optimiser.warmup_steps
        save_total_limit - keep_last
        seed 42 seed
    """),
    *_used("number", """
        lora_dropout 0.05 lora.dropout
        mm_projector_lr - optimiser.lr_parts
        learning_rate 5e-5 optimiser.lr
        weight_decay 0.0 optimiser.weight_decay
        adam_beta1 0.9 optimiser.betas
        adam_beta2 0.999 optimiser.betas
        adam_epsilon 1e-8 optimiser.eps
        max_grad_norm 1.0 optimiser.max_grad_norm
        num_train_epochs 3.0 epochs
        warmup_ratio 0.0 optimiser.warmup_ratio
        save_steps 500 save_every_samples
    """),
    *_idle("truth", "rows are encoded once, before the stage begins", "lazy_preprocess=False"),
    *_idle("truth", "data with pictures are seen to have them", "is_multimodal=False"),
    *_idle("truth", "the token <im_patch> that it adds is never used",
           "mm_use_im_patch_token=True"),
    *_idle("text", "tiles come with LLaVA 1.6, whose training is not in this script",
           "image_grid_pinpoints"),
    *_idle("text", "the processor is the encoder's own", "image_processor"),
    *_idle("text", "their script never reads it; `weights` of `lora` goes on from an adapter",
           "lora_weight_path=''"),
    *_idle("text", "MPT's own attention", "mpt_attn_impl=triton"),
    *_idle("text", _HUB, "cache_dir hub_model_id hub_strategy=every_save hub_token "
                         "push_to_hub_model_id push_to_hub_organization push_to_hub_token"),
    *_idle("truth", _HUB, "push_to_hub=False hub_private_repo=False hub_always_push=False"),
    *_idle("truth", _LOADER, "remove_unused_columns=False dataloader_pin_memory=True "
                             "dataloader_persistent_workers=False split_batches=False "
                             "skip_memory_metrics=True ignore_data_skip=False "
                             "use_legacy_prediction_loop=False dispatch_batches=-"),
    *_idle("whole", _LOADER, "dataloader_num_workers=0 dataloader_prefetch_factor=- data_seed=-"),
    *_idle("text", _LOGS, "logging_dir log_level=passive log_level_replica=warning run_name "
                          "logging_strategy=steps"),
    *_idle("truth", _LOGS, "log_on_each_node=True logging_first_step=False "
                           "logging_nan_inf_filter=True disable_tqdm=- "
                           "include_num_input_tokens_seen=False include_tokens_per_second=False"),
    *_idle("number", _LOGS, "logging_steps=500"),
    *_idle("truth", _CHECKPOINTS, "overwrite_output_dir=False save_safetensors=True "
                                  "save_on_each_node=False save_only_model=False"),
    *_idle("text", "the same command goes on by itself", "resume_from_checkpoint"),
    *_idle("truth", _NO_EVALUATION, "do_train=False do_eval=False do_predict=False "
                                    "prediction_loss_only=False load_best_model_at_end=False "
                                    "greater_is_better=- include_inputs_for_metrics=False "
                                    "eval_do_concat_batches=True "
                                    "bf16_full_eval=False fp16_full_eval=False"),
    *_idle("text", _NO_EVALUATION, "evaluation_strategy=no eval_strategy=no "
                                   "metric_for_best_model label_names"),
    *_idle("number", _NO_EVALUATION, "eval_steps=- eval_delay=0"),
    *_idle("whole", _NO_EVALUATION, "per_device_eval_batch_size=8 eval_accumulation_steps=-"),
    *_idle("whole", _STARTED, "local_rank=-1 ddp_timeout=1800 ddp_bucket_cap_mb=- "
                              "tpu_num_cores=- past_index=-1"),
    *_idle("truth", _STARTED, "ddp_find_unused_parameters=- ddp_broadcast_buffers=- "
                              "no_cuda=False use_cpu=False use_mps_device=False "
                              "tpu_metrics_debug=False"),
    *_idle("text", _STARTED, "ddp_backend ray_scope=last debug='' mp_parameters=''"),
    *_idle("text", _PRECISION, "fp16_opt_level=O1 half_precision_backend=auto fp16_backend=auto"),
    *_idle("text", _SPEED, "torch_compile_backend torch_compile_mode torchdynamo fsdp_config "
                           "fsdp_transformer_layer_cls_to_wrap gradient_checkpointing_kwargs "
                           "accelerator_config length_column_name=length"),
    *_idle("truth", _SPEED, "jit_mode_eval=False use_ipex=False full_determinism=False"),
    *_idle("whole", _SPEED, "fsdp_min_num_params=0 torch_empty_cache_steps=-"),
    Argument("double_quant", "truth", True, "refused", "4 bits are nf4, quantised twice"),
    Argument("quant_type", "text", "nf4", "refused", "4 bits are nf4, quantised twice"),
    Argument("label_smoothing_factor", "number", 0.0, "refused", "labels are not smoothed"),
    Argument("neftune_noise_alpha", "number", None, "refused", "no noise is put on embeddings"),
    Argument("lr_scheduler_kwargs", "text", None, "refused",
             "write cycles, power, min_lr or decay_ratio of `optimiser` into the recipe"),
    Argument("optim_args", "text", None, "refused", "AdamW's own arguments are used alone"),
    Argument("adafactor", "truth", False, "refused", "the optimiser is AdamW"),
)  # fmt: skip
"""In the order: used, of no effect, refused."""

_SEVERAL = ("report_to", "label_names", "debug")
"""Arguments that take any number of words."""
_BY_NAME = {one.name: one for one in ARGUMENTS}


def arguments_of(system: System) -> dict[str, Argument]:
    """The arguments that a system's train.py has, by name."""
    return {one.name: one for one in ARGUMENTS if one.only in (None, system)}


def read_arguments(
    words: Sequence[Word], system: System, place: str, changes: Mapping[str, str] | None = None
) -> dict[str, Given]:
    """Every argument of a train.py: what the words say, else its default.

    Args:
        place: the file, for `place:LINE`.
        changes: arguments by name that come before the words.

    Raises:
        RecipeError: with file and line: an unknown argument (the nearest is named), a value
            that its type does not take, a word without an argument, or what is refused.
    """
    known = arguments_of(system)
    found = {name: Given(one.default, "", False) for name, one in known.items()}
    for name, word, argument in _pairs(words, known, place):
        told = ", ".join([f"{place}:{argument.line} --{name}", *names_of(word)])
        text = word.text
        if word.unknown:
            raise RecipeError(f"{place}:{argument.line}: --{name} is made of {word.unknown}")
        found[name] = Given(_value(known[name], text, f"{place}:{argument.line}"), told)
    for name, text in (changes or {}).items():
        if name in known:
            told = f"{name}, changed on the command line"
            found[name] = Given(_value(known[name], text, "command line"), told)
    for name, given in found.items():
        _refuse(known[name], given)
    return found


def given_words(words: Sequence[str], system: System) -> dict[str, str]:
    """The arguments that a command line gives, by their whole names; the last word counts.

    Raises:
        RecipeError: an unknown argument, or one without its value.
    """
    line = [Word(text, 1) for text in words]
    known = arguments_of(system)
    return {name: value.text for name, value, _ in _pairs(line, known, "command line")}


def _pairs(
    words: Sequence[Word], known: Mapping[str, Argument], place: str
) -> Iterable[tuple[str, Word, Word]]:
    """(name, value, the word of the name), as argparse pairs them."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.text.startswith("--"):
            said = repr(word.text) if not word.unknown else word.unknown
            raise RecipeError(f"{place}:{word.line}: {said} belongs to no --argument")
        text, equals, value = word.text.removeprefix("--").partition("=")
        name, is_off = _name(text.replace("-", "_"), known, f"{place}:{word.line}")
        if equals:
            yield name, Word(value, word.line, word.names, word.unknown), word
        elif is_off:
            yield name, Word("False", word.line), word
        elif rest and not _is_argument(rest[0]):
            value_word = rest.pop(0)
            while name in _SEVERAL and rest and not _is_argument(rest[0]):
                value_word = replace(value_word, text=f"{value_word.text} {rest.pop(0).text}")
            yield name, value_word, word
        elif known[name].kind == "truth":
            yield name, Word("True", word.line), word
        else:
            raise RecipeError(f"{place}:{word.line}: --{name} has no value")


def _is_argument(word: Word) -> bool:
    return word.text.startswith("--") and not re.fullmatch(r"-+[\d.]+", word.text)


def _name(text: str, known: Mapping[str, Argument], where: str) -> tuple[str, bool]:
    """The argument that a word means, and whether it is put off (`--no_NAME`)."""
    if text in known:
        return text, False
    off = known.get(text.removeprefix("no_"))
    if text.startswith("no_") and off is not None and off.kind == "truth":
        return off.name, True
    begun = [name for name in known if name.startswith(text)]
    if len(begun) == 1:
        return begun[0], False
    other = _BY_NAME.get(text)
    if other is not None:
        raise RecipeError(f"{where}: --{text} is {_OTHER[other.only or 'mgm']} argument alone")
    hint = f"; it could be {', '.join(begun)}" if begun else nearest(text, known)
    raise RecipeError(f"{where}: --{text} is no argument of train.py{hint}")


_OTHER = {"mgm": "Mini-Gemini's", "llava": "LLaVA's"}


def _value(one: Argument, text: str, where: str) -> Any:
    if text == "None" and one.default is None:
        return None
    if one.kind == "truth":
        if text.lower() not in (*TRUE, *FALSE):
            raise RecipeError(f"{where}: --{one.name} is {text!r}: take True or False")
        return text.lower() in TRUE
    if one.kind == "text":
        return text
    try:
        number = float(text)
    except ValueError:
        raise RecipeError(f"{where}: --{one.name} is {text!r}: take a number") from None
    if one.kind == "number":
        return number
    if number != int(number):
        raise RecipeError(f"{where}: --{one.name} is {text!r}: take a whole number")
    return int(number)


def _refuse(one: Argument, given: Given) -> None:
    if one.fate == "refused" and given.value != one.default:
        raise RecipeError(
            f"{given.where}: {given.value!r} is not possible here: {one.remark}; leave it out"
        )
