"""Whether a model's folder is what it should be, from its small files and its weights' headers.

No tensor is read: a wrong or half copied folder is found in milliseconds.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

_KINDS = {"language": ("gemma",), "vision": ("clip", "clip_vision_model")}
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_EMBEDDING = "model.embed_tokens.weight"
_LONGEST_HEADER = 100 << 20
_OLD_PICKLE = b"\x80"


def fault_of(folder: Path, part: str) -> str:
    """What is wrong with the folder of `language`, `vision` or `vision_high`; "" if nothing."""
    if not folder.is_dir():
        return "is not there"
    if part == "vision_high":
        return _open_clip_fault(folder)
    config = _read(folder / "config.json")
    if config is None:
        return "has no config.json that can be read"
    kind = str(config.get("model_type"))
    if kind not in _KINDS[part]:
        return f"is a model of type {kind!r}, not {_KINDS[part][0]!r}"
    fault = _weights_fault(folder)
    if fault or part == "vision":
        return fault
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return f"has no tokenizer ({' or '.join(_TOKENIZERS)})"
    return _size_fault(folder, config)


def _open_clip_fault(folder: Path) -> str:
    config = _read(folder / _OPEN_CLIP_CONFIG)
    named = str(((config or {}).get("model_cfg") or {}).get("vision_cfg", {}))
    if config is not None and "convnext" not in named:
        return f"{_OPEN_CLIP_CONFIG} is of no ConvNeXt"
    found = [folder / name for name in _OPEN_CLIP if (folder / name).is_file()]
    if not found:
        return f"has no weights ({' or '.join(_OPEN_CLIP)})"
    return _file_fault(found[0])


def _weights_fault(folder: Path) -> str:
    for name in _INDEXES:
        index = _read(folder / name)
        if index is None:
            continue
        shards = sorted(set((index.get("weight_map") or {}).values()))
        for shard in shards:
            if not (folder / shard).is_file():
                return f"lacks its shard {shard} of {len(shards)}"
            if fault := _file_fault(folder / shard):
                return fault
        return "" if shards else f"{name} names no shard"
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return _file_fault(folder / name)
    return f"has no weights ({' or '.join(_WEIGHTS)}, or an index of shards)"


def _file_fault(path: Path) -> str:
    """Whether a file of weights has its beginning and its end."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        begins, header = _header(path)
        if not begins:
            return f"{path.name} ({size:,} bytes) is no safetensors file"
        whole = begins + max((one["data_offsets"][1] for one in header.values()), default=0)
        return "" if whole == size else f"{path.name} has {size:,} bytes of {whole:,}"
    with path.open("rb") as file:
        is_old = file.read(1) == _OLD_PICKLE
    if is_old or zipfile.is_zipfile(path):
        return ""
    return f"{path.name} ({size:,} bytes) is cut off or no weights"


def _size_fault(folder: Path, config: dict[str, Any]) -> str:
    """Whether the embeddings have the shape that config.json says."""
    wanted = [config.get("vocab_size"), config.get("hidden_size")]
    for path in sorted(folder.glob("*.safetensors")):
        entry = _header(path)[1].get(_EMBEDDING)
        if entry is not None and entry["shape"] != wanted:
            return f"{path.name} has embeddings of {entry['shape']}, config.json says {wanted}"
    return ""


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's tensors begin, 0 if it is none; each tensor's entry by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            return 0, {}
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            return 0, {}
    header.pop("__metadata__", None)
    return 8 + length, header


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
