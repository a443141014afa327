"""The processes that train side by side, and what the loop asks of them.

`open_devices` looks at how this process was started (alone, by `vlforge` itself, torchrun,
accelerate, DeepSpeed or SLURM) and gives the one object that `fit` uses for all that
several devices share. `Devices` holds the whole model on each; `ShardedDevices` share it
out by torch's FSDP2, `zero.ZeroDevices` by DeepSpeed.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vlforge.checkpoints.weights import Lazy
from vlforge.training.config import TrainConfig
from vlforge.training.parallel import Parallel, forget_accelerate, settle_parallel
from vlforge.types import RecipeError

WAIT = timedelta(hours=2)
"""How long a process waits in a collective: the first one writes files or evaluates meanwhile.

A process that dies is noticed by who started it, long before."""
Name = TypeVar("Name", str, tuple[str, str])


class Devices:
    """This process among `count`, its device, and the collectives of a step."""

    def __init__(self, accelerator: Any):
        self._accelerator = accelerator

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    @property
    def count(self) -> int:
        """Processes that train side by side."""
        return int(self._accelerator.num_processes)

    @property
    def index(self) -> int:
        """Which of them this one is, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return bool(self._accelerator.is_main_process)

    @property
    def scaler(self) -> Any:
        """The scale of fp16 losses, or None."""
        return self._accelerator.scaler

    def settle(self, config: TrainConfig) -> None:
        """Hold what the processes share against the stage, its batch settled."""

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module as all processes train it together; ask for its parameters afterwards."""
        return self._accelerator.prepare(module)

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        """The optimiser as it steps here; `.optimizer` is the plain one."""
        return self._accelerator.prepare(optimiser)

    def passing(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Around a pass: gradients are shared after the last of a global batch alone."""
        return nullcontext() if is_last else self._accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        """Gradients of one pass."""
        self._accelerator.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """Scale gradients down to a total norm; gives the norm that they had."""
        return self._accelerator.clip_grad_norm_(parameters, norm)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, everywhere."""
        return self._accelerator.reduce(values, reduction="sum")

    def agreed(self, answer: bool) -> bool:
        """The main process's answer, everywhere."""
        if self.count == 1:
            return answer
        counts = torch.tensor(float(answer and self.is_main), device=self.device)
        return bool(self.total(counts) > 0)

    def wait(self) -> None:
        """Go on when all processes are here."""
        self._accelerator.wait_for_everyone()

    def weights(self, module: nn.Module) -> dict[str, Lazy]:
        """What a checkpoint keeps of a module, by name: what learns, and running buffers."""
        learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
        return {name: self._lazy(name, one) for name, one in (learning | running(module)).items()}

    def moments(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Lazy]:
        """What the plain optimiser remembers of each parameter, as `name/what`."""
        return {
            f"{name}/{what}": self._lazy(f"{name}/{what}", torch.as_tensor(value))
            for name, parameter in module.named_parameters()
            for what, value in optimiser.state.get(parameter, {}).items()
        }

    @contextmanager
    def gathering(self, lazies: Mapping[Name, Lazy]) -> Iterator[Mapping[Name, Lazy]]:
        """Around the main process's reading of `weights` and `moments`.

        Every process has to come here with the same names. The main one may read them in
        any order, leave some out or fail; the others gather with it and get none.
        """
        yield lazies if self.is_main else {}

    def put_weights(self, module: nn.Module, whole: Mapping[str, Lazy]) -> None:
        """Weights as `weights` gave them, back in their places; every process has to come."""
        learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, tensor in (learning | running(module)).items():
                tensor.copy_(self._share(whole[name].read(), tensor))

    def put_moments(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, whole: Mapping[str, Lazy]
    ) -> None:
        """Moments as `moments` gave them, back in the plain optimiser."""
        found = by_parameter(whole)
        names = {id(p): name for name, p in module.named_parameters()}
        learning = [p for group in optimiser.param_groups for p in group["params"]]
        state = {
            place: {
                what: self._share(lazy.read(), p) if lazy.shape == tuple(p.shape) else lazy.read()
                for what, lazy in found[names[id(p)]].items()
            }
            for place, p in enumerate(learning)
            if names[id(p)] in found
        }
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})

    def make_whole(self, module: nn.Module) -> None:
        """After training: a plain module on the main process, fit to be written."""
        self.wait()

    def _lazy(self, name: str, tensor: Tensor) -> Lazy:
        return Lazy(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().cpu(), name)

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this process holds of a whole tensor, where `like` is."""
        return whole


class SharingDevices(Devices):
    """Every process holds a share of the model: whole tensors are gathered by all of them."""

    @contextmanager
    def gathering(self, lazies: Mapping[Name, Lazy]) -> Iterator[Mapping[Name, Lazy]]:
        """The main process reads whole tensors, one at a time."""
        with one_by_one(lazies, self.is_main, self._told) as read:
            yield read

    def _told(self, number: int) -> int:
        """The main process's number, everywhere."""
        told = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(told, 0)
        return int(told.item())


