"""Qwen-1, the language model of Qwen-VL and MGen-VL, as a transformers model.

transformers has no Qwen-1 and the code that ships with its weights does not run on
transformers 5. Names are the published ones: query, key and value stay one matrix
(`c_attn`), so that a LoRA on it has the published number of weights. Of the two
halves of the MLP the second one, `w2`, is the gate.

Two tricks let it read more than the `seq_length` tokens it was trained with, outside
of training only. The rotary base grows with the prompt, in steps (dynamic NTK); all
tokens that follow keep the prompt's base. Queries behind `seq_length` are multiplied by
log(position) / log(seq_length). Published code counts padding as prompt and keeps the
last base for ever; here each row counts its own tokens, its base lives in the cache,
and training always has the plain one.

Shapes: B rows, T tokens, H heads, C channels a head, D width.
Source: Qwen/Qwen-VL-Chat, modeling_qwen.py.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.llama.modeling_llama import eager_attention_forward

from vlforge.types import ModelError


class QwenConfig(PreTrainedConfig):
    """What a Qwen-1 is made of, under the published names.

    intermediate_size: twice the inner width, both halves of the MLP together.
    seq_length: tokens it was trained with; `max_position_embeddings` is what it may take.
    """

    model_type = "qwen"
    attribute_map: ClassVar[dict[str, str]] = {"head_dim": "kv_channels"}

    vocab_size: int = 151936
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    kv_channels: int = 128
    intermediate_size: int = 22016
    seq_length: int = 2048
    max_position_embeddings: int = 8192
    rotary_emb_base: float = 10000
    rotary_pct: float = 1.0
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    layer_norm_epsilon: float = 1e-6
    initializer_range: float = 0.02
    emb_dropout_prob: float = 0.0
    attn_dropout_prob: float = 0.0
    no_bias: bool = True
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any):
        if self.rotary_pct != 1.0:
            raise ModelError(f"rotary_pct {self.rotary_pct} is not known of any Qwen; only 1.0")
        super().__post_init__(**kwargs)


class RmsNorm(nn.Module):
    """Root mean square norm in fp32, rounded before it is scaled."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        ) * self.weight


