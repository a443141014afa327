"""`vlforge convert-model`: a model of any layout into any other."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vlforge.cli.options import BaseModel, LanguagePart, VisionPart
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.checkpoints.checkpoint import Checkpoint, Layout, Writing

EXAMPLES = """\b
Examples:
  vlforge convert-model llava-v1.5-7b OUT --to llava_hf          for transformers and vLLM
  vlforge convert-model llava-v1.5-7b-lora OUT --to llava --base vicuna-7b-v1.5
  vlforge convert-model pretrain/mm_projector.bin OUT --to vlforge --base vicuna-7b-v1.5
      --vision clip-vit-large-patch14-336
  vlforge convert-model llava-1.5-7b-hf OUT --to llava --dtype fp16 --shard-size 2GB
  vlforge convert-model iter_2181.pth OUT --to xtuner --base internlm2-chat-7b
      --vision clip-vit-large-patch14-336 --config finetune.py
  vlforge convert-model internlm2-chat-7b OUT --to llama         a language model alone
  vlforge convert-model SRC OUT --to vlforge --dry-run           what would be used, and what not
  vlforge list layouts
"""
RunSettings = Annotated[
    Path | None,
    typer.Option("--config", help="A run's settings, where it leaves them out (XTuner's .py)."),
]
Kept = Literal["keep", "fp32", "bf16", "fp16"]
Dtype = Annotated[Kept, typer.Option(help="Precision of the weights.")]
LanguageDtype = Annotated[
    Kept, typer.Option(help="The language model's, where another.", show_default="--dtype")
]
SIZES = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
LANGUAGES = ("llama", "internlm2")
"""What a language model by itself may be turned into."""
SHOWN = 20
"""Names listed before "and … more"; --dry-run lists all."""


def convert_model(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder or a file.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    to: Annotated[str, typer.Option(metavar="LAYOUT", help="The new layout.")],
    from_: Annotated[
        str,
        typer.Option("--from", metavar="LAYOUT", help="The old one.", show_default="by content"),
    ] = "",
    base: BaseModel = None,
    vision: VisionPart = None,
    vision_high: Annotated[Path | None, typer.Option(help="The second one (MGM).")] = None,
    language: LanguagePart = None,
    qformer: Annotated[Path | None, typer.Option(help="The Q-Former (MiniGPT-4).")] = None,
    config: RunSettings = None,
    template: Annotated[
        str, typer.Option(metavar="NAME", help="Conversation template, where SRC does not say.")
    ] = "",
    dtype: Dtype = "keep",
    language_dtype: LanguageDtype = "keep",
    shard_size: Annotated[str, typer.Option(help="Largest file, e.g. 2GB.")] = "5GB",
    pickle: Annotated[
        bool, typer.Option("--bin", help="torch's .bin files, where the layout has both.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List used, unused and missing tensors; write nothing."),
    ] = False,
) -> None:
    """Write a model in another layout; an adapter is merged into its base.

    Every tensor of SRC has to find its place, and every place its tensor. DST appears
    when it is complete. A connector alone (`llava_projector`, `mgm_projector`) may be a file:
    a DST that ends in .bin is that, without the configuration beside it.
    """
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.checkpoints.index import detect, find

    began = time.monotonic()
    how = how_to_write(dtype, shard_size, pickle, language_dtype)
    if to in LANGUAGES:
        _convert_language(source, target, to, how, began)
        return
    writer = find(to)
    reader = find(from_) if from_ else detect(source)
    be_quiet()
    checkpoint = reader.read(source, Parts(base, vision, vision_high, language, qformer, config))
    checkpoint = _with_template(checkpoint, template)
    _tell(source, reader, checkpoint)
    if dry_run:
        raise typer.Exit(_dry_run(checkpoint))
    if target.suffix == ".bin":
        files = _write_file(checkpoint, target, writer, how)
    else:
        files = _write(checkpoint, target, writer, how)
    total = sum(files.values())
    seconds = time.monotonic() - began
    plain_line(
        f"Written {shown_path(target)} as {writer.name}: {len(files)} files, {total / 1e9:,.2f} GB "
        f"in {seconds:.0f} s"
    )


def _convert_language(source: Path, target: Path, to: str, how: Writing, began: float) -> None:
    """A language model alone, which is in no layout of a model that sees."""
    from dataclasses import replace

    from vlforge.checkpoints.internlm2_folder import convert

    with progress("convert-model") as shown:
        shards = replace(how, on_shard=lambda done, total: shown(done, total, "shards"))
        files = convert(source, target, to, shards)
    plain_line(
        f"Written {shown_path(target)} as {to}: {len(files)} files, "
        f"{sum(files.values()) / 1e9:,.2f} GB in {time.monotonic() - began:.0f} s"
    )


def read_size(text: str) -> int:
    """`2GB`, `500 MB`, `1GiB` or a number, in bytes.

    Raises:
        RecipeError: none of these.
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in SIZES:
        raise RecipeError(f"--shard-size {text!r}: write a size such as 2GB or 500MB")
    size = int(float(match.group(1)) * SIZES[match.group(2).upper()])
    if size < 1:
        raise RecipeError(f"--shard-size {text!r}: give at least a byte")
    return size


