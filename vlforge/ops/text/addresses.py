"""Mappers that take links, e-mail and IP addresses out of texts.

Each finds its sign first (`@`, `:`, a dot) and looks around it, so that the work
grows with the length of a text and not with its square: a plain search would try
each letter of a long word as the first one of an address.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vlforge.ops.text.expressions import Replacing, expression

# A link starts with a scheme and a colon, `www.`, or a domain followed by a slash. Where one
# starts at all, it starts at the first word of its run of characters, so only that is tried.
# Source: J. Gruber, "An improved liberal, accurate regex pattern for matching URLs", 2010.
_LINK_STARTS = r"""(?ix)
    (?<! [\w-] ) (?= -*+ (?: (?! [a-z] ) \w++ -++ )*+ (?P<head> [a-z] [\w-]++ : [/a-z0-9%] ) )
  | \b (?= (?P<head> www \d{0,3} [.] ) )
  | (?<! [a-z0-9.\-] ) (?= (?: \b | [a-z0-9]++ | [.\-]++ )
        (?P<head> (?! [.]? [a-z]{2,4} / ) [a-z0-9.\-]++ (?<= [.] [a-z]{2,4} ) / ) )
"""
_LINK_SIGNS = r"(?i)[\w-]:[/a-z0-9%]|www\d{0,3}[.]|[.][a-z]{2,4}/"
_NO_LINK_RUN = r".*[^\w.\-]"
# It goes on over characters and parentheses, two deep, and does not end in punctuation.
_PARENTHESES = r"\((?:[^\s()<>]++|\([^\s()<>]++\))*+\)"
_LINK_PART = rf"[^\s()<>]|{_PARENTHESES}"
_LINK_REST = rf"(?:[^\s()<>]++|{_PARENTHESES})++"
_NO_LINK_END = "`![]{};:'\".,?«»“”‘’"

_OCTET = r"(?:1[0-9]{2}|2[0-4][0-9]|25[0-5]|[1-9]?[0-9])"
_IP = rf"(?:{_OCTET}\.){{3}}{_OCTET}|([\da-fA-F]{{1,4}}:){{7}}[\da-fA-F]{{1,4}}"


@dataclass(frozen=True)
class AddressKind:
    """What an e-mail address is made of.

    `no_name` matches up to and with the last character that a name cannot hold,
    `first` is a name's first character, `domain` what follows, the sign included.
    """

    no_name: re.Pattern[str]
    first: re.Pattern[str]
    domain: re.Pattern[str]


_EMAIL = AddressKind(
    re.compile(r".*[^A-Za-z0-9.\-+_]", re.DOTALL),
    re.compile(r"."),
    re.compile(r"@[a-z0-9.\-+_]+\.[a-z]+"),
)


@dataclass(frozen=True, kw_only=True)
class CleanLinksMapper(Replacing):
    """Replace links (http, ftp, www or a domain with a path) by `repl`.

    A scheme is any word with a colon right before the rest, so `color:red` counts
    as a link, as in Data-Juicer. `pattern` is a regular expression that takes the
    place of the built-in search (over line ends; one written as Python's r'...'
    loses that dress); `repl` may name its groups, as in `<\\1>`.
    """

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where links stand."""
        if ":" in text or "/" in text or ("." in text and "www" in text.lower()):
            yield from _links(text)


@dataclass(frozen=True, kw_only=True)
class CleanEmailMapper(Replacing):
    """Replace e-mail addresses by `repl`.

    An address is ASCII with a domain in lower case. `pattern` is a regular
    expression that takes the place of the built-in search (over line ends; one
    written as Python's r'...' loses that dress); `repl` may name its groups.
    """

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where addresses stand."""
        return around_at_signs(text, _EMAIL)


@dataclass(frozen=True, kw_only=True)
class CleanIpMapper(Replacing):
    """Replace IPv4 and full IPv6 addresses by `repl`.

    An address is found inside longer numbers too, `300.1.2.3` leaves `30`, and a
    shortened IPv6 address (`::1`) stays, as in Data-Juicer. `pattern` is a regular
    expression that takes the place of the built-in one (over line ends; one written
    as Python's r'...' loses that dress); `repl` may name its groups.
    """

    def rewrite(self, text: str) -> str:
        """The text without addresses."""
        if self.pattern is None and text.count(".") < 3 and text.count(":") < 7:
            return text
        replaced: str = expression(_IP if self.pattern is None else self.pattern).sub(
            self.repl, text
        )
        return replaced


def around_at_signs(text: str, kind: AddressKind) -> Iterator[tuple[int, int]]:
    """(start of the name, end of the domain) around each `@` that has both."""
    low, at = 0, text.find("@")
    while at >= 0:
        before = kind.no_name.match(text, low, at)
        start = kind.first.search(text, before.end() if before else low, at)
        domain = kind.domain.match(text, at) if start else None
        low = domain.end() if domain else at + 1
        if start and domain:
            yield start.start(), low
        at = text.find("@", low)


def _links(text: str) -> Iterator[tuple[int, int]]:
    """From sign to sign: a link starts in the run of characters before its sign."""
    signs, starts = expression(_LINK_SIGNS), expression(_LINK_STARTS)
    done = 0
    sign = signs.search(text)
    while sign:
        before = expression(_NO_LINK_RUN).match(text, done, sign.start())
        found = starts.search(text, before.end() if before else done)
        if not found:
            return
        start, head_end = found.span("head")
        end = _link_end(text, head_end)
        if end:
            yield start, end
        done = end or found.start() + 1
        sign = signs.search(text, done)


def _link_end(text: str, head_end: int) -> int | None:
    """Where the link ends whose head ends at `head_end`; None unless two more parts follow."""
    rest, part = _link_parts()
    found = rest.match(text, head_end)
    if not found:
        return None
    # A closing parenthesis may end a link: only pairs of them are in `rest`.
    end: int = head_end + len(found.group().rstrip(_NO_LINK_END))
    return end if end > part.match(text, head_end).end() else None


@functools.cache
def _link_parts() -> tuple[Any, Any]:
    return expression(_LINK_REST), expression(_LINK_PART)
