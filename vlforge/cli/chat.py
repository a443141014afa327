"""`vlforge chat`: talk with a model about a picture, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.options import (
    Attention,
    BaseModel,
    Device,
    DeviceMap,
    LanguagePart,
    Precision,
    Quantise,
    VisionPart,
    loading_of,
)
from vlforge.types import Chat, ModelError

EXAMPLES = """\b
Examples:
  vlforge chat runs/photos/model --image cat.jpg
  vlforge chat MODEL --image cat.jpg --question "What is on the table?"
  vlforge chat llava-v1.5-13b --image cat.jpg --quantise 4bit --precision bf16
  vlforge chat llava-v1.5-7b-lora --base vicuna-7b-v1.5 --vision clip-vit-large-patch14-336
"""


def chat(
    model: Annotated[Path, typer.Argument(help="A model folder.", show_default=False)],
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture (repeatable).")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Ask this, print the answer, end.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    template: Annotated[
        str, typer.Option(help="Conversation template; auto: the model's own.")
    ] = "auto",
    base: BaseModel = None,
    vision: VisionPart = None,
    language: LanguagePart = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    quantise: Quantise = "none",
    attention: Attention = "auto",
    device_map: DeviceMap = "none",
) -> None:
    """Ask a model about pictures.

    Without --question a conversation. MODEL may be in any layout of `vlforge list layouts`.
    """
    if not model.exists():
        raise ModelError(f"{model}: no such model folder; give a training stage of a run")
    from vlforge.serving.terminal import chat as converse

    loading = loading_of(precision, quantise, attention, device_map)

    def open_chat() -> Chat:
        from vlforge.checkpoints.checkpoint import Parts
        from vlforge.inference.local import LocalChat

        parts = Parts(base=base, vision=vision, language=language)
        return LocalChat(model, device=device, template=template, loading=loading, parts=parts)

    converse(
        model, tuple(image or ()), question, max_new_tokens=max_new_tokens, open_chat=open_chat
    )
