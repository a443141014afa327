"""Any image-text model of transformers behind the words that our families use.

Its own processor places the image tokens and its own code splices them; its chat
template is rendered prefix by prefix, which tells what the assistant said and so
what is supervised. The output layer runs on supervised rows only.

Shapes: B rows, L ids with pictures expanded, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlforge.kernels.lean_loss import full_loss, lean_loss
from vlforge.models.base import PARTS, Sizes
from vlforge.models.reading import first_line
from vlforge.text.render import render
from vlforge.text.templates import Template
from vlforge.types import IGNORE_INDEX, LLAVA_IMAGE_TOKEN, DataError, ModelError, Sample, Turn

VISION_NAMES = ("visual", "vision_tower", "vision_model", "vision_encoder")
CONNECTOR_NAMES = (
    "multi_modal_projector", "connector", "aligner", "qformer", "language_projection",
    "query_tokens", "image_newline", "visual.merger", "visual.deepstack_merger_list",
    "embed_vision", "modality_projection",
)  # fmt: skip
"""What transformers calls the parts, as ends or beginnings of their parameters' paths."""
PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
"""Inputs that say something of each token."""


@dataclass(frozen=True)
class NativeEncoded:
    """One sample as the model takes it.

    ids, labels: pictures expanded, -100 where nothing is supervised.
    inputs: what the processor gives besides ids (pixel_values, grids, …).
    image_spans: (first, past last) position of each run of image tokens.
    problem: why nothing is supervised, in one line; None where something is.
    whole: tokens before anything was cut.
    lost_images: pictures of which the cut takes something.
    text: the conversation as the processor gets it, one mark for each picture.
    said: (from, to) in its characters, what is supervised.
    """

    ids: list[int]
    labels: list[int]
    inputs: dict[str, Tensor]
    image_spans: tuple[tuple[int, int], ...]
    problem: str | None = None
    whole: int = 0
    lost_images: int = 0
    text: str = ""
    said: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        """Tokens with pictures expanded."""
        return len(self.ids)

    def cut(self, max_length: int | None) -> NativeEncoded:
        """The first `max_length` tokens, and whether they teach anything."""
        most = self.whole if max_length is None else max_length
        ids, labels = self.ids[:most], self.labels[:most]
        per_token = {key: self.inputs[key][:, :most] for key in PER_TOKEN if key in self.inputs}
        learns = any(label != IGNORE_INDEX for label in labels)
        return replace(
            self,
            ids=ids,
            labels=labels,
            inputs=self.inputs | per_token,
            problem=None if learns else "no supervised token: no answer, or it was cut off",
            lost_images=sum(end > most for _, end in self.image_spans),
        )


