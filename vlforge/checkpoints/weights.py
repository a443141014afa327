"""Weights on disk, one tensor at a time: safetensors, `.bin` and `.pth`, sharded or not.

A `Lazy` knows its shape and reads its numbers when asked, so that a model of many
gigabytes is renamed, checked and written anew in the memory of one shard. Pickles
are read with torch's restricted unpickler: tensors and plain values, no code.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlforge.models.reading import first_line
from vlforge.types import ModelError

Weights = Mapping[str, "Lazy"]
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
SHARD_BYTES = 5 * 10**9
"""Default size of a shard, as transformers writes them."""
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Lazy:
    """A tensor that is read when asked for; `where` says for errors what it was called.

    `exact`: the same before it was rounded to `dtype`, where it comes of arithmetic
    (a merged adapter), so that another precision is rounded once.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    where: str
    exact: Callable[[], Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, tensor: Tensor, where: str) -> Lazy:
        """A tensor that is there already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor, where)

    def map(self, change: Callable[[Tensor], Tensor], shape: Sequence[int] | None = None) -> Lazy:
        """The tensor after `change`, which gives `shape` (the same by default) and keeps dtype."""
        new = self.shape if shape is None else tuple(shape)
        exact = self.exact
        return replace(
            self,
            shape=new,
            read=lambda: change(self.read()),
            exact=None if exact is None else lambda: change(exact()),
        )

    def to(self, dtype: torch.dtype) -> Lazy:
        """The tensor in another precision; integers stay."""
        if dtype == self.dtype or not self.dtype.is_floating_point:
            return self
        read = self.exact or self.read
        return replace(self, dtype=dtype, read=lambda: read().to(dtype))

    @classmethod
    def joined(
        cls,
        parts: Sequence[Lazy],
        change: Callable[..., Tensor],
        shape: Sequence[int],
        dtype: torch.dtype | None = None,
    ) -> Lazy:
        """One tensor made of several: `change(*tensors)`, of the first's dtype by default."""
        where = " + ".join(part.where for part in parts)
        return cls(
            tuple(shape),
            dtype or parts[0].dtype,
            lambda: change(*(part.read() for part in parts)),
            where,
        )


def open_weights(path: Path) -> dict[str, Lazy]:
    """All tensors of a file, or of a model folder's file or shards.

    Raises:
        ModelError: nothing there, a shard that is missing, or a file that cannot be read.
    """
    if not path.is_dir():
        return open_file(path)
    for index in (path / name for name in INDEXES):
        if index.is_file():
            return _open_shards(index)
    for file in (path / name for name in SINGLES):
        if file.is_file():
            return open_file(file)
    raise ModelError(f"{path} holds no weights ({', '.join(SINGLES[:2])} or an index of shards)")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights in one of the usual names."""
    return any((folder / name).is_file() for name in (*INDEXES, *SINGLES))


def open_file(path: Path) -> dict[str, Lazy]:
    """All tensors of one file.

    Raises:
        ModelError: no such file, truncated, not weights, or a pickle with code in it.
    """
    if not path.is_file():
        raise ModelError(f"no weights at {path}; check the path")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return lazies(read_pickle(path), path)


def _open_shards(index: Path) -> dict[str, Lazy]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{index} is no index of shards; copy the file again") from None
    shards: dict[str, dict[str, Lazy]] = {}
    for name in sorted(set(names.values())):
        file = index.parent / Path(str(name)).name
        if not file.is_file():
            total = len(set(names.values()))
            raise ModelError(f"{index.parent} lacks its shard {name} ({total} in all); fetch it")
        shards[name] = open_file(file)
    lost = sorted(key for key, shard in names.items() if key not in shards[shard])
    if lost:
        raise ModelError(
            f"{index.parent / names[lost[0]]} lacks {lost[0]}, which {index.name} puts there "
            f"({len(lost)} such weights); fetch the shard again"
        )
    return {key: shards[shard][key] for key, shard in names.items()}


def _open_safetensors(path: Path) -> dict[str, Lazy]:
    try:
        opened = safe_open(path, framework="pt")
        found = {}
        for key in opened.keys():  # noqa: SIM118 - not a mapping
            part = opened.get_slice(key)
            shape, dtype = tuple(part.get_shape()), _DTYPES[part.get_dtype()]
            found[key] = Lazy(shape, dtype, lambda key=key: opened.get_tensor(key), f"{path}:{key}")
        return found
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch or copy the file again") from None


def read_pickle(path: Path) -> Any:
    """What a `.bin` or `.pth` holds: tensors, mapped from disk where the file allows it.

    Raises:
        ModelError: truncated, not a torch file, or a pickle that asks for code.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = _asked_for(str(error))
        reason = f"asks for {found}" if found else "is no pickle of plain tensors"
        raise ModelError(
            f"{path} {reason}; nothing of it was run. Convert it to safetensors where you trust it"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(
            f"{path} cannot be read ({first_line(error)}); fetch or copy it again"
        ) from None


def _asked_for(message: str) -> str | None:
    """The name in torch's refusal, which is a page long."""
    marks = ("Unsupported global: GLOBAL ", "unsupported GLOBAL ", "Unsupported class ")
    for mark in marks:
        if mark in message:
            return message.split(mark, 1)[1].split()[0]
    return None


def lazies(state: Any, path: Path) -> dict[str, Lazy]:
    """The tensors of a state dict; what is no tensor is left.

    Raises:
        ModelError: not a state dict.
    """
    if not isinstance(state, Mapping):
        raise ModelError(f"{path} holds a {type(state).__name__}, not weights by name")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: Lazy.of(value, f"{path}:{key}") for key, value in tensors.items()}


