"""PEFT adapters of any model we read, whatever names the classes had when they were trained.

An adapter's names are those of the class it was trained with; transformers renamed
its LLaVA twice. Each tensor is looked up under every name its weight may have had, and
each has to land: peft itself leaves out in silence what it does not find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from vlforge.checkpoints import llava_fields, llava_hf, qwen_vl
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.index import detect
from vlforge.checkpoints.internlm2 import adapter_to_llama
from vlforge.checkpoints.llava_lora import adapter_of, base_of, write_adapter
from vlforge.checkpoints.lora import Adapter, is_adapter, open_adapter
from vlforge.checkpoints.weights import Weights
from vlforge.models import mgm
from vlforge.models.parts.internlm2 import Heads
from vlforge.types import ModelError

NAMES: tuple[Callable[[str], str | None], ...] = (
    lambda name: name,
    llava_hf.our_name,
    mgm.our_name,
    lambda name: qwen_vl.our_name(name) if name.startswith(qwen_vl.VISUAL) else None,
    llava_fields.our_name,
    lambda name: f"vision.tower.{name.removeprefix('vision_model.')}",
)
"""Ways in which a parameter's name may be told: ours, transformers' LLaVA of 4.x and
5.x, Mini-Gemini's, Qwen-VL's, LLaVA's own or a language model's alone, an encoder's alone."""


class PeftAdapterLayout:
    """`adapter_config.json` and `adapter_model.*` of a model that `--base` names."""

    name = "peft_adapter"
    says = "a LoRA adapter of peft: adapter_config.json, adapter_model.*; needs --base"
    is_part = True
    general = True

    def matches(self, path: Path) -> bool:
        """A folder with an adapter, and nothing that says more of it."""
        return is_adapter(path) and not (path / "non_lora_trainables.bin").is_file()

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The base, in any layout, with the adapter in it; every tensor has to land."""
        folder = base_of(path, parts)
        base = detect(folder).read(folder, replace(parts, base=None))
        adapter = open_adapter(path)
        text = base.config.text_config
        if text.model_type == "llama" and any(".attention.w" in name for name in adapter.pairs):
            adapter = adapter_to_llama(adapter, Heads.of(text))  # trained on an InternLM2
        adapter = landed(adapter, base.weights)
        return replace(
            base,
            path=path,
            layout=self.name,
            weights=adapter.onto(base.weights),
            extra={**base.extra, "adapter": adapter},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The adapter alone, under the names of transformers' LLaVA in memory."""
        adapter = adapter_of(checkpoint)
        if adapter.whole:
            raise ModelError(
                f"{checkpoint.path}: {len(adapter.whole)} weights were trained whole, the first "
                f"is {next(iter(adapter.whole))}; merge (--to llava) or keep --to llava_lora"
            )
        names = llava_hf.NESTED
        write_adapter(adapter, out, how, lambda name: llava_hf.their_name(name, names))
        how.say("names are those of transformers' LLaVA since 4.52 (llava_hf_nested)")


def landed(adapter: Adapter, weights: Weights) -> Adapter:
    """The adapter under our names.

    Raises:
        ModelError: tensors that no name leads to a weight of the base for.
    """
    names = [*adapter.pairs, *adapter.whole]
    found = {name: _landing(name, weights) for name in names}
    lost = [name for name, ours in found.items() if ours is None]
    if lost:
        where = (
            adapter.pairs[lost[0]].a if lost[0] in adapter.pairs else adapter.whole[lost[0]]
        ).where
        raise ModelError(
            f"{len(lost)} of {len(names)} weights that the adapter changes are not in the base, "
            f"the first is {where}; it was trained on another model"
        )
    return adapter.renamed(lambda name: str(found[name]))


def _landing(name: str, weights: Iterable[str]) -> str | None:
    for name_of in NAMES:
        ours = name_of(name)
        if ours is not None and ours in weights:
            return ours
    return None
