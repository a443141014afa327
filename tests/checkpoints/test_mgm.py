import json
import pickle

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_mgm import mgm, write_towers
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.index import detect, read_checkpoint
from vlforge.checkpoints.mgm import MgmLayout, MgmProjectorLayout, their_name
from vlforge.checkpoints.weights import Lazy, open_weights, write_weights
from vlforge.models.mgm import our_name
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.text.templates import find_template
from vlforge.types import ModelError

KINDS = ["llama", "gemma", "mistral", "mixtral"]


def checkpoint(folder, kind="llama", **changes) -> Checkpoint:
    """A tiny model as a checkpoint, its weights under the names of files."""
    how = {"image_grid": 2, "image_global": True, "image_aspect_ratio": "pad"}
    model = mgm(kind, **(how | changes))
    model.save_pretrained(folder / "ours")
    return Checkpoint(
        path=folder,
        layout="vlforge",
        config=model.config,
        weights=open_weights(folder / "ours"),
        processor=ImageProcessor(size=64, edge=64, fit_mode="pad"),
    )


def write(layout, source, out, **how):
    out.mkdir()
    layout().write(source, out, Writing(**how))
    return out


def clip(folder, source) -> Parts:
    """CLIP's configuration where a checkpoint cannot tell it; the encoders' weights too."""
    low, high = write_towers(folder / "towers", source.build())
    return Parts(vision=low, vision_high=high)


def same(found: Checkpoint, wanted: Checkpoint):
    found.check()
    assert found.weights.keys() == wanted.weights.keys()
    for name, lazy in wanted.weights.items():
        assert found.weights[name].dtype == lazy.dtype
        assert torch.equal(found.weights[name].read(), lazy.read()), name


def settled(fields):
    """A configuration without what saving a model adds to it."""
    added = ("dtype", "architectures", "_name_or_path")
    kept = {key: value for key, value in fields.items() if key not in added}
    return {k: settled(v) if isinstance(v, dict) else v for k, v in kept.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["safetensors", "bin"])
@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
def test_a_written_checkpoint_is_the_same_to_the_bit(tmp_path, kind, how, shard_bytes):
    source = checkpoint(tmp_path, kind)
    out = write(MgmLayout, source, tmp_path / "mgm", kind=how, shard_bytes=shard_bytes)
    assert detect(out).name == "mgm"
    back = read_checkpoint(out)
    same(back, source)
    assert settled(back.config.to_dict()) == settled(source.config.to_dict())
    assert back.processor == source.processor
    pixels = torch.randn(1, 3, 64, 64)
    ids = torch.tensor([[1, 5, -200, 7]])
    with torch.no_grad():
        assert torch.equal(back.build()(ids, pixels).logits, source.build()(ids, pixels).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_the_published_ones(tmp_path, kind):
    source = checkpoint(tmp_path, kind)
    keys = set(open_weights(write(MgmLayout, source, tmp_path / "mgm")))
    wanted = {
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.mm_projector.2.bias",
        "model.vlm_uni_query_projector.0.weight",
        "model.vlm_uni_aux_projector.1.weight",
        "model.vlm_uni_val_projector.1.bias",
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias",
        "model.vision_tower_aux.vision_stem.0.weight",
        "model.vision_tower_aux.vision_stages.1.downsample.0.weight",
        "model.vision_tower_aux.vision_stages.2.blocks.1.gamma",
        "model.vision_tower_aux.vision_stages.2.blocks.1.conv_dw.weight",
    }
    assert wanted <= keys
    assert ("lm_head.weight" in keys) == (kind != "gemma")
    experts = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    assert (experts in keys) == (kind == "mixtral")
    for name in source.weights:
        assert our_name(their_name(name)) == (None if name.startswith("language.") else name)


def test_the_configuration_is_one_that_transformers_4_reads(tmp_path):
    source = checkpoint(tmp_path, "gemma")
    fields = json.loads((write(MgmLayout, source, tmp_path / "mgm") / "config.json").read_text())
    assert fields["model_type"] == "mgm_gemma"
    assert fields["architectures"] == ["MGMGemmaForCausalLM"]
    assert fields["hidden_act"] == "gelu"
    assert fields["rope_theta"] == 10000.0
    assert "rope_parameters" not in fields
    assert (fields["mm_hidden_size"], fields["mm_hidden_size_aux"]) == (16, 28)
    assert (fields["image_grid"], fields["image_global"]) == (2, True)
    assert fields["image_size_aux"] == 64
    assert fields["optimize_vision_tower_aux"]  # or MGM would not read ConvNeXt from it


@pytest.mark.parametrize("layout", [MgmLayout, MgmProjectorLayout])
@pytest.mark.parametrize(
    ("kind", "template"), [("llama", "vicuna_v1"), ("gemma", "gemma")], ids=["llama", "gemma"]
)
def test_pictures_between_tokens_are_told_by_the_template(tmp_path, layout, kind, template):
    source = checkpoint(tmp_path, kind)
    parts = Parts(base=write(MgmLayout, source, tmp_path / "mgm"))
    out = write(layout, source, tmp_path / "out")
    fields = json.loads((out / "config.json").read_text())
    assert fields["mm_use_im_start_end"] is False
    (out / "config.json").write_text(json.dumps(fields | {"mm_use_im_start_end": True}))
    (out / "vlforge.json").unlink()
    found = read_checkpoint(out, parts)
    assert found.template == f"{template}+im_start_end"
    assert find_template(found.template).new_tokens == ("<im_start>", "<im_end>")
    again = write(layout, found, tmp_path / "again")
    assert json.loads((again / "config.json").read_text())["mm_use_im_start_end"] is True
    assert read_checkpoint(again, parts).template == found.template


def test_a_single_file_has_an_index_for_mgms_loader(tmp_path):
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "mgm")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_file(out / "model.safetensors"))
    (out / "model.safetensors.index.json").unlink()
    same(read_checkpoint(out), checkpoint(tmp_path))


