"""`vlforge convert`: a dataset of any format into any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import RecipeError

EXAMPLES = """\b
Examples:
  vlforge convert rows.jsonl llava.json --to llava
  vlforge convert shards/ captions.tsv --to tsv_base64
  vlforge convert data.tsv photos/rows.jsonl --to dj --images extract
  vlforge convert llava.json rows.parquet --to parquet --images embed --shard-rows 100000
  vlforge convert chat.json rows.jsonl --from sharegpt --to messages
  vlforge list formats
  vlforge tool llava_to_dj llava.json rows.jsonl      another system's converter
"""


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A file, a folder or shards.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="What to write.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="The new format.")],
    from_: Annotated[
        str,
        typer.Option("--from", metavar="FORMAT", help="The old one.", show_default="by content"),
    ] = "",
    images: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="keep: name the files; copy: beside the data; embed: in the data; "
            "extract: out of it into files.",
            show_default="what the format needs",
        ),
    ] = "auto",
    image_root: Annotated[
        Path | None, typer.Option(help="Write picture paths relative to this folder.")
    ] = None,
    shard_rows: Annotated[
        int, typer.Option(min=0, help="Records per output file.", show_default="one file")
    ] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of a format; from.KEY of the old one."
        ),
    ] = None,
) -> None:
    """Write a dataset in another format, in one pass.

    A record that the new format cannot hold is listed with its reason in
    DST.dropped.jsonl; everything else is written.
    """
    from vlforge.data.convert import convert as run
    from vlforge.data.formats.index import detect, find
    from vlforge.data.placing import check_mode

    old, new = _options(option or [])
    check_mode(images)
    reader = find(from_, **old) if from_ else detect(source)
    if old and not from_:
        reader = find(reader.name, **old)
    writer = find(to, **new)
    note_line(f"{shown_path(source)} is read as {reader.name}")
    with progress("convert") as shown:
        done = run(
            source, target, reader, writer,
            images=images, image_root=image_root, shard_rows=shard_rows, progress=shown,
        )  # type: ignore[arg-type]  # fmt: skip
    if done.dropped:
        table(("why", "records"), done.dropped.most_common(20), right=(1,))
    plain_line(f"Written {done.written:,} of {done.read:,} records")
    several = f" … {shown_path(done.paths[-1])}" if len(done.paths) > 1 else ""
    plain_line(f"Data    {shown_path(done.paths[0])}{several}")
    if done.drops is not None:
        plain_line(f"Dropped {shown_path(done.drops)}, each record with its reason")


def _options(given: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the old and of the new format, values as YAML reads them."""
    from vlforge.recipe.source import parse_value

    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"--set {word}: write KEY=VALUE")
        into = old if key.startswith("from.") else new
        into[key.removeprefix("from.")] = parse_value(value)
    return old, new
