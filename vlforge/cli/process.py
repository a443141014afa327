"""`vlforge process` as the command line declares it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlforge.cli.cleaning import clean

FREE_OPTIONS = {"ignore_unknown_options": True}
EXAMPLES = """\b
Examples:
  vlforge process clean.yaml
  vlforge process clean.yaml np=8 image_shape_filter.min_width=64
  vlforge process --config clean.yaml --np 8 --dataset_path in.jsonl --export_path out.jsonl
  vlforge process clean.yaml --limit 1000                   a first look at the first rows
  vlforge process clean.yaml --sample 1000                  … or at some of all rows
  vlforge process clean.yaml "dataset_path=0.5 a.jsonl 2 b.parquet"
  vlforge process clean.yaml export_path=kept.parquet strict=true
  vlforge process recipes/photos.yaml     up to the last `process` stage of a recipe

\b
Then:
  vlforge why ID kept.process             one row's whole story
  vlforge list keys                       every key of a recipe; `list ops` every operator
"""


def process(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [KEY=VALUE | --KEY VALUE]",
            help="The recipe and settings to change.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The recipe, as Data-Juicer names it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for statistics, dropped rows and trace.", show_default="beside the export"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N rows.", metavar="N")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="N rows drawn from all, in order.", metavar="N")
    ] = None,
) -> None:
    """Clean and rewrite a dataset; no row is lost without a reason.

    RECIPE is a Data-Juicer recipe or one of ours. Any of its keys may be changed
    as key=value or --key value, those of an operator as operator.key=value.
    """
    clean(words or [], config=config, out=out, limit=limit, sample=sample)
