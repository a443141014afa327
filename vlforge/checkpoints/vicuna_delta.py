"""Vicuna from LLaMA: the published differences added to the base, shard by shard.

Sums are in fp16, the base rounded to it first, as FastChat adds them: the result is
bit for bit what it writes. Vicuna v0 has one token more than LLaMA (`[PAD]`); its
rows start from zero. What cannot be added without doubt is refused: a base of
another shape, a delta that is a whole model, base and delta exchanged. Two bases
of the same shapes (LLaMA and its second version) are told apart by what their
configurations say.

Source: lm-sys/FastChat (apply_delta.py; v0.1.10 for the rows of v0).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.weights import Lazy, open_weights, write_weights
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

SAME = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
ROWS = ("model.embed_tokens.weight", "lm_head.weight")
"""The tensors with one row per token, of which a delta may have more."""
LARGEST_SHARE = 0.5
"""Norm weights of a delta against those of its base; fine-tuning moves them by hundredths."""
_NORM = re.compile(r"(^|\.)(\w*layernorm|norm)\.weight$")


@dataclass(frozen=True)
class Merged:
    """What was written: how many tensors, and what to know of it, one line each."""

    tensors: int
    notes: tuple[str, ...]


def apply_delta(
    base: Path,
    delta: Path,
    out: Path,
    how: Writing | None = None,
    *,
    dtype: torch.dtype = torch.float16,
    sums: Mapping[str, str] | None = None,
) -> Merged:
    """Write base + delta into the new folder `out`, with the delta's tokenizer and configuration.

    Args:
        base: folder of the LLaMA in transformers' layout.
        delta: folder of the differences, such as vicuna-7b-delta-v0.
        how: shards and kind of file; its `dtype`, if any, is what the sum is turned into.
        dtype: what is added in.
        sums: SHA-256 of files of the base by name, to be sure of it.

    Raises:
        ModelError: folders that do not belong together; says why, and writes nothing.
    """
    how = how or Writing()
    if out.exists():
        raise ModelError(f"{out} exists already; name a new folder")
    notes = check_pair(base, delta)
    check_sums(base, sums or {})
    added = _added(base, delta, dtype)
    if how.dtype is not None:
        added = {name: lazy.to(how.dtype) for name, lazy in added.items()}
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    write_weights(added, draft, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard)
    fields = read_config(delta) | {"torch_dtype": str(how.dtype or dtype).removeprefix("torch.")}
    fields["vocab_size"] = added[ROWS[0]].shape[0]
    fields.pop("_name_or_path", None)
    write_json(draft / "config.json", fields)
    source = delta if has_tokenizer(delta) else base
    if source is base:
        notes.append(f"{delta} has no tokenizer; the base's was taken")
    copy_tokenizer(source, draft)
    os.replace(draft, out)
    return Merged(len(added), tuple(notes))


def check_pair(base: Path, delta: Path) -> list[str]:
    """Whether the second is a delta to a model such as the first; what stays in doubt.

    Only configurations, shapes and the norms' weights are read.

    Raises:
        ModelError: it is not; says why.
    """
    if base.resolve() == delta.resolve():
        raise ModelError(f"{base} is given as base and as delta")
    ours, theirs = read_config(base), read_config(delta)
    for key in SAME:
        if ours.get(key) != theirs.get(key):
            raise ModelError(
                f"{delta} is a delta to a model with {key} {theirs.get(key)} and {base} has "
                f"{ours.get(key)}; take the base of the same size"
            )
    _check_shapes(base, open_weights(base), delta, open_weights(delta))
    longest = [fields.get("max_position_embeddings") for fields in (ours, theirs)]
    if None not in longest and longest[0] != longest[1]:
        raise ModelError(
            f"{base} takes {longest[0]} positions and {delta} is a delta to a model of "
            f"{longest[1]}: it looks like another LLaMA of the same size; take the one that the "
            "delta was made from"
        )
    _check_is_delta(base, delta)
    eps = [fields.get("rms_norm_eps") for fields in (ours, theirs)]
    notes = []
    if None not in eps and eps[0] != eps[1]:
        notes.append(
            f"rms_norm_eps is {eps[0]} in {base} and {eps[1]} in {delta}; is it the LLaMA that the "
            "delta was made from?"
        )
    return notes


def check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Hold files against their SHA-256.

    Raises:
        ModelError: a file that is missing or has another sum.
    """
    for name, wanted in sums.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{folder} has no {name}, whose SHA-256 was given")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != wanted.lower():
            raise ModelError(f"{file} has SHA-256 {found}, not {wanted}; it is another file")


def _check_shapes(
    base: Path, ours: Mapping[str, Lazy], delta: Path, theirs: Mapping[str, Lazy]
) -> None:
    kept = [{name for name in names if not _is_buffer(name)} for names in (ours, theirs)]
    for there, here, lacking in ((kept[0], kept[1], delta), (kept[1], kept[0], base)):
        lost = sorted(there - here)
        if lost:
            raise ModelError(f"{lacking} lacks {len(lost)} weights, the first is {lost[0]}")
    for name in kept[0]:
        mine, added = ours[name].shape, theirs[name].shape
        has_more_rows = name in ROWS and mine[1:] == added[1:] and mine[0] < added[0]
        if mine == added or has_more_rows:
            continue
        if name in ROWS and mine[1:] == added[1:]:
            raise ModelError(
                f"{base} has {mine[0]} tokens and the delta {added[0]}; it is no plain LLaMA, "
                "or is merged already"
            )
        raise ModelError(
            f"{name} has shape {list(mine)} in {base} and {list(added)} in {delta}; they do not "
            "belong together"
        )


def _check_is_delta(base: Path, delta: Path) -> None:
    """A model's norms have weights around one; those of a difference are near zero."""
    sizes = [_norm_size(open_weights(folder)) for folder in (base, delta)]
    if sizes[0] < LARGEST_SHARE * sizes[1]:
        raise ModelError(f"{base} looks like a delta and {delta} like a model; exchange them")
    if sizes[1] > LARGEST_SHARE * sizes[0]:
        raise ModelError(
            f"{delta} looks like a whole model, not like a delta (its norms are "
            f"{sizes[1] / sizes[0]:.2f} times the base's); it may be used as it is"
        )


def _norm_size(weights: Mapping[str, Lazy]) -> float:
    """Root mean square of the weights of all norms."""
    norms = [lazy for name, lazy in weights.items() if _NORM.search(name)]
    if not norms:
        raise ModelError("no weights of norms: this is not a LLaMA")
    squares = [lazy.read().double().square().mean() for lazy in norms]
    return float(torch.stack(squares).mean().sqrt())


def _added(base: Path, delta: Path, dtype: torch.dtype) -> dict[str, Lazy]:
    ours, theirs = open_weights(base), open_weights(delta)

    def add(mine: Tensor, change: Tensor) -> Tensor:
        rows = change.shape[0] - mine.shape[0]
        whole = mine.to(dtype)
        if rows:
            whole = F.pad(whole, (0, 0, 0, rows))
        return whole + change.to(dtype)

    return {
        name: Lazy.joined([ours[name], lazy], add, lazy.shape, dtype)
        for name, lazy in theirs.items()
        if not _is_buffer(name)
    }


def _is_buffer(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")
