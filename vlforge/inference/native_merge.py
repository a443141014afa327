"""A native model and the adapters that a train stage left beside it, as one model."""

from __future__ import annotations

from pathlib import Path

import torch

from vlforge.checkpoints.merge import Merged
from vlforge.data.new_folder import NewFolder
from vlforge.inference.native import (
    adapted_model,
    merge_adapters,
    native_base,
    open_native,
)
from vlforge.models.native import NativeModel
from vlforge.models.native_folder import OWN_TEMPLATE, NativeFolder, read_meta, write_native
from vlforge.models.native_parts import NativeParts
from vlforge.models.reading import read_config

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def merge_native(
    adapter: Path, out: Path, dtype: torch.dtype | None = None, base: Path | None = None
) -> Merged:
    """Write a stage's adapters with their base into the new folder `out`, as transformers does.

    Sums are in fp32 and rounded once.

    Args:
        dtype: of the weights; the base's by default.
        base: where it is now; by default where it was.

    Raises:
        ModelError: the base is gone, or tensors that have no place in it.
        DataError: `out` is there already.
    """
    under = base or adapted_model(adapter)
    source = native_base(under)
    fields = read_config(source)
    kept = str(fields.get("dtype", fields.get("torch_dtype", "float32")))
    model, processor = open_native(under, torch.float32)
    changed = merge_adapters(model, adapter)
    model.to(dtype or _DTYPES.get(kept, torch.float32))
    meta = read_meta(adapter)
    folder = NativeFolder(
        NativeParts(NativeModel(model, processor)),
        processor.tokenizer,
        processor,
        source,
        str(meta.get("template", OWN_TEMPLATE)),
        tuple(meta.get("history", ())),
    )
    tensors = len(list(model.named_parameters()))
    with NewFolder(out) as draft:
        write_native(folder, draft)
        files = {file.name: file.stat().st_size for file in draft.iterdir() if file.is_file()}
    return Merged("native", files, tensors, changed)
