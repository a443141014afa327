"""The MiniGPT-4 family: EVA-ViT-g and BLIP-2's Q-Former, one linear layer, a Vicuna.

Encoder and Q-Former stay as BLIP-2 left them: `vision` is all of that and gives 32
tokens a picture, which a stage that keeps it frozen caches. Both published stages
train the linear layer, the connector, alone.

Shapes: I pictures, S pixels a side, Q queries, C Q-Former width.
Source: Vision-CAIR/MiniGPT-4@22d8888 (mini_gpt4.py, blip2.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.base import FamilyConfig, VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.parts.connector import build_connector
from vlforge.models.parts.eva_vit import EvaVit, EvaVitConfig, eva_sizes, fit_positions
from vlforge.models.parts.qformer import QFormer, QFormerConfig, our_name, qformer_sizes
from vlforge.models.reading import read_tensors
from vlforge.models.stages import STAGES
from vlforge.types import ModelError

SETTINGS = "minigpt4.json"
"""What no weights tell, beside them: heads, picture size, template. For published sizes
none of it is needed."""
EVA, BLIP = "eva_vit_g", "blip2_pretrained"
"""How the published files' names begin."""
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class Minigpt4Config(FamilyConfig):
    """What a `Minigpt4Model` is made of."""

    model_type = "vlforge_minigpt4"

    qformer_config: dict[str, Any] | PreTrainedConfig | None = None
    image_aspect_ratio: str = "stretch"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):
            self.vision_config = EvaVitConfig.from_dict(self.vision_config)
        if not isinstance(self.qformer_config, PreTrainedConfig):
            self.qformer_config = QFormerConfig.from_dict(dict(self.qformer_config or {}))
        super().__post_init__(**kwargs)


class WideNorm(nn.LayerNorm):
    """A norm computed in fp32 at least, whatever its weights are in."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C], in the precision of `x`."""
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class BlipVision(nn.Module):
    """EVA-ViT-g, BLIP-2's norm over its tokens, and the Q-Former that reads them."""

    def __init__(self, config: EvaVitConfig, qformer: QFormerConfig):
        super().__init__()
        check_widths(config, qformer)
        self.eva = EvaVit(config)
        self.ln_vision = WideNorm(config.hidden_size, eps=1e-5)
        self.qformer = QFormer(qformer)

    @property
    def tokens(self) -> int:
        """Tokens per picture."""
        return int(self.qformer.config.query_tokens)

    @property
    def width(self) -> int:
        """Width of a token."""
        return int(self.qformer.config.hidden_size)

    @property
    def image_size(self) -> int:
        """Pixels a side that the encoder takes."""
        return int(self.eva.config.image_size)

    @property
    def dtype(self) -> torch.dtype:
        """What pixels may come in; products turn them into their own precision."""
        return self.eva.cls_token.dtype

    def unused_parameters(self) -> set[str]:
        """None: the text side of the Q-Former is not built."""
        return set()

    def forward(self, pixels: Tensor) -> Tensor:
        """[I, 3, S, S] normalised -> [I, Q, C]."""
        return self.qformer(self.ln_vision(self.eva(pixels)))


