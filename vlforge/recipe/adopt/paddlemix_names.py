"""What PaddleMIX's patterns over the names of weights leave to learn, in our words.

The names are those of MGen-VL and Qwen-VL at their published depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch

BLOCKS, LAYERS = 48, 32
_NORM = ("weight", "bias")
_BLOCK = tuple(
    f"{module}.{kind}"
    for module in ("ln_1", "ln_2", "attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    for kind in _NORM
)
_LAYER = (
    "ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "ln_2.weight", "mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight",
)  # fmt: skip
_POOL = (
    "query", "kv_proj.weight", "attn.in_proj_weight", "attn.in_proj_bias",
    "attn.out_proj.weight", "attn.out_proj.bias",
    *(f"{norm}.{kind}" for norm in ("ln_q", "ln_kv") for kind in _NORM),
)  # fmt: skip
PARTS = ("vision", "connector", "language")


def names() -> Iterator[tuple[str, str]]:
    """(PaddleMIX's name, ours) of every weight that can learn."""
    for stem in ("positional_embedding", "conv1.weight", "ln_pre.weight", "ln_pre.bias"):
        yield f"visual.vit.{stem}", f"vision.{stem}"
    for number in range(BLOCKS):
        for stem in _BLOCK:
            name = f"transformer.resblocks.{number}.{stem}"
            yield f"visual.vit.{name}", f"vision.{name}"
    for stem in _POOL:
        yield f"visual.attn_pool.{stem}", f"connector.attn_pool.{stem}"
    for stem in ("ln_post.weight", "ln_post.bias", "proj"):
        yield f"visual.{stem}", f"connector.{stem}"
    yield "transformer.llm.wte.weight", "language.transformer.wte.weight"
    for number in range(LAYERS):
        for stem in _LAYER:
            name = f"h.{number}.{stem}"
            yield f"transformer.llm.{name}", f"language.transformer.{name}"
    yield "transformer.llm.ln_f.weight", "language.transformer.ln_f.weight"
    yield "lm_head.weight", "language.lm_head.weight"


def learning(include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Parts that learn whole, and expressions for what learns of the others.

    A weight is frozen that a pattern of `include` means and none of `exclude`.
    """
    frozen = {
        ours
        for theirs, ours in names()
        if any(fnmatch(theirs, one) for one in include)
        and not any(fnmatch(theirs, one) for one in exclude)
    }
    every = [ours for _, ours in names()]
    return [told for part in PARTS for told in _told(part, every, frozen)]


def _told(prefix: str, every: Sequence[str], frozen: set[str]) -> Iterator[str]:
    """What learns below a prefix: the prefix itself where all does."""
    below = [name for name in every if name == prefix or name.startswith(f"{prefix}.")]
    learns = [name for name in below if name not in frozen]
    if len(learns) == len(below):
        yield prefix if prefix in PARTS else _expression(prefix, is_whole=below == [prefix])
    elif learns:
        depth = len(prefix) + 1
        heads = dict.fromkeys(f"{prefix}.{name[depth:].partition('.')[0]}" for name in below)
        for head in heads:
            yield from _told(head, every, frozen)


def _expression(prefix: str, *, is_whole: bool) -> str:
    escaped = prefix.replace(".", r"\.")
    return f"{escaped}$" if is_whole else rf"{escaped}\."
