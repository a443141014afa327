"""`vlforge inspect`: one row as the model learns it: ids, pieces, labels, pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.options import (
    Arms,
    BaseModel,
    LanguagePart,
    Maps,
    Overrides,
    RunFolder,
    Seeds,
    Size,
    VisionPart,
    choose,
)
from vlforge.cli.recipes import is_other_systems
from vlforge.cli.show import PLAIN, is_terminal, note_line, plain_line
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.runs.looking import Asked, Compat, Look
    from vlforge.text.look import Token

EXAMPLES = """\b
Examples:
  vlforge inspect recipe.yaml --row 3                    of the last train stage
  vlforge inspect recipe.yaml --stage align --id 004539375
  vlforge inspect llava.json --model runs/photos/instruct --row 0
  vlforge inspect llava.json --model vicuna-llava --template v1 --compat llava --row 7
  vlforge inspect recipe.yaml --row 3 --json
"""
COLOURS = {
    "learned": "\033[38;2;33;124;82m",
    "image": "\033[38;2;40;92;168m",
    "cut": "\033[9;38;2;150;150;150m",
}
"""How states are painted on a terminal; context stays as it is."""
WORDS_MARKS = ("«", "»")
"""Around what is learned where there are no colours."""

Given = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|DATA",
        help="A recipe (its train stage's data), or a dataset with --model.",
        show_default=False,
    ),
]


Row = Annotated[
    str | None, typer.Option(help="The row's number from 0 in the stage's data, or its id or uid.")
]
RowId = Annotated[
    str | None, typer.Option("--id", help="The row's id, where it looks like a number.")
]
StageName = Annotated[str | None, typer.Option(help="A train stage.", show_default="the last one")]
ModelFolder = Annotated[
    Path | None, typer.Option(help="Of a dataset: the model's folder, in any layout.")
]
TemplateName = Annotated[str, typer.Option(help="Of a dataset: the conversation template.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Of a dataset: tokens that are kept.")]
TokenizerKind = Annotated[
    str, typer.Option(help="Of a dataset: auto, slow or fast, as in a train stage.")
]
CompatName = Annotated[
    str | None,
    typer.Option(help="Also what a reference system makes of it: llava, mgm, xtuner, …"),
]
FormatName = Annotated[
    str, typer.Option("--from", help="Of a dataset: its format, where it does not say it.")
]
ImageRoot = Annotated[
    Path | None, typer.Option(help="Of a dataset: where relative picture paths start.")
]


def inspect(
    given: Given,
    overrides: Overrides = None,
    row: Row = None,
    id_: RowId = None,
    stage: StageName = None,
    model: ModelFolder = None,
    template: TemplateName = "auto",
    max_length: MaxLength = None,
    tokenizer: TokenizerKind = "auto",
    compat: CompatName = None,
    from_: FormatName = "auto",
    image_root: ImageRoot = None,
    base: BaseModel = None,
    vision: VisionPart = None,
    language: LanguagePart = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
    out: RunFolder = None,
    arms: Arms = None,
    seeds: Seeds = None,
    size: Size = None,
    maps: Maps = None,
) -> None:
    """Show one row as the model learns it, before anything is trained.

    The conversation as the template writes it, what of it is learned, the tokens with
    their ids, where the pictures stand, and what is cut away. No weights are read.
    """
    if row is None and id_ is None:
        raise RecipeError("which row? give --row N, counted from 0, or --id ID")
    wanted = {"row": row, "id": id_, "compat": compat}
    is_named_so = given.suffix in (".yaml", ".yml") or (model is None and not given.exists())
    if is_named_so or is_other_systems(given):
        _refuse_of_data(model, template, max_length, tokenizer, image_root)
        choice = choose(overrides, maps, run_dir=out, arms=arms, seeds=seeds, size=size)
        asked = _of_recipe(given, choice, stage, wanted)
    else:
        if overrides or stage:
            what = overrides[0] if overrides else f"--stage {stage}"
            raise RecipeError(f"{given} is a dataset: {what} is for recipes")
        how = {"format_name": from_, "max_length": max_length}
        how |= {"image_root": str(image_root) if image_root else None}
        parts = {"base": base, "vision": vision, "language": language}
        asked = _of_data(given, model, template, tokenizer, parts, wanted | how)
    from vlforge.runs.looking import look

    found = look(asked)
    if as_json:
        plain_line(json.dumps(_told(found), ensure_ascii=False, indent=2))
    else:
        _show(found)


def _refuse_of_data(
    model: Path | None,
    template: str,
    max_length: int | None,
    tokenizer: str,
    image_root: Path | None,
) -> None:
    said = {"--model": model, "--max-length": max_length, "--image-root": image_root}
    said |= {"--template": None if template == "auto" else template}
    said |= {"--tokenizer": None if tokenizer == "auto" else tokenizer}
    for name, value in said.items():
        if value is not None:
            raise RecipeError(
                f"{name} is for datasets; change a recipe's stage with stages.NAME.SETTING=VALUE"
            )


def _of_recipe(given: Path, choice: Any, stage: str | None, wanted: dict[str, Any]) -> Asked:
    from vlforge.cli.recipes import our_recipe
    from vlforge.runs.looking import asked_of_recipe

    return asked_of_recipe(our_recipe(given), choice, stage, **wanted)


def _of_data(
    given: Path,
    model: Path | None,
    template: str,
    tokenizer: str,
    parts: dict[str, Path | None],
    how: dict[str, Any],
) -> Asked:
    if model is None:
        raise RecipeError(f"{given} is a dataset: name the model's folder with --model")
    if tokenizer not in ("auto", "slow", "fast"):
        raise RecipeError(f"--tokenizer {tokenizer!r} is unknown; take auto, slow or fast")
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.text_side import open_text_side
    from vlforge.runs.looking import asked_of_data

    if not given.exists():
        raise DataError(f"no dataset at {given}; check the path")
    side = open_text_side(model, template, tokenizer, Parts(**parts))  # type: ignore[arg-type]
    return asked_of_data(given, side, **how)


def _told(found: Look) -> dict[str, Any]:
    fields = dataclasses.asdict(found)
    fields["words"] = [{"text": text, "learned": learned} for text, learned in found.words]
    fields["text"] = "".join(text for text, _ in found.words)
    return fields


def _show(found: Look) -> None:
    has_colour = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    for note in found.notes:
        note_line(note)
    _head(found)
    marks = "learned in green" if has_colour else "learned between « and »"
    plain_line(f"\nThe conversation, {marks}:\n")
    plain_line("".join(_painted(text, learned, has_colour) for text, learned in found.words))
    plain_line("")
    _table(found.tokens, has_colour)
    if found.compat is not None:
        _show_compat(found.compat, has_colour)


def _head(found: Look) -> None:
    stage = f", stage {found.stage}" if found.stage else ""
    plain_line(f"Row {found.number} of {found.dataset} (id {found.id}){stage}")
    limit = "" if found.max_length is None else f", max_length {found.max_length}"
    plain_line(f"Template {found.template}, tokenizer {found.tokenizer}{limit}")
    pictures = sum(picture.span[1] - picture.span[0] for picture in found.pictures)
    shown = f", {pictures} of them pictures" if pictures else ""
    plain_line(f"{found.whole} tokens{shown}; {found.learned} are learned")
    if found.whole > found.length:
        plain_line(f"Cut: the last {found.whole - found.length} of them, {found.length} are left")
    for number, picture in enumerate(found.pictures, 1):
        width, height = picture.size
        lost = ", which does not fit" if picture.lost else ""
        first, end = picture.span
        plain_line(
            f"Picture {number}: {picture.source}, {width} x {height}, "
            f"tokens {first} to {end - 1}{lost}"
        )
    if found.problem:
        plain_line(f"Teaches nothing: {found.problem}")
    if found.fate:
        plain_line(f"Not trained on: {found.fate}")


def _painted(text: str, is_learned: bool, has_colour: bool) -> str:
    if not has_colour:
        return f"{WORDS_MARKS[0]}{text}{WORDS_MARKS[1]}" if is_learned else text
    if is_learned:
        return f"{COLOURS['learned']}{text}{PLAIN}"
    return text.replace("<image>", f"{COLOURS['image']}<image>{PLAIN}")


def _table(tokens: tuple[Token, ...], has_colour: bool) -> None:
    cells = [("position", "id", "", "piece")] + [
        (
            str(one.at) if one.width == 1 else f"{one.at}-{one.at + one.width - 1}",
            "" if one.state == "image" and one.id < 0 else str(one.id),
            "" if one.state == "context" else one.state,
            one.piece if one.width == 1 else f"{one.piece} x {one.width}",
        )
        for one in tokens
    ]
    widths = [max(len(row[place]) for row in cells) for place in range(3)]
    states = ["context", *(one.state for one in tokens)]
    for row, state in zip(cells, states, strict=True):
        line = f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}"
        paint = COLOURS.get(state) if has_colour else None
        plain_line(f"{paint}{line}{PLAIN}" if paint else line.rstrip())


def _show_compat(theirs: Compat, has_colour: bool) -> None:
    plain_line("")
    if theirs.refused:
        plain_line(f"compat {theirs.name}: refused: {theirs.refused}")
        return
    if theirs.same_ids and theirs.same_labels:
        plain_line(f"compat {theirs.name}: the same ids and labels")
        return
    what = "ids and labels" if not theirs.same_ids else "labels"
    plain_line(
        f"compat {theirs.name}: other {what}, from id {theirs.first_difference} on; "
        f"{theirs.learned} tokens are learned"
    )
    if theirs.mismatch:
        plain_line(f"  it masks the whole row: {theirs.mismatch}")
        return
    _table(theirs.tokens, has_colour)