def without(out, *prefixes):
    """Take tensors out of a written checkpoint."""
    weights = {k: v for k, v in load_file(out / "model.safetensors").items()
               if not any(p in k for p in prefixes)}  # fmt: skip
    for file in out.glob("model.safetensors*"):
        file.unlink()
    write_weights({k: Lazy.of(v, k) for k, v in weights.items()}, out)


def edit(out, **fields):
    """Change fields of a written configuration; None takes one out."""
    file = out / "config.json"
    known = json.loads(file.read_text()) | fields
    for name in [name for name, value in fields.items() if value is None]:
        del known[name]
    file.write_text(json.dumps(known))


@pytest.mark.parametrize("where", ["named", "configured"])
def test_encoders_that_lie_elsewhere_are_found_by_name_or_by_the_configuration(tmp_path, where):
    source = checkpoint(tmp_path)
    parts = clip(tmp_path, source)
    out = write(MgmLayout, source, tmp_path / "mgm")
    without(out, "vision_tower")
    if where == "configured":
        edit(out, mm_vision_tower=str(parts.vision), mm_vision_tower_aux=str(parts.vision_high))
        parts = Parts()
    else:
        with pytest.raises(ModelError, match=r"holds no CLIP and 'model_zoo.*name its folder"):
            read_checkpoint(out)
        with pytest.raises(ModelError, match="holds no ConvNeXt"):
            read_checkpoint(out, Parts(vision=parts.vision))
    same(read_checkpoint(out, parts), source)


def test_encoders_inside_are_used_and_said(tmp_path):
    source = checkpoint(tmp_path)
    parts = clip(tmp_path, Checkpoint(tmp_path, "x", source.config, source.weights))
    for file in parts.vision_high.glob("*.bin"):
        torch.save({}, file)  # the folder's weights are not needed
    out = write(MgmLayout, source, tmp_path / "mgm")
    edit(out, optimize_vision_tower_aux=False)
    found = read_checkpoint(out, parts)
    same(found, source)
    assert any("ConvNeXt's weights are those in the checkpoint" in note for note in found.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_model_type_is_known_by_its_weights(tmp_path, kind):
    source = checkpoint(tmp_path, kind)
    out = write(MgmLayout, source, tmp_path / "mgm")
    edit(out, model_type=None)
    found = read_checkpoint(out)
    assert found.config.text_config.model_type == kind
    assert any("names no model_type" in note for note in found.notes)
    same(found, source)


def test_a_clip_without_configuration_is_openais_or_asked_for(tmp_path):
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "mgm")
    edit(out, mm_vision_config=None)
    with pytest.raises(ModelError, match="a CLIP 16 wide is none of OpenAI's"):
        read_checkpoint(out)
    wide = {"model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 12, "image_size": 16,
            "patch_size": 4}  # fmt: skip
    made = checkpoint(tmp_path, vision_config=wide)
    out = write(MgmLayout, made, tmp_path / "wide")
    edit(out, mm_vision_config=None)
    found = read_checkpoint(out)
    assert found.config.vision_config.num_attention_heads == 12
    assert found.config.vision_config.image_size == 16
    assert any("12 heads" in note for note in found.notes)
    same(found, made)


