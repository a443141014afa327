"""The contestant's recipe: which stages process the seed, and whether one of them synthesises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.types import Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.bind import Bound

FOLDER = "solution"
_USUAL = "image_captioning.yaml"
_CUSTOM = "custom_operator_paths"
RECIPE = """\
# Every picture of the seed is described anew by BLIP-2; the original text is not kept.
dataset_path: {rows}
export_path: output/image_captioning_output/res_{size}.jsonl
np: 1
process:
  - image_captioning_mapper:
      hf_img2seq: models/blip2-opt-2.7b
      keep_original_sample: false
"""
README = """\
# Solution

The recipe is `{recipe}`. It runs with

    vlforge challenge better-synth run {folder}

What it does to the seed data, and why:
"""


@dataclass(frozen=True)
class Solution:
    """The recipe as stages of ours, in order; the last one leaves the data.

    export: where the kit's users look for the result. operators: all that run.
    """

    path: Path
    stages: Mapping[str, Mapping[str, Any]]
    export: Path
    operators: tuple[str, ...]

    @property
    def last(self) -> str:
        """The stage whose data is trained on."""
        return list(self.stages)[-1]

    def bound(self) -> list[tuple[Mapping[str, Any], Bound]]:
        """Each operator with the settings of the stage that it runs in.

        Raises:
            RecipeError: one that nobody knows, or a parameter that cannot be.
        """
        from vlforge.ops.bind import bind
        from vlforge.ops.index import want_custom

        want_custom([p for body in self.stages.values() for p in body.get(_CUSTOM) or ()])
        pairs = [(body, op) for body in self.stages.values() for op in body.get("process") or ()]
        return [(body, bind([op])[0]) for body, op in pairs]

    def synthesising(self) -> list[str]:
        """Its operators that synthesise: a model writes or draws what they put into rows.

        Raises:
            RecipeError: as `bound`.
        """
        from vlforge.engine.plan import is_generative

        return [bound.name for _, bound in self.bound() if is_generative(bound.op)]

    def local_models(self) -> list[str]:
        """Models that its operators open on this machine, as the recipe names them.

        Raises:
            RecipeError: as `bound`.
        """
        from vlforge.engine.plan import asks_endpoint
        from vlforge.runs.kinds.process_cost import model_of

        asking = [(body, bound) for body, bound in self.bound() if bound.op.needs >= Need.EMBEDDING]
        named = [
            model_of(bound.op)
            for body, bound in asking
            if not asks_endpoint(bound, body.get("endpoints") or {})
        ]
        return [name for name in dict.fromkeys(named) if name and not name.startswith("$")]


def recipes_in(folder: Path) -> list[Path]:
    """The recipes of a solution folder."""
    found = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
    return [path for path in found if not path.name.startswith(".")]


def find_solution(kit_folder: Path, wanted: str | None = None) -> Path:
    """The recipe to run: the one asked for, the kit's usual name, or the only one.

    Raises:
        RecipeError: none, several, or not the one asked for.
    """
    folder = kit_folder / FOLDER
    found = recipes_in(folder)
    if wanted is not None:
        for path in (Path(wanted), folder / wanted, folder / f"{wanted}.yaml"):
            if path.is_file():
                return path.absolute()
        there = ", ".join(path.name for path in found) or "none"
        raise RecipeError(f"{folder}: no recipe {wanted!r}; there are: {there}")
    if not found:
        raise RecipeError(f"{folder}: no recipe; write one, or let init write {_USUAL}")
    usual = folder / _USUAL
    if len(found) > 1 and usual not in found:
        names = ", ".join(path.name for path in found)
        raise RecipeError(f"{folder}: several recipes ({names}); name one with --recipe")
    return usual if usual in found else found[0]


def read_solution(kit_folder: Path, wanted: str | None = None) -> Solution:
    """The solution's recipe, Data-Juicer's or one of ours, its paths from the kit's folder.

    Raises:
        RecipeError: as `find_solution`, or what is wrong in it, with file and line.
    """
    from vlforge.recipe.adopt.adopted import read_foreign
    from vlforge.recipe.adopt.data_juicer_recipe import adopt_foreign, recognises

    path = find_solution(kit_folder, wanted)
    foreign = read_foreign(path, {})
    if recognises(foreign) and "stages:" not in foreign.text:
        stages = {"synthesise": adopt_foreign(foreign).tree["stages"]["process"]}
    else:
        stages = _own_stages(path)
    stages = {name: _placed(body, kit_folder) for name, body in stages.items()}
    export = str(list(stages.values())[-1].get("export_path") or "")
    operators = tuple(_name(op) for body in stages.values() for op in body.get("process", ()))
    place = kit_folder / (export or f"output/{path.stem}_output/res.jsonl")
    return Solution(path, stages, place, operators)


def _own_stages(path: Path) -> dict[str, dict[str, Any]]:
    """The process stages of a recipe of ours.

    Raises:
        RecipeError: it has none.
    """
    from vlforge.recipe.load import load_recipe

    recipe = load_recipe(path)
    stages = {
        name: {"kind": "process", **stage.settings}
        for name, stage in recipe.stages.items()
        if stage.kind == "process"
    }
    if not stages:
        raise RecipeError(f"{path}: has no stage of kind process; the kit trains by itself")
    return stages


def _placed(body: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A stage's settings with what lies in the kit's folder named absolutely."""
    from vlforge.recipe.references import replace_strings

    def place(text: str) -> str:
        is_path = ("/" in text or "." in text) and not text.startswith(("$", "/"))
        there = is_path and len(text) < 1000 and "\n" not in text and (folder / text).exists()
        return str(folder / text) if there else text

    placed: dict[str, Any] = replace_strings(dict(body), place)
    dataset = str(placed.get("dataset_path") or "")
    if dataset and not dataset.startswith(("$", "/")) and " " not in dataset:
        placed["dataset_path"] = str(folder / dataset)
    return placed


def _name(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(next(iter(entry), ""))
