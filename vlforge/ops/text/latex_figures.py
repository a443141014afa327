"""Figures of LaTeX sources with their captions and the paragraphs that cite them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlforge.ops.base import Grown, RowMapper, replaced
from vlforge.ops.batch import Batch
from vlforge.types import Drop, RecipeError, Row

CITATIONS = ("\\ref", "\\cref", "\\Cref", "\\autoref")
FIGURES = ("figure", "figure*", "wrapfigure")
NOT_PROSE = (
    *FIGURES,
    *(f"{name}{star}" for name in ("table", "tabular", "equation", "align", "alignat", "gather",
                                   "multline", "flalign", "algorithm") for star in ("", "*")),
    "lstlisting", "verbatim", "minted",
)  # fmt: skip
"""Environments that are no paragraphs of the text."""

_ARGUMENTS = re.compile(r"(?:\[[^\]]{0,9999}\])*(?:\{[^}]{0,9999}\})*")
_OPTION = r"(?:\[[^\]]{0,9999}\])?"
_CAPTIONS = tuple(
    re.compile(command + _OPTION + r"(?=\{)")
    for command in (r"\\caption\*?", r"\\subcaption", r"\\captionof\{figure\}")
)
_TABLE_CAPTION = re.compile(r"\\captionof\{table\}" + _OPTION + r"(?=\{)")
_SUBFIGURE_TITLED = re.compile(r"\\(?:subfigure|subfloat)\[([^\]]{0,9999})\]\s*(?=\{)")
_SUBFIGURE = re.compile(r"\\(?:subfigure|subfloat)\s*(?=\{)")
_LABEL = re.compile(r"\\label\{([^}]+)\}")
_PICTURE = re.compile(r"\\includegraphics" + _OPTION + r"\{([^}]+)\}")


@dataclass(frozen=True)
class Figure:
    """A figure, or a part of `parent`."""

    caption: str
    label: str
    pictures: tuple[str, ...]
    parent: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class LatexFigureContextExtractorMapper(RowMapper):
    """Turn a LaTeX source into one row per figure: pictures, caption, label, citing paragraphs.

    Reads the environments figure, figure* and wrapfigure. A subfigure (as an
    environment or as the commands subfigure and subfloat) is a row of its own and
    names its parent; so is each of several minipages in a figure, unless it holds
    a table. Pictures are the paths of includegraphics, put into `image_key` as
    they stand there. Captions come from caption, subcaption or captionof{figure}.

    `context_key` gets the paragraphs (parted by `paragraph_separator`, floats,
    tables, formulas and listings taken out) that cite the label, or the parent's,
    by one of `citation_commands` (default ref, cref, Cref, autoref; lists of
    labels too). `label_key`, `caption_key`, `parent_caption_key` and
    `parent_label_key` name the other fields; what is not there is "". The other
    fields of the row are carried along. A source without a figure that has a
    picture is dropped. input and include are not followed.

    Where subfigures lie inside each other, `compat: data_juicer` cuts too much
    out of the figure, as Data-Juicer does, when it looks for the parent's caption.
    """

    citation_commands: tuple[str, ...] | None = None
    paragraph_separator: str = "\n\n"
    caption_key: str = "caption"
    label_key: str = "label"
    context_key: str = "citing_paragraphs"
    parent_caption_key: str = "parent_caption"
    parent_label_key: str = "parent_label"

    def __post_init__(self) -> None:
        if not self.paragraph_separator:
            raise RecipeError(
                "latex_figure_context_extractor_mapper.paragraph_separator is empty: "
                "name what parts paragraphs"
            )

    @cached_property
    def _citation(self) -> re.Pattern[str]:
        commands = CITATIONS if self.citation_commands is None else self.citation_commands
        names = "|".join(re.escape(command.lstrip("\\")) for command in commands)
        return re.compile(rf"\\(?:{names})\{{")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        return [
            self._grown(item.row, text)
            for item, text in zip(batch.items, batch.texts(self.text_key), strict=True)
        ]

    def _grown(self, row: Row, text: str) -> Grown | Drop:
        found = list(figures(text, cuts_too_much=self.compat == "data_juicer"))
        if not found:
            return Drop("", "no figure with a picture")
        prose = without(text, [span for name, *span in environments(text, NOT_PROSE)])
        paragraphs = [p.strip() for p in prose.split(self.paragraph_separator) if p.strip()]
        cited = [self._cited(paragraph) for paragraph in paragraphs]
        rows = []
        for figure in found:
            labels = (
                [figure.label] if figure.parent is None else [figure.parent.label, figure.label]
            )
            citing = (
                paragraph
                for label in labels
                if label
                for paragraph, names in zip(paragraphs, cited, strict=True)
                if label in names
            )
            rows.append(self._row(row, figure, list(dict.fromkeys(citing))))
        return Grown(False, tuple(rows))

    def _cited(self, paragraph: str) -> frozenset[str]:
        """The labels that a paragraph cites."""
        labels: set[str] = set()
        for match in self._citation.finditer(paragraph):
            end = paragraph.find("}", match.end())
            if end >= 0:
                first, *others = paragraph[match.end() : end].split(",")
                labels |= {first.rstrip(), *(other.strip() for other in others)}
        return frozenset(labels)

    def _row(self, row: Row, figure: Figure, citing: list[str]) -> Row:
        parent = figure.parent
        fields = {
            self.image_key: list(figure.pictures),
            self.context_key: citing,
            self.caption_key: figure.caption,
            self.label_key: figure.label,
            self.parent_caption_key: parent.caption if parent else "",
            self.parent_label_key: parent.label if parent else "",
        }
        for name, value in fields.items():
            row = replaced(row, name, value)
        return row


def figures(text: str, *, cuts_too_much: bool = False) -> Iterator[Figure]:
    """The figures of a source that have pictures, in order."""
    for _, start, end in environments(text, FIGURES, takes_arguments=True):
        yield from _figures_of(text[start:end], cuts_too_much)


def _figures_of(text: str, cuts_too_much: bool) -> Iterator[Figure]:
    parts = _subfigures(text)
    if parts:
        spans = sorted((start, end) for start, end, _, _ in parts)
        around = without(text, spans)
        if cuts_too_much:
            around = text
            for start, end in reversed(spans):
                around = around[:start] + around[end:]
        parent = Figure(_caption(around), _label(around), ())
        for _, _, caption, content in parts:
            pictures = _pictures(content)
            if pictures:
                yield Figure(caption, _label(content), pictures, parent)
        return
    found = environments(text, ("minipage",), takes_arguments=True)
    pages = [
        text[_past_arguments(text, text.index("}", start) + 1) : end] for _, start, end in found
    ]
    if len(pages) >= 2:
        bodies = [page for page in pages if _argument(text=page, command=_TABLE_CAPTION) is None]
    else:
        bodies = [text]
    for body in bodies:
        pictures = _pictures(body)
        if pictures:
            yield Figure(_caption(body), _label(body), pictures)


def _subfigures(text: str) -> list[tuple[int, int, str, str]]:
    """(start, end, caption, content) of the parts of a figure: environments, then commands."""
    found = [
        (start, end, _caption(text[start:end]), text[start:end])
        for _, start, end in environments(text, ("subfigure",), takes_arguments=True)
    ]
    braces = matching_braces(text)
    for command in (_SUBFIGURE_TITLED, _SUBFIGURE):
        for match, end in _with_argument(text, command, braces):
            title = match.group(1).strip() if command.groups else ""
            found.append((match.start(), end, title, text[match.end() + 1 : end - 1]))
    return found


def environments(
    text: str, names: Sequence[str], *, takes_arguments: bool = False
) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of environments, each up to its first end, none inside another.

    An end among the arguments counts only where there is no later one.
    """
    opening = re.compile(r"\\begin\{(" + "|".join(map(re.escape, names)) + r")\}")
    without_end: set[str] = set()
    at = 0
    while match := opening.search(text, at):
        name, at = match.group(1), match.end()
        if name in without_end:
            continue
        closing = f"\\end{{{name}}}"
        body = _past_arguments(text, at) if takes_arguments else at
        end = text.find(closing, body)
        end = end if end >= 0 else text.find(closing, at)
        if end < 0:
            without_end.add(name)
            continue
        at = end + len(closing)
        yield name, match.start(), at


