"""Names and shapes of the published checkpoints' tensors, written down from their classes.

Nothing here comes from our models: the lists are what these are held against.
"""

from __future__ import annotations

from collections.abc import Iterable

Shapes = dict[str, tuple[int, ...]]


def under(prefix: str, shapes: Shapes) -> Shapes:
    """The same behind a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def _pair(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _pairs(names: Iterable[str], *shape: int) -> Shapes:
    return {key: value for name in names for key, value in _pair(name, *shape).items()}


def decoder(
    width: int,
    inner: int,
    layers: int,
    vocabulary: int,
    queries: int = 0,
    keys: int = 0,
    *,
    tied: bool = False,
    biases: bool = False,
    experts: int = 0,
) -> Shapes:
    """Llama, Mistral, Gemma (tied), Qwen2 (biases), Mixtral (experts).

    Args:
        queries, keys: widths of all queries and of all keys; 0 is `width`.
    """
    queries, keys = queries or width, keys or width
    found: Shapes = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    if not tied:
        found["lm_head.weight"] = (vocabulary, width)
    for number in range(layers):
        layer = f"model.layers.{number}."
        sides = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        attention: Shapes = {f"{side}.weight": (wide, width) for side, wide in sides.items()}
        if biases:
            attention |= {f"{side}.bias": (wide,) for side, wide in sides.items()}
        found |= under(f"{layer}self_attn.", attention | {"o_proj.weight": (width, queries)})
        found[f"{layer}input_layernorm.weight"] = (width,)
        found[f"{layer}post_attention_layernorm.weight"] = (width,)
        found |= under(layer, _experts(width, inner, experts) if experts else _mlp(width, inner))
    return found


def _mlp(width: int, inner: int) -> Shapes:
    up = {f"mlp.{side}_proj.weight": (inner, width) for side in ("gate", "up")}
    return {**up, "mlp.down_proj.weight": (width, inner)}


def _experts(width: int, inner: int, experts: int) -> Shapes:
    found: Shapes = {"block_sparse_moe.gate.weight": (experts, width)}
    for expert in range(experts):
        name = f"block_sparse_moe.experts.{expert}."
        found |= {f"{name}{side}.weight": (inner, width) for side in ("w1", "w3")}
        found[f"{name}w2.weight"] = (width, inner)
    return found


def clip(width: int = 1024, inner: int = 4096, layers: int = 24, places: int = 577) -> Shapes:
    """CLIP's encoder as transformers 4 names it, below `vision_model.`; ViT-L/14 at 336 pixels."""
    found: Shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (places, width),
    }
    found |= _pairs(("pre_layrnorm", "post_layernorm"), width)
    for number in range(layers):
        layer = _pairs([f"self_attn.{side}_proj" for side in ("q", "k", "v", "out")], width, width)
        layer |= _pairs(("layer_norm1", "layer_norm2"), width)
        layer |= _pair("mlp.fc1", inner, width) | _pair("mlp.fc2", width, inner)
        found |= under(f"encoder.layers.{number}.", layer)
    return found


def convnext(
    widths: tuple[int, ...] = (192, 384, 768, 1536), depths: tuple[int, ...] = (3, 3, 27, 3)
) -> Shapes:
    """timm's `convnext_large` without its head, as Mini-Gemini keeps it."""
    found = _pair("vision_stem.0", widths[0], 3, 4, 4) | _pair("vision_stem.1", widths[0])
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        name, before = f"vision_stages.{stage}.", widths[max(stage - 1, 0)]
        if stage:
            found |= _pair(f"{name}downsample.0", before)
            found |= _pair(f"{name}downsample.1", width, before, 2, 2)
        for number in range(depth):
            block: Shapes = {"gamma": (width,)} | _pair("conv_dw", width, 1, 7, 7)
            block |= _pair("norm", width) | _pair("mlp.fc1", 4 * width, width)
            found |= under(f"{name}blocks.{number}.", block | _pair("mlp.fc2", width, 4 * width))
    return found


def projector(width: int, seen: int = 1024) -> Shapes:
    """`mlp2x_gelu`."""
    return _pair("0", width, seen) | _pair("2", width, width)


def llava(text: Shapes, width: int, tower: Shapes | None = None, newline: bool = False) -> Shapes:
    """LLaVA's own: the language model's names, projector and encoder among them."""
    found = text | under("model.mm_projector.", projector(width))
    found |= under("model.vision_tower.vision_tower.vision_model.", tower or clip())
    return found | ({"model.image_newline": (width,)} if newline else {})


def llava_hf(text: Shapes, width: int, nested: bool, newline: bool = False) -> Shapes:
    """transformers' LLaVA, before the vocabulary grows."""
    top = "model." if nested else ""
    found = under(f"{top}vision_tower.vision_model.", clip())
    found |= _pair(f"{top}multi_modal_projector.linear_1", width, 1024)
    found |= _pair(f"{top}multi_modal_projector.linear_2", width, width)
    if newline:
        found[f"{top}image_newline"] = (width,)
    if not nested:
        return found | under("language_model.", text)
    for name, shape in text.items():
        is_head = name.startswith("lm_head")
        found[name if is_head else "model.language_model." + name.removeprefix("model.")] = shape
    return found


