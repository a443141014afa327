"""What a model is made of, as recipes say it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAST_ROWS_WIDTH = 512
"""Width of a decoder from which on auto takes rows out: fewer rows round otherwise, and what
small models learn is held to the bit."""


@dataclass(frozen=True)
class ModelSpec:
    """The three nouns of a model: vision encoder, connector, language model.

    `vision` and `language` are model folders (a stage's output or the user's
    own); `tokenizer` defaults to the language folder, `tokenizer_dialect: slow` gives the
    ids of transformers 4's slow one where they differ. `connector_init` is
    where the connector begins: at random, or, with an encoder that was trained
    on tags, by handing the language model the words of the tags it sees
    (`connector_gain` is how loudly). `connector_weights` is a file with a
    connector that was trained before (mm_projector.bin, a MiniGPT-4 stage).

    llava: `image_aspect_ratio: anyres` cuts a picture into tiles, laid out by
    `image_grid_pinpoints`, joined as `patch_merge` says (LLaVA 1.6).
    mgm: `vision_high` is the second encoder, which looks at `image_size_high`
    pixels; `image_grid` and `image_global` crop the first one's view; `drop_path` above
    0 (published: 0.1) drops its blocks in training, frozen or not.
    minigpt4: `qformer` is a folder or file with the Q-Former's weights.
    qwen_vl: a folder of Qwen-VL serves as `vision`, `language` and `connector_weights`,
    each part of it alone; pictures are stretched unless `image_aspect_ratio` is pad.
    """

    vision: str
    language: str
    family: Literal["llava", "mgm", "minigpt4", "qwen_vl"] = "llava"
    connector: str = "mlp2x_gelu"
    connector_init: Literal["random", "tags"] = "random"
    connector_gain: float = 0.1
    connector_weights: str | None = None
    tokenizer: str | None = None
    tokenizer_dialect: Literal["auto", "slow", "fast"] = "auto"
    select_layer: int = -2
    select_feature: Literal["patch", "cls_patch"] = "patch"
    image_aspect_ratio: Literal["square", "pad", "stretch", "anyres"] = "square"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    patch_merge: Literal["flat", "spatial", "spatial_unpad"] = "flat"
    vision_high: str | None = None
    image_size_high: int = 768
    image_grid: int = 1
    image_global: bool = False
    drop_path: float = 0.0
    qformer: str | None = None


@dataclass(frozen=True)
class SmallVisionSpec:
    """A convolutional encoder that trains in minutes on a CPU.

    `image_size` pixels a side; one entry of `channels` per stage, each halving
    the map; `merge` neighbouring columns become one token. `residual` has the
    kernel sizes of each stage's residual branch ([] for none), two of 3 pixels
    in every stage by default. `norm` is over the batch (learns faster; none
    after the last stage) or over the picture (the same in training and use).
    `position_std` is the deviation of the code that tells a token its place;
    `place_std` above 0 adds a learned map to the last stage, before its residual
    branch, so that features can say where they are ("top left").
    """

    image_size: int = 64
    channels: tuple[int, ...] = (16, 32, 96)
    merge: int = 2
    residual: tuple[tuple[int, ...], ...] = ()
    norm: Literal["group", "batch"] = "group"
    position_std: float = 0.02
    place_std: float = 0.0


@dataclass(frozen=True)
class SmallLanguageSpec:
    """A Llama decoder small enough to train from scratch.

    `tie_embeddings` makes the output layer the embedding matrix.
    """

    hidden_size: int = 96
    layers: int = 3
    heads: int = 4
    intermediate_size: int = 256
    max_positions: int = 256
    initializer_range: float = 0.08
    tie_embeddings: bool = False


@dataclass(frozen=True)
class Lean:
    """Work that is left out because no number depends on it; each can be put back.

    `supervised_head`: the output layer sees supervised rows alone. `unused_layers`: encoder
    layers behind the one that features are taken from are not run. `frozen_graph`: parts of
    which nothing learns, with nothing that learns before them, keep no graph.
    `last_layer_rows`: the last decoder layer makes queries, their outputs and the MLP of
    supervised rows alone; auto is from 512 wide on: small models keep their bits.
    """

    supervised_head: bool = True
    unused_layers: bool = True
    frozen_graph: bool = True
    last_layer_rows: bool | Literal["auto"] = "auto"

    def takes_last_rows(self, width: int) -> bool:
        """Whether the last layer of a decoder so wide is to see supervised rows alone."""
        if self.last_layer_rows == "auto":
            return width >= LAST_ROWS_WIDTH
        return self.last_layer_rows