class Minigpt4Model(VisionLanguageModel):
    """Queries of BLIP-2 through one linear layer."""

    config_class = Minigpt4Config
    config: Minigpt4Config
    family = "minigpt4"
    stages = STAGES["minigpt4"]
    crops_in_training = True
    _no_split_modules = ("BlipVision",)

    def build(self, config: Minigpt4Config) -> None:
        """Encoder with Q-Former, and the linear layer."""
        self.vision = BlipVision(config.vision_config, config.qformer_config)
        self.connector = build_connector(
            "linear", self.vision.width, config.text_config.hidden_size
        )

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the language model."""
        return self.vision.tokens

    def _init_weights(self, module: nn.Module) -> None:
        """As published: tokens, positions and products of the encoder start small."""
        if isinstance(module, EvaVit):
            init.trunc_normal_(module.cls_token, std=0.02)
            init.trunc_normal_(module.pos_embed, std=0.02)
        elif isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=0.02)
        else:
            super()._init_weights(module)

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """A model of `eva_vit_g.pth` (vision), `blip2_pretrained_*.pth` (qformer), a Vicuna.

        `connector_weights`, a stage's checkpoint, brings `llama_proj`; without it the
        connector is new, as at the start of the first stage.
        """
        if spec.qformer is None:
            raise ModelError("family minigpt4 needs qformer, the file blip2_pretrained_*.pth")
        eva_file, blip_file = weights_file(spec.vision, EVA), weights_file(spec.qformer, BLIP)
        eva, blip = read_tensors(eva_file), read_tensors(blip_file)
        told = read_settings(eva_file.parent, blip_file.parent)
        config = minigpt4_config(_shapes(eva), _shapes(blip), language.config, told)
        if spec.image_aspect_ratio != "square":
            config.image_aspect_ratio = spec.image_aspect_ratio
        with init.no_init_weights():  # the language model's place is reserved, not filled
            model = cls(config)
        model.language = language
        model.connector.reset_parameters()
        state = published_state(eva, blip, config.vision_config.num_hidden_layers)
        if spec.connector_weights is not None:
            stage = read_tensors(Path(spec.connector_weights))
            state |= connector_state(stage, spec.connector_weights, language.config.hidden_size)
        model.land(state, f"{spec.vision} and {spec.qformer}")
        return model

    @torch.no_grad()
    def land(self, state: dict[str, Tensor], source: str) -> None:
        """Take over tensors of the encoder, the Q-Former and the connector by our names.

        Raises:
            ModelError: one of encoder or Q-Former is missing, or has another shape.
        """
        places = {f"vision.{name}": place for name, place in self.vision.state_dict().items()}
        if lost := [name for name in places if name not in state]:
            raise ModelError(f"{source} lack {len(lost)} weights, the first is {lost[0]}")
        places |= {f"connector.{name}": p for name, p in self.connector.state_dict().items()}
        for name, tensor in state.items():
            if name == "vision.eva.pos_embed":
                tensor = fit_positions(tensor, round((places[name].shape[1] - 1) ** 0.5))
            if name not in places or places[name].shape != tensor.shape:
                wanted = list(places[name].shape) if name in places else "no place"
                raise ModelError(
                    f"{source}: {name} has shape {list(tensor.shape)} and the model {wanted}; "
                    "the files do not fit together"
                )
            places[name].copy_(tensor)


def minigpt4_config(
    eva: Mapping[str, tuple[int, ...]],
    blip: Mapping[str, tuple[int, ...]],
    language: PreTrainedConfig,
    told: Mapping[str, Any],
) -> Minigpt4Config:
    """The configuration that the shapes of the published files tell.

    Args:
        told: what `read_settings` found: `vision_heads`, `qformer_heads`, `image_size`.

    Raises:
        ModelError: tensors of something else, parts that do not fit each other, or
            heads that nothing tells.
    """
    vision = eva_sizes(eva, told.get("vision_heads"), told.get("image_size"))
    qformer = qformer_sizes(blip, told.get("qformer_heads"))
    config = Minigpt4Config(
        vision_config=EvaVitConfig(**vision),
        qformer_config=QFormerConfig(**qformer),
        text_config=language,
    )
    check_widths(config.vision_config, config.qformer_config)
    return config


def check_widths(vision: EvaVitConfig, qformer: QFormerConfig) -> None:
    """Refuse a Q-Former that reads another encoder's tokens.

    Raises:
        ModelError: it does.
    """
    if vision.hidden_size != qformer.encoder_hidden_size:
        raise ModelError(
            f"the Q-Former reads tokens {qformer.encoder_hidden_size} wide and the encoder's "
            f"are {vision.hidden_size} wide; they are not of the same BLIP-2"
        )


def weights_file(path: str | Path, stem: str) -> Path:
    """The file that `path` is, or the one in it whose name begins with `stem`.

    Raises:
        ModelError: a folder with none or several such files.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = files_named(path, stem)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ModelError(f"{path} needs one {stem}* file and has {names}; name the file itself")
    return found[0]


def files_named(folder: Path, stem: str) -> list[Path]:
    """Files of weights whose names begin with `stem`."""
    return [file for file in sorted(folder.glob(f"{stem}*")) if file.suffix in SUFFIXES]


def read_settings(*folders: Path) -> dict[str, Any]:
    """The first `minigpt4.json` in the folders; empty where there is none.

    Raises:
        ModelError: one that cannot be read.
    """
    for file in (folder / SETTINGS for folder in folders):
        if file.is_file():
            try:
                return dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise ModelError(f"{file} cannot be read: {error}") from None
    return {}


def vision_name(published: str) -> str | None:
    """Our name of a tensor of BLIP-2's file or of MiniGPT-4's own `visual_encoder.*`."""
    if published.startswith("visual_encoder."):
        return "vision.eva." + published.removeprefix("visual_encoder.")
    if published in ("ln_vision.weight", "ln_vision.bias"):
        return "vision." + published
    name = our_name(published)
    return None if name is None else f"vision.qformer.{name}"


def published_state(eva: Mapping[str, Any], blip: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Tensors of the two files under our names; what has no place in the model is left."""
    state = {f"vision.eva.{name}": tensor for name, tensor in eva.items() if is_eva(name, depth)}
    for key, tensor in blip.items():
        name = None if key.startswith("visual_encoder.") else vision_name(key)
        if name is not None:
            state[name] = tensor
    return state


def is_eva(name: str, depth: int) -> bool:
    """Whether a tensor of an encoder's file is used: a head, a last norm, later blocks are not."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) < depth
    return name.startswith("patch_embed.proj.") or name in ("cls_token", "pos_embed")


def connector_state(stage: Mapping[str, Any], path: object, width: int) -> dict[str, Any]:
    """`llama_proj` of a stage's checkpoint under our names.

    Raises:
        ModelError: none in it, or for a language model of another width.
    """
    keys = {name: f"llama_proj.{name}" for name in ("weight", "bias")}
    found = {name: stage[key] for name, key in keys.items() if key in stage}
    if len(found) < 2:
        raise ModelError(f"{path} holds no llama_proj; it is no checkpoint of a MiniGPT-4 stage")
    given = int(found["weight"].shape[0])
    if given != width:
        raise ModelError(
            f"{path} was trained for a language model {given} wide{_vicuna(given)} and this one is "
            f"{width} wide{_vicuna(width)}; take the matching pair"
        )
    return {f"connector.{name}": tensor for name, tensor in found.items()}


def _vicuna(width: int) -> str:
    size = {4096: "7B", 5120: "13B"}.get(width)
    return f" (Vicuna {size})" if size else ""


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
