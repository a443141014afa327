"""`deepspeed … train_mem.py ARGS` of Mini-Gemini and LLaVA: adopted, then trained."""

from __future__ import annotations

import os
from pathlib import Path

from vlforge.cli.familiar.asking import module_of
from vlforge.cli.familiar.old import OldCommand, Ours
from vlforge.types import RecipeError

_NAMES = ("train", "train_mem", "train_xformers")
_PACKAGES = {"mgm": ("mgm", "minigemini"), "llava": ("llava",)}


def is_train(old: OldCommand, package: str) -> bool:
    """Whether it is that package's train.py, train_mem.py or train_xformers.py."""
    parts = module_of(old).split(".")
    return parts[-1] in _NAMES and any(name in parts[:-1] for name in _PACKAGES[package])


def train(old: OldCommand, package: str) -> Ours:
    """The arguments as a recipe, and the recipe trained.

    What it leaves lies under `--output_dir`, as theirs does; adopting finds a connector that
    an earlier such run left there.

    Raises:
        RecipeError: an argument is unknown or wrong, or --output_dir is missing.
    """
    from vlforge.recipe.adopt.mgm_arguments import given_words

    given = given_words(old.words, "mgm" if package == "mgm" else "llava")
    if "output_dir" not in given:
        raise RecipeError(f"{old.name} needs --output_dir")
    out = os.path.normpath(given["output_dir"])
    changes = [f"{key}={value}" for key, value in given.items()]
    count = [f"num_gpus={old.processes}"] if old.processes else []
    recipe = str(Path("runs") / f"{Path(out).name}.yaml")
    name = f"{package}/train/{Path(module_of(old).replace('.', '/')).name}.py"
    adopt = ("adopt", name, *changes, *count, "-o", recipe)
    processes = ("--processes", str(old.processes)) if old.processes else ()
    return Ours((adopt, ("train", recipe, "--out", out, *processes)))
