"""Filters on the grammar of a text, as a spaCy model of the user sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from vlforge.ops.base import Bounds, Filter
from vlforge.ops.batch import Batch
from vlforge.ops.downloads import models_folder
from vlforge.types import Drop, RecipeError

Lang = Literal["en", "zh"]
ACTIONS = (frozenset({"VERB"}), frozenset({"VV", "VB", "VBP", "VBZ", "VBD", "VBG", "VBN"}))
"""Universal and fine tags of an action."""
ENTITIES = (
    frozenset({"NOUN", "PROPN", "PRON"}),
    frozenset({"NN", "NR", "PN", "NNS", "NNP", "NNPS", "PRP"}),
)
"""Universal and fine tags of a thing or person."""


class Token(Protocol):
    """What is asked of a word in a parsed text; spaCy's tokens have it."""

    i: int
    pos_: str
    tag_: str
    dep_: str
    head: Token


@dataclass(frozen=True, kw_only=True)
class TextActionFilter(Filter):
    """Keep texts with at least some actions: words that a spaCy model takes for verbs.

    Special tokens are no part of the text. `spacy_model` is the folder or the
    installed package of a model for `lang` (en or zh); by default Data-Juicer's
    download (`en_core_web_md-3.7.0`), else the package `en_core_web_md`. Another
    model counts differently. spaCy comes with no extra: pip install spacy.
    """

    lang: Lang = "en"
    min_action_num: int = 1
    spacy_model: str = ""

    stats: ClassVar = ("num_action",)

    def __post_init__(self) -> None:
        spacy_place(self.spacy_model, self.lang, "text_action_filter")

    def bounds(self) -> tuple[Bounds, ...]:
        """In actions."""
        return ((self.min_action_num, None),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        place = spacy_place(self.spacy_model, self.lang, "text_action_filter")
        return (_counted(batch.texts(self.text_key, True), place, count_actions),)


@dataclass(frozen=True, kw_only=True)
class TextEntityDependencyFilter(Filter):
    """Keep texts whose nouns and pronouns are tied to other words.

    Per noun, name and pronoun the statistic counts edges of the dependency tree:
    one to its head, unless it is the root, and one from each word that depends on
    it, punctuation apart. `all` of them (or `any`) need `min_dependency_num`; a
    text without any is dropped. Special tokens are no part of the text.
    `spacy_model` as in `text_action_filter`.
    """

    lang: Lang = "en"
    min_dependency_num: int = 1
    any_or_all: Literal["any", "all"] = "all"
    spacy_model: str = ""

    stats: ClassVar = ("num_dependency_edges",)

    def __post_init__(self) -> None:
        spacy_place(self.spacy_model, self.lang, "text_entity_dependency_filter")

    def bounds(self) -> tuple[Bounds, ...]:
        """In edges of one noun."""
        return ((self.min_dependency_num, None),)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        place = spacy_place(self.spacy_model, self.lang, "text_entity_dependency_filter")
        return (_counted(batch.texts(self.text_key, True), place, count_edges),)

    def keep(self, *values: Any) -> bool:
        fits = [self.fits(edges, self.min_dependency_num, None) for edges in values[0]]
        return bool(fits) and (any(fits) if self.any_or_all == "any" else all(fits))

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """Says so where there is no noun."""
        if not values[0]:
            return Drop(name, "no entity", self.stats[0], values[0], ">= 1 entity")
        return super().fault(name, values)


def _counted(texts: Sequence[str], place: str, count: Callable[[Any], Any]) -> list[Any]:
    parse = parser_of(place)
    counts: list[Any] = []
    for text in texts:
        try:
            counts.append(count(parse(text)))
        except ValueError as error:  # too long, or half a character
            counts.append(Drop("", "text cannot be parsed", None, str(error).splitlines()[0][:120]))
    return counts


def count_actions(tokens: Iterable[Token]) -> int:
    """Words that are verbs by both tags."""
    return sum(_is(token, ACTIONS) for token in tokens)


def count_edges(tokens: Sequence[Token]) -> list[int]:
    """Edges of each noun, name and pronoun in the dependency tree, in order of the text."""
    edges = {t.i: int(t.dep_ != "ROOT") for t in tokens if _is(t, ENTITIES)}
    for token in tokens:
        if token.pos_ != "PUNCT" and token.dep_ != "ROOT" and token.head.i in edges:
            edges[token.head.i] += 1
    return list(edges.values())


def _is(token: Token, tags: tuple[frozenset[str], frozenset[str]]) -> bool:
    return token.pos_ in tags[0] and token.tag_ in tags[1]


def spacy_place(given: str, lang: str, op: str) -> str:
    """The folder or package of an operator's spaCy model.

    Raises:
        RecipeError: there is no spaCy, or no model.
    """
    if find_spec("spacy") is None:
        raise RecipeError(f"{op} needs spaCy and a model of it: pip install spacy")
    if given:
        folder = Path(given).expanduser()
        if folder.is_dir() or _is_package(given):
            return str(folder) if folder.is_dir() else given
        raise RecipeError(f"{op}.spacy_model is {given!r}, neither a folder nor a package")
    package = f"{lang}_core_web_md"
    downloaded = models_folder() / f"{package}-3.7.0"
    if downloaded.is_dir():
        return str(downloaded)
    if _is_package(package):
        return package
    raise RecipeError(
        f"{op} needs a spaCy model of {lang!r}: set spacy_model to its folder, "
        f"or `python -m spacy download {package}` once"
    )


def _is_package(name: str) -> bool:
    return name.isidentifier() and find_spec(name) is not None


@functools.cache
def parser_of(place: str) -> Callable[[str], Sequence[Token]]:
    """Parses texts by the spaCy model at `place`.

    Raises:
        RecipeError: the model cannot be loaded.
    """
    import spacy

    try:
        parse: Callable[[str], Sequence[Token]] = spacy.load(place)
    except (OSError, ValueError, ImportError) as error:
        said = str(error).splitlines()[0]
        raise RecipeError(f"spaCy's model {place} cannot be loaded: {said}") from None
    return parse
