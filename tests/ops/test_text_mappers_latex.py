"""LaTeX sources lose comments, preamble and back matter, and macros are written out."""

from __future__ import annotations

import itertools

import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop


def rewritten(name: str, text: str, **params) -> str:
    (bound,) = bind([{name: params}])
    return bound.op.rewrite(text)


def expanded(text: str) -> str | Drop:
    (bound,) = bind([{"expand_macro_mapper": {}}])
    row = {"text": text}
    (result,) = bound.op.apply(Batch([Item("0", 1, row)], Context()))
    assert row == {"text": text}
    return result if isinstance(result, Drop) else result["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\def\\a{x y}\n\\a, \\ab \\a1 \\a", "\\defx y{x y}\nx y, \\ab \\a1 \\a"),
        ("\\newcommand*{\\v}{\\b{v}}\n$\\v$", "\\newcommand*{\\b{v}}{\\b{v}}\n$\\b{v}$"),
        ("\\def\\a{\\b.}\n\\def\\b{é}\n\\a\n", "\\defé.{é.}\n\\defé{é}\né.\n"),
        ("\\def\\a{1}\n\\a\\a\\a ", "\\def1{1}\n1\\a1 "),
        ("\\def\\a{x} % no\n\\a ", "\\def\\a{x} % no\n\\a "),
        ("\\def\n\\a\n{q\\1\\g<0>}\n\\a!", "\\def\nq\\1\\g<0>\n{q\\1\\g<0>}\nq\\1\\g<0>!"),
    ],
)
def test_macros_are_written_out(text, expected):
    assert expanded(text) == expected


def test_macros_that_double_for_ever_cost_their_row_only():
    names = [f"\\m{number}" for number in range(60)]
    pairs = itertools.pairwise(names)
    bomb = "".join(f"\\def{name}{{{then} {then} }}\n" for name, then in pairs)
    dropped = expanded(bomb)
    assert isinstance(dropped, Drop)
    assert dropped.reason == "macros grow too large"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "a\n50\\% b\nc"),
        ({"inline": False}, "a % x\n50\\% b\nc % y"),
        ({"multiline": False}, "% w\na\n50\\% b\nc"),
    ],
)
def test_comments_go(params, expected):
    assert (
        rewritten("remove_comments_mapper", "% w\na % x\n% z\n50\\% b\nc % y", **params) == expected
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pre \\part x \\section*[s]{t} b", "\\section*[s]{t} b"),
        ("\\subsubsubsection{x} \\subparagraph{y}", "\\subparagraph{y}"),
        ("\\section[a]b {c} \\chapter{d", ""),
        ("\\section{open", ""),
        ("\\section[a]\n{b]{c} d}", "\\section[a]\n{b]{c} d}"),
    ],
)
def test_texts_start_at_their_first_heading(text, expected):
    assert rewritten("remove_header_mapper", text) == expected


def test_texts_without_heading_may_stay():
    assert rewritten("remove_header_mapper", "no heading", drop_no_head=False) == "no heading"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a \\bibliography{x} b", "a "),
        ("a \\bibliography{x b", "a \\bibliography{x b"),
        ("a \\begin{references} \\appendix", "a "),
        ("\\appendices \\begin{thebibliography}{9}", "\\appendices "),
        ("\\bibliographystyle{x}", "\\bibliographystyle{x}"),
    ],
)
def test_back_matter_is_cut_off(text, expected):
    assert rewritten("remove_bibliography_mapper", text) == expected
