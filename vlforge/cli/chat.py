"""`vlforge chat`: talk with a model about pictures, in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.convert_model import RunSettings
from vlforge.cli.options import (
    Attention,
    BaseModel,
    Device,
    DeviceMap,
    LanguagePart,
    LoadIn,
    Precision,
    QFormerPart,
    TemplateName,
    Trained,
    Vision,
    loading_of,
)
from vlforge.types import Drawing, ModelError, RecipeError

if TYPE_CHECKING:
    from vlforge.serving.talking import Speaker
    from vlforge.serving.terminal import Asking

EXAMPLES = """\b
Examples:
  vlforge chat runs/photos/model --image cat.jpg
  vlforge chat MODEL --image cat.jpg --question "What is on the table?"
  vlforge chat MODEL --adapter runs/photos/lora --image https://example.org/cat.jpg
  vlforge chat llava-v1.5-13b --image cat.jpg --load-in 4bit --precision bf16
  vlforge chat vicuna-7b-v1.5 --adapter llava-v1.5-7b-lora --vision clip-vit-large-patch14-336
  vlforge chat internlm2-chat-7b --visual-encoder clip-vit-large-patch14-336 --llava iter_5198_hf
  vlforge chat minigpt4 --style reference --image cat.jpg
"""

Images = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="PATH|URL", help="A picture (repeatable)."),
]
Question = Annotated[
    str | None, typer.Option("--question", "-q", help="Ask this, print the answer, end.")
]
Llava = Annotated[
    Path | None,
    typer.Option(help="What XTuner's LLaVA trained; MODEL is then its language model."),
]
VisionHigh = Annotated[Path | None, typer.Option(help="The second one (MGM).")]
System = Annotated[str, typer.Option(help="What the model is told before everything.")]
Style = Annotated[
    str,
    typer.Option(metavar="STYLE", help="plain, or reference: as the family's own chat draws."),
]
Longest = Annotated[
    int | None, typer.Option(min=1, help="Longest answer, in tokens.", show_default="256")
]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=2, help="Above 0: sample.", show_default="0")
]
TopP = Annotated[
    float | None,
    typer.Option(min=0.001, max=1, help="Sample among the likeliest of this share."),
]
TopK = Annotated[int | None, typer.Option(min=0, help="Sample among so many likeliest; 0: all.")]
Repetition = Annotated[
    float | None,
    typer.Option(
        "--repetition-penalty", min=0.01, help="Above 1: what was said becomes less likely."
    ),
]
StopWords = Annotated[
    list[str] | None,
    typer.Option("--stop-words", metavar="TEXT", help="Ends an answer, too (repeatable)."),
]
SelectLayer = Annotated[
    int | None,
    typer.Option(
        "--visual-select-layer", help="Encoder layer that is looked at (XTuner).", show_default="-2"
    ),
]
Beams = Annotated[
    int | None,
    typer.Option("--num-beams", "--beams", min=1, max=16, help="Search with so many beams."),
]
Seed = Annotated[int, typer.Option(min=0, help="What sampling depends on.")]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Fetch pictures from private addresses, too.")
]


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder.", show_default=False)],
    image: Images = None,
    question: Question = None,
    adapter: Trained = None,
    llava: Llava = None,
    template: TemplateName = "auto",
    system: System = "",
    style: Style = "plain",
    max_new_tokens: Longest = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: Repetition = None,
    stop_words: StopWords = None,
    num_beams: Beams = None,
    seed: Seed = 0,
    allow_private: AllowPrivate = False,
    base: BaseModel = None,
    vision: Vision = None,
    vision_high: VisionHigh = None,
    qformer: QFormerPart = None,
    language: LanguagePart = None,
    config: RunSettings = None,
    visual_select_layer: SelectLayer = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: LoadIn = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
) -> None:
    """Ask a model about pictures.

    Without --question a conversation. MODEL may be in any layout of `vlforge list layouts`.
    """
    if not model.exists():
        raise ModelError(f"{model}: no such model folder; give a training stage of a run")
    if style not in ("plain", "reference"):
        raise RecipeError(f"--style {style} is unknown; give plain or reference")
    if adapter is not None and llava is not None:
        raise ModelError("--adapter and --llava both say what was trained; give one of them")
    from vlforge.serving.terminal import Asking
    from vlforge.serving.terminal import chat as converse

    loading = loading_of(precision, quantise, attention, device_map)
    said = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    said |= {"beams": num_beams, "top_k": top_k, "repetition_penalty": repetition_penalty}
    said |= {"stop": tuple(stop_words) if stop_words else None}
    asking = Asking(seed=seed, system=system, allow_private=allow_private)

    def opened() -> tuple[Speaker, Asking]:
        from vlforge.checkpoints.checkpoint import Parts
        from vlforge.inference.speaking import open_speaker

        parts = Parts(base, vision, vision_high, language, qformer, config, visual_select_layer)
        where: dict[str, Any] = {"device": device, "template": template, "loading": loading}
        speaker = open_speaker(model, adapter=llava or adapter, parts=parts, **where)
        return _in_style(speaker, style, said, asking)

    converse(model, tuple(image or ()), question, asking=asking, open_speaker=opened)


def _in_style(
    speaker: Any, style: str, said: dict[str, Any], asking: Asking
) -> tuple[Speaker, Asking]:
    """What answers, and how it is asked: the style's way, but for what the command line says."""
    drawing = Drawing()
    if style == "reference":
        from vlforge.inference.reference_chat import reference_speaker

        speaker, drawing = reference_speaker(speaker)
    given = {name: value for name, value in said.items() if value is not None}
    if given.get("beams", 1) > 1 and "temperature" not in given:
        # The demo's beams sample; all others search.
        given |= {} if getattr(speaker, "samples_beams", False) else {"temperature": 0.0}
    return speaker, replace(asking, drawing=replace(drawing, **given))
