"""`vlforge split`: a dataset into parts that share no picture, no text and no group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from vlforge.cli.mix import Images, OldFormat
from vlforge.cli.show import note_line, plain_line, progress, shown_path, table
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.data.links import Link, Links
    from vlforge.data.splits import Written

EXAMPLES = """\b
Examples:
  vlforge split rows.jsonl train=0.9 val=0.05 test=500
  vlforge split llava.json train=0.95 val=0.05 --by source
  vlforge split shards/ train=0.9 test=0.1 --group user --out parts/
  vlforge split data.tsv train=0.9 val=50 --to llava --images extract --seed 1
"""
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="FIELD",
        help="Keep rows with one value of it together (repeatable); `image` is always kept.",
    ),
]
Ignored = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore", metavar="image|text", help="Let parts share pictures, or texts (repeatable)."
    ),
]


Parts = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME=SIZE...",
        help="Parts: 0.9 or 90% is a share of the rows, 500 so many.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The parts' folder.", show_default="beside SRC"),
]
NewFormat = Annotated[
    str, typer.Option("--to", metavar="FORMAT", help="The parts' format.", show_default="SRC's")
]
By = Annotated[
    str, typer.Option("--by", metavar="FIELD", help="Spread its values over the parts alike.")
]


def split(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A dataset of any format.")],
    parts: Parts,
    out: Out = None,
    to: NewFormat = "",
    from_: OldFormat = "",
    by: By = "",
    group: Groups = None,
    ignore: Ignored = None,
    seed: Annotated[int, typer.Option(help="Decides which rows go where.")] = 0,
    images: Images = "auto",
) -> None:
    """Split a dataset without leaks between its parts.

    Rows that show the same picture (by path or by content), say the same text or
    share a value of --group go to one part. Counts are met first; shares divide
    what they leave. Where groups do not allow a size, the nearest is taken and told.
    """
    from vlforge.data.formats.index import detect, find
    from vlforge.data.links import find_links
    from vlforge.data.placing import check_mode
    from vlforge.data.splits import place_parts, write_parts
    from vlforge.data.splitting import divide, parse_part, part_sizes

    check_mode(images)
    wanted = [parse_part(text) for text in parts]
    reader = find(from_) if from_ else detect(source)
    writer = find(to) if to else reader
    names = [part.name for part in wanted]
    targets = place_parts(source, names, writer, writer.name == reader.name, out)
    _check_targets(source, targets)
    mode: Any = images
    with progress("split") as shown:
        fields = [name for name in group or () if name != "image"]
        kept = _links(ignore or ())
        links = find_links(source, reader, by=by, fields=fields, links=kept, progress=shown)
        sizes = part_sizes(wanted, links.rows)
        part_of = divide(links.groups, links.strata, sizes, seed)
        done = write_parts(source, reader, targets, writer, part_of, images=mode, progress=shown)
    got = [part_of.count(part) for part in range(len(sizes))]
    _say(names, targets, sizes, got, done)
    _say_why(names, sizes, got, links)


def _links(ignored: list[str] | tuple[str, ...]) -> list[Link]:
    from vlforge.data.links import Link

    for word in ignored:
        if word not in get_args(Link):
            raise RecipeError(f"--ignore is {word!r}: take one of {', '.join(get_args(Link))}")
    return [link for link in get_args(Link) if link not in ignored]


def _check_targets(source: Path, targets: list[Path]) -> None:
    for target in targets:
        if target.absolute() == source.absolute():
            raise DataError(f"{target}: source and part are the same; name another folder")


def _say(
    names: list[str], targets: list[Path], sizes: list[int], got: list[int], done: Written
) -> None:
    told = [
        (name, f"{size:,}", f"{count:,}", f"{written:,}", shown_path(target))
        for name, size, count, written, target in zip(
            names, sizes, got, done.written, targets, strict=False
        )
    ]
    table(("part", "wanted", "rows", "written", "data"), told, right=(1, 2, 3))
    if done.left_out:
        plain_line(f"In no part: {done.left_out:,} rows")
    for reason, count in done.dropped.most_common(20):
        note_line(f"{count:,} rows dropped: {reason}")
    if done.drops is not None:
        plain_line(f"Dropped {shown_path(done.drops)}, each row with its reason")


def _say_why(names: list[str], sizes: list[int], got: list[int], links: Links) -> None:
    """Why a part is not as large as was asked for, and which are empty."""
    for name, size, count in zip(names, sizes, got, strict=False):
        if size != count:
            note_line(
                f"{name} has {count:,} rows for {size:,}: rows that belong together stay together "
                f"(up to {links.largest():,} rows)"
            )
        elif not count:
            note_line(f"{name} is empty: its share of {links.rows:,} rows is less than one")
