"""Taking the tables out of HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Grown, RowMapper
from vlforge.ops.batch import Batch
from vlforge.ops.rows.tags import tagged, tags_of
from vlforge.ops.text.html_tree import HtmlTree
from vlforge.types import Drop, Row

MOST_CHARACTERS = 50_000_000
"""A text whose tables come to more (by nesting, which repeats them) is refused."""


class _TooLargeError(Exception):
    """Nested tables, each of which holds the next, would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class ExtractTablesFromHtmlMapper(RowMapper):
    """Put the tables of an HTML text into the row's tags.

    The tag `tables_field_name` becomes a list of tables, a table a list of rows,
    a row a list of the texts of its cells. A table inside another is a part of it
    and a table of its own. `include_header: false` leaves rows with a `th` cell
    out; rows and tables without anything are left out. With `retain_html_tags` a
    table is its HTML. A row that has the tag already stays as it is.

    HTML is read as it is written: an unclosed cell holds what follows. A text
    whose nested tables would come to more than 50 million characters is dropped.
    """

    tables_field_name: str = "html_tables"
    retain_html_tags: bool = False
    include_header: bool = True

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        out: list[Grown | Row | Drop] = []
        for item, text in zip(batch.items, batch.texts(self.text_key), strict=True):
            if self.tables_field_name in tags_of(item.row):
                out.append(item.row)
                continue
            try:
                out.append(tagged(item.row, **{self.tables_field_name: self.tables(text)}))
            except _TooLargeError:
                out.append(Drop("", "tables nested too deeply"))
            except AssertionError as error:
                out.append(Drop("", "broken HTML", None, str(error)))
        return out

    def tables(self, text: str) -> list[Any]:
        """The tables of a text.

        Raises:
            AssertionError: Python's parser gives the text up.
        """
        if "<table" not in text.lower():
            return []
        tree = HtmlTree(text)
        left = MOST_CHARACTERS
        found: list[Any] = []
        for at in tree.places("table"):
            table: Any = tree.markup(at) if self.retain_html_tags else self._rows(tree, at, left)
            left -= len(table) if self.retain_html_tags else sum(_size(row) for row in table)
            if left < 0:
                raise _TooLargeError
            if table:
                found.append(table)
        return found

    def _rows(self, tree: HtmlTree, table: int, left: int) -> list[list[str]]:
        rows = []
        for at in tree.places("tr", table):
            cells = [c for c in tree.nodes[at].children if tree.nodes[c].name in ("td", "th")]
            is_header = any(tree.nodes[cell].name == "th" for cell in cells)
            if not cells or (is_header and not self.include_header):
                continue
            row = [tree.text(cell) for cell in cells]
            left -= _size(row)
            if left < 0:
                raise _TooLargeError
            rows.append(row)
        return rows


def _size(row: list[str]) -> int:
    return 100 + sum(map(len, row))
