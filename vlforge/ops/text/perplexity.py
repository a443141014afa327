"""Filtering by how surprising a text is to an n-gram model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.downloads import models_folder
from vlforge.ops.text.classes import parts_of
from vlforge.ops.text.ngram_models import Score, check_model, scorer_of
from vlforge.ops.text.pieces import Cut, piece_cutter, sound
from vlforge.types import RecipeError

WORDS = "words"
"""Names what blanks and line ends part, in place of a tokenizer."""
_MODEL_NAMES = ("{}.arpa.bin", "{}.bin", "{}.arpa", "{}.arpa.gz")
_TOKENIZER_NAMES = ("{}.sp.model", "{}.model")


@dataclass(frozen=True, kw_only=True)
class PerplexityFilter(TextFilter):
    """Keep texts whose perplexity under an n-gram model is within bounds.

    The model is KenLM's: `model` names its file (binary, or ARPA, also gzipped) or a
    folder that holds `{lang}.arpa.bin` or `{lang}.arpa`; without it Data-Juicer's folder
    of downloads. `tokenizer` is the sentencepiece model that the n-grams are made of, by
    default `{lang}.sp.model` beside the model; `words` takes what white space parts.
    Binary files need the library kenlm (pip install kenlm, which compiles it); ARPA files
    are read without it too, by the memory of their n-grams.

    The pieces become lines, each scored between the begin and the end of a sentence;
    the perplexity is 10 to the power of minus the sum of the log10 probabilities by the
    number of pieces, each line's end counted; 0 for an empty text. Data-Juicer rounds it
    to one digit; so does `compat: data_juicer`.
    """

    lang: str = "en"
    min_ppl: float = 0
    max_ppl: float = 1500
    model: str = ""
    tokenizer: str = ""

    stats: ClassVar = ("perplexity",)

    def __post_init__(self) -> None:
        check_model(self._model_file(), "perplexity_filter.model")
        self._tokenizer_file()

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the perplexity."""
        return ((self.min_ppl, self.max_ppl),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        score = scorer_of(self._model_file(), "perplexity_filter.model")
        cut = self._cut()
        texts = map(sound, batch.texts(self.text_key, self.ignore_special_tokens))
        found = [perplexity(" ".join(cut(text)), score) for text in texts]
        is_rounded = self.compat == "data_juicer"
        return ([round(value, 1) for value in found] if is_rounded else found,)

    def _cut(self) -> Cut:
        file = self._tokenizer_file()
        return parts_of if file is None else piece_cutter(file, "perplexity_filter.tokenizer")

    def _model_file(self) -> Path:
        place = Path(self.model).expanduser() if self.model else models_folder()
        if self.model and not place.is_dir():
            return place
        found = _first(place, _MODEL_NAMES, self.lang)
        if found is None:
            raise RecipeError(
                f"perplexity_filter: {place} has no {self.lang}.arpa.bin or {self.lang}.arpa: "
                "set model to KenLM's file for the language, and tokenizer to its sentencepiece"
            )
        return found

    def _tokenizer_file(self) -> Path | None:
        """The file, or None for plain words."""
        if self.tokenizer == WORDS:
            return None
        place = Path(self.tokenizer).expanduser() if self.tokenizer else self._model_file().parent
        file = _first(place, _TOKENIZER_NAMES, self.lang) if place.is_dir() else place
        if file is None or not file.is_file():
            raise RecipeError(
                f"perplexity_filter.tokenizer: {file or place / f'{self.lang}.sp.model'} is no "
                "file: name the sentencepiece model that the n-grams are made of, or words"
            )
        if find_spec("sentencepiece") is None:
            raise RecipeError(
                "perplexity_filter.tokenizer needs sentencepiece: pip install sentencepiece"
            )
        return file


def perplexity(pieces: str, score: Score) -> float:
    """Of pieces parted by blanks, line by line; 0 where there are none."""
    total, length = 0.0, 0
    for line in pieces.splitlines():
        total += score(line)
        length += len(line.split()) + 1
    return float(10.0 ** (-total / length)) if length else 0.0


def _first(folder: Path, names: tuple[str, ...], lang: str) -> Path | None:
    files = (folder / name.format(lang) for name in names)
    return next((file for file in files if file.is_file()), None)
