"""The LLaVA family: vision encoder, connector, language model, and how they meet.

A picture's tokens are projected into the language model's embedding space and
stand where the conversation says `<image>` (id -200). Everything is causal
language modelling from there on.

Shapes: B rows, T ids, L spliced length, I pictures, N tokens a picture, D width,
V vocabulary.
Source: LLaVA-1.5, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from vlforge.kernels.lean_loss import lean_loss, supervised_tokens
from vlforge.models.parts.connector import build_connector
from vlforge.models.parts.splice import SplicePlan, plan_splice, splice
from vlforge.models.parts.vision import VisionTower, vision_config
from vlforge.text.encode import EncodedText, encode_turns
from vlforge.text.templates import Template
from vlforge.types import IMAGE_INDEX, ModelError, Sample

PARTS = ("vision", "connector", "language")
"""The nouns that recipes freeze and train by name."""


class LlavaConfig(PreTrainedConfig):
    """What a `LlavaModel` is made of; the nested configurations are transformers' own."""

    model_type = "vlforge_llava"

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    connector: str = "mlp2x_gelu"
    connector_width: int | None = None
    select_layer: int = -2
    select_feature: str = "patch"
    image_aspect_ratio: str = "square"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):
            self.vision_config = vision_config(self.vision_config)
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        if self.text_config is not None:
            kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)


@dataclass(frozen=True)
class Encoded:
    """One sample as ids: what training and generation put into a batch.

    ids, labels: -200 and -100 where a picture stands.
    images: paths of the pictures whose tag is still there, in order.
    length: tokens with pictures expanded.
    image_spans: (first, past last) position of each picture once expanded.
    problem: why nothing is supervised, in one line; None where something is.
    """

    ids: list[int]
    labels: list[int]
    images: tuple[str, ...]
    length: int
    image_spans: tuple[tuple[int, int], ...]
    problem: str | None = None


