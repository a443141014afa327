"""Seconds, waiting and memory of a loop, as it runs in a process of its own."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

MIB = 2**20

One = TypeVar("One")


@dataclass
class Meter:
    """What a loop takes between `start` and `stop`, worker processes included.

    `wait_s` is what the loop stands still for its next batch: `waiting` counts that, or
    whoever makes batches inside of the loop adds to it.
    """

    wait_s: float = 0.0
    keeps: Keeping | None = None
    begun: tuple[float, float] = (0.0, 0.0)
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def start(self, model: nn.Module | None = None) -> None:
        """From here on; `model`'s weights are no memory of a step."""
        if self.keeps is not None and model is not None:
            self.keeps.leave_out(model)
        self.begun = time.perf_counter(), _cpu()

    def waiting(self, batches: Iterable[One]) -> Iterator[One]:
        """The same batches; how long each was waited for is counted."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self.wait_s += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def watching(self) -> AbstractContextManager[None]:
        """Within, `keeps` counts, where there is one."""
        return nullcontext() if self.keeps is None else self.keeps.watching()

    def stop(self) -> None:
        """Until here; workers have to be over, or their seconds are not seen."""
        wall, cpu = self.begun
        self.wall_s, self.cpu_s = time.perf_counter() - wall, _cpu() - cpu

    def told(self) -> dict[str, Any]:
        """As JSON."""
        kept = None if self.keeps is None else round(self.keeps.most / MIB, 2)
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "wait_share": self.wait_s / self.wall_s if self.wall_s else 0.0,
            "kept_mib": kept,
        }


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class _Held:
    """Stands in the graph for a tensor that it keeps."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


@dataclass
class Keeping:
    """Bytes that autograd keeps for backward passes at once, at most; weights left out.

    A storage that several nodes keep counts once.
    """

    most: int = 0
    now: int = 0
    known: set[int] = field(default_factory=set)
    held: dict[int, int] = field(default_factory=dict)

    def leave_out(self, model: nn.Module) -> None:
        """These weights and buffers."""
        tensors = [*model.parameters(), *model.buffers()]
        self.known |= {tensor.untyped_storage().data_ptr() for tensor in tensors}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every graph that is built within."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor):
            yield

    def _pack(self, tensor: Tensor) -> _Held:
        held, storage = _Held(tensor), tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self.known or not place:
            return held
        if not self.held.get(place):
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        self.held[place] = self.held.get(place, 0) + 1
        weakref.finalize(held, self._free, place, storage.nbytes())
        return held

    def _free(self, place: int, size: int) -> None:
        self.held[place] -= 1
        if not self.held[place]:
            self.now -= size
