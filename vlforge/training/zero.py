"""A model shared out by DeepSpeed's ZeRO.

The loop's optimiser and schedule stay its own; the engine shares moments (ZeRO-1),
gradients (2) and weights (3) out, bounds gradients and steps. Checkpoints are those of
any other stage: whole tensors, asked for one by one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vlforge.checkpoints.weights import Lazy
from vlforge.training.config import TrainConfig
from vlforge.training.deepspeed_json import deepspeed_settings
from vlforge.training.devices import (
    SharingDevices,
    by_parameter,
    running,
)
from vlforge.training.parallel import Parallel
from vlforge.types import ModelError, RecipeError

_MOMENTS = ("exp_avg", "exp_avg_sq")
_SHARES = (
    "fp32_partitioned_groups_flat",
    "single_partition_of_fp32_groups",
    "fp32_groups_flat_partition",
)
"""What the optimisers of ZeRO-3, of ZeRO-1 and 2, and of bf16 call this process's weights."""


class ZeroDevices(SharingDevices):
    """Every process holds a share of moments, gradients or weights: DeepSpeed's ZeRO."""

    def __init__(self, accelerator: Any, parallel: Parallel, precision: str):
        super().__init__(accelerator)
        if self.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        try:
            import deepspeed
        except ImportError:
            raise RecipeError(
                "parallel by DeepSpeed needs it: pip install 'vlforge[deepspeed]', or take fsdp2"
            ) from None
        self._deepspeed, self._parallel, self._precision = deepspeed, parallel, precision
        self._config: TrainConfig | None = None
        self._engine: Any = None

    def settle(self, config: TrainConfig) -> None:
        """Hold a JSON against the stage before a weight is read."""
        if config.optimiser.type != "adamw":
            raise RecipeError("parallel by DeepSpeed takes optimiser.type adamw")
        deepspeed_settings(self._parallel, config, self.count, 1)
        self._config = config

    @property
    def scaler(self) -> Any:
        """The engine scales fp16 losses itself."""
        return None

    def prepare(self, module: nn.Module) -> nn.Module:
        """What calls the engine, once there is one."""
        self._module = module
        return _Engine(self)

    def prepare_optimiser(self, optimiser: torch.optim.Optimizer) -> Any:
        """The engine, with which module and optimiser are shared out."""
        assert self._config is not None
        self._meet()
        settings = deepspeed_settings(
            self._parallel, self._config, self.count, _width_of(self._module)
        )
        engine, *_ = self._deepspeed.initialize(
            model=self._module, optimizer=optimiser, config=settings
        )
        self._engine = engine
        return _Steps(engine)

    def _meet(self) -> None:
        """The engine asks for a group of processes, also where there is one alone."""
        backend = "gloo" if self.device.type == "cpu" else "nccl"
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                backend, store=torch.distributed.HashStore(), rank=0, world_size=1
            )
        os.environ.setdefault("LOCAL_RANK", "0")
        self._deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)

    def passing(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """The engine is told which pass is the last of a global batch."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients of one pass; the loop has weighed the loss."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, parameters: Sequence[nn.Parameter], norm: float) -> Tensor:
        """The engine bounds gradients within its step; gives the norm of the step before."""
        before = self._engine.get_global_grad_norm()
        known = before is not None and math.isfinite(float(before))
        return torch.as_tensor(float(before) if known else 0.0)

    def weights(self, module: nn.Module) -> dict[str, Lazy]:
        """Whole weights in fp32, asked for one by one."""
        learning = {n: p for n, p in module.named_parameters() if p.requires_grad}
        found = {name: self._weight(name, p) for name, p in learning.items()}
        return found | {name: self._lazy(name, one) for name, one in running(module).items()}

    def moments(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Lazy]:
        """Whole moments, under the names that any other stage gives them."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = [state["step"] for state in _base(self._engine).state.values() if "step" in state]
        if not steps:
            return {}
        found: dict[str, Lazy] = {}
        step = torch.as_tensor(steps[0], dtype=torch.float32).detach().cpu().reshape(())
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            for what in _MOMENTS:

                def read(p: nn.Parameter = p, what: str = what) -> Tensor:
                    return safe_get_full_optimizer_state(p, what).detach().float().cpu()

                found[f"{name}/{what}"] = Lazy(_shape(p), torch.float32, read, name)
            found[f"{name}/step"] = Lazy.of(step, name)
        return found

    def put_weights(self, module: nn.Module, whole: Mapping[str, Lazy]) -> None:
        """Whole weights to the shares."""
        from deepspeed.utils import safe_set_full_fp32_param

        for name, p in module.named_parameters():
            if p.requires_grad:
                safe_set_full_fp32_param(p, whole[name].read().to(self.device))
        for name, tensor in running(module).items():
            tensor.copy_(whole[name].read())
        self._refresh()

    def put_moments(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, whole: Mapping[str, Lazy]
    ) -> None:
        """Whole moments to the shares."""
        from deepspeed.utils import safe_set_full_optimizer_state

        found = by_parameter(whole)
        if not found:
            return
        self._begin_moments()
        for name, p in module.named_parameters():
            for what in _MOMENTS if name in found else ():
                safe_set_full_optimizer_state(p, found[name][what].read().to(self.device), what)
        step = next(iter(found.values()))["step"].read()
        for state in _base(self._engine).state.values():
            if "step" in state:
                state["step"] = step.clone().to(torch.as_tensor(state["step"]).device)

    @torch.no_grad()
    def make_whole(self, module: nn.Module) -> None:
        """A plain module, whole in the main process's memory and empty in the others'."""
        for name, p in list(module.named_parameters()):
            whole = self._weight(name, p).read()
            kept = whole if self.is_main else torch.empty_like(whole, device="meta")
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Parameter(kept, p.requires_grad))
        self._engine.destroy()
        self.wait()

    def _weight(self, name: str, p: nn.Parameter) -> Lazy:
        """A weight, whole; the fp32 one where a rounded copy computes."""
        from deepspeed.utils import safe_get_full_fp32_param

        def read() -> Tensor:
            found = safe_get_full_fp32_param(p) if p.requires_grad else None
            if found is not None:
                return found.detach().float().cpu()
            with self._deepspeed.zero.GatheredParameters([p], enabled=hasattr(p, "ds_id")):
                return p.detach().cpu().clone()

        dtype = torch.float32 if p.requires_grad else p.dtype
        return Lazy(_shape(p), dtype, read, name)

    def _refresh(self) -> None:
        """Let what computes be what was put into the fp32 weights."""
        shared = self._engine.optimizer
        if hasattr(shared, "update_lp_params"):
            shared.update_lp_params()
        if not hasattr(shared, "fp32_partitioned_groups_flat"):
            return
        for place in range(len(shared.fp32_partitioned_groups_flat)):
            shared._reassign_or_swap_out_partitioned_parameters(place)
        # Small weights stay gathered between steps, so they are gathered anew.
        kept = list(shared.persistent_parameters)
        if kept:
            kept[0].partition(kept)
            kept[0].all_gather(kept)

    def _begin_moments(self) -> None:
        """Moments exist from the first step on; here before it, at 0, share by share."""
        base, shared = _base(self._engine), self._engine.optimizer
        for share in next(getattr(shared, name) for name in _SHARES if hasattr(shared, name)):
            if not base.state.get(share):
                base.state[share] = {"step": torch.zeros((), device=share.device)}
                base.state[share] |= {what: torch.zeros_like(share) for what in _MOMENTS}
        if hasattr(shared, "_lazy_init_hp_params_optimizer_state"):
            shared._lazy_init_hp_params_optimizer_state()