def write_weights(
    weights: Weights,
    folder: Path,
    *,
    kind: Literal["safetensors", "bin"] = "safetensors",
    stem: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write tensors in their order, sharded with an index where they exceed `shard_bytes`.

    Names follow transformers (`model-00001-of-00002.safetensors`). Only one
    tensor is in memory at a time, with `bin` one shard; `folder` should be a draft
    that is renamed.

    Args:
        stem: "model" for safetensors and "pytorch_model" for bin by default.
        on_shard: called with (shards written, shards in all).
    """
    is_safe = kind == "safetensors"
    return write_shards(
        weights,
        folder,
        write_safetensors if is_safe else _write_bin,
        stem=stem or ("model" if is_safe else "pytorch_model"),
        suffix=kind,
        shard_bytes=shard_bytes,
        on_shard=on_shard,
    )


def write_shards(
    weights: Weights,
    folder: Path,
    save: Callable[[Weights, Path], None],
    *,
    stem: str,
    suffix: str,
    shard_bytes: int,
    on_shard: Callable[[int, int], None],
) -> list[Path]:
    """Write tensors by `save`, one file where they fit it, else shards and their index."""
    groups = list(_grouped(weights, shard_bytes))
    single = len(groups) == 1
    files, weight_map = [], {}
    for number, names in enumerate(groups, 1):
        part = "" if single else f"-{number:05d}-of-{len(groups):05d}"
        file = folder / f"{stem}{part}.{suffix}"
        save({name: weights[name] for name in names}, file)
        weight_map |= dict.fromkeys(names, file.name)
        files.append(file)
        on_shard(number, len(groups))
    if not single:
        total = sum(lazy.nbytes for lazy in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        file = folder / f"{stem}.{suffix}.index.json"
        file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return files


def _write_bin(weights: Weights, file: Path) -> None:
    torch.save({name: _whole(lazy.read()) for name, lazy in weights.items()}, file)


def _whole(tensor: Tensor) -> Tensor:
    """The tensor with no more memory behind it than it shows: a slice would be saved with all."""
    is_part = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone() if is_part else tensor.contiguous()


def write_safetensors(weights: Weights, file: Path) -> None:
    """One safetensors file, a tensor in memory at a time (safetensors' own writer takes all).

    Wider numbers come first, so that all of them are aligned; of a width in the given
    order. The same weights give the same bytes.
    """
    ordered = sorted(weights.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, lazy in ordered:
        ends = [at, at := at + lazy.nbytes]
        header[name] = {"dtype": _NAMES[lazy.dtype], "shape": lazy.shape, "data_offsets": ends}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, lazy in ordered:
            out.write(_bytes(lazy))


def _bytes(lazy: Lazy) -> memoryview:
    """A tensor's numbers as they stand in a file.

    Raises:
        ModelError: it is of another shape or precision than it was said to be.
    """
    tensor = lazy.read().contiguous()
    if tuple(tensor.shape) != lazy.shape or tensor.dtype != lazy.dtype:
        raise ModelError(
            f"{lazy.where} is {tensor.dtype} {list(tensor.shape)}, not {lazy.dtype} "
            f"{list(lazy.shape)}"
        )
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _grouped(weights: Weights, limit: int) -> Iterator[list[str]]:
    """Names in order, in groups of at most `limit` bytes (one tensor may exceed it)."""
    names: list[str] = []
    size = 0
    for name, lazy in weights.items():
        if names and size + lazy.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += lazy.nbytes
    yield names
