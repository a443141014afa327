"""Tokens for people to look at: places, states, pieces."""

from __future__ import annotations

import pytest

from tests.tiny_qwen import tokenizer as qwen_tokenizer
from vlforge.text.look import first_difference, piece_of, runs_of, tokens_of

IDS = [1, 5, -200, 6, 7]
LABELS = [-100, -100, -100, 6, 7]


def seen(tokens):
    return [(token.at, token.width, token.piece, token.state) for token in tokens]


def test_a_picture_is_one_token_as_wide_as_it_is():
    tokens = tokens_of(IDS, LABELS, [(2, 10)], str)
    assert seen(tokens) == [
        (0, 1, "1", "context"),
        (1, 1, "5", "context"),
        (2, 8, "<image>", "image"),
        (10, 1, "6", "learned"),
        (11, 1, "7", "learned"),
    ]
    assert [(state, len(run)) for state, run in runs_of(tokens)] == [
        ("context", 2),
        ("image", 1),
        ("learned", 2),
    ]


def test_expanded_pictures_are_shown_the_same_way():
    ids, labels = [1, 5, *[9] * 8, 6, 7], [-100] * 10 + [6, 7]
    expanded = tokens_of(ids, labels, [(2, 10)], str)
    assert seen(expanded) == seen(tokens_of(IDS, LABELS, [(2, 10)], str))


@pytest.mark.parametrize(("kept", "cut"), [(12, 0), (11, 1), (9, 3), (2, 3), (None, 0)])
def test_what_does_not_fit_is_cut_and_a_picture_only_whole(kept, cut):
    tokens = tokens_of(IDS, LABELS, [(2, 10)], str, kept=kept)
    assert sum(token.state == "cut" for token in tokens) == cut


def test_spaces_line_feeds_and_parts_of_characters_can_be_seen():
    tokenizer = qwen_tokenizer()
    piece = piece_of(tokenizer)
    shown = [piece(token) for token in tokenizer.ids(" the\n猫<|im_end|>")]
    assert shown == ["▁the", "\\n", "<0xE7>", "<0x8C>", "<0xAB>", "<|im_end|>"]


def test_pieces_of_a_byte_tokenizer_of_transformers(bytes_tokenizer):
    piece = piece_of(bytes_tokenizer)
    ids = bytes_tokenizer.encode("a é", add_special_tokens=False)
    assert [piece(token) for token in ids] == ["a", "▁", "<0xC3>", "<0xA9>"]


@pytest.mark.parametrize(
    ("mine", "theirs", "place"),
    [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [], None)],
)
def test_the_first_difference_is_found(mine, theirs, place):
    assert first_difference(mine, theirs) == place
