"""Noun phrases of English texts: words, parts of speech, and determiner-adjectives-nouns.

The tagger is the averaged perceptron whose weights NLTK offers as
`averaged_perceptron_tagger_eng`; with its data the tags are NLTK's. Words part as in the
Penn Treebank. A spaCy model can stand in for the tagger: it has the same tags, though not
always on the same words.

Source: M. Collins, "Discriminative Training Methods for Hidden Markov Models", EMNLP 2002,
with the features of NLTK 3.10.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.ops.text.punkt import built_in
from vlforge.ops.text.syntax import parser_of, spacy_place
from vlforge.types import RecipeError

NAME = "averaged_perceptron_tagger_eng"
_PARTS = ("weights", "tagdict", "classes")
_BEFORE, _BEHIND = ("-START-", "-START2-"), ("-END-", "-END2-")

# A sign of these is a word of its own wherever it stands.
_ALONE = re.compile(r"(\.{2,}|--|''|`+|[;@#$%&?!*()\[\]{}<>«»“”‘’„‒–—―]|[:,](?!\d))")
_OPENING = re.compile(r"(?:^|(?<=[ (\[{<]))\"")
_LAST_STOP = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*$)")
_QUOTED = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)")
_CLITIC = re.compile(r"(?<=[^' ])(n't|'(?:s|m|d|ll|re|ve)?)(?= |$)")
_JOINED = re.compile(
    r"\b(can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|wan(?=na\b))"
)
_PHRASE = re.compile(r"(?:<DT>)?(?:<JJ[^>]*>)*(?:<NN[^>]*>)+")
_SIGNS = str.maketrans("", "", "|:;@()[]{}^'\"’`?$%#!&*+,.")

Tagger = Callable[[str], list[tuple[str, str]]]
"""The words of a text in small letters, each with its part of speech."""


def noun_phrases(text: str, tag: Tagger) -> list[str]:
    """The noun phrases of a text in small letters, each once, without punctuation marks."""
    tagged = tag(text.lower())
    signs = "".join(f"<{kind}>" for _, kind in tagged)
    found: dict[str, None] = {}
    for match in _PHRASE.finditer(signs):
        first = signs.count("<", 0, match.start())
        words = [word for word, _ in tagged[first : first + match[0].count("<")]]
        phrase = " ".join(words).translate(_SIGNS).strip()
        if phrase:
            found[phrase] = None
    return list(found)


def words_of(sentence: str) -> list[str]:
    """The words and signs of one sentence in small letters, as the Penn Treebank parts them."""
    text = _OPENING.sub(" `` ", sentence)
    text = _QUOTED.sub("' ", text)
    text = _LAST_STOP.sub(" . ", text)
    text = _ALONE.sub(r" \1 ", text).replace('"', " '' ")
    text = _CLITIC.sub(r" \1", " ".join(text.split()))
    return _JOINED.sub(r"\1 ", text).split()


def nltk_tagger(folder: str) -> Tagger:
    """Tags by NLTK's perceptron, sentence by sentence.

    Raises:
        RecipeError: no such data.
    """
    perceptron = perceptron_of(folder)

    def tag(text: str) -> list[tuple[str, str]]:
        words = [word for sentence in built_in("en").sentences(text) for word in words_of(sentence)]
        return list(zip(words, perceptron.tags(words), strict=True))

    return tag


def spacy_tagger(place: str) -> Tagger:
    """Tags by a spaCy model.

    Raises:
        RecipeError: it cannot be loaded.
    """
    parse = parser_of(place)
    return lambda text: [(str(token), token.tag_) for token in parse(text)]


def tagger_place(tagger: str, spacy_model: str, op: str) -> tuple[str, str]:
    """Which tagger an operator uses, `nltk` or `spacy`, and where its data lie.

    Raises:
        RecipeError: there is none; says how to come by one.
    """
    if spacy_model:
        return "spacy", spacy_place(spacy_model, "en", op)
    places = [Path(tagger).expanduser()] if tagger else _nltk_places()
    for place in places:
        for below in (".", NAME, f"taggers/{NAME}"):
            if (place / below / f"{NAME}.weights.json").is_file():
                return "nltk", str(place / below)
    if tagger:
        raise RecipeError(f"{op}.tagger is {tagger!r}, which does not hold {NAME}.weights.json")
    raise RecipeError(
        f"{op} needs a tagger of English: set tagger to the unpacked folder of NLTK's {NAME} "
        f"(python -m nltk.downloader {NAME}), or spacy_model to a spaCy model"
    )


def tagger_at(kind: str, place: str) -> Tagger:
    """What `tagger_place` found, opened."""
    return spacy_tagger(place) if kind == "spacy" else nltk_tagger(place)


def _nltk_places() -> list[Path]:
    """Where NLTK looks for its data."""
    told = [Path(one) for one in os.environ.get("NLTK_DATA", "").split(os.pathsep) if one]
    shared = [Path(root) / "nltk_data" for root in (sys.prefix, "/usr/share", "/usr/local/share")]
    return [*told, Path("~/nltk_data").expanduser(), *shared]


@functools.lru_cache(maxsize=4)
def perceptron_of(folder: str) -> Perceptron:
    """The tagger whose three files lie in `folder`.

    Raises:
        RecipeError: a file that is missing or holds something else; names it.
    """
    read = []
    for part in _PARTS:
        file = Path(folder) / f"{NAME}.{part}.json"
        try:
            read.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{file} cannot be read ({error}): download {NAME} again") from None
    weights, known, classes = read
    return Perceptron(weights, known, tuple(sorted(classes)))


@dataclass(frozen=True, eq=False)
class Perceptron:
    """Weights per feature and tag, the tags of words that have but one, and all tags, sorted."""

    weights: Mapping[str, Mapping[str, float]]
    known: Mapping[str, str]
    classes: tuple[str, ...]

    def tags(self, words: Sequence[str]) -> list[str]:
        """One tag per word, from the left; each tag counts for the next two words."""
        shapes = [*_BEFORE, *map(_shape, words), *_BEHIND]
        found: list[str] = []
        last, before_last = _BEFORE
        for at, word in enumerate(words):
            tag = self.known.get(word) or self._best(
                _features(word, shapes[at : at + 5], last, before_last)
            )
            found.append(tag)
            last, before_last = tag, last
        return found

    def _best(self, features: Iterable[str]) -> str:
        """The tag with the highest sum of weights; of equals the last of the alphabet."""
        sums: defaultdict[str, float] = defaultdict(float)
        for feature, count in Counter(features).items():
            for tag, weight in self.weights.get(feature, {}).items():
                sums[tag] += count * weight
        return max(self.classes, key=lambda tag: (sums[tag], tag))


def _shape(word: str) -> str:
    if "-" in word and word[0] != "-":
        return "!HYPHEN"
    if word.isdigit() and len(word) == 4:
        return "!YEAR"
    return "!DIGITS" if word[:1].isdigit() else word.lower()


def _features(word: str, shapes: Sequence[str], last: str, before_last: str) -> list[str]:
    """What the tag of a word is told from; `shapes` are of two words before to two behind."""
    two_before, before, own, behind, two_behind = shapes
    return [
        "bias",
        f"i suffix {word[-3:]}",
        f"i pref1 {word[:1]}",
        f"i-1 tag {last}",
        f"i-2 tag {before_last}",
        f"i tag+i-2 tag {last} {before_last}",
        f"i word {own}",
        f"i-1 tag+i word {last} {own}",
        f"i-1 word {before}",
        f"i-1 suffix {before[-3:]}",
        f"i-2 word {two_before}",
        f"i+1 word {behind}",
        f"i+1 suffix {behind[-3:]}",
        f"i+2 word {two_behind}",
    ]
