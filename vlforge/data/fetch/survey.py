"""What of a manifest is there, what is to come, and how large that is; nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlforge.data.download.addresses import Refused
from vlforge.data.download.client import Client
from vlforge.data.fetch.hubs import Listing, halves, list_files
from vlforge.data.fetch.manifest import Item, Manifest
from vlforge.data.fetch.receipt import STATE, Receipts
from vlforge.data.fetch.source import Source
from vlforge.data.fetch.transfer import Part, Told, probe, sums_of
from vlforge.types import RecipeError

State = Literal["whole", "adopt", "part", "absent", "by hand", "clash"]
_AT_ONCE = 8


@dataclass
class Finding:
    """An item, what of it is there, and where the rest comes from.

    `adopt`: it is there but was not brought by us; `clash`: something else is in its place.
    `size` are all bytes to transfer, `here` those of them that are here already.
    """

    item: Item
    state: State
    size: int | None = None
    here: int = 0
    source: Source | None = None
    listing: Listing | None = None
    told: Told | None = None
    note: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether something is to be done about it."""
        return self.state in ("adopt", "part", "absent")

    @property
    def left(self) -> int | None:
        """Bytes still to come, where that is known."""
        if not self.is_open or self.item.kind == "link" or self.state == "adopt":
            return 0
        return None if self.size is None else max(self.size - self.here, 0)

    @property
    def unpacked(self) -> int:
        """Bytes, at least, that unpacking takes besides."""
        if self.item.kind != "archive" or not self.is_open or self.state == "adopt":
            return 0
        return self.item.unpacked or self.size or 0


def key_of(manifest: Manifest, item: Item) -> str:
    """What an item's receipt is filed under."""
    return f"{manifest.name}/{item.name}"


def part_folder(folder: Path, manifest: Manifest, item: Item) -> Path:
    """Where what has come of an item waits."""
    return folder / STATE / "parts" / manifest.name / item.name


def survey(
    manifest: Manifest,
    items: Sequence[Item],
    folder: Path,
    client: Client,
    *,
    with_sums: bool = False,
) -> list[Finding]:
    """What is to be done about each item.

    Sources are asked only about items that are not whole; one that does not answer is
    a note, no error. `with_sums` computes the sums of what is there again.

    Raises:
        RecipeError: a hub's library is missing.
        DataError: the receipts cannot be read.
    """
    receipts = Receipts(folder)
    found = [_here(manifest, item, folder, receipts, with_sums) for item in items]
    asked = [one for one in found if one.is_open and one.item.sources]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = [pool.submit(_ask, one, manifest, folder, client) for one in asked]
        for job in jobs:
            job.result()
    return found


def _here(
    manifest: Manifest, item: Item, folder: Path, receipts: Receipts, with_sums: bool
) -> Finding:
    """By the receipt and the files alone."""
    place = folder / item.to
    if item.kind == "manual":
        return Finding(item, "whole" if place.exists() else "by hand")
    if item.kind == "link":
        return Finding(item, "whole" if place.exists() or place.is_symlink() else "absent")
    key = key_of(manifest, item)
    standing = receipts.standing(key, with_sums=with_sums)
    if standing is not None and standing.changed:
        note = f"{_and_more(standing.changed)}: move it away to have it fetched again"
        return Finding(item, "clash", note=note)
    if standing is not None and standing.missing:
        return Finding(item, "part", note=f"{_and_more(standing.missing)} missing")
    if standing is not None:
        receipt = receipts.of(key) or {}
        return Finding(item, "whole", int(receipt.get("bytes", 0)))
    begun = part_folder(folder, manifest, item).exists()
    if item.kind == "archive" and item.expect and not begun and _has_all(place, item.expect):
        return Finding(item, "adopt", note="there already, not from here")
    return Finding(item, "part" if begun else "absent")


def _and_more(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _has_all(place: Path, names: Sequence[str]) -> bool:
    return all((place / name).exists() for name in names)


def _ask(one: Finding, manifest: Manifest, folder: Path, client: Client) -> None:
    """Sizes, from the first source that answers."""
    if one.state == "adopt":
        return
    for source in one.item.sources:
        try:
            if source.hub == "http":
                one.told = probe(client, source.place)
                one.size = one.told.total
            else:
                one.listing = list_files(one.item, source, client)
                one.size = one.listing.size
        except Refused as error:
            one.faults.append(f"{source.short}: {error}")
        except RecipeError as error:
            one.faults.append(str(error))
        else:
            one.source = source
            break
    if one.size is None:
        one.size = one.item.size
    _count(one, manifest, folder)


def _count(one: Finding, manifest: Manifest, folder: Path) -> None:
    """How much of it is here; where a whole file is that nobody recorded, it is adopted."""
    part = part_folder(folder, manifest, one.item)
    place = folder / one.item.to
    if one.item.kind == "repo" and one.listing is not None:
        _count_files(one, place, one.listing)
    elif one.item.kind == "archive":
        one.here = Part(part).size + _bytes_below(part / "hub")
    elif place.is_file() and not one.note:
        _compare(one, place)
    else:
        one.here = Part(part).size + _bytes_below(part / "hub")
    if one.here and one.state == "absent":
        one.state = "part"


def _count_files(one: Finding, place: Path, listing: Listing) -> None:
    """Files of a repository that are there with the right size; another size is a clash."""
    ours = one.state == "part" or (place / ".cache" / "huggingface").is_dir()
    missing = 0
    for file in listing.files:
        path = place / file.path
        size = path.stat().st_size if path.is_file() else -1
        if size == file.size:
            one.here += size
            continue
        missing += 1
        if size >= 0 and not ours:
            one.state = "clash"
            one.note = (
                f"{path} has {size} bytes, {listing.source.short} has {file.size}: move it away"
            )
            return
    if not missing:
        one.state = "adopt"
    elif one.here:
        one.state = "part"
    one.here += sum(size for _, size in halves(place, [place / f.path for f in listing.files]))


def _compare(one: Finding, place: Path) -> None:
    """A single file that is there without a receipt."""
    size = place.stat().st_size
    wanted = {name: s for name in ("sha256", "md5") if (s := getattr(one.item, name))}
    if wanted:
        found = sums_of(place, tuple(wanted))
        wrong = [name for name in wanted if found[name] != wanted[name]]
        why = f"its {wrong[0]} is {found[wrong[0]]}, not {wanted[wrong[0]]}" if wrong else ""
    elif one.size is None:
        why = "nobody says how large it has to be"
    else:
        why = f"it has {size} bytes, not {one.size}" if size != one.size else ""
    if why:
        one.state, one.note = "clash", f"{place} is there, but {why}: move it away"
    else:
        one.state, one.here = "adopt", size


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
