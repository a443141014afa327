"""Regular expressions that a recipe gives: compiled once, refused at load when they are none.

They are read by the library `regex`, as Data-Juicer does, so that `\\p{Han}` works
and blanks and word characters are those of Unicode.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import TextMapper
from vlforge.types import RecipeError


@dataclass(frozen=True, kw_only=True)
class Replacing(TextMapper):
    """What operators with `pattern` and `repl` have in common.

    `pattern` is a regular expression (over line ends; one written as Python's
    r'...' loses that dress) that takes the place of the operator's own; `repl`
    replaces each match and may name groups, as in `<\\1>`.
    """

    pattern: str | None = None
    repl: str = ""

    def __post_init__(self) -> None:
        if self.pattern is not None:
            check(self.pattern, self.repl)
        elif "\\" in self.repl:
            check("(.*)", self.repl)

    def rewrite(self, text: str) -> str:
        """The text with every match replaced."""
        if self.pattern is None:
            return with_spans_replaced(text, self.spans(text), self.repl)
        replaced: str = expression(self.pattern).sub(self.repl, text)
        return replaced

    def spans(self, text: str) -> Iterable[tuple[int, int]]:
        """(start, end) of what goes when no pattern is given, from left to right."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ReplaceContentMapper(TextMapper):
    """Replace what regular expressions match.

    `pattern` is one expression or a list of them, applied in turn (over line ends;
    one written as Python's r'...' loses that dress); `repl` is one replacement for
    all or a list with one for each, and may name groups, as in `<\\1>`. Without
    `pattern` nothing changes.
    """

    pattern: str | list[str] | None = None
    repl: str | list[str] = ""

    def __post_init__(self) -> None:
        for pattern, repl in self._pairs():
            check(pattern, repl)

    def rewrite(self, text: str) -> str:
        """The text with every match replaced."""
        for pattern, repl in self._pairs():
            text = expression(pattern).sub(repl, text)
        return text

    def _pairs(self) -> list[tuple[str, str]]:
        if self.pattern is None:
            return []
        patterns = [self.pattern] if isinstance(self.pattern, str) else self.pattern
        if isinstance(self.repl, str):
            return [(pattern, self.repl) for pattern in patterns]
        if len(self.repl) < len(patterns):
            raise RecipeError(
                f"replace_content_mapper.repl has {len(self.repl)} entries for {len(patterns)} "
                "of pattern: give one each, or a single one for all"
            )
        return list(zip(patterns, self.repl, strict=False))


@functools.lru_cache(maxsize=256)
def expression(pattern: str) -> Any:
    """The compiled expression, `.` matching line ends too.

    Raises:
        RecipeError: it is no regular expression; says where.
    """
    regex = _library()
    bare = undressed(pattern)
    try:
        return regex.compile(bare, regex.DOTALL)
    except regex.error as error:
        raise RecipeError(f"{bare!r} is no regular expression: {error}") from None


def undressed(pattern: str) -> str:
    """An expression written as Python's r'...' without that."""
    is_dressed = len(pattern) > 2 and pattern[:2] in ("r'", 'r"') and pattern[-1] == pattern[1]
    return pattern[2:-1] if is_dressed else pattern


def check(pattern: str, repl: str) -> None:
    """Refuse what is no expression, and a replacement that names no group of it.

    Raises:
        RecipeError: names the expression or the replacement.
    """
    expression(pattern)
    if "\\" not in repl:
        return
    regex = _library()
    try:
        matches_nothing = regex.compile(f"(?:{undressed(pattern)}\n)|", regex.DOTALL)
    except regex.error:  # an expression that cannot stand inside another
        return
    try:
        matches_nothing.sub(repl, "")
    except (regex.error, IndexError) as error:
        raise RecipeError(f"repl {repl!r} does not fit {pattern!r}: {error}") from None


def with_spans_replaced(text: str, spans: Iterable[tuple[int, int]], repl: str) -> str:
    """The text with `repl` in the place of each span; `\\1` and `\\g<0>` in it are the span."""
    pieces, done = [], 0
    for start, end in spans:
        pieces.append(text[done:start])
        pieces.append(_filled(repl, text[start:end]) if "\\" in repl else repl)
        done = end
    if not done:
        return text
    pieces.append(text[done:])
    return "".join(pieces)


def _filled(repl: str, found: str) -> str:
    filled: str = expression("(.*)").fullmatch(found).expand(repl)
    return filled


@functools.cache
def _library() -> Any:
    try:
        import regex
    except ImportError:
        raise RecipeError("regular expressions need regex: pip install regex") from None
    return regex
