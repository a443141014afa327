import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.drift import drift
from vlforge.kernels.mining import join_maps, mine_folded, mine_published


def made(side=32, windows=4, widths=(3, 4, 5, 6), channels=8, dtype=torch.float64, lift=0.0):
    """Queries, maps of four halving sides, and the parameters of key and value."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    maps = [draw(2, width, side >> s, side >> s) + lift for s, width in enumerate(widths)]
    weights = []
    for _ in range(2):
        total = sum(widths)
        weights += [1 + 0.3 * draw(total), draw(total), draw(channels, total), draw(channels)]
    asked = draw(2, windows, windows, channels)
    return [tensor.to(dtype) for tensor in (asked, *maps, *weights)]


def layers(norm_weight, norm_bias, weight, bias):
    """LayerNorm and Linear whose parameters are the given tensors, so that gradients reach them."""
    pair = nn.Sequential(nn.LayerNorm(len(norm_bias)), nn.Linear(*reversed(weight.shape)))
    named = {
        "0.weight": norm_weight,
        "0.bias": norm_bias,
        "1.weight": weight,
        "1.bias": bias,
    }
    for name, tensor in named.items():
        module = pair[int(name[0])]
        del module._parameters[name[2:]]
        setattr(module, name[2:], tensor)
    return pair


def mining(mine, shrink=1):
    def run(asked, first, second, third, fourth, *weights):
        key, value = layers(*weights[:4]), layers(*weights[4:])
        return mine(asked, [first, second, third, fourth], key, value, shrink)

    return run


@pytest.mark.parametrize(
    ("side", "windows", "shrink"),
    [
        (32, 4, 1),
        (16, 4, 1),  # the smallest map has half a position for each window
        (8, 4, 1),
        (8, 8, 1),
        (24, 6, 1),
        (32, 8, 1),
        (32, 4, 2),  # the whole picture beside a grid of 2 x 2
        (48, 4, 3),
        (64, 4, 4),
    ],
)
def test_folded_mining_equals_the_published_order(side, windows, shrink):
    inputs = made(side, windows)
    fast, slow = mining(mine_folded, shrink), mining(mine_published, shrink)
    assert drift(fast, slow, *inputs) < 1e-12


def test_key_biases_have_a_gradient_and_it_is_zero():
    inputs = [tensor.requires_grad_() for tensor in made()]
    mining(mine_folded)(*inputs).square().sum().backward()
    norm_bias, bias = inputs[6], inputs[8]
    assert not norm_bias.grad.any()
    assert not bias.grad.any()
    assert inputs[10].grad.any()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest new tensor held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        found = [result] if isinstance(result, torch.Tensor) else []
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in found)])
        return result


def test_the_map_is_never_built():
    # Narrow first stages, as in ConvNeXt, where most channels lie on the smallest maps.
    widths = (4, 8, 16, 32)
    inputs = made(32, 4, widths)
    largest = {}
    for mine in (mine_folded, mine_published):
        with torch.no_grad(), Largest() as seen:
            mining(mine)(*inputs)
        largest[mine] = seen.numbers
    joined = join_maps(inputs[1:5]).numel()
    assert largest[mine_published] >= joined
    assert largest[mine_folded] < joined / 4


def test_products_are_fewer_by_the_patches_of_a_window():
    widths, channels = (48, 96, 192, 384), 256
    inputs = made(24, 3, widths, channels, torch.float32)
    counted = []
    for mine in (mine_published, mine_folded):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            mining(mine)(*inputs)
        counted.append(counter.get_total_flops())
    patches = (24 // 3) ** 2
    assert patches / 2 < counted[0] / counted[1] < patches


@pytest.mark.parametrize("lift", [0.0, 3.0])
def test_half_precision_errs_like_the_published_order(lift):
    exact = mining(mine_published)(*made(lift=lift))
    errors = []
    for mine in (mine_published, mine_folded):
        found = mining(mine)(*made(dtype=torch.bfloat16, lift=lift)).double()
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors[1] < 4 * errors[0]


def test_autocast_leaves_moments_and_scores_in_fp32():
    inputs = made(dtype=torch.float32, lift=2.0)
    exact = mining(mine_published)(*made(lift=2.0))
    with torch.autocast("cpu", torch.bfloat16):
        found = mining(mine_folded)(*inputs)
    assert (found.double() - exact).norm() < 0.02 * exact.norm()


def test_single_precision_is_exact_far_from_zero():
    exact = mining(mine_published)(*made(lift=5.0))
    found = mining(mine_folded)(*made(dtype=torch.float32, lift=5.0))
    assert (found.double() - exact).norm() < 1e-5 * exact.norm()


def test_equal_patches_are_their_own_mean():
    inputs = made()
    flat = [torch.ones_like(m) * torch.randn(1, m.shape[1], 1, 1).double() for m in inputs[1:5]]
    weights = inputs[5:]
    found = mining(mine_folded)(inputs[0], *flat, *weights)
    patch = torch.cat([m[0, :, 0, 0] for m in flat])
    wanted = layers(*weights[4:])(patch)
    assert (found[0] - wanted).abs().max() < 1e-12 * math.sqrt(len(patch)) + 1e-12


def test_what_generation_computed_first_can_be_trained_through():
    inputs = made(40, 5)
    with torch.inference_mode():
        mining(mine_folded)(*inputs)
    learned = [tensor.clone().requires_grad_() for tensor in inputs]
    mining(mine_folded)(*learned).sum().backward()
    assert learned[0].grad.any()
