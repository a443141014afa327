"""Published sizes on the meta device: names and counts as in the files of the hub."""

import pytest
from transformers import LlamaConfig, MistralConfig

from vlforge.checkpoints.checkpoint import expected
from vlforge.checkpoints.llava_fields import their_name
from vlforge.checkpoints.llava_hf import FLAT, our_name
from vlforge.checkpoints.llava_hf import their_name as flat_name
from vlforge.checkpoints.towers import known_config, known_name
from vlforge.models.llava import LlavaConfig

VICUNA = {
    "7b": LlamaConfig(),
    "13b": LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    ),
}
MISTRAL = MistralConfig(vocab_size=32064, sliding_window=None)


def model(text, **config):
    vision = known_config("openai/clip-vit-large-patch14-336")
    return LlavaConfig(vision_config=vision, text_config=text, **config)


def size(shapes, part=""):
    total = 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        total += count if name.startswith(part) else 0
    return total


@pytest.mark.parametrize(
    ("name", "tensors", "language", "connector"),
    [("7b", 686, 6_738_415_616, 20_979_712), ("13b", 758, 13_015_864_320, 31_467_520)],
)
def test_llava_15_has_the_published_tensors(name, tensors, language, connector):
    shapes = expected(model(VICUNA[name], image_aspect_ratio="pad"))
    assert len(shapes) == tensors
    assert size(shapes, "language.") == language
    assert size(shapes, "connector.") == connector
    assert size(shapes, "vision.") == 303_507_456
    theirs = {their_name(key): shape for key, shape in shapes.items()}
    width = VICUNA[name].hidden_size
    assert theirs["model.mm_projector.0.weight"] == (width, 1024)
    assert theirs["model.mm_projector.2.bias"] == (width,)
    tower = "model.vision_tower.vision_tower.vision_model."
    assert theirs[f"{tower}embeddings.position_embedding.weight"] == (577, 1024)
    assert f"{tower}encoder.layers.23.mlp.fc2.bias" in theirs
    assert theirs["lm_head.weight"] == (32000, width)


def test_llava_16_has_the_newline_and_its_names_go_there_and_back():
    config = model(MISTRAL, image_aspect_ratio="anyres", patch_merge="spatial_unpad")
    shapes = expected(config)
    assert shapes["image_newline"] == (4096,)
    for name in shapes:
        assert our_name(flat_name(name, FLAT)) == name
    assert config.tiling.tokens((672, 672)) == 576 + 48 * 49
    assert config.tiling.tokens((1000, 700)) == 576 + 34 * 49
    assert known_name(config.vision_config) == "openai/clip-vit-large-patch14-336"
