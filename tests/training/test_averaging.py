"""Which mean a gradient is of: ours against the references' own way to divide losses."""

import pytest

from vlforge.training.averaging import Cut, loss_weight, shown_weight

TOKENS = (5, 40, 2, 11, 7, 30, 1, 9, 4, 22)
"""Supervised tokens of ten rows."""


def cut_up(devices: int, micro: int, rows: int = len(TOKENS)) -> list[list[list[int]]]:
    """Rows of each micro-batch of each device, as the loop deals them."""
    shares = [list(range(rank, rows, devices)) for rank in range(devices)]
    return [
        [share[at : at + micro] for at in range(0, len(share), micro)] for share in shares
    ]  # fmt: skip


def weights(rule: str, devices: int, micro: int, rows: int = len(TOKENS)) -> list[float]:
    """What each row's summed loss counts in the averaged gradient."""
    cut, found = Cut(rows, devices, micro), [0.0] * rows
    whole = sum(TOKENS[:rows])
    for share in cut_up(devices, micro, rows):
        for part in share:
            own = sum(TOKENS[row] for row in part)
            for row in part:
                found[row] = loss_weight(rule, cut, whole, own) / devices
    return found


def reference(rule: str, devices: int, micro: int) -> list[float]:
    """Each pass: a mean over tokens, divided by passes (not by LAVIS), averaged over devices."""
    found = [0.0] * len(TOKENS)
    for share in cut_up(devices, micro):
        for part in share:
            divided = len(share) if rule == "micro_batches" else 1
            for row in part:
                found[row] = 1 / sum(TOKENS[r] for r in part) / divided / devices
    return found


@pytest.mark.parametrize(("devices", "micro"), [(1, 10), (1, 5), (2, 5), (2, 1), (5, 1), (5, 2)])
@pytest.mark.parametrize("rule", ["micro_batches", "lavis"])
def test_means_of_micro_batches_are_the_references(rule, devices, micro):
    assert weights(rule, devices, micro) == pytest.approx(reference(rule, devices, micro))


@pytest.mark.parametrize(("devices", "micro"), [(1, 10), (1, 3), (3, 2), (16, 4)])
def test_tokens_count_the_same_however_the_batch_is_cut(devices, micro):
    assert weights("tokens", devices, micro) == pytest.approx([1 / sum(TOKENS)] * 10)


def test_lavis_gradients_grow_with_accumulation_and_its_loss_does_not():
    whole, parts = weights("lavis", 1, 10), weights("lavis", 1, 1)
    assert sum(w * t for w, t in zip(whole, TOKENS, strict=True)) == pytest.approx(1)
    assert sum(w * t for w, t in zip(parts, TOKENS, strict=True)) == pytest.approx(10)
    cut = Cut(10, 1, 1)
    shown = [
        shown_weight("lavis", cut, loss_weight("lavis", cut, sum(TOKENS), tokens)) * tokens
        for tokens in TOKENS
    ]
    assert sum(shown) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["tokens", "micro_batches"])
def test_of_a_short_batch_devices_without_rows_do_not_count(rule):
    made = weights(rule, 4, 2, rows=3)
    assert sum(w * t for w, t in zip(made, TOKENS, strict=False)) == pytest.approx(1)
