"""What every family is: pictures to tokens, tokens among words, a language model behind.

A family (`llava.py`, `mgm.py`, …) says how a picture becomes tokens in the language
model's embedding space; here is the rest: the splice, the loss, generation. The
result is a transformers model.

Shapes: B rows, T ids, L spliced length, I pictures, N tokens a picture, D width,
V vocabulary.
Source: LLaVA-1.5, haotian-liu/LLaVA@c121f04.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from vlforge.kernels.lean_loss import (
    full_loss,
    lean_loss,
    supervised_places,
    supervised_tokens,
)
from vlforge.models.config import Lean, ModelSpec
from vlforge.models.cost import ModelCost, model_cost
from vlforge.models.encoding import Encoded, encode_sample
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.language import build_language, picture_scale, text_config
from vlforge.models.parts.last_rows import Asked, LastRows
from vlforge.models.parts.packs import packed_inputs
from vlforge.models.parts.splice import SplicePlan, plan_splice, splice
from vlforge.models.parts.vision import vision_config
from vlforge.models.stages import USUAL, Stages
from vlforge.text.templates import Template
from vlforge.types import ModelError, Sample

PARTS = ("vision", "connector", "language")
"""The nouns that recipes freeze and train by name, the same in every family."""

Sizes = Sequence[tuple[int, int]]
"""(width, height) of pictures as they came, in pixels."""


class FamilyConfig(PreTrainedConfig):
    """The nested configurations, transformers' own where it has the part."""

    # What `from_pretrained` is told of attention and precision goes to these too.
    sub_configs: ClassVar = {"vision_config": PreTrainedConfig, "text_config": PreTrainedConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    image_aspect_ratio: str = "square"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.vision_config, dict):
            self.vision_config = vision_config(self.vision_config)
        if isinstance(self.text_config, dict):
            self.text_config = text_config(self.text_config)
        if self.text_config is not None:
            kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)


@dataclass(frozen=True)
class Spliced:
    """A batch ready for the language model: `embeds` [B, L, D] and where things stand."""

    embeds: Tensor
    plan: SplicePlan


