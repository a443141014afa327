"""Keys of MiniGPT-4's configuration that set nothing here, with the reason.

A key stands as its dotted name, `*` for a dataset. What is neither used nor here is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

LAUNCH = "torchrun sets it there; here `--processes`, one for each GPU"
LEFT: Mapping[str, str] = {
    "model.arch": "family: minigpt4 is it",
    "model.model_type": "it chooses the default file, which is read",
    "model.image_size": "read off the encoder's file",
    "model.drop_path_rate": "0, and the encoder stays frozen",
    "model.num_query_token": "read off the Q-Former's file",
    "model.vit_model": "the one encoder that there is",
    "model.vit_precision": "frozen parts are held in the products' precision (frozen_precision)",
    "model.device_8bit": "the process's own device; `demo.py --gpu-id` is `vlforge web --device`",
    "model.prompt": "not read by MiniGPT-4",
    "model.max_context_len": "positions that the language model has bound a row",
    "model.freeze_vit": "what does not learn is frozen: `train` has the parts that learn",
    "model.freeze_qformer": "what does not learn is frozen: `train` has the parts that learn",
    "datasets.*.data_type": "seen from the files",
    "datasets.*.type": "it chooses the default file, which is read",
    "datasets.*.vis_processor.train.image_size": "read off the encoder's file",
    "datasets.*.vis_processor.eval.*": "not read in training by MiniGPT-4",
    "datasets.*.text_processor.eval.*": "not read in training by MiniGPT-4",
    "datasets.*.text_processor.train.prompt": "empty",
    "datasets.*.text_processor.train.max_words": "50, as `captions: blip` has it",
    "datasets.*.vis_processor.train.min_scale": "0.5, as random_crop has it",
    "datasets.*.vis_processor.train.max_scale": "1, as random_crop has it",
    "run.task": "a train stage is it",
    "run.runner": "a train stage is it",
    "run.batch_size_eval": "not read in training",
    "run.num_workers": "as many threads as pictures need",
    "run.log_freq": "every step is kept",
    "run.evaluate": "false: it trains",
    "run.train_splits": "the datasets' one split",
    "run.valid_splits": "held-out rows are named by `evaluate`",
    "run.test_splits": "benchmarks are an `evaluate` stage",
    "run.device": "a GPU where there is one",
    "run.world_size": LAUNCH,
    "run.dist_url": LAUNCH,
    "run.dist_backend": LAUNCH,
    "run.distributed": LAUNCH,
    "run.use_dist_eval_sampler": LAUNCH,
    "run.job_name": "the run's folder names it",
    "preprocess.*": "not read by MiniGPT-4: each dataset has its own processors",
}
TOP = ("model", "datasets", "run", "preprocess")
USED = (
    "model.ckpt", "model.end_sym", "model.llama_model", "model.low_resource",
    "model.max_txt_len", "model.prompt_path", "model.prompt_template", "model.q_former_model",
    "model.use_grad_checkpoint",
    "datasets.*.batch_size", "datasets.*.build_info.storage", "datasets.*.sample_ratio",
    "datasets.*.text_processor.train.name", "datasets.*.vis_processor.train.name",
    "run.accum_grad_iters", "run.amp", "run.batch_size_train", "run.beta2", "run.init_lr",
    "run.iters_per_epoch", "run.lr_sched", "run.max_epoch", "run.min_lr", "run.output_dir",
    "run.resume_ckpt_path", "run.seed", "run.wandb_log", "run.warmup_lr", "run.warmup_steps",
    "run.weight_decay",
)  # fmt: skip
"""Keys that set something, named beside a mistyped one."""
MUST_BE: Mapping[str, tuple[object, ...]] = {
    "model.drop_path_rate": (0, 0.0),
    "model.vit_model": ("eva_clip_g",),
    "datasets.*.vis_processor.train.min_scale": (0.5,),
    "datasets.*.vis_processor.train.max_scale": (1, 1.0),
    "datasets.*.text_processor.train.prompt": ("",),
    "datasets.*.text_processor.train.max_words": (50,),
    "run.runner": ("runner_base",),
    "run.task": ("image_text_pretrain",),
    "run.evaluate": (False,),
}
"""Values that are the only ones there: another would train something else."""