def mgm(
    text: Shapes, width: int, low: Shapes | None = None, high: Shapes | None = None,
    channels: int = 1024, patch: int = 2880,
) -> Shapes:  # fmt: skip
    """Mini-Gemini's, with both encoders inside."""
    found = text | under("model.mm_projector.", projector(width, channels))
    for part, seen in (("query", channels), ("aux", patch), ("val", patch)):
        name = f"model.vlm_uni_{part}_projector."
        found |= _pair(f"{name}0", seen) | _pair(f"{name}1", channels, seen)
    found |= under("model.vision_tower.vision_tower.vision_model.", low or clip())
    return found | under("model.vision_tower_aux.", high or convnext())


def eva(width: int = 1408, inner: int = 6144, blocks: int = 39, places: int = 257) -> Shapes:
    """`eva_vit_g.pth`: no bias on keys; biases of queries and values apart."""
    found: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, places, width)}
    found |= _pair("patch_embed.proj", width, 3, 14, 14)
    for number in range(blocks):
        block = _pairs(("norm1", "norm2"), width) | _pair("attn.proj", width, width)
        block |= {"attn.q_bias": (width,), "attn.v_bias": (width,)}
        block |= {"attn.qkv.weight": (3 * width, width)}
        block |= _pair("mlp.fc1", inner, width) | _pair("mlp.fc2", width, inner)
        found |= under(f"blocks.{number}.", block)
    return found


def blip(width: int = 768, inner: int = 3072, layers: int = 12, seen: int = 1408) -> Shapes:
    """What MiniGPT-4 takes of `blip2_pretrained_*.pth`: every second layer looks at the picture."""
    found: Shapes = {"query_tokens": (1, 32, width)} | _pair("ln_vision", seen)
    found |= _pair("Qformer.bert.embeddings.LayerNorm", width)
    for number in range(layers):
        layer = _attention("attention", width, width)
        if number % 2 == 0:
            layer |= _attention("crossattention", width, seen)
        layer |= _pair("intermediate_query.dense", inner, width)
        layer |= _pair("output_query.dense", width, inner) | _pair("output_query.LayerNorm", width)
        found |= under(f"Qformer.bert.encoder.layer.{number}.", layer)
    return found


def _attention(name: str, width: int, seen: int) -> Shapes:
    found = _pair(f"{name}.self.query", width, width)
    found |= _pairs((f"{name}.self.key", f"{name}.self.value"), width, seen)
    found |= _pair(f"{name}.output.dense", width, width)
    return found | _pair(f"{name}.output.LayerNorm", width)


def qwen_decoder(
    width: int = 4096, inner: int = 11008, layers: int = 32, words: int = 151936
) -> Shapes:
    """Qwen-1 below `transformer.`; `lm_head` stands outside."""
    found: Shapes = {"wte.weight": (words, width), "ln_f.weight": (width,)}
    for number in range(layers):
        block: Shapes = {"ln_1.weight": (width,), "ln_2.weight": (width,)}
        block |= _pair("attn.c_attn", 3 * width, width)
        block |= {"attn.c_proj.weight": (width, width), "mlp.c_proj.weight": (width, inner)}
        block |= {"mlp.w1.weight": (inner, width), "mlp.w2.weight": (inner, width)}
        found |= under(f"h.{number}.", block)
    return found


def qwen_vit(width: int = 1664, inner: int = 8192, layers: int = 48) -> Shapes:
    """Qwen-VL's encoder below `visual.`."""
    found: Shapes = {"conv1.weight": (width, 3, 14, 14), "positional_embedding": (256, width)}
    found |= _pair("ln_pre", width)
    for number in range(layers):
        block = _pairs(("ln_1", "ln_2"), width)
        block |= _pair("attn.in_proj", 3 * width, width) | _pair("attn.out_proj", width, width)
        block |= _pair("mlp.c_fc", inner, width) | _pair("mlp.c_proj", width, inner)
        found |= under(f"transformer.resblocks.{number}.", block)
    return found


def qwen_pool(width: int = 4096, seen: int = 1664) -> Shapes:
    """Qwen-VL's resampler, norm and projection below `visual.`."""
    pool: Shapes = {"pos_embed": (256, width), "query": (256, width)}
    pool |= {"kv_proj.weight": (width, seen), "attn.in_proj_weight": (3 * width, width)}
    pool |= {"attn.in_proj_bias": (3 * width,)} | _pair("attn.out_proj", width, width)
    pool |= _pairs(("ln_q", "ln_kv"), width)
    return under("attn_pool.", pool) | _pair("ln_post", width) | {"proj": (width, width)}
