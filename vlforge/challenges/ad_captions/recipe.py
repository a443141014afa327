"""The contest's workflow as a recipe: train on Paddle's weights, write such, ask and score."""

from __future__ import annotations

from pathlib import Path

from vlforge.challenges.ad_captions.arguments import read_arguments, training_of
from vlforge.challenges.ad_captions.layout import Kit, Mode, is_paddle
from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.types import RecipeError

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
LONGEST = 256
"""Tokens of an answer, as `vlforge predict` asks for them."""
_OURS = "of the kit"


def make_recipe(kit: Kit, mode: Mode, changes: dict[str, str]) -> AdoptedRecipe:
    """The recipe; every line says which argument it came from.

    Args:
        changes: arguments of the JSON that are other here.

    Raises:
        RecipeError: arguments without a counterpart, or of the other mode.
        DataError: no weights to begin with.
        ModelError: weights that cannot be read.
    """
    recipe = read_arguments(kit.config(mode), changes)
    check_mode(kit, mode, recipe)
    base = kit.base(mode)
    put = recipe.put
    put("name", f"ad_captions_{mode}", _OURS)
    learns = "LoRA" if mode == "lora" else "all of the language model, and the resampler"
    put("description", f"Captions of ad pictures: {learns}", _OURS)
    put("stages.tune.model", str(base.resolve()), recipe.origins["stages.tune.model"])
    put("stages.tune.data", str(kit.train.resolve()), recipe.origins["stages.tune.data"])
    if recipe.get("stages.tune.evaluate.data"):
        origin = recipe.origins.get("stages.tune.evaluate.data", "dataset.eval data_files")
        put("stages.tune.evaluate.data", str(kit.val.resolve()), origin)
    _put_end(recipe, kit, mode, base)
    return recipe


def check_mode(kit: Kit, mode: Mode, recipe: AdoptedRecipe) -> None:
    """Refuse arguments of the other mode.

    Raises:
        RecipeError: they are.
    """
    is_lora = bool(training_of(recipe).get("lora"))
    if is_lora != (mode == "lora"):
        other = "lora" if is_lora else "full"
        raise RecipeError(
            f"{kit.config(mode)}: lora is {str(is_lora).lower()}; set it, or take --mode {other}"
        )


def _put_end(recipe: AdoptedRecipe, kit: Kit, mode: Mode, base: Path) -> None:
    put = recipe.put
    if mode == "lora":
        put("stages.whole.kind", "merge", "merge_lora_params.py")
        put("stages.whole.adapter", "$tune", "--lora_path")
    else:
        put("stages.whole.kind", "convert", _OURS)
        put("stages.whole.model", "$tune", _OURS)
    put("stages.whole.to", "paddle", "the contest's rule")
    put("stages.whole.dtype", _dtype(base), "that of the contest's weights")
    put("stages.said.kind", "predict", "predict.py")
    put("stages.said.model", "$whole", "what is handed in")
    put("stages.said.input", str(kit.val.resolve()), "dataset.eval")
    put("stages.said.output", "val.tsv", _OURS)
    put("stages.said.max_new_tokens", LONGEST, "as in the package")
    put("stages.score.kind", "evaluate", _OURS)
    put("stages.score.model", "$whole", "what is handed in")
    put("stages.score.max_new_tokens", LONGEST, "as in the package")
    benchmark = {"name": "captions", "annotation": str(kit.val.resolve()), "protocol": "char"}
    put("stages.score.benchmarks", [benchmark], "dataset.eval; Chinese by characters")
    put("stages.report.kind", "report", _OURS)
    put("stages.report.needs", ["score", "said"], _OURS)


def _dtype(base: Path) -> str:
    """The precision of the contest's weights, where they have one."""
    if not is_paddle(base):
        return "keep"
    from vlforge.challenges.ad_captions.weights import outline

    found = outline(base).dtypes
    return DTYPES.get(next(iter(found)), "keep") if len(found) == 1 else "keep"
