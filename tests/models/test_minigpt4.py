"""MiniGPT-4's model: tower against a plain restatement and transformers' BLIP-2, files, sizes."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    LlamaConfig,
)

from tests.drift import drift
from tests.inference.tiny import tiny_tokenizer
from tests.models.plain_minigpt4 import EVA, QFORMER, plain_vision, published, tiny
from vlforge.checkpoints.checkpoint import expected
from vlforge.models.config import ModelSpec
from vlforge.models.encoding import encode_sample
from vlforge.models.minigpt4 import Minigpt4Config, Minigpt4Model
from vlforge.models.parts.eva_vit import EvaVitConfig, eva_sizes, fit_positions
from vlforge.models.parts.qformer import QFormerConfig, our_name, published_name, qformer_sizes
from vlforge.text.templates import find_template
from vlforge.training.freezing import freeze
from vlforge.types import IMAGE_INDEX, ModelError, Sample, Turn

SIDE = EVA["image_size"]


def pictures(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_tower_equals_the_published_order():
    model = tiny().double()
    assert drift(model.vision, lambda p: plain_vision(model, p), pictures().double()) < 1e-12


def test_weights_get_the_published_orders_gradients():
    model = tiny().double()
    gradients = []
    for tower in (model.vision, lambda pixels: plain_vision(model, pixels)):
        model.zero_grad()
        tower(pictures().double()).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.vision.named_parameters()})
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], atol=1e-9, rtol=1e-9)
    # A bias on keys shifts all scores of a query alike and gets none.
    moved = {name for name, grad in gradients[0].items() if grad.abs().max() > 1e-9}
    assert moved == {name for name in gradients[0] if not name.endswith("key.bias")}


def blip2_vision(model: Minigpt4Model) -> Blip2VisionModel:
    """transformers' encoder with the same weights."""
    config = Blip2VisionConfig(**EVA, layer_norm_eps=1e-6, hidden_act="gelu", qkv_bias=True)
    other = Blip2VisionModel(config).eval()
    state = {}
    for name, tensor in published(model)["eva"].items():
        for mine, theirs in (
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding"),
            ("patch_embed.proj", "embeddings.patch_embedding"),
            ("blocks.", "encoder.layers."),
            (".norm1", ".layer_norm1"),
            (".norm2", ".layer_norm2"),
            (".attn.proj", ".self_attn.projection"),
            (".attn.", ".self_attn."),
        ):
            name = name.replace(mine, theirs)
        state[name] = tensor
    for name in [name for name in state if name.endswith("q_bias")]:
        query, value = state.pop(name), state.pop(name.replace("q_bias", "v_bias"))
        state[name.replace("q_bias", "qkv.bias")] = torch.cat([query, query * 0, value])
    blip = published(model)["blip"]
    state |= {f"post_layernorm.{part}": blip[f"ln_vision.{part}"] for part in ("weight", "bias")}
    other.load_state_dict(state)
    other.post_layernorm.eps = 1e-5
    return other


def blip2_qformer(model: Minigpt4Model) -> Blip2QFormerModel:
    """transformers' Q-Former with the same weights."""
    sizes = {key: value for key, value in QFORMER.items() if key != "query_tokens"}
    other = Blip2QFormerModel(Blip2QFormerConfig(**sizes)).eval()
    state = {}
    for name, tensor in published(model)["blip"].items():
        if name.startswith("Qformer."):
            name = name.removeprefix("Qformer.bert.").replace("embeddings.LayerNorm", "layernorm")
            name = name.replace("attention.self.", "attention.attention.")
            state[name] = tensor
    other.load_state_dict(state)
    return other


def test_tower_equals_transformers_blip2():
    model = tiny()
    with torch.no_grad():
        seen = blip2_vision(model)(pictures()).last_hidden_state
        queries = model.vision.qformer.query_tokens.expand(len(seen), -1, -1)
        wanted = blip2_qformer(model)(queries, encoder_hidden_states=seen).last_hidden_state
        torch.testing.assert_close(model.vision(pictures()), wanted, atol=1e-5, rtol=0)


def test_names_of_the_qformer_go_both_ways():
    names = [n.removeprefix("vision.qformer.") for n in expected(tiny().config) if ".qformer." in n]
    assert len(names) > 40
    assert [our_name(published_name(name)) for name in names] == names
    assert our_name("Qformer.bert.encoder.layer.0.intermediate.dense.weight") is None
    assert our_name("Qformer.bert.encoder.layer.0.output.dense.weight") is None