def test_tensors_of_no_use_are_listed_with_their_reason(tmp_path):
    source = checkpoint(tmp_path, "gemma")
    out = write(MgmLayout, source, tmp_path / "mgm")
    weights = load_file(out / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    clip_name = "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"
    weights |= {clip_name: torch.arange(17)[None], "model.odd.weight": torch.ones(1)}
    without(out, "everything")
    for file in out.glob("model.safetensors*"):
        file.unlink()
    write_weights({k: Lazy.of(v, k) for k, v in weights.items()}, out)
    found = read_checkpoint(out)
    same(found, source)
    file = out / "model.safetensors"
    assert set(found.unused) == {
        f"{file}:{clip_name} (computed today)",
        f"{file}:model.odd.weight (belongs to no part)",
        f"{file}:lm_head.weight (the configuration ties it to the word embeddings)",
    }


@pytest.mark.parametrize("has_towers", [True, False])
@pytest.mark.parametrize("at", ["folder", "file"])
def test_a_first_stage_joins_its_language_model(tmp_path, has_towers, at):
    source = checkpoint(tmp_path)
    whole = write(MgmLayout, source, tmp_path / "mgm")
    out = write(MgmProjectorLayout, source, tmp_path / "stage")
    file = out / "mm_projector.bin"
    parts = Parts(base=whole)
    if not has_towers:
        kept = {k: v for k, v in torch.load(file).items() if "vision_tower" not in k}
        torch.save(kept, file)
        towers = clip(tmp_path, source)
        parts = Parts(base=whole, vision=towers.vision, vision_high=towers.vision_high)
    path = out if at == "folder" else file
    assert detect(path).name == "mgm_projector"
    found = read_checkpoint(path, parts)
    same(found, source)
    assert found.config.image_grid == 2


def test_a_first_stage_joins_a_plain_language_model(tmp_path):
    source = checkpoint(tmp_path)
    model = source.build()
    model.language.save_pretrained(tmp_path / "llama")
    out = write(MgmProjectorLayout, source, tmp_path / "stage")
    same(read_checkpoint(out, Parts(base=tmp_path / "llama")), source)
    with pytest.raises(ModelError, match="name the language model it belongs to"):
        read_checkpoint(out)
    (out / "config.json").unlink()
    found = read_checkpoint(
        out, Parts(base=tmp_path / "llama", vision=clip(tmp_path, source).vision)
    )
    assert found.config.connector == "mlp2x_gelu"
    assert any("image settings are the defaults" in note for note in found.notes)


def test_weights_of_another_shape_are_named(tmp_path):
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "mgm")
    edit(out, hidden_size=32)
    with pytest.raises(ModelError, match="do not belong together"):
        read_checkpoint(out).check()
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "less")
    without(out, "vlm_uni_val_projector")
    with pytest.raises(ModelError, match=r"4 weights are missing: connector\.miner\.value"):
        read_checkpoint(out).check()


def test_lost_and_cut_shards_are_named(tmp_path):
    source = checkpoint(tmp_path)
    out = write(MgmLayout, source, tmp_path / "mgm", shard_bytes=20_000)
    shards = sorted(out.glob("model-*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:100])
    with pytest.raises(ModelError, match=f"{shards[1].name} cannot be read"):
        read_checkpoint(out)
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"lacks its shard {shards[1].name}"):
        read_checkpoint(out)


class Trap:
    """Runs code where it is unpickled without care."""

    def __reduce__(self):
        return (open, ("never-written", "w"))


def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "mgm", kind="bin")
    for file in out.glob("pytorch_model.bin*"):
        file.unlink()
    torch.save({"model.norm.weight": Trap()}, out / "pytorch_model.bin")
    with pytest.raises(ModelError, match="nothing of it was run"):
        read_checkpoint(out)
    (out / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(ModelError, match="nothing of it was run"):
        read_checkpoint(out)
    assert not (tmp_path / "never-written").exists()


def test_a_model_of_another_family_is_refused(tmp_path):
    from tests.tiny_model import llava

    model = llava("clip")
    other = Checkpoint(tmp_path, "vlforge", model.config, {})
    with pytest.raises(ModelError, match="holds no llava model"):
        write(MgmLayout, other, tmp_path / "mgm")


def test_pictures_fitted_otherwise_are_refused(tmp_path):
    source = checkpoint(tmp_path, image_aspect_ratio="stretch")
    with pytest.raises(ModelError, match="fits pictures by pad or square, not stretch"):
        write(MgmLayout, source, tmp_path / "mgm")


def test_precision_can_change_on_the_way(tmp_path):
    out = write(MgmLayout, checkpoint(tmp_path), tmp_path / "mgm", dtype=torch.bfloat16)
    assert {lazy.dtype for lazy in open_weights(out).values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
