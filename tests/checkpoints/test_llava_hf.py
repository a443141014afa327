import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.checkpoints import tiny_llava as tiny
from tests.inference.tiny import picture
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.checkpoints.llava_hf_files import Vocabulary
from vlforge.inference.load import load_model
from vlforge.miniatures.parts.llama import write_vicuna
from vlforge.models.reading import read_tokenizer
from vlforge.text.render import render
from vlforge.text.templates import find_template
from vlforge.text.two_tokenizers import with_dialect
from vlforge.types import ModelError, Turn

TILES = {
    "image_aspect_ratio": "anyres",
    "patch_merge": "spatial_unpad",
    "image_grid_pinpoints": [(8, 16), (16, 8), (16, 16), (24, 8)],
}
MODELS = {
    **{name: (name, "clip", {}) for name in tiny.LANGUAGES if name not in ("phi", "gemma")},
    "padded": ("llama", "clip", {"image_aspect_ratio": "pad"}),
    "all patches": ("llama", "clip", {"select_feature": "cls_patch", "select_layer": -1}),
    "siglip": ("qwen2", "siglip", {}),
    "tiles": ("llama", "clip", TILES),
    "tiles of mistral": ("mistral", "clip", TILES),
}


def exported(tmp_path, name="llama", layout="llava_hf", **writing):
    language, tower, config = MODELS[name]
    made = tiny.model(language, tower, **config)
    source = tiny.checkpoint(tmp_path / "ours", made)
    out = tmp_path / layout
    out.mkdir()
    find(layout).write(source, out, Writing(**writing))
    return made, source, out


def opened_by_transformers(out):
    theirs, info = AutoModelForImageTextToText.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return theirs.eval(), AutoProcessor.from_pretrained(out)


@pytest.mark.parametrize("layout", ["llava_hf", "llava_hf_nested"])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_gives_the_same_pixels_and_logits(tmp_path, name, layout):
    made, source, out = exported(tmp_path, name, layout)
    theirs, processor = opened_by_transformers(out)
    image = picture(3, (37, 23))
    inputs = processor(images=image, text="the <image> cat stands", return_tensors="pt")
    fitted = torch.tensor(source.processor.fit(image))
    pixels = source.processor.normalise(fitted.reshape(-1, *fitted.shape[-3:]))
    given = inputs["pixel_values"].reshape(pixels.shape)
    torch.testing.assert_close(pixels, given, atol=1e-5, rtol=0)
    image_id = theirs.config.image_token_id
    counted = int((inputs["input_ids"] == image_id).sum())
    assert counted == made.count([image.size])[0]
    # In our rows the picture's tokens are one -200.
    words = re.sub(f"({image_id} )+", "-200 ", " ".join(map(str, inputs["input_ids"][0].tolist())))
    row = torch.tensor([[int(word) for word in words.split()]])
    with torch.no_grad():
        wanted = theirs(**inputs).logits[0]
        found = made(row, pixels, sizes=[image.size]).logits[0]
    assert wanted.shape[0] == found.shape[0]
    torch.testing.assert_close(wanted[:, : found.shape[1]], found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["llava_hf", "llava_hf_nested"])
@pytest.mark.parametrize("name", ["llama", "tied", "mixtral", "tiles", "siglip"])
def test_a_folder_is_known_read_and_written_again_bit_by_bit(tmp_path, name, layout):
    _, source, out = exported(tmp_path, name, layout)
    assert detect(out).name == layout
    once = read_checkpoint(out)
    once.check()
    assert once.unused == ()
    again = tmp_path / "again"
    again.mkdir()
    find(layout).write(once, again, Writing())
    tiny.same_weights(read_checkpoint(again), once)
    assert (again / "config.json").read_text() == (out / "config.json").read_text()
    for weight, lazy in source.weights.items():
        assert torch.equal(once.weights[weight].read()[: lazy.shape[0]], lazy.read()), weight


def test_names_are_those_of_the_versions(tmp_path):
    for layout, marks in (
        ("llava_hf", {"language_model.model.norm.weight", "vision_tower.vision_model.embeddings."
                      "class_embedding", "multi_modal_projector.linear_2.bias"}),
        ("llava_hf_nested", {"model.language_model.norm.weight", "lm_head.weight"}),
    ):  # fmt: skip
        _, _, out = exported(tmp_path / layout, "llama", layout)
        with safe_open(out / "model.safetensors", "pt") as opened:
            assert marks <= set(opened.keys())


