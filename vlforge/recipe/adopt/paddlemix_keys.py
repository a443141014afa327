"""Arguments of PaddleMIX's fine-tuning: their defaults, and why some set nothing here.

They are those of PaddleMIX's model, data and generation arguments and of PaddleNLP's trainer.
What a JSON leaves out has the default there. What is in none of these tables is unknown.

Sources: PaddlePaddle/PaddleMIX@6afaf05 (trainer/argument.py), paddlenlp 3.0.0b2
(trainer/training_args.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "model_name_or_path": None, "freeze_include": None, "freeze_exclude": None, "dataset": None,
    "mixtoken": False, "output_dir": None, "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1, "num_train_epochs": 1.0, "max_steps": -1,
    "learning_rate": 5e-5, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
    "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "warmup_ratio": 0.0, "warmup_steps": 0,
    "lr_scheduler_type": "linear", "num_cycles": 0.5, "lr_end": 1e-7, "power": 1.0,
    "max_length": 2048, "bf16": False, "fp16": False, "fp16_opt_level": "O1", "lora": False,
    "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": None,
    "save_strategy": "steps", "save_steps": 500, "save_total_limit": None,
    "evaluation_strategy": "no", "eval_steps": None, "logging_steps": 500,
    "max_evaluate_steps": -1, "per_device_eval_batch_size": 8, "load_best_model_at_end": False,
    "seed": 42, "sharding": "", "sharding_parallel_degree": -1, "tensor_parallel_degree": -1,
    "pipeline_parallel_degree": -1, "recompute": False, "report_to": None,
}  # fmt: skip
"""Arguments that set something here."""

LAUNCH = "the launcher's; here `--processes`, one for each GPU"
LOGGED = "every step is logged"
OURS = "PaddlePaddle's own way of computing it"
ELSEWHERE = "other models of PaddleMIX read it, this one does not"
STUDIO = "AI Studio's hub; weights lie in folders here"
GENERATED = "benchmarks are an `evaluate` stage, answers `vlforge predict`"
LEFT: Mapping[str, str] = {
    "overwrite_output_dir": "a run goes on where it stopped; `--fresh` begins anew",
    "do_train": "a train stage is it",
    "do_eval": "evaluation_strategy says when",
    "eval_accumulation_steps": "held-out rows need no accumulation",
    "prediction_loss_only": "held-out rows give their loss",
    "bf16_full_eval": OURS, "fp16_full_eval": OURS, "scale_loss": OURS,
    "amp_master_grad": OURS, "amp_custom_black_list": OURS, "amp_custom_white_list": OURS,
    "use_flash_attention": "the best attention that is here is taken",
    "lazy": "rows are read as they are needed",
    "lazy_data_processing": "rows are read as they are needed",
    "dataloader_num_workers": "as many threads as pictures need",
    "src_length": "max_length bounds the whole row",
    "chat_template": "each dataset names its own",
    "eval_with_do_generation": GENERATED, "save_generation_output": GENERATED,
    "top_k": GENERATED, "top_p": GENERATED,
    "logging_dir": LOGGED, "logging_strategy": LOGGED, "logging_first_step": LOGGED,
    "log_on_each_node": LOGGED, "disable_tqdm": LOGGED, "run_name": LOGGED,
    "skip_memory_metrics": "memory is always logged", "skip_profile_timer": LOGGED,
    "benchmark": "samples/s and memory are always logged",
    "device": "a GPU where there is one", "no_cuda": "a GPU where there is one",
    "local_rank": LAUNCH, "save_on_each_node": LAUNCH, "ddp_find_unused_parameters": LAUNCH,
    "distributed_dataloader": LAUNCH, "sharding_degree": "the older sharding_parallel_degree",
    "sep_parallel_degree": LAUNCH, "context_parallel_degree": LAUNCH,
    "sharding_comm_buffer_size_MB": OURS, "data_parallel_config": OURS,
    "sequence_parallel_config": OURS, "tensor_parallel_config": OURS,
    "pipeline_parallel_config": OURS, "sharding_parallel_config": OURS,
    "hybrid_parallel_topo_order": OURS, "enable_auto_parallel": OURS, "to_static": OURS,
    "auto_parallel_resume_form_hybrid_parallel": OURS, "use_expert_parallel": OURS,
    "release_grads": OURS, "flatten_param_grads": OURS, "force_reshard_pp": OURS,
    "save_sharded_model": "the model is written whole", "load_sharded_model": "by its layout",
    "unified_checkpoint": "a run's checkpoint is its own", "use_async_save": OURS,
    "unified_checkpoint_config": "a run's checkpoint is its own",
    "ignore_load_lr_and_optim": "a run's checkpoint is its own",
    "ignore_save_lr_and_optim": "a run's checkpoint is its own",
    "ignore_data_skip": "a run goes on with the row it stopped at",
    "minimum_eval_times": "evaluation_strategy says when",
    "metric_for_best_model": "the least eval_loss", "greater_is_better": "the least eval_loss",
    "past_index": ELSEWHERE, "remove_unused_columns": ELSEWHERE, "label_names": ELSEWHERE,
    "profiler_options": OURS, "warmup_start_lr": ELSEWHERE, "eta_min": ELSEWHERE,
    "lr_scheduler_name": ELSEWHERE, "task_name": ELSEWHERE, "splits": ELSEWHERE,
    "num_prefix_tokens": ELSEWHERE, "neftune_noise_alpha": "neftune is off",
    "from_aistudio": STUDIO, "save_to_aistudio": STUDIO, "aistudio_repo_id": STUDIO,
    "aistudio_repo_private": STUDIO, "aistudio_repo_license": STUDIO, "aistudio_token": STUDIO,
    "wandb_api_key": "the environment's own: WANDB_API_KEY",
    "dataloader_drop_last": "the last batch of a run is short, or `drop_last`",
    "do_predict": GENERATED, "do_export": "`vlforge convert-model` writes other layouts",
    "group_by_modality_length": ELSEWHERE, "mm_projector_lr": ELSEWHERE,
    "lora_path": "", "resume_from_checkpoint": "", "optim": "", "prefix_tuning": "",
    "neftune": "", "text_model_name_or_path": "", "skip_data_intervals": "",
}  # fmt: skip
"""Arguments that set nothing here, with the reason; without one they must be as in ONLY."""

IDLE: Mapping[str, str] = {
    "logging_steps": LOGGED,
    "per_device_eval_batch_size": "held-out rows are batched like the others",
    "eval_steps": "evaluation_strategy is not steps",
    "max_evaluate_steps": "all held-out rows are looked at",
    "warmup_steps": "0: warmup_ratio counts",
    "num_cycles": "half a wave, as the cosine has it",
    "lr_end": "of a polynomial schedule",
    "power": "of a polynomial schedule",
    "save_strategy": "steps: save_steps counts",
    "evaluation_strategy": "epoch: held-out rows are looked at, at the end",
    "load_best_model_at_end": "off: the last weights stay",
    "adam_beta1": "beside adam_beta2",
}
"""Why an argument sets nothing where it is not needed."""

ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "do_train": ((True,), "nothing would train; `vlforge predict` answers, `vlforge eval` scores"),
    "do_predict": ((False,), "`vlforge predict` answers every row of a file"),
    "optim": (("adamw",), "there is adamw"),
    "prefix_tuning": ((False,), "there is LoRA"),
    "neftune": ((False,), "it is not there"),
    "group_by_modality_length": ((False,), "set `group: length` in the recipe"),
    "lora_path": ((None, ""), "merge it first (vlforge merge) and name the merged model"),
    "resume_from_checkpoint": (
        (None, "", False),
        "a run of ours goes on by itself; begin from the merged model, or leave it out",
    ),
    "text_model_name_or_path": ((None, ""), "the model's folder has its tokenizer"),
    "skip_data_intervals": ((None, [], ""), "leave rows out of the data"),
    "sep_parallel_degree": ((-1, 0, 1), "it is not there; tensor_parallel_degree is taken"),
    "context_parallel_degree": ((-1, 0, 1), "it is not there; tensor_parallel_degree is taken"),
    "from_aistudio": ((False,), "fetch the model first and name its folder"),
}
"""The values that there are, and what to do instead of another."""
