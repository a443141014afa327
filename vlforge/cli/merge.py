"""`vlforge merge`: a base and what was trained beside it, as one model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlforge.cli.convert_model import RunSettings, be_quiet, how_to_write
from vlforge.cli.options import VisionPart
from vlforge.cli.show import note_line, plain_line, progress, shown_path

if TYPE_CHECKING:
    from vlforge.checkpoints.merge import Merged

EXAMPLES = """\b
Examples:
  vlforge merge vicuna-7b-v1.5 llava-lora OUT                    LLaVA's LoRA folder
  vlforge merge vicuna-7b-v1.5 mgm-lora OUT --vision clip --vision-high convnext
  vlforge merge internlm2-chat-7b hf/llm_adapter OUT --dtype fp16
  vlforge merge clip-vit-large-patch14-336 hf/visual_encoder_adapter OUT
  vlforge merge internlm2-chat-7b iter_5198.pth OUT --vision clip --config finetune.py
  vlforge merge internlm2-chat-7b iter_5198_hf OUT --vision clip --to llava_hf
  vlforge merge llava-1.5-7b-hf my-adapter OUT                   an adapter of peft
  vlforge merge Qwen-VL-Chat paddle-lora OUT --to paddle         PaddleMIX's LoRA
  vlforge merge llama-7b vicuna-7b-delta-v1.1 OUT                Vicuna's differences
"""
SHOWN = 12
"""Notes that are printed before it is said how many more there are."""


def merge(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The model that was trained on.")],
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER", help="What was trained: a folder, or XTuner's .pth."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="Layout of a model that sees (vlforge list layouts).",
            show_default="the base's, or its system's",
        ),
    ] = "",
    vision: VisionPart = None,
    vision_high: Annotated[Path | None, typer.Option(help="The second one (MGM).")] = None,
    config: RunSettings = None,
    dtype: Annotated[
        Literal["keep", "fp32", "bf16", "fp16"],
        typer.Option(help="Precision of the weights; sums are in fp32 and rounded once."),
    ] = "keep",
    shard_size: Annotated[str, typer.Option(help="Largest file, e.g. 2GB.")] = "5GB",
    pickle: Annotated[
        bool, typer.Option("--bin", help="torch's .bin files, where the layout has both.")
    ] = False,
    is_clip: Annotated[
        bool, typer.Option("--is-clip", help="As in XTuner; seen from the files, changes nothing.")
    ] = False,
) -> None:
    """Put an adapter into its base and write the whole model.

    Every tensor of ADAPTER has to find its weight in BASE; OUT appears when it is
    complete, with BASE's tokenizer and image processor.
    """
    from dataclasses import replace

    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.checkpoints.merge import merge as run
    from vlforge.inference.native import is_adapted_native
    from vlforge.inference.native_merge import merge_native

    del is_clip
    began = time.monotonic()
    be_quiet()
    how = how_to_write(dtype, shard_size, pickle)
    parts = Parts(vision=vision, vision_high=vision_high, config=config)
    with progress("merge") as shown:
        shards = replace(how, on_shard=lambda done, total: shown(done, total, "shards"))
        if is_adapted_native(adapter):
            done = merge_native(adapter, target, how.dtype, base)
        else:
            done = run(base, adapter, target, parts, how=shards, to=to)
    _tell(done, target, time.monotonic() - began)


def _tell(done: Merged, target: Path, seconds: float) -> None:
    for line in done.notes[:SHOWN]:
        note_line(line)
    if len(done.notes) > SHOWN:
        note_line(f"and {len(done.notes) - SHOWN} more")
    layout = f" as {done.layout}" if done.layout else ""
    changed = f", {done.changed:,} of them trained" if done.changed else ""
    total = sum(done.files.values()) / 1e9
    plain_line(
        f"Written {shown_path(target)}{layout}: {done.tensors:,} tensors{changed}, "
        f"{len(done.files)} files, {total:,.2f} GB in {seconds:.0f} s"
    )
