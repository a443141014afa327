"""Filtering texts by how near their embeddings are to those of texts one wants more of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, Filter, look_up
from vlforge.ops.batch import Batch
from vlforge.ops.text.language_models import validation_rows
from vlforge.ops.text.pieces import sound
from vlforge.types import Drop, Need, RecipeError, Row

OP = "text_embd_similarity_filter"
_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_THEIR_WIDTH = 4096


@dataclass(frozen=True, kw_only=True)
class TextEmbdSimilarityFilter(Filter):
    """Keep texts whose embeddings are as near to those of validation texts as wanted.

    The mean cosine to the texts of `valid_dataset` (a list of rows, or a file with one JSON
    object a line). `api_or_hf_model` is the folder of an encoder of texts (a sentence
    encoder, an embedding language model, a CLIP), or one of the recipe's `endpoints`, whose
    `/embeddings` is asked. How a folder's tokens become one vector is said by its
    `1_Pooling`, else it is the last token of a model that reads forwards and the mean of
    one that reads both ways. `input_template` makes the text of a row, `{field}` standing
    for a field. A row without it is dropped; Data-Juicer keeps what it could not embed.
    """

    api_or_hf_model: str = "text-embedding-v4"
    is_hf_model: bool = False
    min_score: float = 0.1
    max_score: float = 1.0
    valid_dataset: list[dict[str, Any]] | str | None = None
    input_template: str | None = None
    ebd_dim: int = _THEIR_WIDTH
    pooling: str | None = None
    api_endpoint: str | None = None
    response_path: str | None = None
    model_params: dict[str, Any] = field(default_factory=dict)

    needs: ClassVar = Need.MODEL
    stats: ClassVar = ("text_embd_similarity",)

    def __post_init__(self) -> None:
        for row in validation_rows(self.valid_dataset, None, OP):
            if isinstance(found := self._words(row), Drop):
                raise RecipeError(f"{OP}.valid_dataset: {found.reason}: {found.value}")

    @property
    def notes(self) -> tuple[str, ...]:
        """Keys of Data-Juicer that change nothing here."""
        given = [
            name
            for name, is_given in (
                ("pooling", self.pooling is not None),
                ("ebd_dim", self.ebd_dim != _THEIR_WIDTH),
                ("api_endpoint", self.api_endpoint not in (None, "embeddings")),
            )
            if is_given
        ]
        said = "the folder, or the recipe's endpoints, say it"
        return (f"{OP}: without effect here: {', '.join(given)}: {said}",) if given else ()

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the mean cosine."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        rows = [self._words(item.row) for item in batch.items]
        wanted = [self._words(row) for row in validation_rows(self.valid_dataset, None, OP)]
        texts = [row for row in rows if isinstance(row, str)]
        known = [one for one in wanted if isinstance(one, str)]
        if not texts:
            return (rows,)
        vectors = batch.embedded_texts(self, self.api_or_hf_model, [*texts, *known])
        middle = _mean(vectors[len(texts) :])
        near = iter([float(vector @ middle) for vector in vectors[: len(texts)]])
        return ([next(near) if isinstance(row, str) else row for row in rows],)

    def _words(self, row: Row) -> str | Drop:
        template = self.input_template or f"{{{self.text_key}}}"
        values = {name: look_up(row, name) for name in _FIELD.findall(template)}
        gone = next((name for name, value in values.items() if value is None), None)
        if gone is not None:
            return Drop("", "field is missing", None, gone, None)
        text = sound(_FIELD.sub(lambda found: str(values[found[1]]), template))
        return text if text.strip() else Drop("", "no text to compare")


def _mean(vectors: Sequence[Any]) -> Any:
    """The mean of the unit vectors, not brought to length 1: cosines to it are mean cosines."""
    return sum(vectors[1:], start=vectors[0]) / len(vectors)
