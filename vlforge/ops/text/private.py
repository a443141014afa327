"""What gives people away in a text, and finding it with work that grows with its length only."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vlforge.ops.text.addresses import AddressKind, around_at_signs
from vlforge.ops.text.expressions import check, with_spans_replaced
from vlforge.types import RecipeError

Step = Callable[[str], str]
Finder = Callable[[str], Iterator[tuple[int, int]]]

_BEFORE_PATH = r"(?P<kept>^|[\s\"'(\[=])"
_IN_PATH = r"[^\s\"')\]]"
_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d\d?)"
_JWT_PART = "[A-Za-z0-9_=-]"

_EMAIL = AddressKind(
    re.compile(r".*[^\w.+-]", re.DOTALL),
    re.compile(r"[a-zA-Z0-9]"),
    re.compile(r"@[\w.-]+\.(?:[a-zA-Z]{2,}|\w{2,})"),
)


# Where the rest is missing, the run of letters is used up: looking again from its second
# letter on would find the same.
_TOKEN = re.compile(rf"\beyJ{_JWT_PART}++(?:(?P<rest>\.{_JWT_PART}++\.{_JWT_PART}+\b)|)")

_ARMOUR = "-----"
_BEGIN, _END = f"{_ARMOUR}BEGIN ", f"{_ARMOUR}END "
_LABEL = re.compile("[A-Z0-9 -]+")
_LAST_LINE = re.compile(f"{_END}[A-Z0-9 -]+{_ARMOUR}")


@dataclass(frozen=True)
class Rule:
    """One kind of find: one of `hints` is in every text that has one, `kept` in a match stays.

    In an ASCII text in small letters one of `words` is there too.
    """

    pattern: re.Pattern[str]
    hints: tuple[str, ...]
    words: tuple[str, ...] = ("",)

    def redacted(self, text: str, repl: str) -> str:
        """The text with every find replaced."""
        if not any(hint in text for hint in self.hints):
            return text
        if text.isascii():
            small = text.lower()
            if not any(word in small for word in self.words):
                return text
        kept = r"\g<kept>" if "kept" in self.pattern.groupindex else ""
        return self.pattern.sub(kept + repl, text)


RULES: dict[str, tuple[Rule, ...]] = {
    "urls": (Rule(re.compile(r"https?://[^\s\"'<>]+"), ("://",)),),
    "ips": (
        Rule(
            re.compile(rf"(?<![0-9.])(?:{_OCTET}\.){{3}}{_OCTET}(?![0-9])"),
            (".",),
            tuple(f"{digit}." for digit in range(10)),
        ),
        Rule(re.compile(r"\[[0-9a-fA-F:.]{3,}\](?::\d{1,5})?\b"), ("]",)),
    ),
    "macs": (
        Rule(re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b"), (":", "-")),
    ),
    "paths": (
        Rule(
            re.compile(rf"{_BEFORE_PATH}/(?:Users?|home|tmp|etc|var|opt|Applications){_IN_PATH}*"),
            ("/",),
            ("/user", "/home", "/tmp", "/etc", "/var", "/opt", "/applications"),
        ),
        Rule(re.compile(rf"{_BEFORE_PATH}[A-Za-z]:\\{_IN_PATH}*"), (":\\",)),
        Rule(re.compile(rf"{_BEFORE_PATH}\\\\{_IN_PATH}+"), ("\\\\",)),
    ),
    "secrets": (
        Rule(
            re.compile(
                r"(?P<kept>\b(?:api[_-]?key|secret|passwd|password|token|auth|authorization"
                r"|credential|license[_-]?key)\s*[:=]\s*[\"']?)[^\s\"',}\]]+",
                re.IGNORECASE,
            ),
            (":", "="),
            ("key", "secret", "passw", "token", "auth", "credential"),
        ),
    ),
    "ids": (
        Rule(
            re.compile(
                r"\b(?P<kept>(?:session|user|request|trace)[_-]?id)\s*[:=]\s*[\"']?[\w.-]+",
                re.IGNORECASE,
            ),
            (":", "="),
            ("session", "user", "request", "trace"),
        ),
    ),
    "channels": (
        Rule(
            re.compile(
                r"(?P<kept>\bchannel\s*[:=]\s*[\"']?|当前的\s*channel\s*[:：]\s*)"
                r"(?:feishu|dingtalk|wecom|wechat_work|e?mail|飞书|钉钉|企业微信|邮箱)\b",
                re.IGNORECASE,
            ),
            (":", "=", "："),
            ("channel",),
        ),
    ),
    "open ids": (
        Rule(re.compile(r"\bou_[0-9a-f]{32}\b", re.IGNORECASE), ("u_", "U_")),
        Rule(re.compile(r"\b(?:ou|u|uid)_[0-9a-zA-Z_-]{16,64}\b"), ("u_", "uid_")),
    ),
    "phones": (
        Rule(re.compile(r"\b1[3-9]\d{9}\b"), tuple(f"1{digit}" for digit in "3456789")),
        Rule(re.compile(r"\+\d{1,4}[-.\s]?\d{6,14}\b"), ("+",)),
    ),
    "id cards": (
        Rule(
            re.compile(
                r"\b[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]\b"
            ),
            ("19", "20"),
        ),
    ),
}
"""What regular expressions find, by kind."""


def steps_of(kind: str, repl: str) -> list[Step]:
    """The functions that put `repl` in the place of one kind of private data.

    Raises:
        RecipeError: `repl` is no replacement.
    """
    if kind in FINDERS:
        check("(.*)", repl)
        return [functools.partial(_with_finds_replaced, find=FINDERS[kind], repl=repl)]
    for rule in RULES[kind]:
        _check(rule.pattern.pattern, repl)
    return [functools.partial(rule.redacted, repl=repl) for rule in RULES[kind]]


def extra_step(pattern: str, repl: str) -> Step:
    """The function that replaces what a user's expression matches.

    Raises:
        RecipeError: `pattern` is no regular expression, or `repl` no replacement for it.
    """
    _check(pattern, repl)
    return functools.partial(re.compile(pattern).sub, repl)


def _check(pattern: str, repl: str) -> None:
    """Refuse bad expressions, and replacements that name groups which are not there."""
    try:
        re.compile(pattern)
        if "\\" in repl:
            re.compile(f"{pattern}|(?:)").sub(repl, "")
    except (re.error, IndexError) as error:
        raise RecipeError(
            f"pii_redaction_mapper: {repl!r} for {pattern!r} is no replacement: {error}"
        ) from None


def _with_finds_replaced(text: str, *, find: Finder, repl: str) -> str:
    return with_spans_replaced(text, find(text), repl)


def emails(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of e-mail addresses."""
    return around_at_signs(text, _EMAIL)


