"""Patch mining, folded against the published order: products, wall time, memory.

Mini-Gemini's real widths (CLIP-L tokens, four stages of ConvNeXt-L, random numbers),
value and the gradients of queries and all parameters. Each order runs in a process of
its own, best of `--repeats`; their outputs and gradients are compared, or the numbers
mean nothing. Products are counted forward at `--count-pixels` by torch's counter, a
multiplication and an addition as two. Prints one JSON line.

    python benchmarks/mining.py --pixels 384 --count-pixels 768
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vlforge.kernels.mining import mine_folded, mine_published

WINDOWS, TOKEN_WIDTH, STRIDE = 24, 1024, 4
WIDTHS = (192, 384, 768, 1536)
ORDERS = {"published": mine_published, "folded": mine_folded}


def made(pixels: int, pictures: int) -> tuple[Tensor, list[Tensor], nn.Sequential, nn.Sequential]:
    """Queries, maps, key and value of pictures `pixels` a side."""
    torch.manual_seed(0)
    side, total = pixels // STRIDE, sum(WIDTHS)
    maps = [torch.randn(pictures, w, side >> s, side >> s) for s, w in enumerate(WIDTHS)]
    maps = [m.to(memory_format=torch.channels_last) for m in maps]
    pairs = [nn.Sequential(nn.LayerNorm(total), nn.Linear(total, TOKEN_WIDTH)) for _ in range(2)]
    asked = torch.randn(pictures, WINDOWS, WINDOWS, TOKEN_WIDTH, requires_grad=True)
    return asked, maps, pairs[0], pairs[1]


def peak_mib() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(order: str, pixels: int, pictures: int, repeats: int, threads: int) -> dict[str, Any]:
    """Best wall seconds of value and gradients, memory above the inputs, and the results."""
    torch.set_num_threads(threads)
    asked, maps, key, value = made(pixels, pictures)
    # Not the key's biases: their gradient is zero, and rounding noise in the published order.
    inputs = [asked, key[0].weight, key[1].weight, *value.parameters()]
    before, walls = peak_mib(), []
    for _ in range(repeats):
        started = time.perf_counter()
        mined = ORDERS[order](asked, maps, key, value)
        gradients = torch.autograd.grad(mined.square().sum(), inputs)
        walls.append(time.perf_counter() - started)
    results = [mined.detach(), *gradients]
    return {
        "wall_s": round(min(walls), 3),
        "peak_mib": round(peak_mib() - before, 1),
        "results": [result.numpy() for result in results],
    }


def products(order: str, pixels: int, threads: int) -> float:
    """Forward products of one picture, in GFLOP."""
    torch.set_num_threads(threads)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ORDERS[order](*made(pixels, 1))
    return counter.get_total_flops() / 1e9


def apart(job: Any, *arguments: Any) -> Any:
    """Run a job in a fresh process, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(job, *arguments).result()


def drift(left: list[Any], right: list[Any]) -> float:
    """Largest difference, relative to the largest number of each result."""
    return max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(left, right, strict=True))


def main() -> None:
    """Measure both orders and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=384)
    parser.add_argument("--count-pixels", type=int, default=768)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    runs = {
        order: apart(timed, order, args.pixels, args.pictures, args.repeats, args.threads)
        for order in ORDERS
    }
    off = drift(*(run.pop("results") for run in runs.values()))
    counted = {order: apart(products, order, args.count_pixels, args.threads) for order in ORDERS}
    published, folded = runs["published"], runs["folded"]
    result = {
        "benchmark": "mining",
        "settings": vars(args),
        "torch": torch.__version__,
        "forward_backward": runs,
        "speedup": round(published["wall_s"] / folded["wall_s"], 1),
        "largest_drift": off,
        "forward_gflop": {order: round(value, 2) for order, value in counted.items()},
        "fewer_products": round(counted["published"] / counted["folded"], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
