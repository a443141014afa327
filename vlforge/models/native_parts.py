"""A native model with our three nouns: the same modules, found under vision, connector, language.

Recipes, optimisers and adapters ask for a part by the beginning of a parameter's name.
transformers' own classes nest their parts in ways of their own, so each noun gets a tree
of branches that holds the model's own modules, under the paths that they have there. The
model itself stays as it is and computes as always.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from vlforge.models.base import PARTS, Sizes
from vlforge.models.cost import ModelCost
from vlforge.models.native import NativeModel
from vlforge.models.native_cost import native_cost
from vlforge.models.stages import USUAL, Stages


class Branch(nn.Module):
    """What one noun has below a module of the model; whole modules where all is of the noun.

    A module that is replaced here (as adapters do) is replaced in the model.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        object.__setattr__(self, "_grown_on", module)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module) and "_grown_on" in self.__dict__:
            setattr(self.__dict__["_grown_on"], name, value)

    def around(self) -> Any:
        """The module that this is a branch of."""
        return self.__dict__["_grown_on"]


class LanguageBranch(Branch):
    """The language model's branch, which knows words and the output layer."""

    @property
    def config(self) -> Any:
        """The language model's own."""
        return self.around().config.get_text_config()

    def get_input_embeddings(self) -> Any:
        return self.around().get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.around().get_output_embeddings()

    def get_decoder(self) -> Any:
        """The layers without the output layer."""
        return self.around().get_decoder()


class NativeParts(nn.Module):
    """A native model as training stages take a model.

    `whole` is the model with its processor; its parameters are named by their nouns:
    `vision.model.visual.blocks.0.attn.qkv.weight`. `lean` says what is left out of the work.
    """

    family = "native"
    stages: Stages = USUAL
    features_are_tensors = False
    crops_in_training = False
    needs_sizes = True
    lean: Any = None
    last_rows: Any = None

    def __init__(self, whole: NativeModel):
        super().__init__()
        self.vision = _grow(whole.model, "vision", Branch(whole.model))
        self.connector = _grow(whole.model, "connector", Branch(whole.model))
        self.language = _grow(whole.model, "language", LanguageBranch(whole.model))
        # Behind the nouns: of two names of a parameter the first is the one that is told.
        self.whole = whole

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.whole.model.config

    @property
    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on; they never train.

        Encoder layers behind the one whose output is taken, and the norm after them.
        """
        config = self.config
        taken = getattr(config, "vision_feature_layer", None)
        listed = [taken] if isinstance(taken, int) else list(taken or ())
        depth = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
        if not listed or depth is None:
            return set()
        last = max(layer if layer >= 0 else depth + 1 + layer for layer in listed)
        layers = {f".layers.{k}." for k in range(last, depth)} | {f".layer.{k}." for k in
                                                                  range(last, depth)}  # fmt: skip
        names = [name for name, _ in self.vision.named_parameters()]
        marks = layers | {".post_layernorm.", ".head."}
        return {f"vision.{name}" for name in names if any(mark in f".{name}" for mark in marks)}

    def cost(self) -> ModelCost:
        """Weights, FLOPs and memory by part, from the configuration alone.

        Raises:
            ModelError: an architecture that is not counted.
        """
        return native_cost(self.config.to_dict())

    def count(self, sizes: Sizes) -> list[int]:
        """Tokens of pictures with the given (width, height)."""
        return self.whole.count(sizes)


def their_name(name: str) -> str:
    """What the model itself calls one of the parameters: the noun is left out."""
    part, _, rest = name.partition(".")
    return rest if part in PARTS else name


def _grow(module: nn.Module, part: str, branch: Branch, path: str = "") -> Any:
    """Fill a branch with what is of the noun below a module."""
    for name, parameter in module.named_parameters(recurse=False):
        if NativeModel.part_of(f"{path}{name}") == part:
            branch.register_parameter(name, parameter)
    for name, child in module.named_children():
        found = nouns_of(child, f"{path}{name}.")
        if found == {part}:
            branch.add_module(name, child)
        elif part in found:
            branch.add_module(name, _grow(child, part, Branch(child), f"{path}{name}."))
    return branch


def nouns_of(module: nn.Module, path: str) -> Collection[str]:
    """The nouns of a module's parameters; of one without any what its path says."""
    found = {NativeModel.part_of(f"{path}{name}") for name, _ in module.named_parameters()}
    return found or {NativeModel.part_of(path)}
