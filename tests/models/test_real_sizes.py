"""Every family at its real size on the meta device: the published tensors, neither more nor less.

`published_names.py` writes the lists down; the layouts' name mappings lead to them.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.models import published_names as published
from tests.models.published_names import Shapes
from vlforge.checkpoints import llava_fields, llava_hf, mgm, paddle, qwen_vl
from vlforge.checkpoints.checkpoint import expected, meta_model
from vlforge.models.base import PARTS, VisionLanguageModel
from vlforge.models.families import family_of, find_family
from vlforge.models.minigpt4 import connector_state, published_state
from vlforge.models.sizes import SIZES
from vlforge.training.freezing import freeze

VICUNA_7B = published.decoder(4096, 11008, 32, 32000)
VICUNA_13B = published.decoder(5120, 13824, 40, 32000)
LLAMA3_8B = published.decoder(4096, 14336, 32, 128256, keys=1024)
INTERNLM2_7B = published.decoder(4096, 14336, 32, 92544, keys=1024)
MISTRAL_7B = published.decoder(4096, 14336, 32, 32000, keys=1024)
YI_34B = published.decoder(7168, 20480, 60, 64000, keys=1024)
GEMMA_2B = published.decoder(2048, 16384, 18, 256000, keys=256, tied=True)
MIXTRAL_8X7B = published.decoder(4096, 14336, 32, 32000, keys=1024, experts=8)
QWEN2_0_5B = published.decoder(896, 4864, 24, 151936, keys=128, tied=True, biases=True)

LLAVA: dict[str, tuple[Shapes, int]] = {
    "llava-1.5-7b": (VICUNA_7B, 4096), "llava-1.5-13b": (VICUNA_13B, 5120),
    "llava-1.6-7b": (VICUNA_7B, 4096), "llava-internlm2-7b": (INTERNLM2_7B, 4096),
    "llava-mistral-7b": (MISTRAL_7B, 4096), "llava-qwen2-0.5b": (QWEN2_0_5B, 896),
}  # fmt: skip
MGM: dict[str, tuple[Shapes, int]] = {
    "mgm-2b": (GEMMA_2B, 2048), "mgm-7b": (VICUNA_7B, 4096), "mgm-7b-hd": (VICUNA_7B, 4096),
    "mgm-8b": (LLAMA3_8B, 4096), "mgm-8b-hd": (LLAMA3_8B, 4096), "mgm-13b": (VICUNA_13B, 5120),
    "mgm-13b-hd": (VICUNA_13B, 5120), "mgm-34b": (YI_34B, 7168), "mgm-8x7b": (MIXTRAL_8X7B, 4096),
}  # fmt: skip
MINIGPT4: dict[str, tuple[Shapes, int]] = {
    "minigpt4-7b": (VICUNA_7B, 4096), "minigpt4-13b": (VICUNA_13B, 5120),
}  # fmt: skip


def config_of(name: str) -> Any:
    """The configuration of a published size, as a family's own class."""
    fields = {key: value for key, value in SIZES[name].items() if key != "model_type"}
    return find_family(str(family_of(SIZES[name]["model_type"]))).config_class(**fields)


@functools.cache
def ours(name: str) -> Shapes:
    """Names and shapes that a file of ours holds."""
    return expected(config_of(name))


def meta(name: str) -> VisionLanguageModel:
    """The model without memory."""
    return meta_model(config_of(name))