class ShardedDevices(SharingDevices):
    """Every process holds a share of the model: torch's FSDP2."""

    def __init__(self, accelerator: Any, parallel: Parallel, precision: str):
        super().__init__(accelerator)
        if precision == "fp16":
            raise RecipeError("precision fp16 and parallel: fsdp2: take bf16 or fp32, or ddp")
        on_cpu = self.device.type == "cpu"
        self._offload = parallel.offload and not on_cpu
        self._dtype = torch.bfloat16 if precision == "bf16" and not on_cpu else None

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module itself, its layers shared out."""
        from torch.distributed.device_mesh import init_device_mesh

        from vlforge.training.sharding import shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        made = shard(module, mesh, self.device, self._dtype, self._offload)
        made.forward = self._accelerator.autocast()(made.forward)  # type: ignore[method-assign]
        return made

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        """The optimiser steps shares by itself."""
        return Plain(optimiser)

    def passing(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are shared after each pass: kept back they would be whole everywhere."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of one pass, each process its share."""
        loss.backward()

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """As of one device: the norm is over all shares."""
        from torch.distributed.tensor import DTensor

        found = torch.nn.utils.clip_grad_norm_(parameters, norm)
        return found.full_tensor() if isinstance(found, DTensor) else found

    def make_whole(self, module: nn.Module) -> None:
        """A plain module, whole in the main process's memory and empty in the others'."""
        from vlforge.training.sharding import make_whole

        make_whole(module, keep=self.is_main)
        vars(module).pop("forward", None)
        self.wait()

    def _lazy(self, name: str, tensor: Tensor) -> Lazy:
        from vlforge.training.sharding import whole_tensor

        return Lazy(tuple(tensor.shape), tensor.dtype, lambda: whole_tensor(tensor), name)

    def _share(self, whole: Tensor, like: Tensor) -> Tensor:
        from vlforge.training.sharding import laid_out

        return laid_out(whole, like)


@contextmanager
def one_by_one(
    lazies: Mapping[Name, Lazy], is_main: bool, told: Callable[[int], int]
) -> Iterator[Mapping[Name, Lazy]]:
    """Reads that all processes make together, in the order of the main one.

    Args:
        told: gives the main process's number everywhere; a negative one ends.
    """
    names = sorted(lazies)
    if not is_main:
        while (number := told(-1)) >= 0:
            lazies[names[number]].read()
        yield {}
        return

    def reading(number: int, lazy: Lazy) -> Lazy:
        def read() -> Tensor:
            told(number)
            return lazy.read()

        return replace(lazy, read=read)

    try:
        yield {name: reading(number, lazies[name]) for number, name in enumerate(names)}
    finally:
        told(-1)


class Plain:
    """An optimiser that needs no help, in accelerate's words."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Its groups, which loading a state replaces."""
        return self.optimizer.param_groups

    def step(self) -> None:
        """One update."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        self.optimizer.zero_grad()


def by_parameter(moments: Mapping[str, Lazy]) -> dict[str, dict[str, Lazy]]:
    """`name/what` as `what` of each name."""
    found: dict[str, dict[str, Lazy]] = {}
    for key, value in moments.items():
        name, _, what = key.rpartition("/")
        found.setdefault(name, {})[what] = value
    return found


def running(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that training moves, such as a norm's running mean."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in parameters}


def open_devices(device: str, precision: str, parallel: str = "ddp") -> Devices:
    """The devices that this process was given.

    On a CPU bf16 is a matter of products alone, see `kernels.cpu_products`.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".
        parallel: how processes share the model, see `settle_parallel`; one process
            holds it whole, unless DeepSpeed is asked for. One on a CPU, which has nothing to
            share out or to move off, does without DeepSpeed where that is not installed.

    Raises:
        RecipeError: half precision where the device has none, or no such way of sharing.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    how = settle_parallel(parallel)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if on_cpu and device.startswith("cuda"):
        raise RecipeError(f"device {device!r}: this machine has no GPU; take cpu or auto")
    if device not in ("auto", "cpu", "cuda") and not device.startswith("cuda:"):
        raise RecipeError(f"device {device!r} is unknown; take auto, cpu, cuda or cuda:1")
    if not on_cpu and ":" in device:
        torch.cuda.set_device(device)
    if on_cpu and precision == "fp16":
        raise RecipeError("precision fp16 needs a GPU; take bf16 or fp32")
    forget_accelerate(os.environ)
    _join(on_cpu)
    # One process may run several stages: each opens with its own precision.
    AcceleratorState._reset_state()
    kind = "no" if on_cpu or precision == "fp32" else precision
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=kind)
    is_alone = on_cpu and accelerator.num_processes == 1 and how.file is None
    if how.kind == "zero" and not (is_alone and find_spec("deepspeed") is None):
        from vlforge.training.zero import ZeroDevices

        return ZeroDevices(accelerator, how, precision)
    if how.kind == "fsdp2" and accelerator.num_processes > 1:
        return ShardedDevices(accelerator, how, precision)
    return Devices(accelerator)


def _join(on_cpu: bool) -> None:
    """Meet the other processes, where the environment names some."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or torch.distributed.is_initialized():
        return
    if not on_cpu:
        local = own_gpu(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
        os.environ["LOCAL_RANK"] = str(local)
        torch.cuda.set_device(local)
    # Tensors in main memory (offloaded shares, lists of rows) go another way than a GPU's.
    backend = "gloo" if on_cpu else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend, timeout=WAIT)
    if on_cpu:
        # gloo's threads must not outlive the interpreter, which would abort at its end.
        atexit.register(_part)


def own_gpu(local_rank: int, gpus: int) -> int:
    """Which of the GPUs that it sees a process takes; SLURM may show each its own alone.

    Raises:
        RecipeError: more processes than GPUs.
    """
    if local_rank >= gpus > 1:
        raise RecipeError(
            f"process {local_rank} of this machine, which has {gpus} GPUs, has none; start as many "
            "processes as GPUs"
        )
    return local_rank if gpus > 1 else 0


def _part() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
