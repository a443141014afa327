"""Tables come out of HTML as it is written, broken or not."""

from __future__ import annotations

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.html_tables import ExtractTablesFromHtmlMapper


def tables(text, **params):
    """The tables of one text."""
    return ExtractTablesFromHtmlMapper(**params).tables(text)


def test_cells_are_stripped_and_scripts_and_comments_are_no_text():
    text = "<TABLE><tr><td> a <b> b </b><!-- c --><script>d</script></td><td>&lt;é&#150;</td></tr>"
    assert tables(text) == [[["ab", "<é–"]]]


def test_headers_can_be_left_out():
    text = "<table><tr><th>A</th></tr><tr><td>1</td></tr></table><table><tr><th>B</th></tr></table>"
    assert tables(text) == [[["A"], ["1"]], [["B"]]]
    assert tables(text, include_header=False) == [[["1"]]]


def test_a_table_in_a_table_is_part_of_it_and_its_own():
    text = "<table><tr><td>x<table><tr><td>in</td></tr></table></td></tr></table><table></table>"
    assert tables(text) == [[["xin"], ["in"]], [["in"]]]


def test_an_unclosed_cell_holds_what_follows():
    assert tables("<table><tr><td>a<td>b<tr><td>c") == [[["abc"], ["c"]]]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<table B=1 a='x \"y\"' class=' p  q '></table>",
         "<table a='x \"y\"' b=\"1\" class=\"p q\"></table>"),
        ("<table>a & b<br>&unknown;<hr/></p>\n\n</table>",
         "<table>a &amp; b<br/>&amp;unknown<hr/>\n</table>"),
        ("<table><pre> </pre><!----><td/><script>a<b</script></table>",
         "<table><pre> </pre><!-- --><td></td><script>a<b</script></table>"),
        ("<table><i>", "<table><i></i></table>"),
    ],
)  # fmt: skip
def test_tables_as_html_have_their_attributes_in_order_and_their_text_escaped(text, written):
    assert tables(text, retain_html_tags=True) == [written]


def test_the_tags_hold_the_tables_and_are_not_made_again():
    rows = [{"text": "no table"}, {"text": "<table>", "__dj__meta__": {"tbl": 1, "b": 2}}]
    items = [Item(str(at), at + 1, row) for at, row in enumerate(rows)]
    bounds = bind([{"extract_tables_from_html_mapper": {"tables_field_name": "tbl"}}])
    out = run_in_memory(bounds, items, Context())
    assert out.kept[0].row["__dj__meta__"] == {"tbl": []}
    assert out.kept[1].row is rows[1]


def test_nested_tables_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("vlforge.ops.text.html_tables.MOST_CHARACTERS", 100_000)
    rows = [{"text": "<table><tr><td>x" * 400}, {"text": "<table><tr><td>x"}]
    items = [Item(str(at), at + 1, row) for at, row in enumerate(rows)]
    for params in ({}, {"retain_html_tags": True}):
        out = run_in_memory(bind([{"extract_tables_from_html_mapper": params}]), items, Context())
        assert [item.uid for item in out.kept] == ["1"]
        assert out.dropped[0][1].reason == "tables nested too deeply"
