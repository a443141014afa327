"""What a frozen encoder makes of pictures, made once: in memory, or on disk for later runs.

On disk a folder belongs to one encoder with one way of preparing pictures, and in it every
picture has its place by what its file holds. So other stages, other runs and other datasets
with the same pictures find what is there. Features are made before the first step and read
through memory maps, which the system fills while the step before still runs.

Shapes: I pictures, N tokens a picture, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlforge.training.config import TrainConfig
from vlforge.training.contents import Contents
from vlforge.training.disk_lists import cannot_write
from vlforge.training.pictures import FEATURE_CHUNK, Pictures, cache_features, features_fit
from vlforge.training.precision import DTYPES, as_in_a_step
from vlforge.types import LogFn, RecipeError, no_log

HOME = ".features"
"""The folder's name, beside the stages of all runs."""
SHARD_BYTES = 256 << 20
"""About what a file of features holds."""
SPARE_BYTES = 1 << 30
"""What a disk keeps free besides."""
_SEEN_BY = ("vision_config", "qformer_config", "select_layer", "select_feature")
"""Settings of a model that decide its features."""
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def keep_features(
    config: TrainConfig,
    model: Any,
    data: Any,
    rows: Collection[int],
    devices: Any,
    learning: Collection[str],
    home: Path,
    log: LogFn = no_log,
) -> Tensor | DiskFeatures | None:
    """Features of the pictures of `rows`, as `config.cache` says; None where none are kept.

    Args:
        learning: names of the parameters that learn.
        devices: `.device`, `.count`, `.index`, `.wait()`: each process makes a share.
        home: where caches of all runs lie.

    Raises:
        RecipeError: `cache: on` where it cannot be, or where the disk is too small.
        WriteError: the disk became full.
    """
    fault = hindrance(config, model, learning)
    if config.cache == "on" and fault:
        raise RecipeError(f"cache: on {fault}; set cache: off")
    wanted = sorted({image for row in rows for image in data.rows.images[row]})
    if config.cache == "off" or fault or not wanted:
        return None
    pictures, device = data.pictures, devices.device
    way = as_in_a_step(device, config.precision)
    if config.cache == "auto":
        fits = features_fit(len(pictures.sources), model.image_tokens, model.vision.width)
        if not (pictures.all_in_memory and fits):
            return None
        model.vision.to(device)
        with way:
            return cache_features(model.vision, pictures, wanted, device)
    shelf = Shelf.of(home, model, pictures.processor, config.precision, device)
    model.vision.to(device)
    wanted = [number for number in wanted if number not in pictures.bad]
    keys = Contents(home).keys([pictures.sources[number] for number in wanted])
    found = dict(zip(wanted, keys, strict=True))
    with way:
        made = shelf.fill(model.vision, pictures, found, devices)
    for number, key in found.items():
        if key not in shelf.places:
            pictures.bad.setdefault(number, "it could not be read as its features were made")
    log({"event": "cache", "pictures": len(found), "made": made, "gib": round(shelf.gib(), 2)})
    return DiskFeatures(shelf, found)


def hindrance(config: TrainConfig, model: Any, learning: Collection[str]) -> str | None:
    """Why features of a stage cannot be kept; None where they can."""
    if model.family == "native":
        return "is not there for transformers' own models"
    if any(name.startswith("vision.") for name in learning):
        return "keeps what a frozen encoder makes, and here the encoder learns"
    if config.augment is not False:
        return "and augment contradict each other: a picture is another one each time"
    if config.random_crop is True or (config.random_crop == "auto" and model.crops_in_training):
        return "and random_crop contradict each other: give random_crop: false to see whole ones"
    if not model.features_are_tensors:
        return f"does not pay for {model.family}: its maps are larger than what decoding costs"
    if model.needs_sizes:
        return "keeps one tile a picture, and image_aspect_ratio is anyres"
    return None


def bytes_of_picture(tokens: int, width: int, dtype: torch.dtype) -> int:
    """Bytes that a picture's features take."""
    return tokens * width * dtype.itemsize


