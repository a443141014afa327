"""What lies in the caches of this machine: Hugging Face's, ModelScope's and torch's.

Nothing is asked over the network. A snapshot counts as found when it holds files and none
of its links leads to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vlforge.data.fetch.manifest import Item
from vlforge.data.fetch.source import Source


@dataclass(frozen=True, slots=True)
class Found:
    """Where an item lies, or all the places that were looked at."""

    path: Path | None
    looked: tuple[Path, ...] = ()


def find(item: Item) -> Found:
    """The item in one of the caches, from whichever of its sources."""
    looked: list[Path] = []
    for source in item.sources:
        for place in _places(source):
            if place not in looked:
                looked.append(place)
            path = _held(place, source, item)
            if path is not None:
                return Found(path)
    return Found(None, tuple(looked))


def _places(source: Source) -> Iterator[Path]:
    if source.hub == "hf":
        kind = "datasets" if source.is_dataset else "models"
        for cache in hf_caches():
            yield cache / "--".join([kind, *source.place.split("/")])
    elif source.hub == "modelscope":
        yield from _modelscope_places(source)
    else:
        yield torch_hub() / "checkpoints" / source.file_name


def _held(place: Path, source: Source, item: Item) -> Path | None:
    """What of `place` is the item: a file, or a folder of files."""
    if source.hub == "http":
        return place if _is_whole_file(place, item) else None
    for folder in _snapshots(place, source.revision):
        if source.file:
            if _is_whole_file(folder / source.file, item):
                return folder / source.file
        elif _is_whole_folder(folder, item):
            return folder
    return None


def _is_whole_file(path: Path, item: Item) -> bool:
    return path.is_file() and (item.size is None or path.stat().st_size == item.size)


def _is_whole_folder(folder: Path, item: Item) -> bool:
    """Whether there are files, no dangling links, nothing half done, and what is wanted by name."""
    names = set()
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        if not path.is_file() or path.suffix == ".incomplete":
            return False
        names.add(path.relative_to(folder).as_posix())
    exact = {p for p in item.patterns if not set("*?[") & set(p)}
    return bool(names) and exact <= names


def _snapshots(place: Path, revision: str) -> Iterator[Path]:
    """Folders with a repository's files: the wanted revision, else all, newest first."""
    folders = place / "snapshots"
    if not folders.is_dir():
        if place.is_dir() and not (place / "refs").is_dir():
            yield place
        return
    wanted = revision or "main"
    ref = place / "refs" / wanted
    names = [ref.read_text(encoding="utf-8").strip()] if ref.is_file() else []
    names += [wanted, "master"]
    if not revision:
        by_age = sorted(folders.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        names += [path.name for path in by_age]
    for name in dict.fromkeys(names):
        if name and (folders / name).is_dir():
            yield folders / name


def hf_caches() -> list[Path]:
    """Folders of repositories as huggingface_hub keeps them, the one that is used first."""
    home = _from("HF_HOME", _cache_home() / "huggingface")
    named = [os.environ.get(key) for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    named.append(os.environ.get("TRANSFORMERS_CACHE"))
    places = [Path(place).expanduser() for place in named if place]
    return list(dict.fromkeys([*places, home / "hub"]))


def _modelscope_places(source: Source) -> Iterator[Path]:
    """All the layouts that ModelScope's library has had; dots in names stand as `___`."""
    base = _from("MODELSCOPE_CACHE", _cache_home() / "modelscope")
    kind = "datasets" if source.is_dataset else "models"
    owner, _, name = source.place.partition("/")
    yield base / kind / f"{owner}--{name}"
    for root in (base / kind, base / "hub" / kind, base, base / "hub"):
        yield root / owner / name.replace(".", "___")
        if "." in name:
            yield root / owner / name


def torch_hub() -> Path:
    """Where torch.hub and timm keep files that came over HTTP."""
    return _from("TORCH_HOME", _cache_home() / "torch") / "hub"


def _cache_home() -> Path:
    return _from("XDG_CACHE_HOME", Path("~/.cache").expanduser())


def _from(name: str, default: Path) -> Path:
    given = os.environ.get(name)
    return Path(given).expanduser() if given else default