def test_sizes_are_told_by_shapes():
    files = published(tiny())
    shapes = {
        part: {name: tuple(tensor.shape) for name, tensor in files[part].items()}
        for part in ("eva", "blip")
    }
    found = EvaVitConfig(**eva_sizes(shapes["eva"], heads=2))
    assert {key: getattr(found, key) for key in EVA} == EVA
    found = QFormerConfig(**qformer_sizes(shapes["blip"], heads=3))
    assert {key: getattr(found, key) for key in QFORMER} == QFORMER
    assert found.cross_attention_frequency == 2
    with pytest.raises(ModelError, match="width 16 does not tell how many heads"):
        eva_sizes(shapes["eva"])
    with pytest.raises(ModelError, match="not those of an EVA-ViT"):
        eva_sizes(shapes["blip"])


def test_blocks_beyond_the_published_depth_are_not_run():
    shapes = {"pos_embed": (1, 257, 1408), "patch_embed.proj.weight": (1408, 3, 14, 14)}
    shapes |= {f"blocks.{n}.mlp.fc1.weight": (6144, 1408) for n in range(40)}
    assert eva_sizes(shapes) == {
        "image_size": 224, "patch_size": 14, "hidden_size": 1408, "intermediate_size": 6144,
        "num_hidden_layers": 39, "num_attention_heads": 16,
    }  # fmt: skip


