"""`vlforge mix`: several datasets into one, in shuffled order and in exact amounts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import DataError

if TYPE_CHECKING:
    from vlforge.data.convert import Converted
    from vlforge.data.mixed import Mixed, Part

EXAMPLES = """\b
Examples:
  vlforge mix captions.json chats.jsonl -o mixed.jsonl
  vlforge mix captions.json#10000 chats.jsonl#2.0e -o mixed.jsonl --to llava
  vlforge mix laion/#115w cc_sbu/#14w --rows 500000 -o stage1/ --to webdataset
  vlforge mix big.jsonl small.jsonl --temperature 2 --seed 1 -o mixed.jsonl
"""
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA[#N]...",
        help="Datasets; #1000 takes so many rows (again and again where there are fewer), "
        "#2.5e so many epochs, #0.7w by weight.",
        show_default=False,
    ),
]
OldFormat = Annotated[
    str,
    typer.Option(
        "--from", metavar="FORMAT", help="The data's format.", show_default="judged by content"
    ),
]
Images = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        help="keep, copy, embed or extract pictures.",
        show_default="what the format needs",
    ),
]


def mix(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="What to write.")],
    to: Annotated[
        str,
        typer.Option(metavar="FORMAT", help="Its format.", show_default="the first dataset's"),
    ] = "",
    from_: OldFormat = "",
    temperature: Annotated[
        float, typer.Option(help="Rows in proportion to n^(1/T); above 1 evens them out.")
    ] = 1.0,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to write in all.", show_default="those wanted of each"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which rows, and their order.")] = 0,
    images: Images = "auto",
) -> None:
    """Mix datasets of any formats into one, shuffled, to the row.

    A dataset of which fewer rows are wanted than it has gives different rows; one
    of which more are wanted is shown whole before a row comes again. The same seed
    gives the same file.
    """
    from vlforge.data.convert import convert
    from vlforge.data.formats.index import find
    from vlforge.data.mixed import Mixed
    from vlforge.data.placing import check_mode

    check_mode(images)
    parts = _parts(sources, out, from_)
    writer = find(to) if to else parts[0].format
    out.parent.mkdir(parents=True, exist_ok=True)
    mode: Any = images
    with progress("mix") as shown:
        mixed = Mixed(parts, out.parent, rows, temperature, seed, shown)
        # A mix has no one place; what it is read from must only differ from its target.
        place = out.with_name(f".{out.name}")
        done = convert(place, out, mixed, writer, images=mode, progress=shown)
    _say(mixed, done, writer.name)


def _parts(sources: list[str], out: Path, name: str) -> list[Part]:
    from vlforge.data.formats.index import detect, find
    from vlforge.data.mixed import Part
    from vlforge.data.mixing import parse_share

    shares = [parse_share(source) for source in sources]
    for share in shares:
        if Path(share.path).absolute() == out.absolute():
            raise DataError(f"{out}: source and target are the same; name another target")
    return [Part(s, find(name) if name else detect(Path(s.path))) for s in shares]


def _say(mixed: Mixed, done: Converted, name: str) -> None:
    mix = mixed.mix
    told = [
        (
            shown_path(part.path),
            part.format.name,
            f"{rows:,}",
            f"{wanted:,}",
            f"{wanted / rows:.2f}",
        )
        for part, rows, wanted in zip(mixed.parts, mix.rows, mix.wanted, strict=True)
    ]
    table(("dataset", "format", "rows", "mixed", "epochs"), told, right=(2, 3, 4))
    for reason, count in done.dropped.most_common(20):
        note_line(f"{count:,} records dropped: {reason}")
    plain_line(f"Written {done.written:,} of {len(mix):,} rows as {name}")
    plain_line(f"Data    {shown_path(done.paths[0])}")
    if done.drops is not None:
        plain_line(f"Dropped {shown_path(done.drops)}, each record with its reason")
