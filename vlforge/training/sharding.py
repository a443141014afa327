"""A model shared out over processes by torch itself: FSDP2.

Each layer of encoder and decoder is gathered when it is called and let go afterwards;
what is between the layers (embeddings, connector, output layer) is one unit with the
whole module, so that a loss may call it in any order. Every process calls the same
layers in every pass, else the others would wait for it: a frozen encoder, which a pass
of texts alone does not run, is therefore not shared out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

WHOLE_BYTES = 8 * 2**30
"""A frozen language model of at most so many bytes is held whole by every process."""


def shard(
    module: nn.Module,
    mesh: DeviceMesh,
    device: torch.device,
    dtype: torch.dtype | None,
    offload: bool,
) -> nn.Module:
    """Share out what `module` holds, in place.

    Args:
        dtype: what layers are gathered in; None as they are. Sums are in fp32.
        offload: whether shares stay in main memory between calls.
    """
    whole = stays_whole(module)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    how: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype,
            reduce_dtype=torch.float32 if dtype else None,
            cast_forward_inputs=False,
        ),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        "ignored_params": whole,
        # Also of the outermost unit: between passes every parameter is its share.
        "reshard_after_forward": True,
    }
    for layer in units(module, whole):
        fully_shard(layer, **how)
    fully_shard(module, **how)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)
    return module


def stays_whole(module: nn.Module) -> set[nn.Parameter]:
    """Parameters that every process keeps: of frozen parts, and weights of few bits."""
    found: set[nn.Parameter] = set()
    for part, parameters in _by_part(module).items():
        is_small = sum(p.nbytes for p in parameters) <= WHOLE_BYTES
        is_frozen = not any(p.requires_grad for p in parameters)
        if is_frozen and (part != "language" or is_small):
            found.update(parameters)
        found.update(p for p in parameters if not p.is_floating_point())
    return found


def units(module: nn.Module, whole: set[nn.Parameter]) -> Iterator[nn.Module]:
    """The layers that are gathered one by one, those outside before those within."""
    inside: str | None = None
    for name, layer in module.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(layer, GradientCheckpointingLayer):
            inside = f"{name}."
            if any(parameter not in whole for parameter in layer.parameters()):
                yield layer


def _by_part(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of each noun; a module without nouns is all language."""
    model: Any = getattr(module, "model", module)
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if hasattr(model, "part_of"):
            part = model.part_of(name.removeprefix("model."))
        else:
            part = name.partition(".")[0]
        part = part if part in ("vision", "connector") else "language"
        found.setdefault(part, []).append(parameter)
    return found


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor in main memory, gathered where it is shared out: every process has to ask."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        local = tensor.to_local()
        if local.device.type == "cpu" and tensor.device_mesh.device_type != "cpu":
            # Shares that are kept in main memory are gathered where they are computed with.
            tensor = tensor.to(tensor.device_mesh.device_type)
        tensor = tensor.full_tensor()
    return tensor.cpu()


def laid_out(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, as `like` lies: this process's share of it."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    mesh, places = like.device_mesh, like.placements
    device = like.to_local().device
    if device.type == mesh.device_type:
        return distribute_tensor(whole.to(device), mesh, places, src_data_rank=None)
    made = distribute_tensor(whole.to(mesh.device_type), mesh, places, src_data_rank=None)
    return made.to(device)


@torch.no_grad()
def make_whole(module: nn.Module, keep: bool) -> None:
    """Give a shared-out module whole parameters in main memory, one after the other.

    The module is an ordinary one afterwards, but for its class. Every process has to
    call; those that do not `keep` are left with empty parameters.
    """
    done: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if not isinstance(parameter, DTensor):
            continue
        if id(parameter) not in done:
            whole = whole_tensor(parameter)
            kept = whole if keep else torch.empty_like(whole, device="meta")
            done[id(parameter)] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
        owner_name, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner_name), leaf, done[id(parameter)])
    for layer in module.modules():
        if isinstance(layer, FSDPModule):
            _plain_again(layer)


def _plain_again(layer: Any) -> None:
    """Take the hooks off a layer and give it back its class."""
    state = layer._get_fsdp_state()
    for hook in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
        hook.remove()
    for group in state._fsdp_param_groups:
        for hook in group._module_to_pre_save_state_dict_hook_handle.values():
            hook.remove()
    layer.__class__ = type(layer).__mro__[2]