def test_positions_are_interpolated_once_and_the_first_token_kept():
    table = torch.randn(1, 1 + 16, 6)
    assert fit_positions(table, 4) is table
    smaller = fit_positions(table, 3)
    assert torch.equal(smaller[:, 0], table[:, 0])
    image = table[0, 1:].T.reshape(1, 6, 4, 4)
    wanted = torch.nn.functional.interpolate(image, (3, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close(smaller[0, 1:], wanted[0].flatten(1).T)


def test_published_precision_halves_products_only():
    model = tiny()
    whole = model.vision(pictures())
    model.vision.eva.halve()
    halved = {n for n, p in model.vision.named_parameters() if p.dtype == torch.float16}
    products = (".qkv.", ".proj.", ".fc1.", ".fc2.")
    wanted = {n for n, _ in model.vision.named_parameters() if "eva" in n
              and any(part in n for part in products)}  # fmt: skip
    assert halved == wanted
    mixed = model.vision(pictures())
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - whole).abs().max() < 0.05


def test_half_precision_throughout_runs():
    model = tiny()
    whole = model.vision(pictures())
    model.vision.to(torch.bfloat16)
    found = model.vision(pictures())
    assert found.dtype == torch.bfloat16
    assert (found.float() - whole).abs().max() < 0.5


@pytest.mark.parametrize(("width", "layers", "inner", "wanted"),
    [(4096, 32, 11008, 3_149_824), (5120, 40, 13824, 3_937_280)], ids=["7B", "13B"])  # fmt: skip
def test_real_sizes_have_the_published_names_and_counts(width, layers, inner, wanted):
    text = LlamaConfig(
        vocab_size=32001, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=width // 128,
    )  # fmt: skip
    config = Minigpt4Config(
        vision_config=EvaVitConfig(), qformer_config=QFormerConfig(), text_config=text
    )
    shapes = expected(config)

    def count(part: str) -> int:
        sizes = (torch.Size(s).numel() for n, s in shapes.items() if n.startswith(part + "."))
        return sum(sizes)

    assert count("connector") == wanted
    block = 4 * 1408**2 + 3 * 1408 + 2 * 1408 * 6144 + 6144 + 1408 + 4 * 1408
    assert count("vision.eva") == 39 * block + 258 * 1408 + (3 * 14 * 14 + 1) * 1408
    assert shapes["vision.eva.pos_embed"] == (1, 257, 1408)
    assert shapes["vision.eva.blocks.38.attn.qkv.weight"] == (4224, 1408)
    assert shapes["vision.qformer.query_tokens"] == (1, 32, 768)
    assert shapes["vision.qformer.layers.10.cross.key.weight"] == (768, 1408)
    assert "vision.qformer.layers.11.cross.key.weight" not in shapes
    assert shapes["language.model.embed_tokens.weight"] == (32001, width)


def test_both_stages_train_the_linear_layer_alone():
    model = tiny()
    for train in Minigpt4Model.stages.values():
        names = freeze(model, train, ("vision", "connector", "language"))
        assert names == ["connector.weight", "connector.bias"]


def test_frozen_qformer_draws_no_dropout_and_a_trained_one_does():
    model = tiny()
    freeze(model, ("connector",), ("vision", "connector", "language"))
    assert torch.equal(model.vision(pictures()), model.vision(pictures()))
    freeze(model, ("vision",), ("vision", "connector", "language"))
    assert not torch.equal(model.vision(pictures()), model.vision(pictures()))


def test_checkpointed_blocks_give_the_same_gradients():
    model = tiny()
    gradients = []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model.vision.eva.train()
        model.vision(pictures()).sum().backward()
        gradients.append([p.grad.clone() for p in model.vision.eva.parameters()])
    assert model.vision.eva.blocks[0].gradient_checkpointing
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_picture_is_the_same_alone_and_in_a_batch():
    model = tiny()
    together = model.encode_images(pictures())
    alone = torch.cat([model.encode_images(one[None]) for one in pictures()])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.shape == (3, model.image_tokens, 16)


def test_rows_are_spliced_and_answered():
    model = tiny()
    ids = torch.tensor([[1, 5, IMAGE_INDEX, 6, 7], [1, IMAGE_INDEX, 9, 4, 3]])
    made = model.splice(ids, pictures(2))
    assert made.embeds.shape == (2, 4 + QFORMER["query_tokens"], 16)
    new = model.generate(ids, pictures(2), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert new.shape == (2, 3)


def written(folder, model):
    """The published files of a model, as its users have them."""
    files = {
        part: {name: tensor.detach() for name, tensor in tensors.items()}
        for part, tensors in published(model).items()
    }
    torch.save(files["eva"] | {"head.weight": torch.ones(2)}, folder / "eva_vit_g.pth")
    torch.save({"model": files["blip"]}, folder / "blip2_pretrained_flant5xxl.pth")
    torch.save({"model": files["stage"]}, folder / "checkpoint_3.pth")
    told = {"vision_heads": EVA["num_attention_heads"], "qformer_heads": 3}
    (folder / "minigpt4.json").write_text(json.dumps(told))
    return ModelSpec(
        family="minigpt4",
        vision=str(folder / "eva_vit_g.pth"),
        qformer=str(folder / "blip2_pretrained_flant5xxl.pth"),
        language="",
        connector_weights=str(folder / "checkpoint_3.pth"),
    )


def test_a_recipe_assembles_it_from_the_published_files(tmp_path):
    model = tiny()
    spec = written(tmp_path, model)
    again = Minigpt4Model.assemble(spec, model.language, None).eval()
    with torch.no_grad():
        assert torch.equal(again.encode_images(pictures()), model.encode_images(pictures()))
    assert again.config.image_aspect_ratio == "stretch"


def test_a_recipe_with_wrong_files_gets_one_line(tmp_path):
    model = tiny()
    spec = written(tmp_path, model)
    other = tiny(hidden_size=32).language
    with pytest.raises(ModelError, match="trained for a language model 16 wide and this one is 32"):
        Minigpt4Model.assemble(spec, other, None)
    blip = torch.load(spec.qformer)["model"]
    blip.pop("ln_vision.weight")
    torch.save({"model": blip}, spec.qformer)
    with pytest.raises(ModelError, match="lack 1 weights, the first is vision"):
        Minigpt4Model.assemble(spec, model.language, None)
    torch.save({"model": {"other": torch.ones(1)}}, spec.connector_weights)
    with pytest.raises(ModelError, match="holds no llama_proj"):
        Minigpt4Model.assemble(spec, model.language, None)


def test_an_encoder_and_a_qformer_that_do_not_fit_are_refused():
    qformer = QFormerConfig(**(QFORMER | {"encoder_hidden_size": 20}))
    config = Minigpt4Config(
        vision_config=EvaVitConfig(**EVA), qformer_config=qformer,
        text_config=LlamaConfig(hidden_size=16, num_attention_heads=2),
    )  # fmt: skip
    with pytest.raises(ModelError, match="reads tokens 20 wide and the encoder's are 16"):
        Minigpt4Model(config)


@pytest.mark.parametrize("template", ["minigpt4_pretrain", "minigpt4"])
def test_its_limit_counts_the_caption_and_leaves_the_picture_whole(template):
    turns = (Turn("user", "<image>"), Turn("assistant", "the red cat sits on grass"))
    row = encode_sample(
        Sample("1", ("cat.jpg",), turns), find_template(template), tiny_tokenizer(),
        image_tokens=32, max_length=4, compat="minigpt4",
    )  # fmt: skip
    assert (len(row.images), row.lost_images) == (1, 0)
    ((start, end),) = row.image_spans
    assert end - start == 32
    assert [label for label in row.labels if label != -100] == row.ids[-4:]
    assert row.length == len(row.ids) + 31 > 36
    assert row.whole > row.length
