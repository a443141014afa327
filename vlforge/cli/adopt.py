"""`vlforge adopt`: another system's file becomes a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import note_line, plain_line, shown_path, table
from vlforge.types import RecipeError

EXAMPLES = """\b
Examples:
  vlforge adopt solution/image_captioning.yaml                Data-Juicer's recipe, on the terminal
  vlforge adopt toolkit/train_mgm_2b_stage_1.sh -o recipe.yaml
  vlforge adopt llava_internlm2_chat_7b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune
  vlforge adopt config/mgen_vl/lora_sft_argument.json -o recipe.yaml
  vlforge adopt train_configs/minigpt4_stage2_finetune.yaml run.init_lr=1e-5
  vlforge run train_configs/minigpt4_stage2_finetune.yaml     adopts it and runs it

\b
Then:
  vlforge plan recipe.yaml; vlforge check recipe.yaml; vlforge run recipe.yaml
"""


def adopt(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file, or a configuration's known name.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes by the file's own keys.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The recipe to write.", show_default="the terminal"),
    ] = None,
) -> None:
    """Write the recipe that another system's file amounts to.

    Every line says where it came from; what has no counterpart here is listed. The file is
    read, never executed.
    """
    from vlforge.recipe.adopt.systems import adopt_file

    adopted = adopt_file(Path(file), split_changes(changes or []))
    text = adopted.text()
    if out is None:
        plain_line(text.rstrip("\n"))
        return
    from vlforge.cli.recipes import write_recipe

    write_recipe(text, out, Path(file))
    for note in adopted.notes:
        note_line(note)
    if adopted.unused:
        rows = [(one.key, str(one.value), one.where, one.why) for one in adopted.unused]
        table(("no counterpart", "value", "where", "why"), rows)
    plain_line(f"Recipe  {shown_path(out)}, from {adopted.system}")
    plain_line(f"Next    vlforge plan {shown_path(out)}")


def split_changes(words: list[str]) -> dict[str, str]:
    """`key=value` words as a mapping.

    Raises:
        RecipeError: a word is none.
    """
    changes: dict[str, str] = {}
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals or not key:
            raise RecipeError(f"{word!r} is not key=value; the keys are those of the file")
        changes[key] = value
    return changes
