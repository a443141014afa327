"""MiniGPT-4's tower written out in the reference's order, on tensors under published names.

Explicit softmax, scaled queries, queries repeated per picture from the start: slow
and plain, to hold the fast path against.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from tests.tiny_model import llama_config
from vlforge.models.minigpt4 import Minigpt4Config, Minigpt4Model
from vlforge.models.parts.eva_vit import EvaVitConfig
from vlforge.models.parts.qformer import QFormerConfig, published_name

EVA = {
    "image_size": 28,
    "patch_size": 7,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
QFORMER = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "encoder_hidden_size": 16,
    "query_tokens": 5,
}
State = Mapping[str, Tensor]


def tiny(seed: int = 0, **text: object) -> Minigpt4Model:
    """A model of a few thousand weights, none of them zero or one."""
    torch.manual_seed(seed)
    config = Minigpt4Config(
        vision_config=EvaVitConfig(**EVA),
        qformer_config=QFormerConfig(**QFORMER),
        text_config=llama_config(**text),
    )
    model = Minigpt4Model(config).eval()
    with torch.no_grad():
        for part in (model.vision, model.connector):
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def published(model: Minigpt4Model) -> dict[str, dict[str, Tensor]]:
    """The model's parameters by published file and name: `eva`, `blip`, `stage`, `language`."""
    files: dict[str, dict[str, Tensor]] = {"eva": {}, "blip": {}, "stage": {}, "language": {}}
    for name, tensor in model.named_parameters():
        if name.startswith("vision.eva."):
            files["eva"][name.removeprefix("vision.eva.")] = tensor
        elif name.startswith("vision.qformer."):
            files["blip"][published_name(name.removeprefix("vision.qformer."))] = tensor
        elif name.startswith("vision."):
            files["blip"][name.removeprefix("vision.")] = tensor
        elif name.startswith("connector."):
            files["stage"]["llama_proj." + name.removeprefix("connector.")] = tensor
        else:
            files["language"][name.removeprefix("language.")] = tensor
    return files


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    spread = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (spread + eps).sqrt() * state[name + ".weight"] + state[name + ".bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """[I, Q, C], [I, T, C], [I, T, C] -> [I, Q, C]."""
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    query = query * query.shape[-1] ** -0.5
    weights = (query @ key.transpose(-2, -1)).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def plain_eva(state: State, pixels: Tensor, heads: int) -> Tensor:
    """The encoder of `eva_vit_g.pth`."""
    kernel = state["patch_embed.proj.weight"]
    patches = F.conv2d(pixels, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    patches = patches.flatten(2).transpose(1, 2)
    first = state["cls_token"].expand(len(pixels), -1, -1)
    x = torch.cat([first, patches], 1) + state["pos_embed"]
    for number in range(sum(name.endswith("qkv.weight") for name in state)):
        block = f"blocks.{number}."
        seen = norm(state, block + "norm1", x, 1e-6)
        q_bias, v_bias = state[block + "attn.q_bias"], state[block + "attn.v_bias"]
        bias = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        query, key, value = (seen @ state[block + "attn.qkv.weight"].T + bias).chunk(3, -1)
        x = x + linear(state, block + "attn.proj", attend(query, key, value, heads))
        seen = norm(state, block + "norm2", x, 1e-6)
        inner = gelu(linear(state, block + "mlp.fc1", seen))
        x = x + linear(state, block + "mlp.fc2", inner)
    return x


def plain_qformer(state: State, picture: Tensor, heads: int) -> Tensor:
    """`ln_vision`'s output through the Q-Former of `blip2_pretrained_*.pth`."""
    bert = "Qformer.bert."
    x = state["query_tokens"].expand(len(picture), -1, -1)
    x = norm(state, bert + "embeddings.LayerNorm", x, 1e-12)

    def look(name: str, asking: Tensor, seen: Tensor) -> Tensor:
        parts = [linear(state, f"{name}.self.query", asking)]
        parts += [linear(state, f"{name}.self.{part}", seen) for part in ("key", "value")]
        out = linear(state, f"{name}.output.dense", attend(*parts, heads))
        return norm(state, f"{name}.output.LayerNorm", out + asking, 1e-12)

    for number in range(sum(name.endswith(".attention.self.key.weight") for name in state)):
        layer = f"{bert}encoder.layer.{number}."
        x = look(layer + "attention", x, x)
        if layer + "crossattention.self.key.weight" in state:
            x = look(layer + "crossattention", x, picture)
        out = linear(
            state,
            layer + "output_query.dense",
            gelu(linear(state, layer + "intermediate_query.dense", x)),
        )
        x = norm(state, layer + "output_query.LayerNorm", out + x, 1e-12)
    return x


def plain_vision(model: Minigpt4Model, pixels: Tensor) -> Tensor:
    """[I, 3, S, S] -> [I, Q, C] by the same weights."""
    files = published(model)
    seen = plain_eva(files["eva"], pixels, EVA["num_attention_heads"])
    seen = norm(files["blip"], "ln_vision", seen, 1e-5)
    return plain_qformer(files["blip"], seen, QFORMER["num_attention_heads"])


__all__ = ["LlamaForCausalLM", "plain_vision", "published", "tiny"]
