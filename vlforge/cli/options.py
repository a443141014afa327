"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.types import Loading, ModelError, RecipeError

if TYPE_CHECKING:
    from vlforge.runs.prepare import Choice

RecipeFile = Annotated[Path, typer.Argument(help="The recipe's YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change.", show_default=False),
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", help="The run's folder.", show_default="runs/<name>")
]
Arms = Annotated[
    str | None,
    typer.Option(
        help="Variants to run, with commas, or `all`.", show_default="the recipe's default_arms"
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(min=1, help="How many seeds: 0, 1, …", show_default="the recipe's seeds"),
]
Size = Annotated[str | None, typer.Option(help="One of the recipe's sizes, e.g. tiny.")]
Until = Annotated[str | None, typer.Option(help="Stop after this stage.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Stages side by side.", show_default="the recipe's jobs")
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that train a stage together.", show_default="one for each GPU"
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Do all stages anew, also finished and stopped ones.")
]
Maps = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OLD=NEW", help="Read paths under OLD from NEW (repeatable)."),
]
BaseModel = Annotated[
    Path | None, typer.Option("--base", help="The model that an adapter or a connector belongs to.")
]
VisionPart = Annotated[
    Path | None, typer.Option("--vision", help="The vision encoder, where the model only names it.")
]
QFormerPart = Annotated[
    Path | None, typer.Option("--qformer", help="The Q-Former's file (MiniGPT-4).")
]
LanguagePart = Annotated[
    Path | None, typer.Option("--language", help="The language model, where the model lacks it.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")]
Quantise = Annotated[
    str, typer.Option("--quantise", help="none, 8bit or 4bit: the language model's matrices.")
]
Attention = Annotated[
    str, typer.Option("--attention", help="auto, sdpa, flash, flex or eager; auto: the best here.")
]
DeviceMap = Annotated[
    str,
    typer.Option(
        "--device-map",
        metavar="MAP",
        help="none, auto (over all GPUs, then the CPU), or parts: vision=cuda:0,language=cuda:1.",
    ),
]
Trained = Annotated[
    Path | None,
    typer.Option(
        "--adapter", help="LoRA trained on MODEL, or a language model to stand in for its own."
    ),
]
Vision = Annotated[
    Path | None,
    typer.Option(
        "--vision", "--visual-encoder", help="The vision encoder, where the model only names it."
    ),
]
TemplateName = Annotated[
    str,
    typer.Option(
        "--template", "--prompt-template", help="Conversation template; auto: the model's own."
    ),
]
LoadIn = Annotated[
    str,
    typer.Option(
        "--quantise", "--load-in", help="none, 8bit or 4bit: the language model's matrices."
    ),
]


def loading_of(precision: str, quantise: str, attention: str, device_map: str) -> Loading:
    """How a model is to be loaded.

    Raises:
        RecipeError: a word that an option does not know.
        ModelError: a part of the device map without a device.
    """
    from vlforge.recipe.typed import build

    settings = {"precision": precision, "quantise": quantise, "attention": attention}
    settings["device_map"] = _device_map(device_map)
    made: Loading = build(Loading, settings, _typed_as)
    return made


def _typed_as(*keys: object) -> str:
    return f"--{str(keys[0]).replace('_', '-')}" if keys else "options"


def _device_map(text: str) -> str | dict[str, str]:
    if text in ("none", "auto"):
        return text
    parts: dict[str, str] = {}
    for item in text.split(","):
        name, _, place = item.partition("=")
        if not name.strip() or not place.strip():
            raise ModelError(
                f"--device-map {text}: {item!r} is no PART=DEVICE; give none, auto or parts"
            )
        parts[name.strip()] = place.strip()
    return parts


def choose(overrides: list[str] | None, maps: list[str] | None = None, **chosen: Any) -> Choice:
    """What the command line asks of a recipe, in the words of `runs`."""
    from vlforge.runs.prepare import Choice

    return Choice(overrides=tuple(overrides or ()), maps=path_maps(maps), **chosen)


def path_maps(texts: Iterable[str] | None) -> dict[str, str]:
    """`["OLD=NEW", …]` as a mapping."""
    maps = {}
    for text in texts or ():
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise RecipeError(f"--map {text!r} is not of the form OLD=NEW, two folders")
        maps[old] = new
    return maps
