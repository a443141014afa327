import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.checkpoints import tiny_llava as tiny
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.checkpoints.languages import read_language
from vlforge.types import ModelError

TILES = {
    "image_aspect_ratio": "anyres",
    "patch_merge": "spatial_unpad",
    "image_grid_pinpoints": [(8, 16), (16, 8), (16, 16)],
}
MODELS = {
    **{name: (name, "clip", {}) for name in tiny.LANGUAGES},
    "linear": ("llama", "clip", {"connector": "linear"}),
    "mlp3x": ("llama", "clip", {"connector": "mlp3x_gelu", "select_feature": "cls_patch"}),
    "padded": ("llama", "clip", {"image_aspect_ratio": "pad"}),
    "tiles": ("llama", "clip", TILES),
    "flat tiles": ("mistral", "clip", TILES | {"patch_merge": "flat"}),
    "at most two tiles": ("qwen2", "siglip", TILES | {"max_tiles": 2}),
    "siglip": ("qwen2", "siglip", {}),
}


def written(tmp_path, name="llama", layout="llava", **writing):
    language, tower, config = MODELS[name]
    source = tiny.checkpoint(tmp_path / "ours", tiny.model(language, tower, **config))
    out = tmp_path / layout
    out.mkdir()
    find(layout).write(source, out, Writing(**writing))
    return source, out


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_by_bit(tmp_path, name):
    source, out = written(tmp_path, name)
    found = read_checkpoint(out)
    assert found.layout == "llava"
    found.check()
    tiny.same_weights(found, source)
    assert found.template == source.template
    assert found.processor == source.processor
    ours, theirs = found.config.to_dict(), source.config.to_dict()
    for key in ("connector", "select_layer", "select_feature", "image_aspect_ratio", "max_tiles",
                "patch_merge"):  # fmt: skip
        assert ours.get(key) == theirs.get(key), key
    pixels = torch.randn(found.config.tiling.tiles((9, 16)) if found.config.tiling else 1, 3, 8, 8)
    sizes = [(9, 16)]
    wanted = tiny.logits(source.build(), pixels, sizes)
    torch.testing.assert_close(tiny.logits(found.build(), pixels, sizes), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("how", [{"kind": "bin"}, {"shard_bytes": 4000}])
def test_pickles_and_shards_are_read_as_well(tmp_path, how):
    source, out = written(tmp_path, **how)
    assert not (out / "model.safetensors").exists()
    tiny.same_weights(read_checkpoint(out), source)


def test_names_and_settings_are_llavas(tmp_path):
    _, out = written(tmp_path, "tiles")
    with safe_open(out / "model.safetensors", "pt") as opened:
        names = set(opened.keys())
    assert {"model.mm_projector.0.weight", "model.image_newline", "lm_head.weight"} <= names
    fields = json.loads((out / "config.json").read_text())
    assert fields["model_type"] == "llava_llama"
    assert fields["architectures"] == ["LlavaLlamaForCausalLM"]
    assert fields["image_grid_pinpoints"] == [[8, 16], [16, 8], [16, 16]]
    assert fields["rope_theta"] == 10000.0
    assert (out / "vision_tower" / "preprocessor_config.json").is_file()


def test_a_known_encoder_needs_no_folder(tmp_path, monkeypatch):
    from vlforge.checkpoints import towers

    monkeypatch.setitem(towers.KNOWN, "some/tiny-clip", tiny.TOWERS["clip"]().to_dict())
    source, out = written(tmp_path)
    assert not (out / "vision_tower").exists()
    fields = json.loads((out / "config.json").read_text())
    assert fields["mm_vision_tower"] == "some/tiny-clip"
    assert fields["unfreeze_mm_vision_tower"]
    tiny.same_weights(read_checkpoint(out), source)


def test_an_encoder_that_is_nowhere_is_asked_for(tmp_path):
    _, out = written(tmp_path)
    shutil.move(out / "vision_tower", tmp_path / "tower")
    with pytest.raises(ModelError, match=r"'vision_tower' out; name its folder with --vision"):
        read_checkpoint(out)
    read_checkpoint(out, Parts(vision=tmp_path / "tower")).check()


def test_siglip_without_its_last_layer_and_head_is_whole(tmp_path):
    source, out = written(tmp_path, "siglip")
    wanted = tiny.logits(source.build(), torch.ones(1, 3, 8, 8))
    file = out / "vision_tower" / "model.safetensors"
    tensors = load_file(file)
    kept = {k: v for k, v in tensors.items() if ".layers.2." not in k and ".head." not in k}
    assert len(kept) < len(tensors)
    inside = {f"model.vision_tower.vision_tower.{key}": value for key, value in kept.items()}
    save_file(load_file(out / "model.safetensors") | inside, out / "model.safetensors")
    file.unlink()
    found = read_checkpoint(out)
    found.check()
    assert torch.equal(tiny.logits(found.build(), torch.ones(1, 3, 8, 8)), wanted)


@pytest.mark.parametrize(
    ("pinpoints", "count"),
    [("[(8, 16), (16, 8)]", 2), ("(1x1),...,(2x3)", 6), ([[8, 8]], 1)],
)
def test_pinpoints_of_every_form_are_read(tmp_path, pinpoints, count):
    _, out = written(tmp_path, "tiles")
    change_config(out, image_grid_pinpoints=pinpoints)
    assert len(read_checkpoint(out).config.image_grid_pinpoints) == count


def test_pictures_between_tokens_are_told_by_the_template(tmp_path):
    _, out = written(tmp_path)
    (out / "vlforge.json").unlink()
    change_config(out, mm_use_im_start_end=True)
    found = read_checkpoint(out)
    assert found.template == "v1+im_start_end"
    again = tmp_path / "again"
    again.mkdir()
    find("llava").write(found, again, Writing())
    assert json.loads((again / "config.json").read_text())["mm_use_im_start_end"]
    assert read_checkpoint(again).template == "v1+im_start_end"


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"s2": True}, "S2"),
        ({"image_grid_pinpoints": [[8, 12]]}, r"\[8, 12\] is no whole number of 8-pixel tiles"),
        ({"image_grid_pinpoints": "none"}, "no pairs"),
        ({"mm_projector_type": "qformer"}, "connector 'qformer' is unknown"),
        ({"model_type": "llava_nonesuch"}, "'nonesuch' is not known"),
        ({"hidden_size": 32}, "do not belong together"),
        ({"num_hidden_layers": 3}, "weights are missing"),
        ({"num_hidden_layers": 1}, "weights have no place"),
        ({"mm_vision_select_feature": "cls_patch"}, "cls_patch does not go with"),
        ({"image_aspect_ratio": "anyres_9"}, "'anyres_9' is unknown"),
    ],
)
def test_what_is_not_supported_or_does_not_fit_is_said_in_one_line(tmp_path, fields, words):
    _, out = written(tmp_path, "tiles")
    change_config(out, **fields)
    with pytest.raises(ModelError, match=words) as error:
        read_checkpoint(out).check()
    assert "\n" not in str(error.value)


