"""`vlforge repair`: a copy of a dataset without the faults that have one right answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.show import note_line, plain_line, progress, shown_path, table

EXAMPLES = """\b
Examples:
  vlforge repair ocr_vqa.json repaired/ocr_vqa.json
  vlforge repair rows.jsonl repaired/rows.jsonl --images copy
  vlforge repair llava.json repaired/rows.jsonl --to dj --mojibake
"""


def repair(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The dataset; it stays as it is.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The new one.")],
    from_: Annotated[
        str, typer.Option("--from", metavar="FORMAT", help="SRC's format.", show_default="found")
    ] = "",
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="DST's format.", show_default="SRC's")
    ] = "",
    images: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="keep: name the files; copy: beside DST, upright and RGB; embed; extract.",
            show_default="what the format needs",
        ),
    ] = "auto",
    image_root: Annotated[
        Path | None, typer.Option(help="Where SRC's relative picture paths start.")
    ] = None,
    mojibake: Annotated[
        bool, typer.Option("--mojibake", help="Repair texts that were decoded wrongly.")
    ] = False,
) -> None:
    """Write a dataset anew with what has one right answer put right.

    Picture extensions that do not exist where exactly one other does; pictures
    upright and RGB where they are copied; a leading answer dropped, as LLaVA
    does, and a late system turn moved to the front; repeated image marks; empty
    turns at the end; byte order marks and other encodings. Each change, and
    each row that had to be left out, is a line of DST.repair.jsonl; SRC is
    never touched.
    """
    from vlforge.data.checking.encodings import detect_recoded
    from vlforge.data.checking.repair import repair as run
    from vlforge.data.formats.index import find
    from vlforge.data.placing import check_mode

    check_mode(images)
    reader = find(from_) if from_ else detect_recoded(source)
    writer = find(to) if to else reader
    note_line(f"{shown_path(source)} is read as {reader.name}")
    with progress("repair") as shown:
        done = run(
            source, target, reader, writer,
            images=images, image_root=image_root, mojibake=mojibake, progress=shown,
        )  # type: ignore[arg-type]  # fmt: skip
    if done.changes:
        table(("repair", "times"), done.changes.most_common(), right=(1,))
    left = f", {done.dropped:,} left out" if done.dropped else ""
    plain_line(f"Written {done.written:,} of {done.read:,} rows, {done.changed:,} repaired{left}")
    plain_line(f"Data    {shown_path(target)}")
    plain_line(f"Log     {shown_path(done.log)}")
    plain_line(f"Next    vlforge check {shown_path(target)}")
