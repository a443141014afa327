"""Parts of pages that commands write: between `<!-- NAME … -->` and `<!-- end NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

from vlforge.types import DataError


def part_of(text: str, name: str) -> str | None:
    """The part of a page's text, or None where it has none of that name."""
    found = _pattern(name).search(text)
    return found.group(2).strip("\n") if found else None


def write_part(page: Path, name: str, part: str) -> None:
    """Write the part anew; the rest of the page stays.

    Raises:
        DataError: the page cannot be read, or has no such part.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{page}: cannot be read: {error.strerror}") from None
    if part_of(text, name) is None:
        raise DataError(f"{page}: has no part `<!-- {name} -->` … `<!-- end {name} -->`")
    whole = _pattern(name).sub(lambda found: f"{found[1]}\n\n{part}\n\n{found[3]}", text)
    page.write_text(whole, encoding="utf-8")


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}\b[^>]*-->)\n(.*?)(<!-- end {name} -->)", re.S)