class QwenAttention(nn.Module):
    """Causal attention; `c_attn` makes queries, keys and values in this order."""

    is_causal = True
    num_key_value_groups = 1

    def __init__(self, config: QwenConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.channels = config.kv_channels
        self.dropout = config.attn_dropout_prob
        width = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * width)
        self.c_proj = nn.Linear(width, config.hidden_size, bias=not config.no_bias)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        sharpen: Tensor | None,
        mask: Any,
        past: Cache | None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; `sharpen` [B, T] multiplies the queries."""
        rows, length = hidden.shape[:2]
        heads = self.c_attn(hidden).view(rows, length, 3, -1, self.channels).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if sharpen is not None:
            query = query * sharpen[:, None, :, None].to(query.dtype)
        if past is not None:
            key, value = past.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, _ = attend(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.channels**-0.5,
            **kwargs,
        )
        return self.c_proj(mixed.reshape(rows, length, -1))


class QwenMlp(nn.Module):
    """c_proj(w1(x) * silu(w2(x)))."""

    def __init__(self, config: QwenConfig):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size // 2
        self.w1 = nn.Linear(width, inner, bias=not config.no_bias)
        self.w2 = nn.Linear(width, inner, bias=not config.no_bias)
        self.c_proj = nn.Linear(inner, width, bias=not config.no_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.c_proj(self.w1(x) * F.silu(self.w2(x)))


class QwenBlock(GradientCheckpointingLayer):
    """Attention and MLP, each behind a norm."""

    def __init__(self, config: QwenConfig, layer_idx: int):
        super().__init__()
        self.ln_1 = RmsNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QwenAttention(config, layer_idx)
        self.ln_2 = RmsNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QwenMlp(config)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        sharpen: Tensor | None,
        mask: Any,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        hidden = hidden + self.attn(
            self.ln_1(hidden), rotary, sharpen, mask, past_key_values, **kwargs
        )
        return hidden + self.mlp(self.ln_2(hidden))


class QwenPreTrainedModel(PreTrainedModel):
    """What the decoder and the whole model share."""

    config_class = QwenConfig
    config: QwenConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["QwenBlock"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    # The folder of a whole Qwen-VL serves as that of its language model; old files keep tables.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"transformer\.visual\.",
        r"rotary_emb\.inv_freq$",
        r"(masked_bias|logn_tensor)$",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        deviation = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=deviation)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RmsNorm):
            init.ones_(module.weight)
        if isinstance(module, QwenAttention | QwenMlp):
            depth = self.config.num_hidden_layers
            init.normal_(module.c_proj.weight, mean=0.0, std=deviation / math.sqrt(2 * depth))


class QwenDecoder(QwenPreTrainedModel):
    """Embeddings to hidden states.

    is_learning: set by a model around it whose training goes through this one while
        it is frozen and therefore in evaluation mode itself.
    """

    is_learning: bool = False

    def __init__(self, config: QwenConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.drop = nn.Dropout(config.emb_dropout_prob)
        blocks = (QwenBlock(config, place) for place in range(config.num_hidden_layers))
        self.h = nn.ModuleList(blocks)
        self.ln_f = RmsNorm(config.hidden_size, config.layer_norm_epsilon)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Ids [B, T] or embeddings [B, T, D] -> hidden states [B, T, D] behind the last norm."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ModelError("give input_ids or inputs_embeds, one of them")
        embeds = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        if position_ids is None:
            position_ids = torch.arange(seen, seen + embeds.shape[1], device=embeds.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        stretch = self._stretch(embeds, attention_mask, past_key_values, seen)
        rotary = self._rotary(position_ids, stretch)
        sharpen = self._sharpen(position_ids, seen + embeds.shape[1])
        hidden = self.drop(embeds)
        kwargs |= {"past_key_values": past_key_values, "position_ids": position_ids}
        for block in self.h:
            hidden = block(hidden, rotary, sharpen, mask, **kwargs)
        if stretch is not None and past_key_values is not None and seen == 0:
            past_key_values.layers.append(Stretch.of(stretch, embeds.shape[0]))
        return BaseModelOutputWithPast(
            last_hidden_state=self.ln_f(hidden), past_key_values=past_key_values
        )

    @property
    def _is_training(self) -> bool:
        return self.training or (self.is_learning and torch.is_grad_enabled())

    def _stretch(
        self, embeds: Tensor, mask: Tensor | None, past: Cache | None, seen: int
    ) -> Tensor | None:
        """How much each row's rotary base grows, [B] or [1] fp32; None where none does."""
        if seen:
            kept = past.layers[len(self.h) :] if past is not None else []
            return kept[0].keys[:, 0, 0, 0] if kept else None
        trained, length = self.config.seq_length, embeds.shape[1]
        if not self.config.use_dynamic_ntk or self._is_training or length <= trained:
            return None
        lengths = [length]
        if mask is not None and mask.ndim == 2:
            lengths = (mask != 0).sum(-1).tolist()
        growth = [ntk_growth(row, trained) for row in lengths]
        return torch.tensor(growth, device=embeds.device) if max(growth) > 1 else None

    def _rotary(self, positions: Tensor, stretch: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions [B, T] -> cosines and sines [B, T, C], fp32."""
        channels = self.config.kv_channels
        base = torch.full((1,), float(self.config.rotary_emb_base), device=positions.device)
        if stretch is not None:
            base = base * stretch ** (channels / (channels - 2))
        place = torch.arange(0, channels, 2, device=positions.device).float() / channels
        angles = positions.float()[..., None] / (base[:, None] ** place)[:, None]
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def _sharpen(self, positions: Tensor, longest: int) -> Tensor | None:
        """What queries are multiplied by, [B, T] fp32; None where it is 1 everywhere."""
        trained = self.config.seq_length
        if not self.config.use_logn_attn or self._is_training or longest <= trained:
            return None
        return ((positions + 1).float().log() / math.log(trained)).clamp(min=1)


class QwenForCausalLM(QwenPreTrainedModel, GenerationMixin):
    """The decoder with its output layer."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: QwenConfig):
        super().__init__(config)
        self.transformer = QwenDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_decoder(self) -> QwenDecoder:
        """The part without the output layer."""
        return self.transformer

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, T, V]; with labels [B, T] also their mean loss."""
        output = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values
        )


class Stretch(DynamicLayer):
    """A cache's last layer: each row's growth of the rotary base, [B, 1, 1, 1].

    As a layer it follows its row when beams are reordered and finished rows leave.
    """

    @classmethod
    def of(cls, growth: Tensor, rows: int) -> Stretch:
        """A layer that holds `growth`, [B] or [1]."""
        layer = cls()
        value = growth.expand(rows)[:, None, None, None]
        layer.update(value, value)
        return layer

    def crop(self, tokens_to_remove: int) -> None:
        """Removing tokens leaves it as it is."""


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding in fp32: x [B, H, T, C], cosine and sine [B, T, C]."""
    wide = x.float()
    left, right = wide.chunk(2, -1)
    turned = torch.cat([-right, left], -1)
    return (wide * cosine[:, None] + turned * sine[:, None]).to(x.dtype)


def ntk_growth(length: int, trained: int) -> float:
    """What the rotary base is multiplied by, before its power, for a prompt of `length` tokens."""
    return max(2.0 ** math.ceil(math.log2(max(length, 1) / trained) + 1) - 1, 1.0)
