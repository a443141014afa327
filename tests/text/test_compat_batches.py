"""Lengths and batches of the references, on rows small enough to see through."""

from __future__ import annotations

from vlforge.text.compat_batches import (
    llava_batch,
    llava_length,
    llava_modality_length,
    xtuner_batch,
    xtuner_modality_length,
)
from vlforge.types import Turn

TURNS = (Turn("user", "<image>\nwhat is it?"), Turn("assistant", "a  car"))
ROWS = [([1, 9, 5], [-100, 9, 5]), ([1], [-100])]


def test_words_are_counted_and_a_picture_is_128_or_a_sign():
    assert llava_length(TURNS, True) == 6 + 128
    assert llava_length(TURNS, False) == 6
    assert (llava_modality_length(TURNS, True), llava_modality_length(TURNS, False)) == (6, -6)
    assert (xtuner_modality_length([1, 2], True), xtuner_modality_length([1, 2], False)) == (2, -2)


def test_llava_hides_a_token_that_has_the_paddings_id():
    batch = llava_batch(ROWS, pad_id=9, max_length=5)
    assert batch.ids == [[1, 9, 5], [1, 9, 9]]
    assert batch.labels == [[-100, 9, 5], [-100, -100, -100]]
    assert batch.mask == [[True, False, True], [True, False, False]]


def test_llava_cuts_after_padding():
    batch = llava_batch(ROWS, pad_id=0, max_length=2)
    assert (batch.ids, batch.labels) == ([[1, 9], [1, 0]], [[-100, 9], [-100, -100]])


def test_xtuner_masks_by_length_and_counts_positions_through():
    batch = xtuner_batch(ROWS)
    assert batch.ids == [[1, 9, 5], [1, 0, 0]]
    assert batch.mask == [[True, True, True], [True, False, False]]
    assert batch.positions == [[0, 1, 2], [0, 1, 2]]
