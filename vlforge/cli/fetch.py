"""`vlforge fetch`: what a system needs, from where it lies to where its users expect it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlforge.cli.show import is_terminal, note_line, plain_line, shown_path, table
from vlforge.types import DataError, RecipeError

if TYPE_CHECKING:
    from vlforge.data.download.client import Client
    from vlforge.data.fetch.manifest import Item, Manifest
    from vlforge.data.fetch.run import Fetched
    from vlforge.data.fetch.survey import Finding

EXAMPLES = """\b
Examples:
  vlforge fetch                                   the systems that are known
  vlforge fetch better_synth --list               what one of them needs
  vlforge fetch better_synth kit --dry-run        sizes and the disk, nothing is fetched
  vlforge fetch better_synth kit                  ask, then fetch
  vlforge fetch xtuner_llava . --only benchmarks --yes
  vlforge fetch mgm . --offline                   look into the caches of this machine only
  vlforge fetch mine.yaml data --allow-private
  The same command continues what was stopped, and does nothing where all is there.

\b
Environment:
  HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE    as huggingface_hub has them
  MODELSCOPE_ENDPOINT, MODELSCOPE_CACHE           as modelscope has them
  TORCH_HOME, http_proxy, https_proxy, no_proxy
"""
_SHOWN = {
    "whole": "all of it",
    "adopt": "there already",
    "part": "a part",
    "absent": "–",
    "by hand": "missing",
    "clash": "something else",
}


def fetch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|MANIFEST", help="A system, or a .yaml file.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Where to.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM", help="Only this item or group (repeatable, or a,b)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Optional items too.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show the items, ask nobody.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes, fetch nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before fetching.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Look into local caches only, fetch nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute the sums of what is there again.")
    ] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Ask addresses of private networks too.")
    ] = False,
) -> None:
    """Fetch the data, models and benchmarks that a system needs into DIR.

    Sizes are shown first. Archives are unpacked; what was fetched, with its sums, is
    written to DIR/fetched.json.
    """
    from vlforge.data.fetch.manifest import read_manifest
    from vlforge.data.fetch.run import web_client

    if name is None:
        _list_manifests()
        return
    manifest = read_manifest(name)
    words = [word for given in only or () for word in given.split(",") if word]
    items = manifest.chosen(words, everything=everything)
    if show_list:
        _list_items(manifest, items if words else manifest.items)
        return
    if folder is None:
        raise RecipeError(f"where to? e.g. `vlforge fetch {name} data`; --list shows the items")
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a folder")
    if offline:
        _look_around(manifest, items, folder)
        return
    client = web_client(allow_private=allow_private)
    try:
        _fetch(manifest, items, folder, client, dry_run=dry_run, yes=yes, verify=verify)
    finally:
        client.close()


def _fetch(
    manifest: Manifest,
    items: Sequence[Item],
    folder: Path,
    client: Client,
    *,
    dry_run: bool,
    yes: bool,
    verify: bool,
) -> None:
    from vlforge.cli.transfers import Transfers, in_words
    from vlforge.data.fetch.run import check_room, fetch
    from vlforge.data.fetch.survey import survey

    findings = survey(manifest, items, folder, client, with_sums=verify)
    _show(findings)
    clashes = [f"{one.item.name}: {one.note}" for one in findings if one.state == "clash"]
    if not any(one.is_open for one in findings):
        _say_rest(manifest, findings, folder, failed=bool(clashes))
        if clashes:
            raise DataError("\n".join(clashes))
        return
    needed, free = check_room(findings, folder)
    _show_sum(findings, folder, needed, free)
    if dry_run:
        plain_line("Nothing was fetched (--dry-run)")
        return
    _agree(yes)
    with Transfers() as show:
        done = fetch(manifest, findings, folder, client, show)
    _say(done, folder)
    failed = [f"{item}: {in_words(why)}" for item, why in done.failed.items()] + clashes
    _say_rest(manifest, findings, folder, fetched=True, failed=bool(failed))
    if failed:
        plain_line(f"{_items(len(failed))} did not come; the same command tries again")
        raise DataError("\n".join(failed))


def _list_manifests() -> None:
    from vlforge.data.fetch.manifest import manifest_names, read_manifest

    found = [read_manifest(name) for name in manifest_names()]
    rows = [(one.name, len(one.items), one.title) for one in found]
    table(("system", "items", "what it is"), rows, right=(1,))
    plain_line("Next    vlforge fetch NAME --list")


def _list_items(manifest: Manifest, items: Sequence[Item]) -> None:
    plain_line(manifest.title)
    if manifest.about:
        plain_line(manifest.about)
    rows = [
        (
            item.name + (" (optional)" if item.optional else ""),
            item.group,
            item.where_from,
            item.to,
        )
        for item in items
    ]
    table(("item", "group", "from", "to, below DIR"), rows)
    for item in items:
        for words in (item.licence, item.do, item.note):
            if words:
                plain_line(f"{item.name}: {words}")
    plain_line(f"Next    vlforge fetch {manifest.name} DIR --dry-run")


def _show(findings: Sequence[Finding]) -> None:
    from vlforge.cli.transfers import in_words
    from vlforge.data.fetch.unpack import amount

    rows = []
    for one in findings:
        source = one.source.short if one.source else one.item.where_from
        size = "?" if one.size is None else amount(one.size)
        if one.item.kind in ("manual", "link"):
            size = ""
        here = _SHOWN[one.state]
        if one.state == "part" and one.here:
            here = amount(one.here)
        rows.append((one.item.name, source, size, here))
    table(("item", "from", "size", "there"), rows, right=(2,))
    for one in findings:
        if one.note and one.state != "clash":
            note_line(f"{one.item.name}: {one.note}")
        for fault in one.faults:
            note_line(f"{one.item.name}: {in_words(fault)}")


def _items(count: int) -> str:
    return f"{count} item" if count == 1 else f"{count} items"


def _show_sum(findings: Sequence[Finding], folder: Path, needed: int, free: int) -> None:
    from vlforge.data.fetch.unpack import amount

    sizes = [one.left for one in findings if one.is_open]
    unknown = sum(size is None for size in sizes)
    more = f", and {_items(unknown)} of unknown size" if unknown else ""
    total = amount(sum(size or 0 for size in sizes))
    what = f"{_items(unknown)} of unknown size" if unknown == len(sizes) else f"{total}{more}"
    plain_line(f"To fetch {what}, into {shown_path(folder)}")
    if needed:
        least = "at least " if unknown or any(one.unpacked for one in findings) else ""
        plain_line(f"Disk     {least}{amount(needed)} needed, {amount(free)} free")
    for one in findings:
        if one.is_open and one.item.licence:
            note_line(f"{one.item.name}: {one.item.licence}")


def _agree(yes: bool) -> None:
    """Ask on a terminal; elsewhere nobody can answer.

    Raises:
        RecipeError: not asked, and not told beforehand.
    """
    if yes:
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        raise RecipeError("this is no terminal to ask on: add --yes to fetch, or --dry-run")
    if not typer.confirm("Fetch?", default=True, err=True):
        plain_line("Nothing was fetched")
        raise typer.Exit()


def _say(done: Fetched, folder: Path) -> None:
    from vlforge.data.fetch.receipt import NAME
    from vlforge.data.fetch.unpack import amount

    for note in done.notes:
        note_line(note)
    if done.done:
        plain_line(f"Fetched {_items(len(done.done))}, {amount(done.bytes)}")
        plain_line(f"Receipt {shown_path(folder / NAME)}")


def _say_rest(
    manifest: Manifest,
    findings: Sequence[Finding],
    folder: Path,
    *,
    fetched: bool = False,
    failed: bool = False,
) -> None:
    """What a person has to do, what comes next, or that there is nothing to do."""
    by_hand = [one for one in findings if one.state == "by hand"]
    whole = sum(one.state == "whole" for one in findings)
    if not fetched and not by_hand and whole == len(findings):
        plain_line(f"All {_items(whole)} there: nothing to do")
    elif not fetched:
        plain_line(f"{whole} of {_items(len(findings))} there: nothing to fetch")
    for one in by_hand:
        plain_line(f"By hand {one.item.name}: {one.item.do}")
        plain_line(f"        to {shown_path(folder / one.item.to)}")
    if manifest.next and not by_hand and not failed:
        plain_line(f"Next    {manifest.next}")


def _look_around(manifest: Manifest, items: Sequence[Item], folder: Path) -> None:
    """Where each item lies on this machine.

    Raises:
        DataError: some are in no cache.
    """
    from vlforge.data.fetch.caches import find
    from vlforge.data.fetch.receipt import Receipts
    from vlforge.data.fetch.survey import key_of

    receipts, missing = Receipts(folder), []
    for item in items:
        standing = receipts.standing(key_of(manifest, item))
        is_whole = standing is not None and not standing.missing and not standing.changed
        by_hand = item.kind in ("manual", "link") and (folder / item.to).exists()
        if is_whole or by_hand:
            plain_line(f"{item.name}: {folder / item.to}")
            continue
        found = find(item)
        if found.path is not None:
            plain_line(f"{item.name}: {found.path}")
            continue
        missing.append(item.name)
        plain_line(f"{item.name}: not found; looked at")
        for place in (folder / item.to, *found.looked):
            plain_line(f"  {place}")
    if missing:
        raise DataError(
            f"{len(missing)} of {_items(len(items))} not on this machine: {', '.join(missing)}"
        )
    plain_line(f"All {_items(len(items))} on this machine")
