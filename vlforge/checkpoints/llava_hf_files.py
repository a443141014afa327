"""What lies beside the weights of transformers' LLaVA: vocabulary, processor, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlforge.checkpoints.chat_template import fitting_template
from vlforge.checkpoints.checkpoint import Checkpoint, Writing
from vlforge.checkpoints.weights import Lazy, Weights
from vlforge.models.llava import LlavaConfig
from vlforge.models.parts.image_processor import FILE_NAME, ImageProcessor
from vlforge.models.reading import read_tokenizer, write_json
from vlforge.text.templates import find_template
from vlforge.text.tokenizers import TextTokenizer, adapt
from vlforge.text.two_tokenizers import TwoTokenizers, with_dialect

PROCESSOR_NAME = "processor_config.json"
IMAGE, PAD = "<image>", "<pad>"
MULTIPLE = 64
"""Rows of the embeddings are filled up to a multiple of this."""

_ROWS = ("language.model.embed_tokens.weight", "language.lm_head.weight", "language.lm_head.bias")
"""Weights with one row per token."""


@dataclass(frozen=True)
class Vocabulary:
    """Where `<image>` and the padding stand, and how many rows the embeddings have.

    added: whether `<image>` or `<pad>` are new to the tokenizer.
    """

    image: int
    pad: int | None
    rows: int
    added: tuple[str, ...] = ()
    tokenizer: Any = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, how: Writing) -> Vocabulary:
        """The vocabulary that transformers needs: `<image>` in it, and a padding of its own."""
        rows = int(checkpoint.config.text_config.vocab_size)
        if checkpoint.tokenizer is None:
            how.say(
                f"there is no tokenizer here: {IMAGE} gets id {rows} and {PAD} {rows + 1}; add "
                "both to yours"
            )
            return cls(rows, rows + 1, _filled(rows + 2), (IMAGE, PAD))
        tokenizer = read_tokenizer(checkpoint.tokenizer)
        if isinstance(tokenizer, TwoTokenizers):
            tokenizer = tokenizer.whole  # transformers makes its own ids there
        has_pad = tokenizer.pad_token not in (None, tokenizer.unk_token)
        known = tokenizer.get_vocab()
        needed = (IMAGE,) if has_pad else (IMAGE, PAD)
        added = [token for token in needed if token not in known]
        tokenizer.add_tokens(added, special_tokens=True)
        if not has_pad:
            tokenizer.pad_token = PAD
        image, pad = tokenizer.convert_tokens_to_ids(IMAGE), tokenizer.pad_token_id
        wanted = max(image, pad, len(tokenizer) - 1) + 1
        return cls(image, pad, rows if wanted <= rows else _filled(wanted), tuple(added), tokenizer)


def _filled(count: int) -> int:
    return -(-count // MULTIPLE) * MULTIPLE


def grow(weights: Weights, vocabulary: Vocabulary) -> dict[str, Lazy]:
    """The weights with rows for new tokens: the mean of those there are.

    Drawn at random they would differ from export to export. Nothing reads them as
    input, and as output the mean's logit is the mean of all, never the largest.
    """
    grown = dict(weights)
    for name in _ROWS:
        lazy = grown.get(name)
        if lazy is not None and lazy.shape[0] < vocabulary.rows:
            grown[name] = _with_rows(lazy, vocabulary.rows)
    return grown


def _with_rows(lazy: Lazy, rows: int) -> Lazy:
    def change(tensor: Tensor) -> Tensor:
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        new = mean.expand(rows - tensor.shape[0], *tensor.shape[1:])
        return torch.cat([tensor, new])

    return lazy.map(change, (rows, *lazy.shape[1:]))


def write_vocabulary(
    checkpoint: Checkpoint, vocabulary: Vocabulary, out: Path, how: Writing
) -> None:
    """The tokenizer with its new tokens, the chat template, and where generation ends."""
    text = checkpoint.config.text_config
    ends = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id}
    write_json(out / "generation_config.json", ends | {"pad_token_id": vocabulary.pad})
    tokenizer = vocabulary.tokenizer
    if tokenizer is None:
        return
    if vocabulary.added:
        how.say(
            f"{' and '.join(vocabulary.added)} are new to the tokenizer; the embeddings have "
            f"{vocabulary.rows} rows, new ones the mean of the others"
        )
    written = find_template(checkpoint.template)
    written = find_template(written.asked_as or written.name)
    trained_with = _tokenizer_of_training(checkpoint)
    template, is_same = fitting_template(written, tokenizer, trained_with, vocabulary.image)
    if template is not None and not is_same:
        how.say(
            f"this tokenizer gives template {written.name!r} other ids in transformers than in "
            "training; answers may be a little worse there"
        )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(out)
    _suit_older_versions(out / "tokenizer_config.json")
    if template is None:
        how.say(f"template {checkpoint.template!r} is not for chat; no chat template is written")
        return
    # transformers before 4.50 and some servers look for this file only.
    write_json(out / "chat_template.json", {"chat_template": template})


def _tokenizer_of_training(checkpoint: Checkpoint) -> TextTokenizer:
    """What made the ids that the model was trained with."""
    folder = checkpoint.tokenizer
    assert folder is not None
    return adapt(with_dialect(read_tokenizer(folder), folder, checkpoint.dialect))


def _suit_older_versions(file: Path) -> None:
    """Say what transformers 5 writes in words that 4 understands too; 5 reads both."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    local = ("is_local", "local_files_only", "backend")
    write_json(file, {key: value for key, value in fields.items() if key not in local})


