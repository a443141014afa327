"""A model on disk in any layout, told in our names: what layouts read and write.

`LAYOUT.read` gives a `Checkpoint` without reading a weight; `check` holds names
and shapes against the family's model; `build` makes that model; another
`LAYOUT.write` puts the same tensors under its own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig

from vlforge.checkpoints.experts import file_shapes, pieces
from vlforge.checkpoints.weights import SHARD_BYTES, Lazy, Weights
from vlforge.models.base import VisionLanguageModel
from vlforge.models.families import family_of, find_family
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.reading import first_line
from vlforge.text.two_tokenizers import Dialect
from vlforge.types import ModelError

SHOWN = 3
"""Names that an error lists before it says how many more there are."""


@dataclass(frozen=True)
class Parts:
    """Folders or files that a layout leaves out and the user names.

    base: the model that an adapter or a connector belongs to.
    vision, vision_high: encoders that the checkpoint only points to.
    language, qformer: likewise.
    config: the run's settings where the weights leave them out (XTuner's .py).
    select_layer: of the encoder, where the user says it and not the checkpoint (XTuner).
    """

    base: Path | None = None
    vision: Path | None = None
    vision_high: Path | None = None
    language: Path | None = None
    qformer: Path | None = None
    config: Path | None = None
    select_layer: int | None = None


@dataclass(frozen=True)
class Writing:
    """How a checkpoint is written.

    dtype: None keeps each tensor's own. language_dtype: that of the language model, where
    it is another. kind: safetensors or torch's pickle, where
    the layout has both. on_shard: called with (shards written, shards in all). say:
    called with a line about what the layout cannot hold as it is.
    """

    dtype: torch.dtype | None = None
    language_dtype: torch.dtype | None = None
    kind: Literal["safetensors", "bin"] = "safetensors"
    shard_bytes: int = SHARD_BYTES
    on_shard: Callable[[int, int], None] = lambda done, total: None
    say: Callable[[str], None] = lambda line: None

    def cast(self, weights: Weights) -> dict[str, Lazy]:
        """The weights in the precision asked for."""
        return {name: self.one(name, lazy) for name, lazy in weights.items()}

    def one(self, name: str, lazy: Lazy) -> Lazy:
        """One tensor in the precision asked for; `name` is ours."""
        own = self.language_dtype if name.startswith("language.") else None
        dtype = own or self.dtype
        return lazy if dtype is None else lazy.to(dtype)


@dataclass(frozen=True)
class Checkpoint:
    """A whole model: its configuration and its tensors under our names.

    config: of a family (`LlavaConfig`, …), as `config.json` of our folders holds it.
    weights: our parameter name -> tensor, in file order.
    tokenizer: folder with the tokenizer's files; None where the layout has none.
    processor: how pictures are prepared; None: what the encoder implies.
    template: conversation template, where the layout tells.
    unused: the source's tensors that have no place here, with reason where known.
    notes: what the user should know before trusting it (a template that does not
        fit, tensors that were made up), one line each.
    dialect: whose ids the tokenizer's texts became in training; see `text.two_tokenizers`.
    """

    path: Path
    layout: str
    config: PreTrainedConfig
    weights: Weights
    tokenizer: Path | None = None
    processor: ImageProcessor | None = None
    template: str = "plain"
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    dialect: Dialect = "auto"

    @property
    def family(self) -> str:
        """The family's name."""
        name = family_of(self.config.model_type)
        if name is None:
            raise ModelError(f"{self.path}: {self.config.model_type!r} is no family")
        return name

    def check(self) -> None:
        """Hold every name and shape against the family's model; no weight is read.

        Raises:
            ModelError: weights that are missing, have no place, or another shape;
                counts them and names the first.
        """
        fit = fit_of(self)
        if fit.missing or fit.extra:
            raise ModelError(f"{self.path}: " + "; ".join(_faults(fit)))
        if fit.misshapen:
            where, shape, wanted = fit.misshapen[0]
            raise ModelError(
                f"{where} has shape {list(shape)}, and the configuration asks for "
                f"{list(wanted)}; weights and config.json do not belong together"
            )

    def build(self, dtype: torch.dtype = torch.float32, **how: Any) -> VisionLanguageModel:
        """The model with these weights, in evaluation mode.

        Args:
            how: for `from_pretrained`: where weights go, and quantised how. Each is then
                read, changed and put in its place before the next one is read.

        Raises:
            ModelError: as `check`, or weights that cannot go where they are asked to.
        """
        self.check()
        if how:
            return self._place(dtype, how)
        model = new_model(self.config, dtype)
        kind = _language_kind(self.config)
        tied = _tied(model)
        with torch.no_grad():
            for name, place in model.state_dict().items():
                for file, index in pieces(name, place.shape, kind) if name not in tied else ():
                    place[index].copy_(self.weights[file].to(place.dtype).read())
        model.tie_weights()
        return model.eval()

    def _place(self, dtype: torch.dtype, how: Mapping[str, Any]) -> VisionLanguageModel:
        state = {name: Slice(lazy.to(dtype)) for name, lazy in self.weights.items()}
        try:
            model, info = find_family(self.family).from_pretrained(
                None,
                config=self.config,
                state_dict=state,
                dtype=dtype,
                output_loading_info=True,
                **how,
            )
        except (ValueError, RuntimeError, TypeError) as error:
            raise ModelError(f"{self.path} cannot be loaded: {first_line(error)}") from None
        lost = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if lost:
            raise ModelError(f"{self.path}: {len(lost)} weights did not land, the first {lost[0]}")
        return model.eval()