class NativeModel(nn.Module):
    """A model of transformers (`model`) with its processor.

    Raises:
        ModelError: the processor has no tokenizer, or no token for pictures.
    """

    family = "native"

    def __init__(self, model: nn.Module, processor: Any):
        super().__init__()
        if not hasattr(processor, "tokenizer"):
            raise ModelError("its processor has no tokenizer; copy the processor's files there")
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token: str | None = getattr(processor, "image_token", None)
        self._token_key: str | None = None

    @staticmethod
    def part_of(name: str) -> str:
        """Which of the three nouns a parameter of `model` belongs to."""
        path = f".{name}"
        if any(f".{part}" in path for part in CONNECTOR_NAMES):
            return "connector"
        if any(f".{part}." in path for part in VISION_NAMES):
            return "vision"
        return "language"

    def parts(self) -> dict[str, list[str]]:
        """Names of the parameters of each noun."""
        found: dict[str, list[str]] = {part: [] for part in PARTS}
        for name, _ in self.model.named_parameters():
            found[self.part_of(name)].append(f"model.{name}")
        return found

    def count(self, sizes: Sizes) -> list[int]:
        """Tokens of pictures with the given (width, height), from the sizes alone.

        Raises:
            ModelError: a processor that cannot tell.
        """
        if not hasattr(self.processor, "_get_num_multimodal_tokens"):
            kind = type(self.processor).__name__
            raise ModelError(f"{kind} does not tell tokens from sizes; encode the sample instead")
        told = self.processor._get_num_multimodal_tokens([(h, w) for w, h in sizes])
        return [int(tokens) for tokens in told.num_image_tokens]

    def encode(
        self,
        sample: Sample,
        images: Sequence[Image.Image],
        template: Template | None = None,
        max_length: int | None = None,
        *,
        generation: bool = False,
    ) -> NativeEncoded:
        """Ids, labels and pixels of a sample.

        Args:
            images: the sample's pictures, RGB.
            template: ours instead of the model's own chat template.
            max_length: tokens to keep; a row is never cut before its last picture ends.
            generation: a prompt that leaves the assistant's turn open.

        Raises:
            DataError: another number of `<image>` than of pictures, turns that the
                template cannot hold, or pictures that do not fit `max_length`.
        """
        _check_tags(sample, len(images))
        text, spans = self._text(sample.turns, template, generation)
        ids, offsets, replaced, inputs = self.expand(text, images)
        _check_marks(len(replaced), self.image_token, len(images))
        made = self._row(text, spans, ids, offsets, replaced)
        whole = replace(made, inputs=inputs).cut(max_length)
        if whole.lost_images:
            raise DataError(
                f"the pictures end at token {made.image_spans[-1][1]} and {max_length} fit; raise "
                "max_length or make the pictures smaller"
            )
        return replace(whole, problem=None) if generation else whole

    def outline(
        self,
        sample: Sample,
        stand_ins: Sequence[str],
        template: Template | None = None,
    ) -> NativeEncoded:
        """The same ids and labels, whole, without any pixel, as far as they can be told without.

        Args:
            stand_ins: what the processor writes for each picture; see `native_outline`.

        Raises:
            DataError: as `encode`.
        """
        _check_tags(sample, len(stand_ins))
        text, spans = self._text(sample.turns, template, False)
        grown, replaced = _grow(text, self.image_token or "", stand_ins)
        made = self.tokenizer(
            grown, add_special_tokens=self._adds_specials(text), return_offsets_mapping=True
        )
        offsets = [tuple(pair) for pair in made["offset_mapping"]]
        return self._row(text, spans, list(made["input_ids"]), offsets, replaced)

    def _row(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
        replaced: Sequence[dict[str, Any]],
    ) -> NativeEncoded:
        """A row without its pixels, whole."""
        labels = _labels(ids, offsets, _moved(spans, replaced))
        pictures = _runs(offsets, [tuple(one["new_span"]) for one in replaced])
        told = {"whole": len(ids), "text": text, "said": tuple(spans)}
        return NativeEncoded(ids, labels, {}, tuple(pictures), **told)

    def _text(
        self, turns: Sequence[Turn], template: Template | None, generation: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and which characters the assistant said."""
        if template is not None:
            made = render(template, turns, generation=generation, eos=self.tokenizer.eos_token)
            text, spans = "", []
            for piece in made.pieces:
                words = piece.text.replace(LLAVA_IMAGE_TOKEN, self.image_token or "")
                words += (self.tokenizer.eos_token or "") if piece.ends_sequence else ""
                if piece.supervised:
                    spans.append((len(text), len(text) + len(words)))
                text += words
            return text, spans
        whole = self._render(turns, generation)
        spans = [
            self._answer_span(turns, place, whole)
            for place, turn in enumerate(turns)
            if turn.role == "assistant"
        ]
        return whole, spans

    def _answer_span(self, turns: Sequence[Turn], place: int, whole: str) -> tuple[int, int]:
        """Which characters of the whole conversation the assistant says in one turn.

        From the end of what the model is given to answer. A template that opens an
        answer in training otherwise than for generation (LLaVA-OneVision's, by a blank)
        tells it by the words: they begin behind all that earlier turns made.
        """
        after = self._render(turns[: place + 1], False).rstrip()
        asked = self._render(turns[:place], True)
        start = len(asked)
        if not after.startswith(asked):
            earlier = self._render(turns[:place], False)
            words = turns[place].text.strip()
            start = after.find(words, len(earlier)) if after.startswith(earlier) else -1
            start = start if words else len(after)
        if start < 0 or not whole.startswith(after):
            raise DataError(
                f"turn {place + 1}: the model's chat template writes earlier turns anew when "
                "later ones come, so labels cannot be placed; give a template"
            )
        return start, len(after)

    def _render(self, turns: Sequence[Turn], open_answer: bool) -> str:
        try:
            return self.processor.apply_chat_template(
                [message(turn.role, turn.text) for turn in turns],
                add_generation_prompt=open_answer,
                tokenize=False,
            )
        except ValueError as error:
            line = (str(error).strip() or "no chat template").splitlines()[0]
            raise DataError(f"the model's chat template cannot be used: {line}") from None

    def expand(
        self, text: str, images: Sequence[Image.Image]
    ) -> tuple[list[int], list[tuple[int, int]], list[dict[str, Any]], dict[str, Tensor]]:
        """Ids, their characters in the expanded text, what was replaced, and the other inputs."""
        how = {"return_offsets_mapping": True} if self.tokenizer.is_fast else {}
        try:
            made = self.processor(
                images=list(images) or None,
                text=[text],
                return_text_replacement_offsets=True,
                add_special_tokens=self._adds_specials(text),
                return_tensors="pt",
                **how,
            )
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(
                f"the model's processor refuses the sample: {first_line(error)}"
            ) from None
        if "offset_mapping" not in made:
            raise ModelError(f"{type(self.tokenizer).__name__} tells no offsets; give a fast one")
        ids = made.pop("input_ids")[0].tolist()
        offsets = [tuple(pair) for pair in made.pop("offset_mapping")[0].tolist()]
        replaced = made.pop("text_replacement_offsets", [[]])
        made.pop("attention_mask", None)
        inputs = {key: value for key, value in made.items() if isinstance(value, Tensor)}
        # InternVL's makes a tensor of an empty list.
        known = [] if isinstance(replaced, Tensor) or not replaced else list(replaced[0])
        return ids, offsets, known, inputs

    @property
    def token_key(self) -> str:
        """What the processor calls that which it says of each token; empty if it says nothing."""
        if self._token_key is None:
            _, _, _, inputs = self.expand(self.image_token or "", [Image.new("RGB", (64, 64))])
            self._token_key = next((key for key in PER_TOKEN if key in inputs), "")
        return self._token_key

    def per_token(self, ids: Sequence[int]) -> dict[str, Tensor]:
        """What the processor would say of each of these tokens, [1, L].

        Raises:
            ModelError: it says what does not follow from ids.
        """
        if not self.token_key:
            return {}
        if not getattr(self.processor, "return_mm_token_type_ids", False):
            kind = type(self.processor).__name__
            raise ModelError(
                f"{kind} gives {self.token_key} by rules of its own; this model can chat here, "
                "and cannot be trained"
            )
        return {self.token_key: torch.tensor(self.processor.create_mm_token_type_ids([list(ids)]))}

    def _adds_specials(self, text: str) -> bool:
        """A chat template that writes the first token itself must not get it twice."""
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def collate(self, rows: Sequence[NativeEncoded], side: str = "right") -> dict[str, Tensor]:
        """Rows as one batch: input_ids, attention_mask, labels [B, L], and joined inputs."""
        longest = max(row.length for row in rows)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        fills = {"input_ids": pad, "labels": IGNORE_INDEX, "attention_mask": 0}
        batch = {key: torch.full((len(rows), longest), fill) for key, fill in fills.items()}
        per_token = {key for row in rows for key in row.inputs if key in PER_TOKEN}
        batch |= {key: torch.zeros(len(rows), longest, dtype=torch.long) for key in per_token}
        for place, row in enumerate(rows):
            start = longest - row.length if side == "left" else 0
            here = slice(start, start + row.length)
            batch["input_ids"][place, here] = torch.tensor(row.ids)
            batch["labels"][place, here] = torch.tensor(row.labels)
            batch["attention_mask"][place, here] = 1
            for key in per_token & row.inputs.keys():
                batch[key][place, here] = row.inputs[key][0]
        others = {key for row in rows for key in row.inputs if key not in PER_TOKEN}
        return batch | {key: _joined([row.inputs[key] for row in rows if key in row.inputs])
                        for key in sorted(others)}  # fmt: skip

    def loss_sum(self, batch: dict[str, Tensor], lean: bool = True) -> Tensor:
        """Summed cross-entropy over the supervised tokens of a batch, fp32 scalar.

        Args:
            lean: run the output layer on supervised rows only, where the model's
                logits are that layer's output and nothing else.
        """
        inputs = dict(batch)
        labels = inputs.pop("labels")
        head = self.model.get_output_embeddings()
        if not (lean and self._head_is_plain()):
            logits = self.model(**inputs, use_cache=False).logits
            return full_loss(lambda rows: rows, logits, labels)
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        return lean_loss(head, hidden, labels)

    def _head_is_plain(self) -> bool:
        config = self.model.config.get_text_config()
        bent = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        return (
            isinstance(self.model.get_output_embeddings(), nn.Linear)
            and hasattr(self.model, "lm_head")
            and hasattr(self.model, "model")
            and not any(getattr(config, name, None) for name in bent)
        )


def message(role: str, text: str) -> dict[str, Any]:
    """A turn as chat templates take it, pictures where their tags stand."""
    content: list[dict[str, Any]] = []
    for number, words in enumerate(text.split(LLAVA_IMAGE_TOKEN)):
        if number:
            content.append({"type": "image"})
        words = words.strip("\n") if number or LLAVA_IMAGE_TOKEN in text else words
        if words:
            content.append({"type": "text", "text": words})
    return {"role": role, "content": content or [{"type": "text", "text": ""}]}


def _check_tags(sample: Sample, pictures: int) -> None:
    tags = sum(turn.text.count(LLAVA_IMAGE_TOKEN) for turn in sample.turns)
    if tags != pictures:
        raise DataError(f"the turns hold {tags} <image> and the sample has {pictures} images")


def _check_marks(found: int, mark: str | None, pictures: int) -> None:
    if found != pictures:
        raise DataError(
            f"the text holds {found} of {mark} and the sample has {pictures} images; say <image> "
            "for each, and nothing else that means one"
        )


def _grow(text: str, mark: str, stand_ins: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """A text with its marks replaced in order, told as transformers' processors tell it."""
    words = text.split(mark) if stand_ins else [text]
    _check_marks(len(words) - 1, mark, len(stand_ins))
    grown, replaced, at = words[0], [], len(words[0])
    for stand_in, after in zip(stand_ins, words[1:], strict=True):
        new = (len(grown), len(grown) + len(stand_in))
        one = {"span": (at, at + len(mark)), "new_span": new, "text": mark}
        replaced.append(one | {"replacement": stand_in})
        grown += stand_in + after
        at += len(mark) + len(after)
    return grown, replaced


def _moved(
    spans: Sequence[tuple[int, int]], replaced: Sequence[dict[str, Any]]
) -> list[tuple[int, int]]:
    """Character spans of a text after its image tags grew."""

    def move(place: int) -> int:
        grown = sum(
            len(one["replacement"]) - len(one["text"])
            for one in replaced
            if one["span"][1] <= place
        )
        return place + grown

    return [(move(start), move(end)) for start, end in spans]


def _labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """A token is supervised where it starts within a span; added ones cover no character."""
    return [
        token if end > start and any(a <= start < b for a, b in spans) else IGNORE_INDEX
        for token, (start, end) in zip(ids, offsets, strict=True)
    ]


def _runs(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """(first, past last) token of each span of characters."""
    found = []
    for a, b in spans:
        inside = [n for n, (start, end) in enumerate(offsets) if end > start and a <= start < b]
        if inside:
            found.append((inside[0], inside[-1] + 1))
    return found


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Inputs of several rows laid end to end, padded where their trailing sizes differ."""
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    rank = tensors[0].dim()
    most = [max(tensor.shape[axis] for tensor in tensors) for axis in range(1, rank)]
    padded = []
    for tensor in tensors:
        frame = tensor.new_zeros(len(tensor), *most)
        frame[tuple(slice(0, size) for size in tensor.shape)] = tensor
        padded.append(frame)
    return torch.cat(padded)
