"""Texts part into sentences, by Punkt's parameters or without; repeated ones go."""

from __future__ import annotations

import pytest

from vlforge.ops.bind import bind
from vlforge.types import RecipeError


def rewritten(name: str, text: str, **params) -> str:
    (bound,) = bind([{name: params}])
    return bound.op.rewrite(text)


@pytest.mark.parametrize(
    ("lang", "text", "sentences"),
    [
        ("en", "Dr. Who left. He (J. Smith) paid 3.5 e.g. twice!", 2),
        ("en", 'He said "Stop!" Then\nhe ran... and fell.  ', 2),
        ("en", "(One.) Two?! “Three.” Four", 4),
        ("fr", "M. Dupont arrive. Il part.", 2),
        ("es", "El Sr. Paz vive en EE.UU. y come.", 1),
        ("pt", "A Sra. Lima saiu. Fim.", 2),
        ("en", " \n", 0),
    ],
)
def test_sentences_part_without_data(lang, text, sentences):
    after = rewritten("sentence_split_mapper", text, lang=lang)
    assert after.replace("\n", " ").split() == text.split()
    text_lines = text.strip().count("\n")
    assert len(after.splitlines()) == sentences + text_lines * bool(sentences)


def write_punkt(folder, **files: str) -> str:
    for name in ("abbrev_types.txt", "sent_starters.txt", "collocations.tab", "ortho_context.tab"):
        text = files.get(name.split(".")[0], "")
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


SEEN_SMALL, SEEN_CAPITAL_FIRST = 1 << 5, 1 << 1


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({}, ["Ask no.", "The end of v. Cid."]),
        ({"abbrev_types": "no"}, ["Ask no. The end of v. Cid."]),
        ({"abbrev_types": "no", "sent_starters": "the"}, ["Ask no.", "The end of v. Cid."]),
        ({"collocations": "no\tthe"}, ["Ask no. The end of v. Cid."]),
        (
            {"abbrev_types": "no", "ortho_context": f"the\t{SEEN_SMALL}"},
            ["Ask no.", "The end of v. Cid."],
        ),
        (
            {"ortho_context": f"cid\t{SEEN_SMALL | SEEN_CAPITAL_FIRST}"},
            ["Ask no.", "The end of v.", "Cid."],
        ),
    ],
)
def test_punkt_parameters_decide(files, parts, tmp_path):
    (tmp_path / "english").mkdir()
    write_punkt(tmp_path / "english", **files)
    text = " ".join(parts)
    after = rewritten("sentence_split_mapper", text, punkt_dir=str(tmp_path))
    assert after.splitlines() == parts


def test_a_folder_without_parameters_is_refused_at_load(tmp_path):
    (tmp_path / "english.pickle").write_bytes(b"")
    with pytest.raises(RecipeError, match=r"no readable \S+ for english.*punkt_tab"):
        bind([{"sentence_split_mapper": {"punkt_dir": str(tmp_path)}}])


def test_an_unknown_language_is_refused():
    with pytest.raises(RecipeError, match=r"sentence_split_mapper\.lang"):
        bind([{"sentence_split_mapper": {"lang": "zz"}}])


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ("Hi you. Hi, you! Bye.\nHi you.", {}, "Hi you. Bye.\n"),
        ("Hi you. hi you.", {}, "Hi you. hi you."),
        ("Hi you. hi you.", {"lowercase": True}, "Hi you."),
        ("Hi. Hi! Hi.", {"ignore_special_character": False}, "Hi. Hi!"),
        ("a. a. a b. a b.", {"min_repeat_sentence_length": 3}, "a. a. a b."),
        ("你好。你好！再见。", {}, "你好。再见。"),
        ("He said ”so.” He said ”so.” x", {}, "He said ”so.” x"),
        ("no end no end", {}, "no end no end"),
        (
            "a; b; a",
            {"tokenizer": "lambda t: t.split('; ')", "min_repeat_sentence_length": 1},
            "a b",
        ),
    ],
)
def test_repeated_sentences_go(text, params, expected):
    assert rewritten("remove_repeat_sentences_mapper", text, **params) == expected


@pytest.mark.parametrize("tokenizer", ["lambda a, b: a", "print('x')", "lambda"])
def test_a_tokenizer_must_be_a_function_of_one_argument(tokenizer):
    with pytest.raises(RecipeError, match=r"is no (lambda of one argument|Python expression)"):
        bind([{"remove_repeat_sentences_mapper": {"tokenizer": tokenizer}}])