def test_what_transformers_saves_is_read(tmp_path):
    _, _, out = exported(tmp_path, "llama")
    theirs, _ = opened_by_transformers(out)
    theirs.save_pretrained(tmp_path / "saved")
    found = read_checkpoint(tmp_path / "saved")
    found.check()
    tiny.same_weights(found, read_checkpoint(out))


def test_the_vocabulary_grows_by_the_mean_and_in_the_same_way_each_time(tmp_path):
    _, _, out = exported(tmp_path, "llama")
    config = json.loads((out / "config.json").read_text())
    assert (config["image_token_index"], config["text_config"]["vocab_size"]) == (18, 64)
    tokenizer = read_tokenizer(out)
    assert tokenizer.convert_tokens_to_ids("<image>") == 18
    assert tokenizer.pad_token_id == 0  # it had one of its own
    table = read_checkpoint(out).weights["language.model.embed_tokens.weight"].read()
    torch.testing.assert_close(table[18], table[:18].mean(0))
    assert torch.equal(table[18], table[63])
    _, _, again = exported(tmp_path / "again", "llama")
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_model_that_trained_with_the_slow_tokenizers_ids_is_written_too(tmp_path):
    write_vicuna(tmp_path / "vicuna", seed=0)
    slow = with_dialect(read_tokenizer(tmp_path / "vicuna"), tmp_path / "vicuna", "slow")
    slow.save_pretrained(tmp_path / "trained")
    rows = len(slow)
    made = tiny.checkpoint(tmp_path / "ours", tiny.model())
    checkpoint = replace(made, tokenizer=tmp_path / "trained", dialect="slow")
    checkpoint.config.text_config.vocab_size = rows
    found = Vocabulary.of(checkpoint, Writing())
    assert (found.image, found.pad, found.added) == (rows, rows + 1, ("<image>", "<pad>"))
    assert found.tokenizer.pad_token_id == found.pad


def test_the_chat_template_is_the_one_of_training(tmp_path):
    _, _, out = exported(tmp_path, "llama")
    _, processor = opened_by_transformers(out)
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "what is red ?"}],
    }
    found = processor.apply_chat_template([message], add_generation_prompt=True)
    turns = (Turn("user", "<image>\nwhat is red ?"),)
    assert found == render(find_template("v1"), turns, generation=True).text
    assert json.loads((out / "chat_template.json").read_text())["chat_template"]


def test_the_folders_own_template_asks_where_it_was_fitted(tmp_path):
    _, _, out = exported(tmp_path, "llama")
    assert load_model(out, "cpu").template is None
    assert load_model(out, "cpu", template="v1").template.name == "v1"


def test_the_tokenizer_is_told_in_words_of_transformers_4_too(tmp_path):
    _, _, out = exported(tmp_path, "llama")
    fields = json.loads((out / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(fields.get("extra_special_tokens"), list)
    assert "rope_parameters" not in (out / "config.json").read_text()


def test_a_model_that_transformers_cannot_hold_is_refused(tmp_path):
    for number, (config, words) in enumerate(
        [
            ({"connector": "linear"}, "a connector mlp2x_gelu"),
            ({"connector": "mlp3x_gelu"}, "a connector mlp2x_gelu"),
            ({"image_aspect_ratio": "anyres", "patch_merge": "flat"}, "spatial_unpad"),
            ({"language": "phi"}, "without bias"),
            ({"language": "gemma"}, "scale picture tokens differently"),
        ]
    ):
        source = tiny.checkpoint(tmp_path / str(number), tiny.model(**config))
        with pytest.raises(ModelError, match=words):
            find("llava_hf").write(source, tmp_path, Writing())


def test_a_precision_is_that_of_every_weight_and_of_the_configuration(tmp_path):
    _, _, out = exported(tmp_path, "llama", dtype=torch.bfloat16)
    dtypes = {lazy.dtype for lazy in read_checkpoint(out).weights.values()}
    assert dtypes == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
