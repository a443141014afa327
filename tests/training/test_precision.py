import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny_model import llava
from vlforge.models.base import PARTS
from vlforge.training.config import TrainConfig
from vlforge.training.freezing import freeze
from vlforge.training.precision import (
    Lightened,
    frozen_dtype,
    seed_everything,
    settle_precision,
)

STAGE = TrainConfig(model="m", data="d.json", samples=1)


def test_a_cpu_computes_in_fp32_unless_told_otherwise():
    assert settle_precision("auto", "cpu") == "fp32"
    assert settle_precision("bf16", "cpu") == "bf16"
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    settled = replace(STAGE, precision="bf16")
    assert frozen_dtype(settled, cpu) == torch.float32
    assert frozen_dtype(settled, gpu) == torch.bfloat16
    assert frozen_dtype(replace(settled, frozen_precision="fp32"), gpu) == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_parts_are_lighter_meanwhile_and_come_back_bit_by_bit(dtype):
    model = llava("clip")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    freeze(model, ("connector", r"layers\.1\."), PARTS)
    lightened = Lightened(model, PARTS, dtype)
    # Something of the language model and of the encoder learns: those stay as they are.
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    freeze(model, ("connector",), PARTS)
    lightened = Lightened(model, PARTS, dtype)
    assert {p.dtype for p in model.connector.parameters()} == {torch.float32}
    for part in (model.vision, model.language):
        assert {p.dtype for p in part.parameters()} == {dtype}
    lightened.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_is_kept_aside_where_rounding_loses_nothing():
    model = llava()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    freeze(model, ("connector",), PARTS)
    lightened = Lightened(model, PARTS, torch.bfloat16)
    assert not lightened.lost
    lightened.restore()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_gradients_through_lighter_parts_reach_what_learns():
    model = llava("clip")
    freeze(model, ("connector",), PARTS)
    ids = torch.tensor([[1, -200, 5, 6, 7]])
    pixels = torch.randn(1, 3, 8, 8)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        lightened = Lightened(model, PARTS, dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            model.loss_sum(model.splice(ids, pixels, labels=ids.clamp(min=0))).backward()
        lightened.restore()
        grads.append(model.connector[0].weight.grad.clone())
        model.zero_grad()
    assert grads[1].dtype == torch.float32
    assert (grads[0] - grads[1]).norm() < 0.05 * grads[0].norm()


def test_one_seed_is_every_librarys():
    draws = []
    for _ in range(2):
        seed_everything(1024)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]
    torch.manual_seed(1024)
    assert torch.rand(1).item() == draws[0][2]
