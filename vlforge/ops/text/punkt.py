"""Parting text into sentences by abbreviations, initials, numbers and what case tells.

The algorithm Punkt: a full stop ends a sentence unless its word is a known
abbreviation, an initial or a number and the word behind does not look like a
beginning. With the parameters that NLTK offers as `punkt_tab` the sentences are
NLTK's; without, the words in `ABBREVIATIONS` are all that is known.

Source: T. Kiss and J. Strunk, "Unsupervised Multilingual Sentence Boundary
Detection", Computational Linguistics 32(4), 2006, with the changes of NLTK 3.10.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlforge.types import RecipeError

LANGUAGES = {"en": "english", "fr": "french", "pt": "portuguese", "es": "spanish"}
ABBREVIATIONS = {
    "en": "mr mrs ms dr prof st jr sr rev hon gov sen rep pres gen col maj capt cmdr lt sgt "
    "vs etc e.g i.e cf al ca approx dept est inc ltd co corp bros no nos vol vols fig figs eq "
    "sec ch pp ed eds repr trans jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues "
    "wed thu thurs fri sat sun a.m p.m u.s u.k u.n d.c ph.d m.d b.a m.a mt ave blvd rd hwy ft "
    "min max tel",
    "fr": "m mm mme mmes mlle mlles dr pr prof me st ste av bd env p.ex c.-à-d etc cf vol vols "
    "fig chap éd p pp n° no tél janv févr avr juil sept oct nov déc apr j.-c boul hab",
    "pt": "sr sra srs dr dra drs prof profa eng d av r pç etc ex p.ex pág págs vol fig cap ed tel "
    "cia ltda jan fev mar abr mai jun jul ago set out nov dez n.º no séc apto s.a obs aprox",
    "es": "sr sra sres srta dr dra prof ing lic d dña av avda c pl etc ej p.ej pág págs vol fig "
    "cap ed tel cía ltda ene feb mar abr may jun jul ago sept oct nov dic n.º núm no s.a ee.uu "
    "ud uds vd vds gral cnel aprox a.c d.c",
}

ENDS = (".", "?", "!")
# What is never part of a word, apart from the full stop.
_MARK = r"""[)";}\]*:@'({\[‘’“”«»?!]"""
_STROKES = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_WORD = re.compile(
    rf"""{_STROKES}|(?=[^("`{{\[:;&\#*@)}}\]\-,])\S+?"""
    rf"""(?=\s|$|{_MARK}|{_STROKES}|,(?=$|\s|{_MARK}|{_STROKES}))|\S"""
)
_MAYBE_END = re.compile(rf"[.?!](?=(?P<behind>{_MARK}|\s+(?P<next>\S+)))")
_CLOSING = re.compile(r"""["')\]}‘’“”«»]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
_SPACE_BEFORE = re.compile(r"(?s).*[ \t\n\r\x0b\x0c]")

_NUMBER = re.compile(r"^-?[.,]?\d[\d,.\-]*\.?$")
_INITIAL = re.compile(r"[^\W\d]\.$")
_ELLIPSIS = re.compile(r"\.\.+$")
_NUMBER_TYPE = "##number##"

# Bits of what was seen of a word: capital or small, at the beginning of a sentence, amid it, or
# where neither is known.
_CAPITAL_AMID = 1 << 2
_CAPITAL = (1 << 1) | _CAPITAL_AMID | (1 << 3)
_SMALL_FIRST = 1 << 4
_SMALL = _SMALL_FIRST | (1 << 5) | (1 << 6)


@dataclass(slots=True)
class _Token:
    """One word with its marks."""

    text: str
    ends_sentence: bool = False
    is_abbreviation: bool = False
    is_ellipsis: bool = False

    @property
    def has_stop(self) -> bool:
        return self.text.endswith(".")

    @property
    def kind(self) -> str:
        """The word in small letters, one name for all numbers."""
        return _NUMBER.sub(_NUMBER_TYPE, self.text.lower())

    @property
    def stopless(self) -> str:
        kind = self.kind
        return kind[:-1] if len(kind) > 1 and kind[-1] == "." else kind

    @property
    def kind_by_mark(self) -> str:
        return self.stopless if self.ends_sentence else self.kind


@dataclass(frozen=True)
class Punkt:
    """A splitter with its knowledge of one language.

    `seen` holds, per word, the bits of where it was seen with which first letter;
    `pairs` are words that belong together over a full stop; `starters` often begin
    a sentence.
    """

    abbreviations: frozenset[str]
    pairs: frozenset[tuple[str, str]] = frozenset()
    starters: frozenset[str] = frozenset()
    seen: Mapping[str, int] = field(default_factory=dict)

    def sentences(self, text: str) -> list[str]:
        """The sentences, without the blanks between them."""
        return [text[start:end] for start, end in self._spans(text)]

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Closing quotes and brackets go with the sentence before them."""
        spans = [*self._rough_spans(text)]
        moved = 0
        for (start, end), following in zip(spans, [*spans[1:], None], strict=True):
            start += moved
            closing = following and _CLOSING.match(text[following[0] : following[1]])
            moved = 0
            if following and closing:
                moved = closing.end()
                yield start, following[0] + len(closing.group().rstrip())
            elif text[start:end]:
                yield start, end

    def _rough_spans(self, text: str) -> Iterator[tuple[int, int]]:
        start = 0
        for found, context in _contexts(text):
            if self._parts(context):
                yield start, found.end()
                start = found.start("next") if found["next"] else found.end()
        yield start, len(text.rstrip())

    def _parts(self, context: str) -> bool:
        """Whether a sentence ends before the last word of the context."""
        tokens = [
            self._marked(word)
            for line in context.split("\n")
            if line.strip()
            for word in _WORD.findall(line)
        ]
        for token, behind in itertools.pairwise(tokens):
            self._correct(token, behind)
        return any(token.ends_sentence for token in tokens[:-1])

    def _marked(self, word: str) -> _Token:
        """The first opinion, from the word alone."""
        token = _Token(word)
        if word in ENDS:
            token.ends_sentence = True
        elif _ELLIPSIS.match(word):
            token.is_ellipsis = True
        elif word.endswith(".") and not word.endswith(".."):
            name = word[:-1].lower()
            known = name in self.abbreviations or name.split("-")[-1] in self.abbreviations
            token.is_abbreviation, token.ends_sentence = known, not known
        return token

    def _correct(self, token: _Token, behind: _Token) -> None:
        """The second opinion on a word with a full stop, from the word behind it."""
        if not token.has_stop:
            return
        kind, next_kind = token.stopless, behind.kind_by_mark
        is_initial = _INITIAL.match(token.text) is not None
        if (kind, next_kind) in self.pairs:
            token.ends_sentence, token.is_abbreviation = False, True
            return
        looks_first = self._looks_first(behind)
        if (token.is_abbreviation or token.is_ellipsis) and not is_initial:
            is_starter = behind.text[0].isupper() and next_kind in self.starters
            if looks_first or is_starter:
                token.ends_sentence = True
                return
        if not (is_initial or kind == _NUMBER_TYPE):
            return
        is_name = is_initial and behind.text[0].isupper() and not self._bits(next_kind) & _SMALL
        if looks_first is False or (looks_first is None and is_name):
            token.ends_sentence, token.is_abbreviation = False, True

    def _looks_first(self, token: _Token) -> bool | None:
        """Whether a word looks like the first of a sentence; None: who knows."""
        if token.text in (";", ":", ",", ".", "!", "?"):
            return False
        bits = self._bits(token.kind_by_mark)
        first = token.text[0]
        if first.isupper() and bits & _SMALL and not bits & _CAPITAL_AMID:
            return True
        if first.islower() and (bits & _CAPITAL or not bits & _SMALL_FIRST):
            return False
        return None

    def _bits(self, kind: str) -> int:
        return self.seen.get(kind, 0)


def _contexts(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each mark that may end a sentence, with its word and the one behind.

    Of several marks in one word the last counts.
    """
    earlier: re.Match[str] | None = None
    start = end = 0
    for found in _MAYBE_END.finditer(text):
        space = _SPACE_BEFORE.match(text, end, found.start())
        # A blank right at `end` does not count: there the word of the mark before goes on.
        new_start = space.end() if space and space.end() > end + 1 else start
        if earlier and end <= new_start:
            yield earlier, text[start:end] + earlier.group() + earlier["behind"]
        earlier, start, end = found, new_start, found.start()
    if earlier:
        yield earlier, text[start:end] + earlier.group() + earlier["behind"]


@functools.lru_cache(maxsize=8)
def built_in(lang: str) -> Punkt:
    """A splitter that knows our short list of abbreviations."""
    return Punkt(frozenset(ABBREVIATIONS[lang].split()))


@functools.lru_cache(maxsize=8)
def from_folder(folder: str, lang: str) -> Punkt:
    """A splitter with the parameters of a `punkt_tab` folder.

    Raises:
        RecipeError: the folder lacks one of its files; names it.
    """
    place = _language_folder(Path(folder), LANGUAGES[lang])

    def lines(name: str) -> list[str]:
        try:
            content = (place / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"punkt_dir {folder!r} has no readable {name} for {LANGUAGES[lang]} ({error}): "
                "give the unpacked folder of NLTK's punkt_tab (the older pickles are not read)"
            ) from None
        return [line for line in content.split("\n") if line]

    pairs = [line.split("\t") for line in lines("collocations.tab")]
    seen = [line.split("\t") for line in lines("ortho_context.tab")]
    return Punkt(
        frozenset(lines("abbrev_types.txt")),
        frozenset((first, second) for first, second in pairs),
        frozenset(lines("sent_starters.txt")),
        {word: int(bits) for word, bits in seen},
    )


def _language_folder(folder: Path, language: str) -> Path:
    """The language's own folder, at or below `folder`."""
    below = (".", language, f"punkt_tab/{language}", f"tokenizers/punkt_tab/{language}")
    for part in below:
        if (folder / part / "abbrev_types.txt").is_file():
            return folder / part
    return folder
