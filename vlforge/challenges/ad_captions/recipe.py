"""The contest's workflow as a recipe: read Paddle's weights, train, write them back, ask, score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlforge.challenges.ad_captions.arguments import Arguments
from vlforge.challenges.ad_captions.layout import Kit, Mode, is_paddle
from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.types import RecipeError

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
LONGEST = 256
"""Tokens of an answer, as `vlforge predict` asks for them."""
_OURS = "ours: the contest's layout is read and written, never trained on"


def make_recipe(kit: Kit, mode: Mode, arguments: Arguments) -> str:
    """The text of the recipe; every line says which argument it came from.

    Raises:
        RecipeError: arguments without a counterpart.
        DataError: no weights to begin with.
        ModelError: weights that cannot be read.
    """
    if arguments.is_lora != (mode == "lora"):
        said = "lora" if arguments.is_lora else "full"
        raise RecipeError(
            f"{arguments.path}: lora is {arguments.values.get('lora')!r}, which is --mode {said}"
        )
    base = kit.base(mode)
    recipe = AdoptedRecipe("MGen-VL", arguments.path, f"ad_captions_{mode}")
    learns = "LoRA" if mode == "lora" else "all of the language model, and the resampler"
    recipe.put("description", f"Captions of ad pictures: {learns}", "of the kit")
    _put_base(recipe, base, arguments)
    _put_training(recipe, kit, arguments)
    _put_end(recipe, kit, mode, base)
    for name, why in arguments.unused().items():
        recipe.leave(name, arguments.values[name], arguments.path.name, why)
    return recipe.text()


def _put_base(recipe: AdoptedRecipe, base: Path, arguments: Arguments) -> None:
    name = f"{arguments.path.name} model_name_or_path"
    recipe.put("stages.base.kind", "convert", _OURS)
    recipe.put("stages.base.model", str(base.resolve()), name)
    recipe.put("stages.base.to", "vlforge", _OURS)


_ORIGINS = {
    "template": "dataset: name chatml_dataset; the picture stands in the text",
    "train": "freeze_include, freeze_exclude",
    "lora": "lora_rank, lora_alpha, lora_dropout, lora_target_modules",
    "steps": "max_steps",
    "epochs": "num_train_epochs",
    "batch": "per_device_train_batch_size x gradient_accumulation_steps",
    "micro_batch": "per_device_train_batch_size",
    "max_length": "max_length",
    "save_every_samples": "save_steps x batch",
    "seed": "seed; 42 is the default of Paddle's trainer",
    "optimiser.lr": "learning_rate",
    "optimiser.schedule": "lr_scheduler_type, as Paddle's trainer steps it",
    "optimiser.warmup_ratio": "warmup_ratio, steps rounded down",
    "optimiser.warmup_steps": "warmup_steps",
    "optimiser.weight_decay": "weight_decay",
    "optimiser.betas": "adam_beta1, adam_beta2",
    "optimiser.eps": "adam_epsilon",
    "optimiser.max_grad_norm": "max_grad_norm",
    "optimiser.groups": "which weights decay in Paddle's trainer",
}


def _put_training(recipe: AdoptedRecipe, kit: Kit, arguments: Arguments) -> None:
    recipe.put("stages.tune.kind", "train", "of the kit")
    recipe.put("stages.tune.model", "$base", "model_name_or_path")
    recipe.put("stages.tune.data", str(kit.train.resolve()), "dataset.train")
    for key, value in _flat(arguments.training()):
        recipe.put(f"stages.tune.{key}", value, _ORIGINS[key])


def _flat(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    flat = []
    for key, value in settings.items():
        inner = value.items() if key == "optimiser" else [("", value)]
        flat += [(f"{key}.{name}" if name else key, one) for name, one in inner]
    return flat


def _put_end(recipe: AdoptedRecipe, kit: Kit, mode: Mode, base: Path) -> None:
    put = recipe.put
    if mode == "lora":
        put("stages.whole.kind", "merge", "merge_lora_params.py")
        put("stages.whole.adapter", "$tune", "--lora_path")
    else:
        put("stages.whole.kind", "convert", _OURS)
        put("stages.whole.model", "$tune", "of the kit")
    put("stages.whole.to", "paddle", "the contest's rule")
    put("stages.whole.dtype", _dtype(base), "that of the contest's weights")
    put("stages.said.kind", "predict", "predict.py")
    put("stages.said.model", "$whole", "what is handed in")
    put("stages.said.input", str(kit.val.resolve()), "dataset.eval")
    put("stages.said.output", "val.tsv", "of the kit")
    put("stages.said.max_new_tokens", LONGEST, "as in the package")
    put("stages.score.kind", "evaluate", "of the kit")
    put("stages.score.model", "$whole", "what is handed in")
    put("stages.score.max_new_tokens", LONGEST, "as in the package")
    benchmark = {"name": "captions", "annotation": str(kit.val.resolve()), "protocol": "char"}
    put("stages.score.benchmarks", [benchmark], "dataset.eval; Chinese by characters")
    put("stages.report.kind", "report", "of the kit")
    put("stages.report.needs", ["score", "said"], "of the kit")


def _dtype(base: Path) -> str:
    """The precision of the contest's weights, where they have one."""
    if not is_paddle(base):
        return "keep"
    from vlforge.challenges.ad_captions.weights import outline

    found = outline(base).dtypes
    return DTYPES.get(next(iter(found)), "keep") if len(found) == 1 else "keep"
