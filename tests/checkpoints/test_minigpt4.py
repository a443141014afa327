"""MiniGPT-4's four files: read, held together, written back."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.models.plain_minigpt4 import EVA, QFORMER, published, tiny
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, read_checkpoint
from vlforge.checkpoints.minigpt4 import Minigpt4Layout
from vlforge.checkpoints.vlforge_folder import VlforgeLayout
from vlforge.types import ModelError

BUFFERS = {
    "Qformer.bert.embeddings.position_ids": torch.arange(4)[None],
    "llama_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
}
TEXT_SIDE = {
    "Qformer.cls.predictions.bias": torch.zeros(3),
    "Qformer.bert.embeddings.word_embeddings.weight": torch.zeros(3, 12),
    "Qformer.bert.encoder.layer.0.intermediate.dense.bias": torch.zeros(20),
    "t5_proj.bias": torch.zeros(8),
}


def laid_out(home: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **text) -> Path:
    """A folder as MiniGPT-4's users have it; what it holds besides the weights is there too."""
    home.mkdir(exist_ok=True)
    model = tiny(seed, **text)
    files = {
        part: {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}
        for part, tensors in published(model).items()
    }
    torch.save(files["eva"] | {"norm.weight": torch.ones(16)}, home / "eva_vit_g.pth")
    torch.save({"model": files["blip"] | TEXT_SIDE}, home / "blip2_pretrained_flant5xxl.pth")
    state = {"model": files["stage"] | BUFFERS, "epoch": 4, "optimizer": {"state": {}}}
    torch.save(state, home / "checkpoint_4.pth")
    vicuna = home / "vicuna"
    vicuna.mkdir()
    save_file(files["language"], vicuna / "model.safetensors")
    (vicuna / "config.json").write_text(json.dumps(model.config.text_config.to_dict()))
    (vicuna / "tokenizer.model").write_bytes(b"stands for a tokenizer")
    told = {"vision_heads": EVA["num_attention_heads"], "qformer_heads": 3}
    (home / "minigpt4.json").write_text(json.dumps(told))
    return home


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def test_the_files_are_one_model(tmp_path):
    home = laid_out(tmp_path / "files")
    checkpoint = read_checkpoint(home)
    model, wanted = checkpoint.build(), tiny()
    assert checkpoint.layout == "minigpt4"
    assert checkpoint.template == "minigpt4"
    assert checkpoint.notes == ()
    assert checkpoint.processor.fit_mode == "stretch"
    assert checkpoint.tokenizer == home / "vicuna"
    with torch.no_grad():
        assert torch.equal(model.encode_images(pictures()), wanted.encode_images(pictures()))
        ids = torch.tensor([[1, 7, 9]])
        assert torch.equal(model.language(ids).logits, wanted.language(ids).logits)


def test_what_has_no_place_is_listed_with_its_reason(tmp_path):
    unused = "\n".join(read_checkpoint(laid_out(tmp_path / "files")).unused)
    assert "norm.weight (not run)" in unused
    for name in BUFFERS:
        assert f"{name} (buffer, computed)" in unused
    for name in list(TEXT_SIDE)[:3]:
        assert f"{name} (text side of the Q-Former)" in unused
    assert "t5_proj.bias (connector to BLIP-2's own language model)" in unused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_written_files_are_read_as_the_same_bytes(tmp_path, dtype):
    checkpoint = read_checkpoint(laid_out(tmp_path / "files", dtype=dtype))
    layout = Minigpt4Layout()
    folders = [tmp_path / "once", tmp_path / "twice"]
    for folder in folders:
        folder.mkdir()
        layout.write(checkpoint, folder, Writing(shard_bytes=4000))
        checkpoint = layout.read(folder, Parts())
    files = sorted(file.relative_to(folders[0]) for file in folders[0].rglob("*") if file.is_file())
    assert any("-of-" in file.name for file in files)
    for file in files:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()
    first = read_checkpoint(tmp_path / "files")
    for name, lazy in first.weights.items():
        again = checkpoint.weights[name].read()
        assert again.dtype == lazy.dtype == dtype
        assert torch.equal(again, lazy.read())
    stage = torch.load(folders[0] / "checkpoint.pth")["model"]
    assert set(stage) == {"llama_proj.weight", "llama_proj.bias"}


def test_it_becomes_our_folder_and_comes_back(tmp_path):
    checkpoint = read_checkpoint(laid_out(tmp_path / "files"))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(), theirs.mkdir()
    VlforgeLayout().write(checkpoint, ours, Writing())
    again = read_checkpoint(ours)
    assert again.layout == "vlforge"
    assert again.template == "minigpt4"
    assert again.processor.fit_mode == "stretch"
    again.check()
    Minigpt4Layout().write(again, theirs, Writing())
    back = read_checkpoint(theirs)
    for name, lazy in checkpoint.weights.items():
        assert torch.equal(back.weights[name].read(), lazy.read())


def test_a_checkpoint_alone_takes_its_parts_from_where_they_are_named(tmp_path):
    home = laid_out(tmp_path / "files")
    alone = tmp_path / "run" / "checkpoint_4.pth"
    alone.parent.mkdir()
    os.rename(home / "checkpoint_4.pth", alone)
    os.rename(home / "minigpt4.json", alone.parent / "minigpt4.json")
    assert detect(alone).name == "minigpt4"
    with pytest.raises(ModelError, match=r"has no eva_vit_g\*.pth; name that file as vision"):
        read_checkpoint(alone)
    named = Parts(
        vision=home / "eva_vit_g.pth",
        qformer=home / "blip2_pretrained_flant5xxl.pth",
        language=home / "vicuna",
    )
    checkpoint = read_checkpoint(alone, named)
    checkpoint.check()
    os.rename(alone.parent / "minigpt4.json", home / "minigpt4.json")  # beside the parts
    read_checkpoint(alone, named).check()
    assert read_checkpoint(alone, Parts(base=home)).weights.keys() == checkpoint.weights.keys()


