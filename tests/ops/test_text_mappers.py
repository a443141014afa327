"""Mappers change what they should and nothing else: characters, words, addresses, markup."""

from __future__ import annotations

import sys

import pytest

from vlforge.ops.base import TextMapper
from vlforge.ops.bind import bind
from vlforge.ops.text import cleaning, documents
from vlforge.types import RecipeError


def rewritten(name: str, text: str, **params) -> str:
    (bound,) = bind([{name: params}])
    assert isinstance(bound.op, TextMapper)
    return bound.op.rewrite(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://a.org/x?y=1#z, or www.b.de now.", "see L, or L now."),
        ("(http://a.org/p_(q)), <ftp://x.y/z>", "(L), <L>"),
        ("p{color:red} a.b-c.com/de ab:c", "p{L} L ab:c"),
        ("http://!!! www.. x.com/ a:", "http://!!! www.. x.com/ a:"),
        ("-x-ab://cd and .éa.com/xy", "-L and .éa.com/xy"),
        ("é.a.com/xy", "éL"),
    ],
)
def test_links_are_found_where_they_start_and_end(text, expected):
    assert rewritten("clean_links_mapper", text, repl="L") == expected


def test_a_replacement_may_name_what_it_replaces():
    assert rewritten("clean_links_mapper", "at http://a.bc.", repl=r"<\1>") == "at <http://a.bc>."
    assert rewritten("clean_email_mapper", "a@b.cc d", repl=r"<\g<0>>") == "<a@b.cc> d"
    assert rewritten("clean_ip_mapper", "1:2:3:4:5:6:7:8", repl=r"<\1>") == "<7:>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Jane.doe+x@Mail.org j@mail.example.org", "Jane.doe+x@Mail.org E"),
        ("a@b.c@d.ef", "E@d.ef"),
        ("a@b@c.de,@x.yz", "a@E,@x.yz"),
        ("a@b.comX@c.de", "EE"),
        ("a@b..c-d.eF", "EF"),
    ],
)
def test_email_addresses_are_found_around_their_sign(text, expected):
    assert rewritten("clean_email_mapper", text, repl="E") == expected


def test_ip_addresses_are_found_inside_numbers_too():
    text = "300.1.2.3 10.0.0.256 2001:0db8:85a3:0000:0000:8a2e:0370:7334 ::1"
    assert rewritten("clean_ip_mapper", text) == "30 6  ::1"


@pytest.mark.parametrize("name", ["clean_links_mapper", "clean_email_mapper", "clean_ip_mapper"])
def test_an_own_expression_takes_the_place_of_the_search(name):
    params = {"pattern": r"r'\p{Han}(b+)'", "repl": r"[\1]"}
    assert rewritten(name, "http://a.b x@y.zz 1.2.3.4 中bb", **params).endswith("1.2.3.4 [bb]")


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"pattern": "(a"}, "no regular expression"),
        ({"pattern": "a", "repl": r"\1"}, "does not fit"),
        ({"pattern": ["a", "b"], "repl": ["x"]}, "1 entries for 2"),
    ],
)
def test_bad_expressions_are_refused_at_load(params, fault):
    with pytest.raises(RecipeError, match=fault):
        bind([{"replace_content_mapper": params}])


def test_contents_are_replaced_in_turn():
    params = {"pattern": ["cat", r"r'd(o)g'"], "repl": ["dog", r"<\1>"]}
    assert rewritten("replace_content_mapper", "cat\ndog", **params) == "<o>\n<o>"
    assert rewritten("replace_content_mapper", "cat", pattern=["a", "c"], repl="_") == "__t"
    assert rewritten("replace_content_mapper", "cat") == "cat"


def test_blanks_of_all_widths_become_spaces():
    text = " a\t\u3000b\u200b\ufffc\x84c\n\u1680d\u200d "
    assert rewritten("whitespace_normalization_mapper", text) == "a  b   c\n\u1680d "


@pytest.mark.parametrize("form", ["NFD", "nfd"])
def test_unicode_ends_in_the_wanted_form(form):
    assert rewritten("fix_unicode_mapper", "Ã©", normalization=form) == "e\u0301"


def test_an_unknown_unicode_form_is_refused():
    with pytest.raises(RecipeError, match="take NFC, NFKC, NFD or NFKD"):
        bind([{"fix_unicode_mapper": {"normalization": "NFX"}}])


def test_punctuation_becomes_ascii_and_digits_stay():
    text = "「第１章」，完…—９％"
    assert rewritten("punctuation_normalization_mapper", text) == '"第１章",完... - ９%'
    as_theirs = rewritten("punctuation_normalization_mapper", text, compat="data_juicer")
    assert as_theirs == '"第"章",完... - ９%'


