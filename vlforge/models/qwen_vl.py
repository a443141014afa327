"""The Qwen-VL family: ViT-bigG, a resampler to 256 tokens, a language model.

Qwen-VL(-Chat) and Baidu's MGen-VL. A picture stands in the text as
`<img>` 256 tokens `</img>`; the two tags are the template's.

Sources: Qwen/Qwen-VL-Chat (modeling_qwen.py, visual.py), PaddlePaddle/PaddleMIX@6afaf05.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.generation import LogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from vlforge.models.base import FamilyConfig, Spliced, VisionLanguageModel
from vlforge.models.config import ModelSpec
from vlforge.models.parts.qwen_lm import QwenDecoder
from vlforge.models.parts.qwen_vit import POSITIONS, QwenVit, QwenVitConfig
from vlforge.models.parts.resampler import QwenConnector, init_connector
from vlforge.models.reading import first_line, load_weights, read_config, read_tensors
from vlforge.models.stages import STAGES
from vlforge.types import ModelError

SPECIAL_BEFORE_IMAGE = 214
"""Special tokens from `<|endoftext|>` up to `<img>`; turns start and end with the next two."""
VISUAL = r"^transformer\.visual\."
SIDE = 16
"""Tokens of a picture are a grid of 16 x 16."""


class QwenVlConfig(FamilyConfig):
    """What a `QwenVlModel` is made of.

    image_start_id: of `<img>`; `</img>` and `<imgpad>` follow it.
    """

    model_type = "vlforge_qwen_vl"

    image_start_id: int = 151857
    image_aspect_ratio: str = "stretch"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):
            self.vision_config = QwenVitConfig.from_dict(dict(self.vision_config))
        super().__post_init__(**kwargs)


class QwenVlModel(VisionLanguageModel):
    """Features of the encoder through a resampler, norm and projection."""

    config_class = QwenVlConfig
    config: QwenVlConfig
    family = "qwen_vl"
    stages = STAGES["qwen_vl"]
    image_tokens = POSITIONS
    _no_split_modules = ("QwenVit", "QwenConnector")

    def build(self, config: QwenVlConfig) -> None:
        """Encoder and connector."""
        self.vision = QwenVit(config.vision_config)
        self.connector = QwenConnector(SIDE, config.text_config.hidden_size, self.vision.width)

    def _init_weights(self, module: nn.Module) -> None:
        if not init_connector(module):
            super()._init_weights(module)

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """The encoder of `spec.vision` (a Qwen-VL folder, or an encoder's own) and a language
        model; pictures are stretched to the encoder's square unless the spec says pad.

        With `connector_weights`, a Qwen-VL folder, the connector is that one's.
        """
        vision = read_vit(Path(spec.vision))
        start = _image_start(tokenizer) or QwenVlConfig().image_start_id
        if language.config.model_type == "qwen" and language.config.eos_token_id is None:
            ends = end_ids(start)
            language.config.eos_token_id, language.config.pad_token_id = ends, ends[0]
            language.generation_config.eos_token_id = ends
            language.generation_config.pad_token_id = ends[0]
        config = QwenVlConfig(
            vision_config=vision.config,
            text_config=language.config,
            image_aspect_ratio="pad" if spec.image_aspect_ratio == "pad" else "stretch",
            image_start_id=start,
        )
        model = cls(config)
        model.vision = vision
        model.language = language
        if spec.connector_weights:
            _read_connector(model.connector, Path(spec.connector_weights))
        return model

    def loss_sum(self, spliced: Spliced) -> Tensor:
        """As the base has it; a frozen language model keeps to what it does in training."""
        self._tell_decoder()
        return super().loss_sum(spliced)

    def forward(self, *args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
        """As the base has it; a frozen language model keeps to what it does in training."""
        self._tell_decoder()
        return super().forward(*args, **kwargs)

    def _tell_decoder(self) -> None:
        for module in self.language.modules():
            if isinstance(module, QwenDecoder):
                module.is_learning = self.training


class EndAfter(LogitsProcessor):
    """Qwen's own way to end: whatever follows one of `stops` is made `end`, with score 2^15.

    Greedy answers are those of `eos_token_id=stops`; beams are not, because the score counts.
    """

    def __init__(self, stops: Sequence[int], end: int):
        self.stops = stops
        self.end = end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1]:
            stops = torch.tensor(list(self.stops), device=input_ids.device)
            scores[torch.isin(input_ids[:, -1], stops), self.end] = 2.0**15
        return scores


def vit_config(fields: dict[str, Any]) -> QwenVitConfig:
    """The encoder's configuration from Qwen-VL's `visual` settings.

    Raises:
        ModelError: settings that are missing.
    """
    names = ("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio")
    lost = [name for name in names if name not in fields]
    if lost:
        raise ModelError(f"config.json: visual lacks {', '.join(lost)}; this is no Qwen-VL")
    return QwenVitConfig(**{name: fields[name] for name in names})


def end_ids(image_start_id: int) -> list[int]:
    """The ids that end an answer: `<|endoftext|>`, `<|im_end|>` and `<|im_start|>`."""
    end = image_start_id - SPECIAL_BEFORE_IMAGE
    return [end, end + 2, end + 1]


def read_vit(path: Path, dtype: torch.dtype = torch.float32) -> QwenVit:
    """The encoder in a folder of its own or in a Qwen-VL folder.

    Raises:
        ModelError: neither of the two, or weights that are missing.
    """
    fields = read_config(path)
    if fields.get("model_type") == QwenVitConfig.model_type:
        return load_weights(QwenVit, path, dtype)
    if "visual" not in fields:
        raise ModelError(
            f"{path} holds a {fields.get('model_type')!r}, not the encoder that qwen_vl takes; "
            "give a Qwen-VL folder, or family: llava for another encoder"
        )
    config = vit_config(fields["visual"])
    mapping = {VISUAL: ""}
    return load_weights(QwenVit, path, dtype, is_part=True, config=config, key_mapping=mapping)


def _read_connector(connector: nn.Module, path: Path) -> None:
    """Take over the connector in a file, or in the shards of a folder that hold it."""
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    index = next(iter(sorted(path.glob("*.index.json"))), None)
    if index is not None:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [path / name for name in sorted({shards[key] for key in shards if _own(key)})]
    found: dict[str, Tensor] = {}
    for file in files or [path]:
        found |= {own: value for key, value in read_tensors(file).items() if (own := _own(key))}
    try:
        connector.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(f"{path} holds no connector that fits: {first_line(error)}") from None


def _own(key: str) -> str | None:
    """A connector's tensor by our name; None for other tensors."""
    match = re.search(r"(?:visual|connector)\.((?:attn_pool|ln_post|proj)\b.*)", key)
    return match.group(1) if match else None


def _image_start(tokenizer: Any) -> int | None:
    found = tokenizer.convert_tokens_to_ids("<img>")
    return None if found in (None, tokenizer.unk_token_id) else int(found)