def test_the_last_epoch_of_a_folder_is_taken(tmp_path):
    home = laid_out(tmp_path / "files")
    later = torch.load(home / "checkpoint_4.pth")
    later["model"]["llama_proj.bias"] += 1
    torch.save(later, home / "checkpoint_10.pth")
    found = read_checkpoint(home).weights["connector.bias"].read()
    assert torch.equal(found, later["model"]["llama_proj.bias"])


def test_without_a_stage_the_connector_is_new_and_that_is_said_first(tmp_path):
    home = laid_out(tmp_path / "files")
    (home / "checkpoint_4.pth").unlink()
    checkpoint = read_checkpoint(home)
    assert checkpoint.notes[0].startswith("llama_proj is in none of the files")
    first, again = checkpoint.build(), read_checkpoint(home).build()
    assert torch.equal(first.connector.weight, again.connector.weight)
    assert 0 < first.connector.weight.abs().max() <= QFORMER["hidden_size"] ** -0.5


def test_a_checkpoint_of_another_vicuna_is_refused(tmp_path):
    home = laid_out(tmp_path / "files")
    stage = {"llama_proj.weight": torch.zeros(5120, 12), "llama_proj.bias": torch.zeros(5120)}
    torch.save({"model": stage}, home / "checkpoint_4.pth")
    line = r"language model 5120 wide \(Vicuna 13B\) and this one is 16 wide"
    with pytest.raises(ModelError, match=line):
        read_checkpoint(home)


def test_a_checkpoint_without_llama_proj_is_refused(tmp_path):
    home = laid_out(tmp_path / "files")
    torch.save({"model": {"other.weight": torch.zeros(2)}}, home / "checkpoint_4.pth")
    with pytest.raises(ModelError, match="holds no llama_proj"):
        read_checkpoint(home)


def test_a_truncated_file_is_one_line(tmp_path):
    home = laid_out(tmp_path / "files")
    whole = (home / "checkpoint_4.pth").read_bytes()
    (home / "checkpoint_4.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"checkpoint_4\.pth cannot be read"):
        read_checkpoint(home)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("echo must not run > " + str(tmp_path / "ran"),)

    home = laid_out(tmp_path / "files")
    (home / "checkpoint_4.pth").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(ModelError, match="nothing of it was run"):
        read_checkpoint(home)
    assert not (tmp_path / "ran").exists()


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    home = laid_out(tmp_path / "files")
    eva = torch.load(home / "eva_vit_g.pth")
    torch.save(eva, home / "eva_vit_g.bin")
    with pytest.raises(ModelError, match=r"needs one eva_vit_g\* file and has eva_vit_g.bin, eva"):
        read_checkpoint(home)
    (home / "eva_vit_g.bin").unlink()
    (home / "minigpt4.json").unlink()
    with pytest.raises(ModelError, match="width 16 does not tell how many heads"):
        read_checkpoint(home)


def test_weights_that_a_stage_trained_take_the_place_of_the_published(tmp_path):
    home = laid_out(tmp_path / "files")
    state = torch.load(home / "checkpoint_4.pth")
    trained = {
        "ln_vision.bias": torch.full((16,), 3.0),
        "query_tokens": torch.full((1, 5, 12), 4.0),
        "visual_encoder.cls_token": torch.full((1, 1, 16), 5.0),
    }
    torch.save({"model": state["model"] | trained}, home / "checkpoint_4.pth")
    checkpoint = read_checkpoint(home)
    checkpoint.check()
    found = (
        checkpoint.weights["vision.ln_vision.bias"],
        checkpoint.weights["vision.qformer.query_tokens"],
        checkpoint.weights["vision.eva.cls_token"],
    )
    assert [float(lazy.read().mean()) for lazy in found] == [3.0, 4.0, 5.0]
    assert checkpoint.notes[0].startswith("3 more weights of checkpoint_4.pth")


def test_another_picture_size_interpolates_the_positions(tmp_path):
    home = laid_out(tmp_path / "files")
    told = json.loads((home / "minigpt4.json").read_text()) | {"image_size": 21}
    (home / "minigpt4.json").write_text(json.dumps(told))
    checkpoint = read_checkpoint(home)
    assert checkpoint.weights["vision.eva.pos_embed"].shape == (1, 10, 16)
    assert checkpoint.processor.size == 21
    assert checkpoint.build().vision(torch.zeros(1, 3, 21, 21)).shape == (1, 5, 12)


def test_a_vicuna_of_another_version_is_doubted_not_refused(tmp_path):
    home = laid_out(tmp_path / "files")
    os.rename(home / "vicuna", home / "vicuna-7b-v1.5")
    (note,) = read_checkpoint(home).notes
    assert "ends turns with '</s>' and template 'minigpt4' with '###'" in note


def test_other_families_are_not_written_in_this_layout(tmp_path):
    from tests.tiny_model import llava
    from vlforge.checkpoints.checkpoint import Checkpoint
    from vlforge.checkpoints.weights import Lazy

    model = llava()
    weights = {name: Lazy.of(t, name) for name, t in model.state_dict().items()}
    checkpoint = Checkpoint(tmp_path, "vlforge", model.config, weights)
    with pytest.raises(ModelError, match="holds models of family minigpt4, not llava"):
        Minigpt4Layout().write(checkpoint, tmp_path, Writing())