def _write(checkpoint: Checkpoint, target: Path, writer: Layout, how: Writing) -> dict[str, int]:
    from dataclasses import replace

    from vlforge.checkpoints.conversion import check, write

    check(checkpoint, target, writer, how)
    with progress("convert-model") as shown:
        shards = replace(how, on_shard=lambda done, total: shown(done, total, "shards"))
        return write(checkpoint, target, writer, shards)


def _write_file(
    checkpoint: Checkpoint, target: Path, writer: Layout, how: Writing
) -> dict[str, int]:
    """A layout of one .bin file as that file."""
    import tempfile

    if not writer.name.endswith("_projector"):
        raise RecipeError(f"{target}: {writer.name} is a folder; name one without .bin")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            made = Path(folder) / "made"
            files = _write(checkpoint, made, writer, how)
            name = next(file for file in files if file.endswith(".bin"))
            (made / name).replace(target)
    except OSError as error:
        raise RecipeError(f"{target}: cannot be written ({error.strerror or error})") from None
    return {target.name: files[name]}


def _tell(source: Path, reader: Layout, checkpoint: Checkpoint) -> None:
    total = sum(lazy.nbytes for lazy in checkpoint.weights.values())
    plain_line(
        f"Read    {shown_path(source)} as {reader.name} ({checkpoint.family}): "
        f"{len(checkpoint.weights):,} tensors, {total / 1e9:,.2f} GB"
    )
    for line in checkpoint.notes:
        note_line(line)
    if checkpoint.unused:
        note_line(f"{len(checkpoint.unused)} tensors are not used")
        _list(checkpoint.unused)


def _list(lines: Sequence[str], shown: int = SHOWN) -> None:
    for line in lines[:shown]:
        print(f"  {line}", file=sys.stderr, flush=True)
    if len(lines) > shown:
        print(f"  and {len(lines) - shown} more (--dry-run lists all)", file=sys.stderr)


def _dry_run(checkpoint: Checkpoint) -> int:
    """Every tensor and what becomes of it; 1 where the model is not whole."""
    from vlforge.checkpoints.checkpoint import fit_of

    fit = fit_of(checkpoint)
    rows = [("used", where, name) for where, name in fit.used]
    rows += [("unused", line, "") for line in checkpoint.unused]
    rows += [("no place", where, "") for where in fit.extra]
    rows += [("shape", where, f"{list(a)}, not {list(b)}") for where, a, b in fit.misshapen]
    rows += [("missing", "", name) for name in fit.missing]
    table(("", "in the source", "here"), rows)
    unused = len(checkpoint.unused)
    plain_line(
        f"{len(fit.used)} used, {unused} unused, {len(fit.extra)} without a place, "
        f"{len(fit.misshapen)} of another shape, {len(fit.missing)} missing; nothing is written"
    )
    return 0 if fit.is_whole else 1


def _with_template(checkpoint: Checkpoint, name: str) -> Checkpoint:
    if not name:
        return checkpoint
    from dataclasses import replace

    from vlforge.text.templates import find_template

    notes = tuple(line for line in checkpoint.notes if "template" not in line)
    return replace(checkpoint, template=find_template(name).name, notes=notes)


def how_to_write(
    dtype: str, shard_size: str, is_pickle: bool, language_dtype: str = "keep"
) -> Writing:
    """The options that say how a model is written; notes go to the terminal."""
    import torch

    from vlforge.checkpoints.checkpoint import Writing

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Writing(
        dtype=kinds.get(dtype),
        language_dtype=kinds.get(language_dtype),
        kind="bin" if is_pickle else "safetensors",
        shard_bytes=read_size(shard_size),
        say=note_line,
    )


def be_quiet() -> None:
    """transformers' own reports would stand between ours; what matters is raised as one line."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
