"""Mini-Gemini's LoRA folders, which its own loader cannot read.

`--lora_enable` leaves the language model's adapter and `non_lora_trainables.bin` with
the connector and the mining, under names that begin `base_model.model.`.

Source: dvlab-research/MGM@769820c (train/train.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.languages import OURS
from vlforge.checkpoints.llava_lora import WHOLE, adapter_of, base_of, write_adapter
from vlforge.checkpoints.lora import PREFIX, Adapter, is_adapter, open_adapter, plain_name
from vlforge.checkpoints.mgm import MgmProjectorLayout, their_name, write_beside
from vlforge.checkpoints.weights import open_file
from vlforge.models.mgm import our_name
from vlforge.models.reading import read_config
from vlforge.types import ModelError


class MgmLoraLayout:
    """`adapter_config.json`, `adapter_model.*`, `non_lora_trainables.bin`, `config.json`."""

    name = "mgm_lora"
    says = "Mini-Gemini's LoRA folder: adapter_model.*, non_lora_trainables.bin; needs --base"
    is_part = True

    def matches(self, path: Path) -> bool:
        """A folder with an adapter and, trained whole, the mining."""
        return is_adapter(path) and (path / WHOLE).is_file() and holds_mining(path / WHOLE)

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The base with the adapter in it; each tensor of the adapter has to land."""
        given = replace(parts, base=base_of(path, parts))
        whole = MgmProjectorLayout().read(path / WHOLE, given)
        adapter = open_adapter(path).renamed(lambda name: our_name(name) or OURS + name)
        others = {
            OURS + plain_name(key): lazy
            for key, lazy in open_file(path / WHOLE).items()
            if our_name(key) is None
        }
        adapter = Adapter(adapter.settings, adapter.pairs, {**adapter.whole, **others})
        return replace(
            whole,
            path=path,
            layout=self.name,
            weights=adapter.onto(whole.weights),
            unused=tuple(line for line in whole.unused if WHOLE not in line),
            extra={**whole.extra, "adapter": adapter},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The adapter, the connector and the mining alone, for the same base."""
        adapter = adapter_of(checkpoint)
        whole = {
            PREFIX + their_name(name): lazy
            for name, lazy in how.cast(checkpoint.weights).items()
            if name in adapter.whole or name.startswith("connector.")
        }
        write_adapter(adapter, out, how, their_name)
        torch.save({name: lazy.read().contiguous() for name, lazy in whole.items()}, out / WHOLE)
        write_beside(checkpoint, out, whole)
        how.say("Mini-Gemini's own code reads no LoRA folder; vlforge merge makes it whole")


def holds_mining(file: Path) -> bool:
    """Whether weights are Mini-Gemini's: patch mining is among them."""
    beside = file.with_name("config.json")
    kind = str(read_config(file.parent).get("model_type")) if beside.is_file() else ""
    if kind.startswith(("mgm", "mini_gemini")):
        return True
    try:
        return any("vlm_uni_" in key for key in open_file(file))
    except ModelError:
        return False