class VisionLanguageModel(PreTrainedModel, GenerationMixin):
    """A language model that reads pictures spliced into its text.

    A family builds `vision` (pixels -> features) and `connector` (features ->
    tokens of the language model's width) and sets `image_tokens` or `count`.
    """

    config: FamilyConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    family: ClassVar[str]
    """The name that recipes give it."""
    stages: ClassVar[Stages] = USUAL
    """What learns in each published stage: parts, or expressions over parameter names."""
    features_are_tensors: ClassVar[bool] = True
    """Whether `vision` gives one tensor [I, …], so that frozen features can be kept."""
    crops_in_training: ClassVar[bool] = False
    """Whether the published training sees a random part of each picture."""
    lean: Lean = Lean()
    """What a loss leaves out; see `models.lean`."""
    last_rows: LastRows | None = None
    """The language model's last layer, where it is to see supervised rows alone."""

    vision: nn.Module
    connector: nn.Module
    language: PreTrainedModel

    def __init__(self, config: FamilyConfig):
        super().__init__(config)
        if config.vision_config is None or config.text_config is None:
            raise ModelError(f"{type(config).__name__} needs vision_config and text_config")
        self.build(config)
        self.language = build_language(config.text_config)
        self.picture_scale = picture_scale(config.text_config)
        self.post_init()

    def build(self, config: Any) -> None:
        """Make `vision` and `connector`; what each family differs in."""
        raise NotImplementedError

    @classmethod
    def assemble(cls, spec: ModelSpec, language: PreTrainedModel, tokenizer: Any) -> Self:
        """A model of the spec's parts, `language` already read; the connector is new.

        Raises:
            ModelError: a part that is missing, of an unknown type, or does not fit.
        """
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers outside of transformers' parts start as `nn.Linear` does."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            bound = module.in_features**-0.5
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes, in families where all take the same.

        Raises:
            ModelError: a family where they do not; ask `count`.
        """
        raise ModelError(f"{self.family}: pictures take tokens by their size; ask count()")

    @property
    def needs_sizes(self) -> bool:
        """Whether tokens depend on a picture's width and height."""
        return False

    @property
    def image_size(self) -> int:
        """Pixels a side that the image processor has to give."""
        return int(self.vision.image_size)

    def adapt_processor(self, processor: ImageProcessor) -> ImageProcessor:
        """How the model wants its pictures, given the encoder's own way: just so by default."""
        return processor

    @property
    def unused_parameters(self) -> set[str]:
        """Names of parameters that no output depends on; they never train."""
        return {f"vision.{name}" for name in self.vision.unused_parameters()}

    def cost(self) -> ModelCost:
        """Weights, FLOPs and memory by part, from the configuration alone."""
        return model_cost(self.config.to_dict())

    def count(self, sizes: Sizes) -> list[int]:
        """Tokens of pictures with the given (width, height): the same for all by default."""
        return [self.image_tokens] * len(sizes)

    def counts(self, sizes: Sizes | None, pictures: int) -> list[int]:
        """Tokens of each of so many pictures, their sizes known or not.

        Raises:
            ModelError: sizes are needed and not there.
        """
        if sizes is None:
            if pictures and self.needs_sizes:
                raise ModelError(f"{self.family}: tokens depend on picture sizes here; give sizes")
            return self.count([(0, 0)] * pictures)
        return self.count(sizes)

    def encode(
        self,
        sample: Sample,
        template: Template,
        tokenizer: Any,
        max_length: int | None = None,
        *,
        sizes: Sizes | None = None,
        generation: bool = False,
        compat: str | None = None,
    ) -> Encoded:
        """A sample as ids and labels; see `encode_sample`.

        Args:
            sizes: of the sample's pictures; needed where tokens depend on them.
        """
        counts = self.counts(sizes, len(sample.images))
        return encode_sample(
            sample,
            template,
            tokenizer,
            image_tokens=counts,
            max_length=max_length,
            generation=generation,
            compat=compat,
        )

    def project(self, features: Any, sizes: Sizes | None = None) -> Tensor | list[Tensor]:
        """What `vision` gives -> tokens [I, N, D] as the language model's embeddings are scaled."""
        tokens = self.connector(features)
        return tokens if self.picture_scale == 1 else tokens * self.picture_scale

    def encode_images(self, pixels: Tensor, sizes: Sizes | None = None) -> Tensor | list[Tensor]:
        """Normalised pixels -> projected tokens, [I, N, D] or a list of [N_i, D].

        Args:
            pixels: [I, 3, H, W]; a family that tiles takes all tiles of all
                pictures, one after the other, and needs `sizes`.
        """
        return self.project(self.see(pixels.to(self.vision.dtype)), sizes)

    def see(self, pixels: Tensor) -> Any:
        """What `vision` gives; without a graph where nothing of it learns."""
        if not self.lean.frozen_graph and torch.is_grad_enabled():
            return self.vision(pixels.requires_grad_())
        learns = pixels.requires_grad or any(p.requires_grad for p in self.vision.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return self.vision(pixels)

    def splice(
        self,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        features: Any = None,
        sizes: Sizes | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        max_length: int | None = None,
        padding_side: Literal["left", "right"] = "right",
        dummy_images: bool = False,
    ) -> Spliced:
        """Embed ids [B, T] and put pictures where they say -200.

        Args:
            pixels: as `encode_images` takes them, in order of appearance.
            features: what `vision` gave instead of pixels, as a frozen-feature
                cache keeps it; the connector is still applied.
            sizes: of the pictures, where their number of tokens depends on it.
            others: as in `plan_splice`.
        """
        given = features if features is not None else pixels
        pictures = 0 if given is None else len(given)
        counts = self.counts(sizes, pictures)
        plan = plan_splice(
            ids,
            counts,
            labels=labels,
            mask=mask,
            max_length=max_length,
            padding_side=padding_side,
            dummy_images=dummy_images,
        )
        return self.lay_out(plan, ids, pixels, features=features, sizes=sizes)

    def lay_out(
        self,
        plan: SplicePlan,
        ids: Tensor,
        pixels: Tensor | None = None,
        *,
        features: Any = None,
        sizes: Sizes | None = None,
    ) -> Spliced:
        """What `splice` does once the plan is made, which needs no weights."""
        vision = None
        if features is not None and len(features):
            vision = self.project(features, sizes)
        elif pixels is not None and len(pixels):
            vision = self.encode_images(pixels, sizes)
        text = self.get_input_embeddings()(ids.clamp(min=0))
        return Spliced(splice(plan, text, vision), plan)

    def loss_sum(self, spliced: Spliced) -> Tensor:
        """Summed cross-entropy over the supervised tokens of a batch, fp32 scalar.

        Rows padded on the right need no mask: a causal model's earlier tokens
        never see the padding, and the padding has no label. Rows that hold several
        samples keep them apart.
        """
        plan, decoder = spliced.plan, self.language.get_decoder()
        if plan.segments is not None:
            placed = packed_inputs(decoder, plan, spliced.embeds.dtype)
        else:
            mask = plan.mask if plan.padding_side == "left" else None
            positions = plan.positions if mask is not None else None
            placed = {"attention_mask": mask, "position_ids": positions}
        places = supervised_places(plan.labels) if plan.places is None else plan.places
        with (
            nullcontext()
            if self.last_rows is None
            else self.last_rows.only(Asked(places, plan.labels.numel()))
        ):
            made = decoder(inputs_embeds=spliced.embeds, use_cache=False, **placed)
        head, hidden = self.language.get_output_embeddings(), made.last_hidden_state
        if not self.lean.supervised_head:
            return full_loss(head, hidden, plan.labels)
        return lean_loss(head, hidden, plan.labels, places)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        sizes: Sizes | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V] of the spliced batch; with labels also their mean loss.

        `inputs_embeds` (already spliced) goes to the language model as it is.
        """
        if inputs_embeds is not None or input_ids is None:
            return self.language(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
            )
        spliced = self.splice(input_ids, pixels, sizes=sizes, labels=labels, mask=attention_mask)
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
        sizes: Sizes | None = None,
        **kwargs: Any,
    ) -> Any:
        """New ids (without the prompt), as the language model's own `generate` gives them.

        Rows are spliced and padded on the left; `kwargs` are transformers'.
        """
        spliced = self.splice(
            input_ids, pixels, sizes=sizes, mask=attention_mask, padding_side="left"
        )
        return self.language.generate(
            inputs_embeds=spliced.embeds, attention_mask=spliced.plan.mask.long(), **kwargs
        )