class Evil:
    """A pickle that would run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def ruin(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-40])
        return
    file.unlink()
    torch.save({"a": Evil()}, folder / "pytorch_model.bin", pickle_module=pickle)


def test_damaged_and_malicious_files_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for how, words in (("truncated", "cannot be read"), ("malicious", r"asks for \w+\.system")):
        _, out = written(tmp_path / how)
        ruin(out, how)
        with pytest.raises(ModelError, match=words) as error:
            read_checkpoint(out).check()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_shard_is_named(tmp_path):
    _, out = written(tmp_path, shard_bytes=4000)
    sorted(out.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(ModelError, match="lacks its shard model-00002"):
        read_checkpoint(out)


def test_a_malicious_file_by_itself_says_what_it_asked_for(tmp_path):
    torch.save({"a": Evil()}, tmp_path / "mm_projector.bin", pickle_module=pickle)
    with pytest.raises(ModelError, match="nothing of it was run"):
        detect(tmp_path / "mm_projector.bin")


def language_folder(tmp_path, source):
    """The language model of a checkpoint as a folder of its own."""
    folder = tmp_path / "words"
    source.build().language.save_pretrained(folder)
    for file in source.tokenizer.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def test_a_connector_alone_comes_back_with_its_base(tmp_path):
    source, out = written(tmp_path, "mlp3x", "llava_projector")
    assert detect(out).name == detect(out / "mm_projector.bin").name == "llava_projector"
    names = torch.load(out / "mm_projector.bin", weights_only=True)
    assert all(name.startswith("model.mm_projector.") for name in names)
    assert len(names) == 6
    words, tower = language_folder(tmp_path, source), tmp_path / "tower"
    source.build().vision.tower.save_pretrained(tower)
    with pytest.raises(ModelError, match="name its folder with --base"):
        read_checkpoint(out)
    parts = Parts(base=words, vision=tower)
    found = read_checkpoint(out, parts)
    found.check()
    tiny.same_weights(found, source)
    steps = tmp_path / "mm_projector"
    steps.mkdir()
    shutil.copy(out / "mm_projector.bin", steps / "checkpoint-24.bin")
    alone = read_checkpoint(steps / "checkpoint-24.bin", parts)
    assert alone.config.connector == "mlp3x_gelu"  # told by its tensors, without config.json
    assert set(alone.weights) == set(source.weights)


def test_a_connector_of_another_size_is_refused(tmp_path):
    source, out = written(tmp_path, "llama", "llava_projector")
    file = out / "mm_projector.bin"
    tensors = torch.load(file, weights_only=True)
    tensors["model.mm_projector.0.weight"] = torch.zeros(16, 13)
    torch.save(tensors, file)
    base = language_folder(tmp_path, source)
    source.build().vision.tower.save_pretrained(tmp_path / "tower")
    parts = Parts(base=base, vision=tmp_path / "tower")
    with pytest.raises(ModelError, match=r"mm_projector\.0\.weight has shape \[16, 13\]"):
        read_checkpoint(out, parts).check()


def test_another_projects_configuration_is_no_llava(tmp_path):
    _, out = written(tmp_path)
    change_config(out, model_type="bert")
    with pytest.raises(ModelError, match="in no layout known here"):
        detect(out)


def test_a_language_model_is_read_by_itself(tmp_path):
    source, _ = written(tmp_path)
    found = read_language(language_folder(tmp_path, source))
    assert all(name.startswith("language.") for name in found.weights)
    with pytest.raises(ModelError, match="no language model at"):
        read_language(tmp_path / "nowhere")