def count(shapes: Shapes, part: str = "") -> int:
    """Weights below a prefix."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(part))


def assert_same(found: Shapes, wanted: Shapes) -> None:
    """Every tensor, neither more nor less, each of its shape; the first that differ are named."""
    assert sorted(set(wanted) - set(found))[:3] == []
    assert sorted(set(found) - set(wanted))[:3] == []
    differ = {name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]}
    assert dict(list(differ.items())[:3]) == {}


def assert_mapped(
    shapes: Shapes,
    wanted: Shapes,
    their_name: Callable[[str], str],
    our_name: Callable[[str], str | None],
) -> None:
    """Our names lead to the wanted list, and the list leads back to ours."""
    assert_same({their_name(name): shape for name, shape in shapes.items()}, wanted)
    assert {our_name(their_name(name)) for name in shapes} == set(shapes)


def test_no_size_is_left_out():
    assert {*LLAVA, *MGM, *MINIGPT4, "qwen-vl-7b"} == set(SIZES)


@pytest.mark.parametrize(
    ("text", "weights", "tensors"),
    [
        (VICUNA_7B, 6_738_415_616, 291), (VICUNA_13B, 13_015_864_320, 363),
        (LLAMA3_8B, 8_030_261_248, 291), (INTERNLM2_7B, 7_737_708_544, 291),
        (MISTRAL_7B, 7_241_732_096, 291), (YI_34B, 34_388_917_248, 543),
        (GEMMA_2B, 2_506_172_416, 164), (MIXTRAL_8X7B, 46_702_792_704, 995),
        (QWEN2_0_5B, 494_032_768, 290),
    ],
    ids="vicuna-7b vicuna-13b llama3-8b internlm2 mistral yi gemma mixtral qwen2".split(),
)  # fmt: skip
def test_the_lists_have_the_sizes_that_the_models_cards_tell(text, weights, tensors):
    assert (count(text), len(text)) == (weights, tensors)


def test_the_lists_of_the_encoders_have_their_published_sizes():
    assert (count(published.clip()), len(published.clip())) == (303_507_456, 391)
    # convnext_large has 197,767,336 weights; its head and the norm before it are not kept.
    assert count(published.convnext()) == 197_767_336 - 1000 * 1537 - 2 * 1536
    assert count(published.eva()) == 985_894_528
    assert count(published.blip(), "Qformer.") == 105_137_664


@pytest.mark.parametrize("name", LLAVA)
def test_llava_has_the_published_tensors_under_each_of_its_layouts_names(name):
    text, width = LLAVA[name]
    newline = name == "llava-1.6-7b"
    shapes = ours(name)
    original = published.llava(text, width, newline=newline)
    assert_mapped(shapes, original, llava_fields.their_name, llava_fields.our_name)
    for names, nested in ((llava_hf.FLAT, False), (llava_hf.NESTED, True)):
        wanted = published.llava_hf(text, width, nested, newline=newline)
        to = functools.partial(llava_hf.their_name, names=names)
        assert_mapped(shapes, wanted, to, llava_hf.our_name)


@pytest.mark.parametrize("name", MGM)
def test_mini_gemini_has_the_published_tensors_under_their_names(name):
    text, width = MGM[name]
    wanted = published.mgm(text, width)
    assert_mapped(ours(name), wanted, mgm.their_name, lambda key: _mgm_name(key))


def _mgm_name(key: str) -> str:
    return mgm.our_name(key) or f"language.{key}"


@pytest.mark.parametrize("name", MINIGPT4)
def test_minigpt4_takes_from_its_four_files_what_it_has(name):
    text, width = MINIGPT4[name]
    # The files hold more: the original EVA's last block and head, BLIP-2's text side.
    eva = published.eva(blocks=40) | {"norm.weight": (1408,), "head.weight": (1000, 1408)}
    blip = published.blip() | {
        "t5_proj.weight": (4096, 768),
        "Qformer.cls.predictions.bias": (30523,),
        "Qformer.bert.embeddings.word_embeddings.weight": (30523, 768),
        "Qformer.bert.encoder.layer.3.intermediate.dense.weight": (3072, 768),
        "Qformer.bert.encoder.layer.3.output.LayerNorm.bias": (768,),
    }
    stage = {"llama_proj.weight": (width, 768), "llama_proj.bias": (width,)}
    found = published_state(_empty(eva), _empty(blip), 39)
    found |= connector_state(_empty(stage), "checkpoint_3.pth", width)
    shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    assert_same(ours(name), shapes | published.under("language.", text))
    assert len(shapes) == len(published.eva()) + len(published.blip()) + 2


def _empty(shapes: Shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_qwen_vl_has_the_published_tensors_under_torchs_and_paddles_names():
    decoder, shapes = published.qwen_decoder(), ours("qwen-vl-7b")
    head = {"lm_head.weight": (151936, 4096)}
    visual = published.qwen_vit() | published.qwen_pool()
    wanted = published.under("transformer.", decoder | published.under("visual.", visual)) | head
    assert_mapped(shapes, wanted, qwen_vl.their_name, qwen_vl.our_name)
    wanted = published.under("transformer.llm.", decoder) | head
    wanted |= published.under("visual.vit.", published.qwen_vit())
    wanted |= published.under("visual.", published.qwen_pool())
    assert_mapped(shapes, wanted, paddle.their_name, paddle.our_name)


def test_paddle_stores_products_as_inputs_by_outputs_and_nothing_else():
    stored = {
        name: shape[::-1] if paddle.LINEAR.search(name) else shape
        for name, shape in ((paddle.their_name(n), s) for n, s in ours("qwen-vl-7b").items())
    }
    assert stored["transformer.llm.h.0.attn.c_attn.weight"] == (4096, 12288)
    assert stored["transformer.llm.h.31.mlp.c_proj.weight"] == (11008, 4096)
    assert stored["visual.vit.transformer.resblocks.47.mlp.c_fc.weight"] == (1664, 8192)
    assert stored["visual.attn_pool.attn.in_proj_weight"] == (4096, 12288)
    assert stored["lm_head.weight"] == (4096, 151936)
    assert stored["visual.vit.positional_embedding"] == (256, 1664)
    assert stored["transformer.llm.wte.weight"] == (151936, 4096)
    turned = [name for name in stored if paddle.LINEAR.search(name)]
    # Five of a decoder's block, four of an encoder's, three of the resampler, the output layer.
    assert len(turned) == 32 * 5 + 48 * 4 + 3 + 1
    kept = ("visual.proj", "visual.attn_pool.query", "visual.attn_pool.pos_embed")
    assert not set(kept) & set(turned)


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("llava-1.5-7b", {
            "model.layers": 32 * 9, "model.vision_tower": 391, "model.mm_projector": 4,
            "model.embed_tokens": 1, "model.norm": 1, "lm_head": 1}),
        ("mgm-2b", {
            "model.layers": 18 * 9, "model.vision_tower": 391, "model.vision_tower_aux": 340,
            "model.mm_projector": 4, "model.vlm_uni_query_projector": 4,
            "model.vlm_uni_aux_projector": 4, "model.vlm_uni_val_projector": 4,
            "model.embed_tokens": 1, "model.norm": 1}),
        ("mgm-8x7b", {
            "model.layers": 32 * (4 + 2 + 1 + 24), "model.vision_tower": 391,
            "model.vision_tower_aux": 340, "model.mm_projector": 4,
            "model.vlm_uni_query_projector": 4, "model.vlm_uni_aux_projector": 4,
            "model.vlm_uni_val_projector": 4, "model.embed_tokens": 1, "model.norm": 1,
            "lm_head": 1}),
        ("qwen-vl-7b", {
            "transformer.wte": 1, "transformer.h": 32 * 8, "transformer.ln_f": 1,
            "transformer.visual": 4 + 48 * 12 + 14, "lm_head": 1}),
    ],
)  # fmt: skip
def test_so_many_tensors_stand_below_each_prefix(name, prefixes):
    layouts = {"llava": llava_fields, "mgm": mgm, "qwen": qwen_vl}
    layout = layouts[name.split("-")[0]]
    keys = [layout.their_name(key) for key in ours(name)]
    found = Counter(key.split(".")[0] if key.startswith("lm_head") else
                    ".".join(key.split(".")[:2]) for key in keys)  # fmt: skip
    assert dict(found) == prefixes


@pytest.mark.parametrize(
    ("name", "theirs", "shape"),
    [
        ("llava-1.5-7b", "model.mm_projector.0.weight", (4096, 1024)),
        ("llava-1.5-13b", "model.mm_projector.2.weight", (5120, 5120)),
        ("llava-1.6-7b", "model.image_newline", (4096,)),
        ("llava-internlm2-7b", "model.layers.31.self_attn.k_proj.weight", (1024, 4096)),
        ("llava-qwen2-0.5b", "model.layers.23.self_attn.v_proj.bias", (128,)),
        ("mgm-2b", "model.mm_projector.0.weight", (2048, 1024)),
        ("mgm-2b", "model.vlm_uni_query_projector.1.weight", (1024, 1024)),
        ("mgm-2b", "model.vlm_uni_aux_projector.0.bias", (2880,)),
        ("mgm-2b", "model.vlm_uni_aux_projector.1.weight", (1024, 2880)),
        ("mgm-2b", "model.vlm_uni_val_projector.1.weight", (1024, 2880)),
        ("mgm-2b", "model.layers.17.self_attn.q_proj.weight", (2048, 2048)),
        ("mgm-2b", "model.layers.17.self_attn.k_proj.weight", (256, 2048)),
        ("mgm-7b-hd", "model.vision_tower_aux.vision_stem.0.weight", (192, 3, 4, 4)),
        ("mgm-7b-hd", "model.vision_tower_aux.vision_stages.2.blocks.26.gamma", (768,)),
        ("mgm-7b-hd", "model.vision_tower_aux.vision_stages.3.downsample.1.weight",
         (1536, 768, 2, 2)),
        ("mgm-13b", "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
         (1024,)),
        ("mgm-34b", "model.layers.59.mlp.down_proj.weight", (7168, 20480)),
        ("mgm-8x7b", "model.layers.31.block_sparse_moe.experts.7.w2.weight", (4096, 14336)),
        ("qwen-vl-7b", "transformer.h.31.attn.c_attn.weight", (12288, 4096)),
        ("qwen-vl-7b", "transformer.h.31.attn.c_attn.bias", (12288,)),
        ("qwen-vl-7b", "transformer.visual.attn_pool.kv_proj.weight", (4096, 1664)),
        ("qwen-vl-7b", "transformer.visual.transformer.resblocks.47.attn.in_proj.weight",
         (4992, 1664)),
    ],
)  # fmt: skip
def test_tensors_that_users_know_are_there(name, theirs, shape):
    layout = {"llava": llava_fields, "mgm": mgm, "qwen": qwen_vl}[name.split("-")[0]]
    found = {layout.their_name(key): shape for key, shape in ours(name).items()}
    assert found[theirs] == shape


@pytest.mark.parametrize(
    ("name", "stage_1"),
    [
        ("llava-1.5-7b", 20_979_712), ("llava-1.5-13b", 31_467_520),
        ("mgm-2b", 13_259_008), ("mgm-7b", 27_943_168), ("mgm-7b-hd", 27_943_168),
        ("minigpt4-7b", 3_149_824), ("minigpt4-13b", 3_937_280),
    ],
)  # fmt: skip
def test_the_first_stage_trains_the_published_number_of_weights(name, stage_1):
    model = meta(name)
    names = freeze(model, model.stages["align"], PARTS, model.unused_parameters)
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    assert sum(sizes[key] for key in names) == stage_1
    if model.family == "mgm":
        theirs = {mgm.their_name(key).rsplit(".", 2)[0] for key in names}
        uni = {f"model.vlm_uni_{part}_projector" for part in ("query", "aux", "val")}
        assert theirs == {"model.mm_projector", *uni}


@pytest.mark.parametrize(
    ("name", "left"),
    [("llava-1.5-7b", "connector language"), ("mgm-2b", "connector language"),
     ("minigpt4-7b", "connector"), ("qwen-vl-7b", "connector language")],
)  # fmt: skip
def test_the_second_stage_trains_whole_parts_and_no_encoder(name, left):
    model = meta(name)
    names = freeze(model, model.stages["instruct"], PARTS, model.unused_parameters)
    assert {key.split(".")[0] for key in names} == set(left.split())
    if name == "qwen-vl-7b":  # its finetune.py keeps all of `visual` but the resampler
        assert all(key.startswith(("language.", "connector.attn_pool.")) for key in names)
    else:
        mine = {key for key, _ in model.named_parameters() if key.split(".")[0] in left}
        assert set(names) == mine


def lora_weights(model: nn.Module, rank: int, is_target: Callable[[str], bool]) -> tuple[int, set]:
    """Weights that a LoRA of a rank adds, and the parts that it reaches."""
    total, parts = 0, set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_target(name):
            total += rank * (module.in_features + module.out_features)
            parts.add(name.split(".")[0])
    return total, parts


def test_the_ad_captions_lora_has_its_published_number_of_weights():
    targets = (".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*")

    def is_target(name: str) -> bool:
        return any(re.fullmatch(target, paddle.their_name(name)) for target in targets)

    found = lora_weights(meta("qwen-vl-7b"), 64, is_target)
    assert found == (112_197_632, {"language"})


@pytest.mark.parametrize(
    ("name", "rank", "weights"),
    [("llava-1.5-7b", 128, 319_815_680), ("llava-1.5-13b", 128, 500_695_040)],
)
def test_llavas_lora_has_its_published_number_of_weights(name, rank, weights):
    targets = {f"{side}_proj" for side in ("q", "k", "v", "o", "gate", "up", "down")}

    def is_target(module: str) -> bool:
        return module.startswith("language.") and module.rsplit(".", 1)[-1] in targets

    assert lora_weights(meta(name), rank, is_target) == (weights, {"language"})


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("llava-1.5-7b", 576), ("mgm-2b", 576), ("mgm-7b-hd", 2880), ("minigpt4-13b", 32),
     ("qwen-vl-7b", 256)],
)  # fmt: skip
def test_a_picture_takes_the_published_number_of_tokens(name, tokens):
    assert meta(name).image_tokens == tokens


def test_a_list_that_differs_is_noticed():
    shapes = published.projector(8)
    assert_same(shapes, dict(shapes))
    for other in (shapes | {"4.bias": (8,)}, shapes | {"0.bias": (9,)}, {}):
        with pytest.raises(AssertionError):
            assert_same(shapes, other)