def test_characters_of_a_class_are_taken_literally():
    text = "a-b]c^d\\e◆"
    assert rewritten("remove_specific_chars_mapper", text) == "a-b]c^d\\e"
    assert rewritten("remove_specific_chars_mapper", text, chars_to_remove="^-]\\") == "abcde◆"
    assert (
        rewritten("remove_specific_chars_mapper", text, chars_to_remove=["◆a", "e"]) == "-b]c^d\\"
    )
    assert rewritten("remove_specific_chars_mapper", text, chars_to_remove=[]) == text


def test_other_than_chinese_characters_go():
    text = "中文abc 12，é한！"
    name = "remove_non_chinese_character_mapper"
    assert rewritten(name, text) == "中文abc 12，！"
    assert rewritten(name, text, keep_alphabet=False, keep_number=False) == "中文 ，！"
    assert rewritten(name, text, keep_punc=False) == "中文abc12"


@pytest.mark.parametrize(
    ("mode", "expected"), [("s2t", "發電腦U盤"), ("t2s", "发电脑U盘"), ("s2twp", "發電腦隨身碟")]
)
def test_chinese_is_converted(mode, expected):
    text = "发电脑U盘" if mode != "t2s" else "發電腦U盤"
    assert rewritten("chinese_convert_mapper", text, mode=mode) == expected


def test_half_characters_and_zeros_lose_no_chinese():
    text = "鲇鱼\0\ud800 x乾坤\0"
    assert rewritten("chinese_convert_mapper", text, mode="t2s") == "鲇鱼\0\ud800 x乾坤\0"
    text, as_theirs = "头发\0电脑 头发", {"mode": "s2tw", "compat": "data_juicer"}
    assert rewritten("chinese_convert_mapper", text, mode="s2tw") == "頭髮\0電腦 頭髮"
    assert rewritten("chinese_convert_mapper", text, **as_theirs) == "頭髮頭髮"


@pytest.mark.parametrize(
    ("name", "module", "loader"),
    [
        ("clean_html_mapper", "selectolax.lexbor", documents._html_parser),
        ("chinese_convert_mapper", "opencc", cleaning._opencc),
    ],
)
def test_a_missing_library_is_named_at_load(name, module, loader, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    loader.cache_clear()
    with pytest.raises(RecipeError, match=rf"{name} needs \w+: pip install 'vlforge\[ops\]'"):
        bind([{name: {}}])


def test_long_words_go_unless_their_ends_made_them_long():
    text = "  a  abcdef\t\t(abcd)!\n\n\n12345 😀😀abc\n"
    assert rewritten("remove_long_words_mapper", text) == "a abcdef\t(abcd)!\n12345 😀😀abc"
    assert rewritten("remove_long_words_mapper", text, min_len=2, max_len=4) == "(abcd)!\n😀😀abc"


def test_words_with_unwanted_parts_go():
    name = "remove_words_with_incorrect_substrings_mapper"
    assert rewritten(name, "see http://a  (www.b)\n// end") == "see\n// end"
    assert rewritten(name, "an (on) 中x", substrings=["n", "中"]) == ""
    assert rewritten(name, "a  b", substrings=[]) == "a b"
    with pytest.raises(RecipeError, match="tokenization: false"):
        bind([{name: {"tokenization": True}}])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>A <b>b</b> &amp; c&lt;3</p><ol><li>x</li></ol>", "A b & c<3\n*\n*x"),
        (" <__dj__image> a < b\r\n", "<__dj__image> a < b\n"),
        ("\n <__dj__image> 1 < 2 <|__dj__eoc|> ", "<__dj__image> 1 < 2 <|__dj__eoc|> "),
        ("<script>s</script><li class=c>y", "sy"),
        ("a\ud800\0", "a"),
    ],
)
def test_markup_goes_and_its_text_stays(text, expected):
    assert rewritten("clean_html_mapper", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a /* Copyright x */ b /* copyright */", "a  b /* copyright */"),
        ("# x\n/* y */\nz", "# x\n/* y */\nz"),
        ("# x\n\n-- y\n//\nz\n# w", "z\n# w"),
        ("/*/ # open\n", "/*/ # open\n"),
        ("# all", ""),
    ],
)
def test_copyright_comments_go(text, expected):
    assert rewritten("clean_copyright_mapper", text) == expected


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ("T\na b\n\nc d\n\n\nend x", {}, "T\nend x"),
        ("a b\nc d\ne f\n", {}, "a b\n"),
        ("T\na|b c\nd e\n", {}, "T\n"),
        ("T\na|b c\nd e f\n", {"min_col": 3}, "T\n"),
        ("T\na b c\nd e f\n", {"max_col": 2}, "T\na b c\nd e f\n"),
        ("T\na  b\nc  d\n", {}, "T\na  b\nc  d\n"),
        ("T\n1 2\na b c\nd e f\n3 4\n5 6\n", {}, "T\n1 2\n"),
    ],
)
def test_tables_of_words_go(text, params, expected):
    assert rewritten("remove_table_text_mapper", text, **params) == expected


def test_table_widths_are_bounded():
    with pytest.raises(RecipeError, match="max_col is 21: take 2 to 20"):
        bind([{"remove_table_text_mapper": {"max_col": 21}}])
