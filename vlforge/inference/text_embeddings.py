"""Encoders of texts alone: sentence encoders and embedding language models, and servers of them.

T texts, L positions, D width. In fp32 what a text gives does not depend on its batch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlforge.inference.endpoint.line import Line, Lost
from vlforge.inference.prompts import Batches
from vlforge.types import EndpointSpec, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.inference.local import LocalModels

POOLING = "1_Pooling/config.json"
"""Where sentence-transformers writes how tokens become one vector."""
LONGEST = 8192
"""Most tokens of a text that are read."""
TEXTS_A_REQUEST = 64
_MODES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_OF_TEXTS = frozenset({400, 413, 422})
"""Answers to requests that hold too much."""
SHORTEST = 64
"""Characters down to which a text that a server refuses is cut."""
_LONGEST_WAIT_S = 60.0


def embeds_texts(fields: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is of a model whose states can be a text's embedding."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    return fields.get("model_type") in known


def open_text_embedder(models: LocalModels, path: str, fields: Mapping[str, Any]) -> TextEmbedder:
    """The encoder of texts in the folder `path`, opened once per process.

    Raises:
        ModelError: weights or a tokenizer that cannot be read, or an unknown pooling.
    """

    def opened() -> TextEmbedder:
        from transformers import AutoModel

        from vlforge.inference.vision_models import open_model, open_tokenizer

        model = open_model(models, path, AutoModel, is_part=True)
        return TextEmbedder(
            model, open_tokenizer(path), pooling_of(Path(path), fields), models.batch
        )

    made: TextEmbedder = models.keep(("embedder", path), opened)
    return made


def pooling_of(folder: Path, fields: Mapping[str, Any]) -> str:
    """How the folder's tokens become one vector: as it says, else by the kind of model.

    The last token of a model that reads forwards, the mean of one that reads both ways.

    Raises:
        ModelError: a way that is not known here, or several at once.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    file = folder / POOLING
    if not file.is_file():
        reads_both_ways = fields.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        return "mean" if reads_both_ways else "last"
    told = json.loads(file.read_text(encoding="utf-8"))
    chosen = [name for name, value in told.items() if name.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise ModelError(f"{file} asks for {' and '.join(chosen) or 'nothing'}; known: one of "
                         f"{', '.join(_MODES)}")  # fmt: skip
    return _MODES[chosen[0]]


class TextEmbedder:
    """Unit vectors of texts; an `Embedder` that sees no pictures."""

    def __init__(self, model: Any, tokenizer: Any, pooling: str, batch: int = 32):
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.batches = Batches(batch)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """Nothing.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.model.name_or_path} encodes texts alone; give a CLIP folder")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [T, D], float32; a text longer than the model reads is cut."""
        return _stacked(self.batches.run(texts, self._texts, length=len))

    @torch.inference_mode()
    def _texts(self, texts: list[str]) -> list[Tensor]:
        inputs = self.tokenizer(
            texts, padding=True, padding_side="right", truncation=True,
            max_length=self._limit(), return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        states = self.model(**inputs).last_hidden_state.float()
        pooled = pool(states, inputs["attention_mask"], self.pooling)
        return list(F.normalize(pooled, dim=-1).cpu())

    def _limit(self) -> int:
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None) or LONGEST
        if str(config.model_type) in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
            positions -= config.pad_token_id + 1  # counted from behind the padding's
        return int(min(positions, self.tokenizer.model_max_length, LONGEST))


def pool(states_TLD: Tensor, mask_TL: Tensor, how: str) -> Tensor:
    """One vector [T, D] per text of its tokens' states; padding is on the right."""
    if how == "first":
        return states_TLD[:, 0]
    if how == "last":
        ends = mask_TL.sum(-1) - 1
        return states_TLD[torch.arange(len(ends), device=ends.device), ends.clamp(min=0)]
    weights = mask_TL.float()
    if how == "weighted_mean":
        weights = weights * weights.cumsum(-1)
    total = weights.sum(-1, keepdim=True).clamp(min=1.0)
    return (states_TLD * weights[..., None]).sum(1) / total


class EndpointEmbedder:
    """Unit vectors of texts from a server's `/embeddings`; an `Embedder` without pictures.

    Some texts go with each request, tried again as the endpoint's settings say; a text that
    the server finds too long is cut by halves. Vectors are not kept for another run, and
    what they cost is not counted.
    """

    def __init__(self, spec: EndpointSpec, sleep: Callable[[float], None] = time.sleep):
        self.spec = spec
        self._sleep = sleep
        self._line = Line(spec.url, os.environ.get(spec.key_env, ""), spec.timeout_s)

    def embed_images(self, images: Sequence[Image]) -> np.ndarray:
        """Nothing.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{self.spec.model} at {self.spec.url} encodes texts alone")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [T, D], float32.

        Raises:
            ModelError: the server refuses, or does not answer after all tries.
        """
        found: list[Tensor] = []
        for at in range(0, len(texts), TEXTS_A_REQUEST):
            found += self._asked(list(texts[at : at + TEXTS_A_REQUEST]))
        return _stacked(found)

    def _asked(self, texts: list[str]) -> list[Tensor]:
        body = {"model": self.spec.model, "input": texts, "encoding_format": "float"}
        problem = ""
        for attempt in range(self.spec.retries + 1):
            if attempt:
                self._sleep(min(_LONGEST_WAIT_S, 0.5 * 2 ** (attempt - 1)))
            try:
                status, _, data = self._line.post("/embeddings", body)
            except Lost as error:
                problem = str(error)
                continue
            if status == 200:
                return self._vectors(data, len(texts))
            problem = f"{status} {data[:200].decode('utf-8', 'replace')}"
            if status in _OF_TEXTS and (len(texts) > 1 or len(texts[0]) > SHORTEST):
                return self._smaller(texts)
            if status not in _PASSING:
                break
        raise ModelError(f"{self.spec.url}: no embeddings from {self.spec.model!r}: {problem}")

    def _smaller(self, texts: list[str]) -> list[Tensor]:
        """What a server refuses for what it holds, in halves: some texts, or one that is cut."""
        half = len(texts) // 2
        if not half:
            return self._asked([texts[0][: len(texts[0]) // 2]])
        return self._asked(texts[:half]) + self._asked(texts[half:])

    def _vectors(self, data: bytes, count: int) -> list[Tensor]:
        try:
            told = sorted(json.loads(data)["data"], key=lambda one: one.get("index", 0))
            vectors = torch.tensor([one["embedding"] for one in told], dtype=torch.float32)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.spec.url}: no embeddings in its reply: {error}") from None
        if vectors.dim() != 2 or len(vectors) != count:
            raise ModelError(f"{self.spec.url}: {len(vectors)} embeddings for {count} texts")
        return list(F.normalize(vectors, dim=-1))


def _stacked(vectors: Sequence[Tensor]) -> np.ndarray:
    made = torch.stack(list(vectors)).numpy() if vectors else np.zeros((0, 0), np.float32)
    return np.ascontiguousarray(made, dtype=np.float32)
