"""What becomes of each key that a configuration of XTuner's LLaVA may have.

A key that is used has no reason; others say why nothing here stands for them. `*` is an
item of a list; keys of a dataset begin with `dataset`, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SHOWN = "vlforge watch and the run's page show every step"
PROCESSES = "processes, their start and their backend are the trainer's own affair"
CODE = "no code of a model's folder is run"
READING = "readers are as many as the machine has cores for"
ASKED = "text is not written while it trains; ask the stage with vlforge chat, or name benchmarks "
ASKED += "in `evaluate`"

_MODEL: dict[str, str] = {
    "type": "", "freeze_llm": "", "freeze_visual_encoder": "", "pretrained_pth": "",
    "visual_select_layer": "", "projector_depth": "",
    "use_activation_checkpointing": "`checkpointing: auto` computes layers again where memory "
                                    "does not suffice",
    "max_position_embeddings": "",
    "llm.type": "", "llm.pretrained_model_name_or_path": "", "llm.trust_remote_code": CODE,
    "llm.torch_dtype": "`frozen_precision` is that of the products, the language model's too",
    "llm.attn_implementation": "the best attention that the machine has is taken",
    "llm.device_map": "`parallel` says how devices share a model",
    "llm.quantization_config.type": "",
    "llm.quantization_config.load_in_4bit": "", "llm.quantization_config.load_in_8bit": "",
    "llm.quantization_config.llm_int8_threshold": "is bitsandbytes' own",
    "llm.quantization_config.llm_int8_has_fp16_weight": "is bitsandbytes' own",
    "llm.quantization_config.bnb_4bit_compute_dtype": "products are in `precision`",
    "llm.quantization_config.bnb_4bit_use_double_quant": "is always so",
    "llm.quantization_config.bnb_4bit_quant_type": "",
    "visual_encoder.type": "", "visual_encoder.pretrained_model_name_or_path": "",
    "visual_encoder.trust_remote_code": CODE,
    "visual_encoder.torch_dtype": "`frozen_precision` is that of the products",
}  # fmt: skip

_LORA: dict[str, str] = {
    "type": "", "r": "", "lora_alpha": "", "lora_dropout": "", "bias": "", "target_modules": "",
    "modules_to_save": "", "use_dora": "", "use_rslora": "",
    "task_type": "is told by the model", "inference_mode": "is told by the stage",
    "fan_in_fan_out": "is told by the layers",
    "init_lora_weights": "adapters begin as peft's do",
}  # fmt: skip

_DATASET: dict[str, str] = {
    "type": "", "data_path": "", "image_folder": "", "dataset_map_fn": "", "max_length": "",
    "template_map_fn.type": "", "template_map_fn.template": "", "pad_image_to_square": "",
    "max_dataset_length": "",
    "offline_processed_text_folder": "rows are read and tokenised while it trains",
    "tokenizer": "the language model's folder has it",
    "image_processor": "the encoder's folder has it",
}  # fmt: skip

_REST: dict[str, str] = {
    "train_dataloader.batch_size": "",
    "train_dataloader.num_workers": READING, "train_dataloader.pin_memory": READING,
    "train_dataloader.persistent_workers": READING, "train_dataloader.prefetch_factor": READING,
    "train_dataloader.collate_fn": "rows are padded by the trainer",
    "train_dataloader.sampler.type": "", "train_dataloader.sampler.shuffle": "",
    "train_dataloader.sampler.length_property": "",
    "train_dataloader.sampler.per_device_batch_size": "is micro_batch times accumulation",
    "train_dataloader.sampler.mega_batch_mult": "", "train_dataloader.sampler.seed": "",
    "train_dataloader.sampler.round_up": "a last short batch is neither filled up nor left out",
    "optim_wrapper.type": "", "optim_wrapper.dtype": "", "optim_wrapper.accumulative_counts": "",
    "optim_wrapper.loss_scale": "fp16 losses are scaled dynamically",
    "optim_wrapper.use_fsdp": "is `parallel: fsdp2`",
    "optim_wrapper.clip_grad.max_norm": "", "optim_wrapper.clip_grad.norm_type": "",
    "optim_wrapper.clip_grad.error_if_nonfinite": "`guard` says what a gradient without a "
                                                  "number does",
    "optim_wrapper.optimizer.type": "", "optim_wrapper.optimizer.lr": "",
    "optim_wrapper.optimizer.betas": "", "optim_wrapper.optimizer.weight_decay": "",
    "optim_wrapper.optimizer.eps": "", "optim_wrapper.paramwise_cfg": "",
    "param_scheduler.*": "",
    "train_cfg.type": "", "train_cfg.max_epochs": "", "train_cfg.max_iters": "",
    "train_cfg.by_epoch": "", "train_cfg.val_interval": "no validation is configured",
    "custom_hooks.*": "", "default_hooks.checkpoint": "",
    "default_hooks.timer": SHOWN, "default_hooks.logger": SHOWN,
    "default_hooks.param_scheduler": "the schedule is part of the trainer",
    "default_hooks.sampler_seed": "every epoch has its own order",
    "default_hooks.runtime_info": SHOWN,
    "env_cfg": PROCESSES, "launcher": PROCESSES, "local_rank": PROCESSES,
    "visualizer": "`trackers` sends curves elsewhere", "log_level": SHOWN, "log_processor": SHOWN,
    "log_config": SHOWN,
    "load_from": "", "resume": "a stopped stage goes on when the same command comes again",
    "randomness.seed": "", "randomness.deterministic": "the same seed gives the same order",
    "randomness.diff_rank_seed": "the order does not depend on the devices",
    "work_dir": "--out names the run's folder",
    "runner_type": "there is one trainer", "default_scope": "names are looked up as they stand",
    "strategy": "deepspeed=NAME says it", "val_dataloader": "", "val_cfg": "",
    "val_evaluator": "", "test_dataloader": "", "test_cfg": "", "test_evaluator": "",
    "sequence_parallel_size": "",
}  # fmt: skip

NOTHING = "says nothing"
KEYS: Mapping[str, str] = {
    **{f"model.{key}": why for key, why in _MODEL.items()},
    **{f"model.llm_lora.{key}": why for key, why in _LORA.items()},
    **{f"model.visual_encoder_lora.{key}": why for key, why in _LORA.items()},
    **{f"dataset.{key}": why for key, why in _DATASET.items()},
    **_REST,
}
"""Every key that is known -> why nothing stands for it; empty where something does."""

SECTIONS = frozenset(key.partition(".")[0] for key in KEYS) - {"dataset"}
"""Names of the top that XTuner's runner reads."""

_DATASETS = re.compile(r"^train_dataloader\.dataset(\.datasets\.\d+)*(\.|$)")


def pattern_of(dotted: str) -> str:
    """A key as `KEYS` has it."""
    dotted = _DATASETS.sub(lambda match: f"dataset{match.group(2)}", dotted)
    return re.sub(r"\.\d+(?=\.|$)", ".*", dotted)


def reason_of(dotted: str) -> tuple[str, str] | None:
    """The shortest known key that `dotted` is or lies in, and why it is not used."""
    words = dotted.split(".")
    for count in range(1, len(words) + 1):
        head = ".".join(words[:count])
        found = KEYS.get(pattern_of(head))
        if found is not None:
            return head, found
    return None