class _Engine(nn.Module):
    """The engine as the loop calls it, made when the optimiser is there."""

    def __init__(self, devices: ZeroDevices):
        super().__init__()
        self._devices = [devices]

    def forward(self, **batch: Any) -> Tensor:
        """The summed loss."""
        devices = self._devices[0]
        with devices._accelerator.autocast():
            return devices._engine(**batch)


class _Steps:
    """The engine as an optimiser."""

    def __init__(self, engine: Any):
        self.engine = engine
        self.optimizer = _base(engine)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of the optimiser that the engine steps."""
        return list(self.optimizer.param_groups)

    def step(self) -> None:
        """One update, gradients bounded."""
        self.engine.step()

    def zero_grad(self) -> None:
        """The engine lets go of gradients in its step; of a step left out, here."""
        self.engine.optimizer.zero_grad()


def _base(engine: Any) -> Any:
    """The plain optimiser inside of an engine."""
    found = engine.optimizer
    while hasattr(found, "optimizer") and found.optimizer is not found:
        found = found.optimizer
    return found


def _shape(p: nn.Parameter) -> tuple[int, ...]:
    """The whole shape; a parameter that is shared out has none of its own."""
    return tuple(getattr(p, "ds_shape", p.shape))


def _width_of(module: nn.Module) -> int:
    model: Any = getattr(module, "model", module)
    config = getattr(model, "config", None) or getattr(
        getattr(model, "model", None), "config", None
    )
    if config is None:
        raise ModelError("parallel by DeepSpeed: the model has no configuration to size buckets by")
    text = getattr(config, "text_config", None) or config
    return int(text.hidden_size)
