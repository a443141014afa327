"""What a contest's rule says of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Verdict:
    """What one rule says: its name, whether it is kept, what was found, and the remedy."""

    rule: str
    verdict: Literal["kept", "warning", "broken"]
    found: str
    remedy: str = ""


def kept(rule: str, found: str) -> Verdict:
    """A rule that is kept."""
    return Verdict(rule, "kept", found)


def warning(rule: str, found: str, remedy: str) -> Verdict:
    """Something that stops nobody and that one should know."""
    return Verdict(rule, "warning", found, remedy)


def broken(rule: str, found: str, remedy: str) -> Verdict:
    """A rule that is broken; nothing runs and nothing is packed."""
    return Verdict(rule, "broken", found, remedy)
