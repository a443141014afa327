"""`vlforge download` as the command line declares it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.data.download.run import Downloaded

FREE_OPTIONS = {"ignore_unknown_options": True}
EXAMPLES = """\b
Examples:
  vlforge download ccs_synthetic_filtered_large.tsv cc_sbu_dataset
  vlforge download urls.parquet pictures url_col=URL caption_col=TEXT image_size=384
  vlforge download urls.jsonl pictures --resize_mode keep_ratio --retries 4 --per_host 8
  vlforge download --url_list urls.tsv --input_format tsv --url_col url --caption_col caption
    --output_format webdataset --output_folder cc_sbu_dataset --processes_count 16
    --thread_count 128 --image_size 256 --enable_wandb True      as img2dataset has it
  The same command continues what was stopped: shards that are whole stay.

\b
The list:
  --input_format auto       txt, csv, tsv, json, jsonl, parquet, by the file's name
  --url_col auto            url or image_url; --caption_col auto: caption or text, none
  --save_additional_columns all     all, none, or names: a,b
  --verify_hash COLUMN,sha256       fetch only what has this hash

\b
The pictures:
  --image_size 256          --resize_mode border | keep_ratio | keep_ratio_largest |
                            center_crop | no
  --upscale_interpolation lanczos   --downscale_interpolation area
  --resize_only_if_bigger false     --skip_reencode false
  --encode_format jpg       jpg, png, webp; --encode_quality 95 (png: compression 0-9)
  --disable_all_reencoding false    the files as they came
  --min_image_size 0        --max_image_area inf    --max_aspect_ratio inf

\b
The shards:
  --output_format webdataset        tar files; files: a folder each
  --number_sample_per_shard 10000   --oom_shard_count 5, digits of the shard's number
  --incremental_mode incremental    overwrite: anew; extend: as further shards
  --compute_hash sha256     md5, sha256, sha512, none; --extract_exif true

\b
The web:
  --processes_count auto    --thread_count 128, in each process
  --per_host 32             requests at one host at a time, in each process; 0: no limit
  --timeout 10              seconds to connect, and for each wait for data
  --connect_timeout S       --read_timeout S    --total_timeout 60, for a whole picture
  --retries 2               --backoff 0.5 s, doubled each time; Retry-After is obeyed
  --max_bytes 100000000     --max_redirects 10  --max_shard_retry 1
  --allow_private false     addresses of this machine and of private networks
  --user_agent TEXT         --user_agent_token NAME   --ignore_ssl_certificate false
  --disallowed_header_directives noai,noimageai,noindex,noimageindex    X-Robots-Tag; or []
"""


def download(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="URLS OUT [KEY=VALUE | --KEY VALUE]",
            help="The list, the folder for the shards, and options.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch the pictures of a list of addresses into tar shards, as img2dataset does.

    URLS is a table of addresses and captions (or a folder of such tables). OUT
    gets NNNNN.tar, NNNNN.parquet and NNNNN_stats.json; every row of the list is
    in the parquet file, with why it failed if it did. Any option may be given as
    key=value or --key value.
    """
    from vlforge.cli.show import note_line, progress
    from vlforge.data.download.config import config_of
    from vlforge.data.download.run import download as load

    config, notes = config_of(split_words(words or []))
    for note in notes:
        note_line(note)
    with progress("download") as shown:
        found = load(config, shown)
    for note in found.notes:
        note_line(note)
    _say(found, Path(config.output_folder))


def split_words(words: Sequence[str]) -> dict[str, str]:
    """The options that the words say; the first two bare ones are list and folder.

    `key=value`, `--key value` and `--key=value` mean the same; `--key` before
    another option or at the end means `true`.
    """
    given: dict[str, str] = {}
    bare: list[str] = []
    waiting = ""
    for word in [*words, "--"]:
        is_option = word.startswith("--")
        if waiting:
            given[waiting] = "true" if is_option else word
            waiting = ""
            if not is_option:
                continue
        key, equals, value = word.removeprefix("--").partition("=")
        if is_option and not equals:
            waiting = key.replace("-", "_")
        elif equals and (is_option or key.isidentifier()):
            given[key.replace("-", "_")] = value
        else:
            bare.append(word)
    for key, word in zip(("url_list", "output_folder"), bare, strict=False):
        if given.setdefault(key, word) != word:
            raise RecipeError(f"{word!r} and --{key} {given[key]!r}: give one of them")
    if len(bare) > 2:
        raise RecipeError(f"{bare[2]!r} is neither key=value nor an option")
    return given


def _say(found: Downloaded, folder: Path) -> None:
    from vlforge.cli.show import plain_line, shown_path, table
    from vlforge.reports.numbers import seconds

    if found.shards_before:
        rows = f"{found.rows_before} rows in {found.shards_before} shards"
        plain_line(f"Before  {rows} were there and stay")
    failures = [(reason, n) for reason, n in found.reasons.most_common(11) if reason != "success"]
    if failures:
        shares = [(reason, n, f"{100 * n / found.rows:.1f} %") for reason, n in failures[:10]]
        table(("not kept because", "rows", "share"), shares, right=(1, 2))
    if found.rows:
        rate = f"{found.rows / max(found.seconds, 1e-3):.0f} rows/s"
        share = f"{100 * found.successes / found.rows:.1f} %"
        kept = f"{found.successes} of {found.rows} rows ({share})"
        plain_line(f"Kept    {kept}, {seconds(found.seconds)}, {rate}")
    _advise(found)
    plain_line(f"Shards  {shown_path(folder)}, every row with its status in NNNNN.parquet")


def _advise(found: Downloaded) -> None:
    """What to look at where most rows failed for one reason that may be ours."""
    from vlforge.cli.show import note_line

    lookups = sum(n for reason, n in found.reasons.items() if "name" in reason and "look" in reason)
    if found.rows >= 20 and lookups > found.rows / 4:
        note_line(
            "many names could not be looked up: use a name server that stands many questions "
            "(a local one such as knot-resolver), or a smaller --thread_count"
        )
    timeouts = found.reasons["timed out"]
    if found.rows >= 20 and timeouts > found.rows / 3:
        note_line("many requests timed out: try a smaller --thread_count or a longer --timeout")