@dataclass(frozen=True)
class Place:
    """Where a picture's features are: a file, the first of their bytes."""

    file: Path
    start: int


class Shelf:
    """The folder of one encoder: files of features, each whole or not there.

    A file's header says of which pictures it is and what its bytes sum up to. Files that
    are as they were left are trusted; others are summed up again, and a damaged one goes.
    """

    INDEX = "index.json"

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: torch.dtype):
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.each = bytes_of_picture(*shape, dtype)
        self.places: dict[bytes, Place] = {}
        self._read()

    @classmethod
    def of(
        cls, home: Path, model: Any, processor: Any, precision: str, device: torch.device
    ) -> Shelf:
        """The folder for a model's encoder as it is now; made where it is not there."""
        fields = model.config.to_dict()
        on_gpu = device.type == "cuda" and precision != "fp32"
        dtype = DTYPES[precision] if on_gpu else torch.float32
        facts = {
            "family": model.family,
            "model": {name: fields.get(name) for name in _SEEN_BY},
            "pictures": {"type": type(processor).__name__} | asdict(processor),
            "weights": digest_of(model.vision),
            "precision": [str(dtype), device.type],
        }
        text = json.dumps(facts, indent=1, sort_keys=True, default=str)
        key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        folder = home / key
        _write(folder / "facts.json", text.encode())
        return cls(folder, (model.vision.tokens, model.vision.width), dtype)

    def gib(self) -> float:
        """What lies in the folder."""
        return len(self.places) * self.each / 2**30

    def fill(
        self, vision: nn.Module, pictures: Pictures, keys: dict[int, bytes], devices: Any
    ) -> int:
        """Make what is missing of the pictures, each process its share of files; how many.

        Pictures go through the encoder in the same groups after a kill as without one.

        Raises:
            RecipeError: the disk is too small.
            WriteError: it became full.
        """
        there: set[bytes] = set(self.places)
        missing = []
        for number, key in keys.items():
            if key not in there:
                there.add(key)
                missing.append(number)
        self._check_room(len(missing), len(keys))
        devices.wait()  # all have looked before the first one writes
        size = max(1, SHARD_BYTES // self.each // FEATURE_CHUNK) * FEATURE_CHUNK
        starts = range(devices.index * size, len(missing), devices.count * size)
        for start in starts:
            part = missing[start : start + size]
            ahead = missing[start + devices.count * size :][:FEATURE_CHUNK]
            self._make(vision, pictures, {n: keys[n] for n in part}, ahead, devices.device)
        devices.wait()
        if missing:
            self._read()
        return len(missing)

    def _check_room(self, missing: int, wanted: int) -> None:
        needed, free = missing * self.each, shutil.disk_usage(self.folder).free
        if missing and needed + min(SPARE_BYTES, needed) > free:
            raise RecipeError(
                f"cache: on takes {needed / 1e9:,.1f} GB for {missing:,} of {wanted:,} pictures "
                f"and {free / 1e9:,.1f} GB are free in {self.folder.parent}; set cache: off"
            )

    @torch.no_grad()
    def _make(
        self,
        vision: nn.Module,
        pictures: Pictures,
        keys: dict[int, bytes],
        ahead: Sequence[int],
        device: torch.device,
    ) -> None:
        """One file."""
        numbers = list(keys)
        made = []
        for start in range(0, len(numbers), FEATURE_CHUNK):
            chunk = numbers[start : start + FEATURE_CHUNK]
            pictures.prefetch(numbers[start + FEATURE_CHUNK :][:FEATURE_CHUNK] or ahead)
            pixels = pictures.processor.normalise(pictures.take(chunk).to(device))
            features = vision(pixels).to(self.dtype).cpu()
            made += [
                (keys[number], row)
                for number, row in zip(chunk, features, strict=True)
                if number not in pictures.bad
            ]
        if made:
            self._store([key for key, _ in made], torch.stack([row for _, row in made]))

    def _store(self, keys: list[bytes], features: Tensor) -> None:
        content = features.contiguous().view(torch.uint8).numpy().reshape(-1)
        total = hashlib.blake2b(content, digest_size=16).hexdigest()
        header = {
            "__metadata__": {"pictures": b"".join(keys).hex(), "sum": total},
            "features": {
                "dtype": _NAMES[self.dtype],
                "shape": list(features.shape),
                "data_offsets": [0, len(content)],
            },
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        name = hashlib.blake2b(b"".join(keys), digest_size=12).hexdigest()
        head = len(text).to_bytes(8, "little") + text
        _write(self.folder / f"{name}.safetensors", head, content)

    def _read(self) -> None:
        """Look through the files that are there."""
        known = _read_json(self.folder / self.INDEX)
        seals: dict[str, list[int]] = {}
        self.places = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            seal = _seal(file)
            keys, start = self._pictures_of(file, is_known=known.get(file.name) == seal)
            if start < 0:
                file.unlink(missing_ok=True)
                continue
            seals[file.name] = seal
            for number, key in enumerate(keys):
                self.places[key] = Place(file, start + number * self.each)
        if seals != known:
            _write(self.folder / self.INDEX, json.dumps(seals).encode())

    def _pictures_of(self, file: Path, is_known: bool) -> tuple[list[bytes], int]:
        """The pictures of a file and where its features begin; -1 of a damaged one."""
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                if length > file.stat().st_size:
                    return [], -1
                header = json.loads(opened.read(length))
                facts, features = header["__metadata__"], header["features"]
                joined = bytes.fromhex(facts["pictures"])
                keys = [joined[at : at + 16] for at in range(0, len(joined), 16)]
                whole = 8 + length + len(keys) * self.each == file.stat().st_size
                if not whole or features["shape"] != [len(keys), *self.shape]:
                    return [], -1
                if not is_known and facts["sum"] != _sum(opened):
                    return [], -1
        except (OSError, ValueError, KeyError, TypeError):
            return [], -1
        return keys, 8 + length


class DiskFeatures:
    """Features by picture number, as a tensor [I, N, D] would give them, read when asked for.

    A picture without any, because it cannot be read, has zeros.
    """

    def __init__(self, shelf: Shelf, keys: dict[int, bytes]):
        self._shelf = shelf
        self._places = {n: shelf.places[k] for n, k in keys.items() if k in shelf.places}
        self._maps: dict[Path, mmap.mmap] = {}

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        """[B, N, D] of pictures by number."""
        if isinstance(at, slice):
            return torch.zeros(1, *self._shelf.shape, dtype=self._shelf.dtype)
        each = self._shelf.each
        content = np.zeros((len(at), each), dtype=np.uint8)
        for row, number in enumerate(at.tolist()):
            place = self._places.get(number)
            if place is not None:
                held = self._map(place.file)
                content[row] = np.frombuffer(held, np.uint8, each, place.start)
        return torch.from_numpy(content).view(self._shelf.dtype).view(-1, *self._shelf.shape)

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Let the system read these meanwhile, where it can be told to."""
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        for number in set(numbers) & self._places.keys():
            place = self._places[number]
            first = place.start // mmap.PAGESIZE * mmap.PAGESIZE
            length = place.start + self._shelf.each - first
            self._map(place.file).madvise(mmap.MADV_WILLNEED, first, length)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            with file.open("rb") as opened:
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file]


def digest_of(module: nn.Module) -> str:
    """Changes with any weight or buffer of the module that counts."""
    found = hashlib.blake2b(digest_size=16)
    unused = module.unused_parameters()
    for name, tensor in sorted(module.state_dict().items()):
        if name in unused:
            continue
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _sum(file: Any) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in _parts(file):
        found.update(part)
    return found.hexdigest()


def _parts(file: Any) -> Iterator[bytes]:
    while part := file.read(1 << 24):
        yield part


def _seal(path: Path) -> list[int]:
    told = path.stat()
    return [told.st_size, told.st_mtime_ns]


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _write(path: Path, *parts: Any) -> None:
    """The whole file, or none.

    Raises:
        WriteError: no room for it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None
