"""An encoder that names what it sees: words of a caption, found somewhere on the map.

Shapes: B pictures, H W pixels, C channels, P = h * w positions, V tags.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlforge.models.parts.small_vision import SmallVisionModel
from vlforge.types import ModelError

HEAD_NAME, VOCABULARY_NAME = "tags.safetensors", "tags.json"


def tag_names(tokens: Sequence[str]) -> list[str | None]:
    """The tag that each token stands for: without its space, None where it says nothing.

    Specials (in angle brackets) and marks without a letter or digit are no tags.
    """
    names: list[str | None] = []
    for token in tokens:
        word = token.replace("▁", "").strip()
        is_special = token.startswith("<") and token.endswith(">")
        names.append(word if not is_special and any(c.isalnum() for c in word) else None)
    return names


class Tagger(nn.Module):
    """A small encoder with a linear head on every position of its map.

    A tag's logit for a picture is the log-mean-exp of its logits over positions,
    a smooth maximum: the tag has to be somewhere, not everywhere. It is the
    nearer to the maximum the higher `sharpness`. `prior` [V] is the log-odds of
    each tag before looking; it is where training starts.
    """

    def __init__(
        self, vision: SmallVisionModel, tags: Sequence[str], prior: Tensor, sharpness: float = 1.0
    ):
        super().__init__()
        self.vision = vision
        self.tags = tuple(tags)
        self.sharpness = sharpness
        self.head = nn.Linear(vision.config.channels[-1], len(self.tags), bias=False)
        self.bias = nn.Parameter(prior.clone())
        self.register_buffer("prior", prior)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised [B, 3, H, W] -> logits [B, V]."""
        places = self.head(self.vision.map(pixels).permute(0, 2, 3, 1).flatten(1, 2))
        pooled = (places.float() * self.sharpness).logsumexp(1) - math.log(places.shape[1])
        return pooled / self.sharpness + self.bias

    def save(self, out: Path) -> None:
        """Write the encoder as a vision folder, the head beside it."""
        self.vision.config._name_or_path = ""
        self.vision.save_pretrained(out)
        state = {"weight": self.head.weight, "bias": self.bias, "prior": self.prior}
        draft = out / (HEAD_NAME + ".tmp")
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, draft
        )
        os.replace(draft, out / HEAD_NAME)
        draft = out / (VOCABULARY_NAME + ".tmp")
        fields = {"sharpness": self.sharpness, "tags": list(self.tags)}
        draft.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n")
        os.replace(draft, out / VOCABULARY_NAME)

    @classmethod
    def load(cls, path: Path) -> Tagger:
        """Read what `save` wrote.

        Raises:
            ModelError: the folder holds no tag head.
        """
        try:
            fields = json.loads((path / VOCABULARY_NAME).read_text())
            tags, sharpness = fields["tags"], fields["sharpness"]
            state = load_file(path / HEAD_NAME)
        except (OSError, ValueError, KeyError):
            raise ModelError(
                f"{path} has no tag head; it comes from a pretrain stage with objective: tags"
            ) from None
        tagger = cls(SmallVisionModel.from_pretrained(path), tags, state["prior"], sharpness)
        tagger.load_state_dict(
            {"head.weight": state["weight"], "bias": state["bias"]}, strict=False
        )
        return tagger


def tag_targets(texts: Sequence[str], tokenizer: Any, tags: Sequence[str]) -> list[list[int]]:
    """Numbers of the tags in each text, each once, ascending; unknown words are no tags."""
    place = {tag: number for number, tag in enumerate(tags)}
    by_id = [
        place.get(name)
        for name in tag_names(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    ]
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [sorted({by_id[i] for i in ids if by_id[i] is not None}) for ids in encoded]