def web_tokens(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of what is written like a JSON web token."""
    for found in _TOKEN.finditer(text):
        if found["rest"] is not None:
            yield found.span()


def armoured_blocks(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of keys and certificates from their BEGIN line to the next END line."""
    last = text.rfind(_END)
    while last >= 0 and not _LAST_LINE.match(text, last):
        last = text.rfind(_END, 0, last + len(_END) - 1)
    start = text.find(_BEGIN)
    while 0 <= start < last:
        end = _block_end(text, start + len(_BEGIN), last)
        if end:
            yield start, end
        start = text.find(_BEGIN, end or start + 1)


def _block_end(text: str, at: int, last: int) -> int | None:
    """Where the block ends whose label starts at `at`; `last` is the last END line.

    The label is as long as it can be with an END line behind it: on one line the
    dashes of an END line may be part of it.
    """
    label = _LABEL.match(text, at)
    dashes = text.rfind(_ARMOUR, at + 1, label.end()) if label else -1
    if dashes + len(_ARMOUR) > last:
        dashes = text.rfind(_ARMOUR, at + 1, last)
    if dashes < 0:
        return None
    end = _LAST_LINE.search(text, dashes + len(_ARMOUR))
    return end.end() if end else None


FINDERS: dict[str, Finder] = {
    "armoured blocks": armoured_blocks,
    "emails": emails,
    "web tokens": web_tokens,
}
"""What takes more than a regular expression to find without looking twice, by kind."""