@dataclass(frozen=True)
class Slice:
    """What `from_pretrained` reads a tensor through, as safetensors has it."""

    lazy: Lazy

    def __getitem__(self, index: Any) -> Tensor:
        return self.lazy.read()[index]


@dataclass(frozen=True)
class Fit:
    """How a checkpoint's tensors fit the model that its configuration describes.

    used: (where it was read, our name) of each tensor with a place.
    missing: our names of weights that nothing gives.
    extra: where tensors without a place were read.
    misshapen: (where, shape there, shape asked for).
    """

    used: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def is_whole(self) -> bool:
        """Whether a model can be made of it."""
        return not (self.missing or self.extra or self.misshapen)


def fit_of(checkpoint: Checkpoint) -> Fit:
    """Hold names and shapes against the family's model; no weight is read."""
    wanted = expected(checkpoint.config)
    weights = checkpoint.weights
    return Fit(
        used=tuple((lazy.where, name) for name, lazy in weights.items() if name in wanted),
        missing=tuple(name for name in wanted if name not in weights),
        extra=tuple(lazy.where for name, lazy in weights.items() if name not in wanted),
        misshapen=tuple(
            (weights[name].where, weights[name].shape, shape)
            for name, shape in wanted.items()
            if name in weights and weights[name].shape != shape
        ),
    )


class Layout(Protocol):
    """One way of laying a model out on disk; `<Name>Layout` in a file of this folder."""

    name: str
    says: str
    """One line for `vlforge list layouts`: whose layout, which files."""

    def matches(self, path: Path) -> bool:
        """Whether what lies at `path` is in this layout, by its content."""
        ...

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """Open it; configurations are read, weights are not.

        Raises:
            ModelError: a part that is missing and not named, or does not fit.
        """
        ...

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """Write into the empty folder `out`.

        Raises:
            ModelError: this layout cannot hold such a model; says why.
        """
        ...


def new_model(config: PreTrainedConfig, dtype: torch.dtype) -> VisionLanguageModel:
    """A family's model whose weights are about to be filled: memory is reserved, not drawn."""
    family = find_family(str(family_of(config.model_type)))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with init.no_init_weights():
            return family(config)
    finally:
        torch.set_default_dtype(before)


def meta_model(config: PreTrainedConfig) -> VisionLanguageModel:
    """The same model without memory: names and shapes only, whatever its size."""
    with torch.device("meta"):
        return find_family(str(family_of(config.model_type)))(config)


def expected(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model's file holds; a tied one stands once."""
    return file_shapes(names_of(meta_model(config)), _language_kind(config))


def names_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a module's state, the doubles of tied weights left out."""
    tied = _tied(model)
    state = model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if name not in tied}


def _tied(model: nn.Module) -> set[str]:
    return set(getattr(model, "all_tied_weights_keys", ()))


def _language_kind(config: PreTrainedConfig) -> str | None:
    return getattr(getattr(config, "text_config", None), "model_type", None)


def _faults(fit: Fit) -> list[str]:
    said = []
    if fit.missing:
        said.append(f"{len(fit.missing)} weights are missing: {_some(fit.missing)}")
    if fit.extra:
        said.append(f"{len(fit.extra)} weights have no place: {_some(fit.extra)}")
    return said


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
