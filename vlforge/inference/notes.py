"""What a user should know of a model as it was loaded, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.inference.placing import quantised_share
from vlforge.text.doubts import template_doubts
from vlforge.types import Loading

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded

FEW = 0.5
"""Below this share of quantised weights a model takes more memory than one expects."""


def notes_of(loaded: Loaded, loading: Loading) -> Iterator[str]:
    """A template that may not fit, numbers that depend on the batch, weights left whole."""
    if loaded.kind not in ("family", "native", "language"):
        return
    if loaded.stops:
        yield (
            f"{loaded.path} has no chat template: it is asked in plain words (User: ... "
            "Assistant:); a model that was taught conversations answers better"
        )
    if loaded.template is not None:
        config = loaded.model.config.get_text_config().to_dict()
        name = Path(config.get("_name_or_path") or "").name
        yield from template_doubts(loaded.template, loaded.tokenizer, config, name)
    if loading.precision != "fp32" or loading.quantise != "none":
        kind = loading.precision if loading.quantise == "none" else loading.quantise
        yield f"in {kind} an answer may change with the batch it is in; in fp32 it does not"
    share = quantised_share(loaded.model)
    if loading.quantise != "none" and share < FEW:
        yield (
            f"quantise {loading.quantise} reached {100 * share:.0f} % of the language model's "
            "weights; experts that lie in one tensor stay as they are"
        )