def write_processor(checkpoint: Checkpoint, out: Path, how: Writing) -> None:
    """`preprocessor_config.json` and `processor_config.json`."""
    config = checkpoint.config
    assert isinstance(config, LlavaConfig)
    vision: Any = config.vision_config
    is_clip = vision.model_type == "clip_vision_model"
    processor = checkpoint.processor or ImageProcessor(
        size=vision.image_size, fit_mode=config.image_aspect_ratio
    )
    kinds = {"pad": "LlavaImageProcessor", "anyres": "LlavaNextImageProcessor"}
    kind = kinds.get(processor.fit_mode, "CLIPImageProcessor")
    fields = processor.to_json() | {"image_processor_type": kind}
    if processor.fit_mode in ("pad", "anyres"):
        fields["do_pad"] = True
    if processor.fit_mode == "pad":
        how.say(
            "pictures are padded to squares, as in training: LlavaImageProcessor does it, of "
            "transformers 4.51 and later"
        )
    is_next = config.tiling is not None
    drops_class = is_clip and config.select_feature == "patch"
    write_json(out / FILE_NAME, fields | {"processor_class": _processor_class(is_next)})
    write_json(
        out / PROCESSOR_NAME,
        {
            "processor_class": _processor_class(is_next),
            "image_token": IMAGE,
            "patch_size": vision.patch_size,
            "num_additional_image_tokens": int(is_clip),
            "vision_feature_select_strategy": "default" if drops_class else "full",
        },
    )


def _processor_class(is_next: bool) -> str:
    return "LlavaNextProcessor" if is_next else "LlavaProcessor"


def processor_fields(path: Path) -> Mapping[str, Any]:
    """The image processor's fields, from its own file or from within the processor's (5.x)."""
    for name in (FILE_NAME, PROCESSOR_NAME):
        try:
            fields = json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found = fields.get("image_processor", fields)
        if isinstance(found, dict) and ("size" in found or "crop_size" in found):
            return found
    return {}


def processor_from(path: Path, config: LlavaConfig) -> ImageProcessor:
    """The folder's image processor, or the one that the encoder implies."""
    fields = processor_fields(path)
    mode: Any = config.image_aspect_ratio
    vision: Any = config.vision_config
    if fields:
        processor = ImageProcessor.from_json(fields, mode)
    else:
        processor = ImageProcessor(size=vision.image_size, fit_mode=mode)
    if config.tiling is not None:
        processor = replace(processor, fit_mode="anyres", pinpoints=config.tiling.pinpoints)
    return processor