def _past_arguments(text: str, at: int) -> int:
    match = _ARGUMENTS.match(text, at)
    return match.end() if match else at


def without(text: str, spans: Iterable[Sequence[int]]) -> str:
    """The text without some spans, which may overlap."""
    parts, at = [], 0
    for start, end in sorted((span[0], span[1]) for span in spans):
        parts.append(text[at : max(at, start)])
        at = max(at, end)
    return "".join([*parts, text[at:]])


def matching_braces(text: str) -> dict[int, int]:
    """Where the brace that closes each opening brace stands; escaped ones count too."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"[{}]", text):
        if match.group() == "{":
            opened.append(match.start())
        elif opened:
            found[opened.pop()] = match.start()
    return found


def _with_argument(
    text: str, command: re.Pattern[str], braces: dict[int, int]
) -> Iterator[tuple[re.Match[str], int]]:
    """Each use of a command whose argument's braces are closed, and where it ends."""
    at = 0
    while match := command.search(text, at):
        closing = braces.get(match.end())
        at = match.start() + 1 if closing is None else closing + 1
        if closing is not None:
            yield match, at


def _argument(text: str, command: re.Pattern[str]) -> str | None:
    """The argument of the first complete use of a command."""
    if not command.search(text):
        return None
    for match, end in _with_argument(text, command, matching_braces(text)):
        return text[match.end() + 1 : end - 1]
    return None


def _caption(text: str) -> str:
    for command in _CAPTIONS:
        found = _argument(text, command)
        if found is not None:
            return found.strip()
    return ""


def _label(text: str) -> str:
    match = _LABEL.search(text)
    return match.group(1).strip() if match else ""


def _pictures(text: str) -> tuple[str, ...]:
    return tuple(match.group(1).strip() for match in _PICTURE.finditer(text))
