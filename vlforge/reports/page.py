"""One HTML page: templates, unique anchors, marked word changes, and its size limit."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from vlforge.reports import charts, numbers
from vlforge.reports.run_files import shorten
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_LIMIT = 2_000_000
"""No page grows beyond this many bytes."""
_PIECE = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
_UNFIT = re.compile(r"[^\w.\-]+")


@dataclass
class Anchors:
    """Gives out ids that are unique in a page: the first sample of an id gets the plain one."""

    used: set[str] = field(default_factory=set)

    def take(self, *parts: str) -> str:
        """An id made of `parts`, numbered from the second use on."""
        stem = "-".join(_UNFIT.sub("-", str(p)).strip("-")[:80] or "x" for p in parts)
        name, again = stem, 2
        while name in self.used:
            name, again = f"{stem}-{again}", again + 1
        self.used.add(name)
        return name


def caption_of(text: Any) -> str:
    """A dj text as a person reads it: special tokens gone, spaces single."""
    text = str(text or "")
    for token in (IMAGE_TOKEN, EOC_TOKEN):
        text = text.replace(token, " ")
    return " ".join(text.split())


def mark_changes(before: str, after: str, most: int = 400) -> tuple[Markup, Markup]:
    """Both texts with the words that differ in `<del>` and `<ins>`.

    Words are compared, and single characters where a script has no spaces.
    """
    old, new = (_PIECE.findall(shorten(text, most)) for text in (before, after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    steps = [
        (kind == "equal", "".join(old[a:b]), "".join(new[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
    ]
    left, right = ([(same, pair[k]) for same, *pair in steps] for k in (0, 1))
    return _marked("del", left), _marked("ins", right)


def breakable(text: str) -> Markup:
    """`text` that may break after underscores: names of operators are long."""
    return Markup("_<wbr>").join(str(text).split("_"))


@cache
def environment() -> Environment:
    """Templates of this package with escaping on; a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("vlforge.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        numbers.count,
        numbers.figures,
        numbers.score,
        numbers.signed,
        numbers.percent,
        numbers.seconds,
        shorten,
        breakable,
    ):
        env.filters[function.__name__] = function
    env.globals["charts"] = charts
    return env


def write_page(
    out: Path, template: str, build: Callable[[float], dict[str, Any]], limit: int = PAGE_LIMIT
) -> None:
    """Render `template` and put it at `out` in one move.

    `build(scale)` gives the template's values; it is asked again with a smaller scale (fewer
    samples, fewer bytes of pictures) while the page is larger than `limit`.
    """
    page = b""
    for scale in (1.0, 0.5, 0.2, 0.05):
        html = environment().get_template(template).render(build(scale))
        page = _tidy(html).encode("utf-8", errors="replace")
        if len(page) < limit:
            break
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page)
        os.chmod(name, 0o644)
        os.replace(name, out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _tidy(html: str) -> str:
    """Without blank lines, trailing blanks and characters that HTML forbids."""
    html = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", html)
    return "\n".join(_filled(html.split("\n"))) + "\n"


def _filled(lines: Iterable[str]) -> Iterable[str]:
    return (line.rstrip() for line in lines if line.strip())


def _marked(tag: str, pieces: list[tuple[bool, str]]) -> Markup:
    """Pieces with the differing ones in `tag`; blanks between two such pieces join them."""
    runs: list[tuple[bool, str]] = []
    for k, (is_same, words) in enumerate(pieces):
        is_bridge = is_same and not words.strip() and 0 < k < len(pieces) - 1
        is_marked = not is_same or is_bridge
        if runs and runs[-1][0] == is_marked:
            words = runs.pop()[1] + words
        runs.append((is_marked, words))
    return Markup("").join(_mark(tag, w) if is_marked else escape(w) for is_marked, w in runs)


def _mark(tag: str, words: str) -> Markup:
    """`words` in `tag`, the blanks at their ends outside."""
    core = words.strip()
    before, _, after = words.partition(core) if core else (words, "", "")
    inner = Markup("<{0}>{1}</{0}>").format(Markup(tag), core) if core else Markup("")
    return escape(before) + inner + escape(after)
