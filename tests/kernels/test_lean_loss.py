import pytest
import torch
from torch import nn

from tests.drift import drift
from vlforge.kernels.lean_loss import full_loss, lean_loss, supervised_tokens


def made(share: float, rows: int = 3, length: int = 7):
    torch.manual_seed(0)
    head = nn.Linear(8, 11, bias=True).double()
    hidden = torch.randn(rows, length, 8, dtype=torch.float64)
    labels = torch.randint(0, 11, (rows, length))
    labels[torch.rand(rows, length) >= share] = -100
    return head, hidden, labels


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.1])
def test_lean_loss_equals_the_loss_over_all_rows(share):
    head, hidden, labels = made(share)
    inputs = (hidden, head.weight, head.bias)

    def with_loss(loss):
        return lambda h, w, b: loss(lambda x: nn.functional.linear(x, w, b), h, labels)

    # Both sum in fp32, which is where they differ.
    assert drift(with_loss(lean_loss), with_loss(full_loss), *inputs) < 1e-5


def test_nothing_supervised_is_zero_and_reaches_every_weight():
    head, hidden, labels = made(0.0)
    loss = lean_loss(head, hidden.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == 0.0
    assert head.weight.grad.abs().sum() == 0
    assert hidden.grad is not None


def test_the_head_sees_supervised_rows_only():
    head, hidden, labels = made(0.3)
    seen = []
    lean_loss(lambda rows: seen.append(len(rows)) or head(rows), hidden, labels)
    assert seen == [supervised_tokens(labels)]


def test_a_label_on_the_first_token_is_not_counted():
    labels = torch.tensor([[5, -100, -100]])
    assert supervised_tokens(labels) == 0
