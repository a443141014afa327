"""Texts of 300,000 characters made to mislead a search are done in a moment.

Work that grows with the square of the length would need hours for one of them:
that these tests end is the claim.
"""

from __future__ import annotations

import pytest

from vlforge.ops.base import TextMapper
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.documents import CleanHtmlMapper
from vlforge.ops.text.punkt import built_in

LENGTH = 300_000


def rewritten(name: str, text: str, **params) -> str:
    (bound,) = bind([{name: params}])
    if isinstance(bound.op, TextMapper):
        return bound.op.rewrite(text)
    (row,) = bound.op.apply(Batch([Item("0", 1, {"text": text})], Context()))
    return row["text"]


def filled(atom: str) -> str:
    return atom * (LENGTH // len(atom))


@pytest.mark.parametrize(
    "atom", ["a", "a-", "a.", "1.", "é-a", "a:", "www.!", "http://(", "x:/((a", "http://!", ".com/"]
)
def test_links_behind_misleading_text_are_found(atom):
    text = filled(atom) + " "
    alone = rewritten("clean_links_mapper", text)
    assert rewritten("clean_links_mapper", text + "http://a.bc/d e") == f"{alone} e"


@pytest.mark.parametrize("rest", ["a", "!", "a!", "(b)", "(c(d))", "(", "()"])
def test_a_long_link_is_one_link(rest):
    text = f"see http://x{filled(rest)}"
    behind = {"!": filled("!"), "a!": "!", "(": filled("(")}.get(rest, "")
    assert rewritten("clean_links_mapper", text) == f"see {behind}"


@pytest.mark.parametrize("atom", ["a", "@", "a@", "@a.", "a.@", "@a.b.", "+"])
@pytest.mark.parametrize("name", ["clean_email_mapper", "pii_redaction_mapper"])
def test_addresses_behind_misleading_text_are_found(name, atom):
    params = {"repl": "E"} if name == "clean_email_mapper" else {"email_replacement": "E"}
    text = filled(atom) + " "
    alone = rewritten(name, text, **params)
    assert rewritten(name, f"{text}a@b.cc d", **params) == f"{alone}E d"


@pytest.mark.parametrize(
    "atom",
    ["eyJ", "eyJ-", "eyJa.", "token ", "token=", "session_id ", "-----BEGIN ", "-----BEGIN A-----",
     "-----END ", "-----BEGIN A\n", "-", "/tmp", "=/tmp", "[:", "u_-", "+1", "1", "C:\\", "\\\\"],
)  # fmt: skip
def test_secrets_behind_misleading_text_are_found(atom):
    text = filled(atom) + "\n "
    assert rewritten("pii_redaction_mapper", f"{text}a@b.cc 13812345678").endswith(
        "[EMAIL_REDACTED] [PHONE_REDACTED]"
    )


def test_a_key_with_many_ends_on_one_line_is_one_block():
    text = "-----BEGIN A" + filled("-----END A") + "-----"
    assert rewritten("pii_redaction_mapper", text) == "[PEM_REDACTED]"


@pytest.mark.parametrize(
    ("name", "atom", "end"),
    [
        ("remove_header_mapper", "\\section[", "\\section{x}"),
        ("remove_header_mapper", "\\section[]", "\\section{x}"),
        ("clean_copyright_mapper", "/* ", "copyright */"),
        ("remove_bibliography_mapper", "\\bibliography ", "\\bibliography{x}"),
        ("remove_comments_mapper", "\\%", "x%y"),
        ("expand_macro_mapper", "\\newcommand{\\a}{", "\n\\def\\b{}\n\\b."),
        ("expand_macro_mapper", "\\def ", "\\b{}\n\\b."),
        ("clean_ip_mapper", "1.1.1.", "1:2:3:4:5:6:7:8"),
        ("clean_ip_mapper", "a:", "a"),
    ],
)
def test_the_end_of_misleading_text_is_reached(name, atom, end):
    text = filled(atom)
    assert rewritten(name, text + end) != text + end


@pytest.mark.parametrize("atom", ["a b|", "|", "a ", "\n", "a b\n\n\n", " |\t", "|||a\n"])
def test_tables_behind_misleading_text_are_found(atom):
    text = filled(atom) + "\n\nx\n"
    alone = rewritten("remove_table_text_mapper", text)
    assert rewritten("remove_table_text_mapper", f"{text}1|2 3\n4 5 6\n") in (alone, "")


@pytest.mark.parametrize(
    "atom", ["a", ".", "!", "a.", ". ", "a.b.", "--", ", ", "’", "Mr. ", "1. A "]
)
def test_sentences_of_misleading_text_hold_all_of_it(atom):
    text = filled(atom) + " End. Next"
    assert "".join(built_in("en").sentences(text)).split() != []
    after = rewritten("sentence_split_mapper", text)
    assert after.replace("\n", "").replace(" ", "") == text.replace(" ", "")
    assert after.endswith("\nNext")


@pytest.mark.parametrize("atom", ["a", ".", "......", "…", "”", ".”", "!’a"])
def test_misleading_repeats_keep_their_first(atom):
    text = filled(atom) + "\nSame.\nSame."
    assert rewritten("remove_repeat_sentences_mapper", text).endswith("\nSame.\n")


@pytest.mark.parametrize("atom", ["😀", "a😀", "(", " ", "\n\t"])
def test_long_words_are_measured(atom):
    text = filled(atom) + " ab"
    assert rewritten("remove_long_words_mapper", text, max_len=3) == "ab"
    name = "remove_words_with_incorrect_substrings_mapper"
    assert rewritten(name, f"http{text}", substrings=["http"]).endswith("ab")


@pytest.mark.parametrize(
    "atom",
    ["<div>a", "<b>a</p>", "<a>a<b><i>", "<select><option>a</option>", "<dt>a<dd>", "<", "&"],
)
def test_pages_that_nest_without_end_give_their_text(atom):
    found = CleanHtmlMapper().rewrite(filled(atom) + "9")
    assert found.endswith("9")
    assert set(found) <= set("a9<&")