def encode_sample(
    sample: Sample,
    template: Template,
    tokenizer: Any,
    *,
    image_tokens: int,
    max_length: int | None = None,
    generation: bool = False,
) -> Encoded:
    """Ids and labels of a sample, cut so that `max_length` holds the expanded row.

    A picture that does not fit whole is left out with everything after it.

    Args:
        tokenizer: a transformers tokenizer, or `vlforge.text.tokenizers.adapt` of it.
        image_tokens: tokens that one picture takes.
        generation: a prompt that leaves the assistant's turn open.

    Raises:
        DataError: turns that the template cannot hold, or another number of
            `<image>` than of images.
    """
    text = encode_turns(
        template,
        tokenizer,
        sample.turns,
        max_length=None,
        generation=generation,
        images=len(sample.images),
    )
    keep, length, spans = 0, 0, []
    for token in text.ids:
        width = image_tokens if token == IMAGE_INDEX else 1
        if max_length is not None and length + width > max_length:
            break
        if token == IMAGE_INDEX:
            spans.append((length, length + width))
        keep, length = keep + 1, length + width
    cut = EncodedText(text.ids[:keep], text.labels[:keep], text.length, text.mismatch)
    problem = None if generation else cut.loss_problem
    images = tuple(sample.images[: len(spans)])
    return Encoded(cut.ids, cut.labels, images, length, tuple(spans), problem)


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the language model: `embeds` [B, L, D] and where things stand."""

    embeds: Tensor
    plan: SplicePlan


class LlavaModel(PreTrainedModel, GenerationMixin):
    """A vision-language model that answers about the pictures spliced into its text."""

    config_class = LlavaConfig
    config: LlavaConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        if config.vision_config is None or config.text_config is None:
            raise ModelError("LlavaConfig needs vision_config and text_config")
        self.vision = VisionTower(config.vision_config, config.select_layer, config.select_feature)
        self.connector = build_connector(
            config.connector,
            config.vision_config.hidden_size,
            config.text_config.hidden_size,
            config.connector_width,
        )
        self.language = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Connector layers start as `nn.Linear` does, which is what LLaVA trains from."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            bound = module.in_features**-0.5
            init.uniform_(module.bias, -bound, bound)

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the language model."""
        return self.vision.tokens

    def count(self, sizes: list[tuple[int, int]]) -> list[int]:
        """Tokens of pictures with the given (width, height): here the same for all."""
        return [self.image_tokens] * len(sizes)

    def encode(
        self, sample: Sample, template: Template, tokenizer: Any, max_length: int | None = None
    ) -> Encoded:
        """A training sample as ids and labels; see `encode_sample`."""
        return encode_sample(
            sample, template, tokenizer, image_tokens=self.image_tokens, max_length=max_length
        )

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [I, 3, H, W] -> projected tokens [I, N, D]."""
        return self.connector(self.vision(pixels.to(self.vision.tower.dtype)))

    def splice(
        self,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        max_length: int | None = None,
        padding_side: Literal["left", "right"] = "right",
        dummy_images: bool = False,
    ) -> Spliced:
        """Embed ids [B, T] and put pictures where they say -200.

        Args:
            pixels: [I, 3, H, W] in order of appearance.
            features: vision tokens [I, N, vision width] instead of pixels, as a
                frozen-feature cache keeps them; the connector is still applied.
            others: as in `plan_splice`.
        """
        given = features if features is not None else pixels
        counts = [self.image_tokens] * (0 if given is None else len(given))
        plan = plan_splice(
            ids,
            counts,
            labels=labels,
            mask=mask,
            max_length=max_length,
            padding_side=padding_side,
            dummy_images=dummy_images,
        )
        return self.lay_out(plan, ids, pixels, features=features)

    def lay_out(
        self,
        plan: SplicePlan,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        features: Tensor | None = None,
    ) -> Spliced:
        """What `splice` does once the plan is made, which needs no weights."""
        vision = None
        if features is not None and len(features):
            vision = self.connector(features)
        elif pixels is not None and len(pixels):
            vision = self.encode_images(pixels)
        text = self.get_input_embeddings()(ids.clamp(min=0))
        return Spliced(splice(plan, text, vision), plan)

    def loss_sum(self, spliced: Spliced) -> Tensor:
        """Summed cross-entropy over the supervised tokens of a batch, fp32 scalar.

        Rows padded on the right need no mask: a causal model's earlier tokens
        never see the padding, and the padding has no label.
        """
        plan = spliced.plan
        mask = plan.mask if plan.padding_side == "left" else None
        hidden = self.language.get_decoder()(
            inputs_embeds=spliced.embeds,
            attention_mask=mask,
            position_ids=plan.positions if mask is not None else None,
            use_cache=False,
        ).last_hidden_state
        return lean_loss(self.language.get_output_embeddings(), hidden, plan.labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V] of the spliced batch; with labels also their mean loss.

        `inputs_embeds` (already spliced) goes to the language model as it is.
        """
        if inputs_embeds is not None or input_ids is None:
            return self.language(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
            )
        spliced = self.splice(input_ids, pixels, labels=labels, mask=attention_mask)
        output = self.language(
            inputs_embeds=spliced.embeds,
            attention_mask=spliced.plan.mask,
            position_ids=spliced.plan.positions,
            **kwargs,
        )
        if labels is not None:
            count = max(supervised_tokens(spliced.plan.labels), 1)
            output.loss = lean_loss(lambda rows: rows, output.logits, spliced.plan.labels) / count
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """New ids (without the prompt), as the language model's own `generate` gives them.

        Rows are spliced and padded on the left; `kwargs` are transformers'.
        """
        spliced = self.splice(input_ids, pixels, mask=attention_mask, padding_side="left")
        return self.language.generate(
            inputs_embeds=spliced.embeds, attention_mask=spliced.plan.mask.long(), **kwargs
        )
