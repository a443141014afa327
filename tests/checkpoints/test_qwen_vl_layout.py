from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.tiny_qwen import model, published
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import find, read_checkpoint
from vlforge.checkpoints.qwen_vl import our_name, their_name
from vlforge.checkpoints.weights import Lazy, open_weights, write_weights
from vlforge.types import ModelError

TARGETS = ["c_attn", "attn.c_proj", "w1", "w2"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_a_published_folder_comes_back_to_the_bit(tmp_path, kind, shard_bytes):
    first = read_checkpoint(published(tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    find("qwen_vl").write(first, again, Writing(kind=kind, shard_bytes=shard_bytes))
    second = read_checkpoint(again)
    assert second.layout == "qwen_vl"
    assert second.config.to_dict() == first.config.to_dict()
    assert set(second.weights) == set(first.weights)
    for name, lazy in first.weights.items():
        assert second.weights[name].dtype == lazy.dtype == torch.bfloat16
        assert torch.equal(second.weights[name].read(), lazy.read())


def test_the_model_that_was_written_is_the_model_that_is_built(tmp_path):
    built = read_checkpoint(published(tmp_path, dtype=torch.float32)).build()
    ids, pixels = torch.tensor([[7, -200, 9]]), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(built(ids, pixels).logits, model()(ids, pixels).logits)


def test_names_are_the_published_ones():
    for theirs in (
        "transformer.wte.weight",
        "transformer.h.0.attn.c_attn.bias",
        "transformer.visual.conv1.weight",
        "transformer.visual.transformer.resblocks.0.attn.in_proj.weight",
        "transformer.visual.attn_pool.attn.in_proj_weight",
        "transformer.visual.proj",
        "lm_head.weight",
    ):
        assert their_name(our_name(theirs)) == theirs
    assert our_name("transformer.visual.proj") == "connector.proj"
    assert our_name("transformer.visual.ln_pre.bias") == "vision.ln_pre.bias"


def with_tensor(folder: Path, name: str) -> Path:
    """The folder with one more tensor, beside it."""
    out = folder.with_name("more")
    out.mkdir()
    for file in ("config.json", "qwen.tiktoken"):
        shutil.copyfile(folder / file, out / file)
    write_weights({**open_weights(folder), name: Lazy.of(torch.ones(4), name)}, out)
    return out


def test_computed_tables_of_old_files_are_left_and_listed(tmp_path):
    key = "transformer.h.0.attn.rotary_emb.inv_freq"
    folder = with_tensor(published(tmp_path), key)
    found = read_checkpoint(folder)
    found.check()
    assert found.unused == (f"{key} (computed)",)


def changed(folder, **fields):
    file = folder / "config.json"
    told = json.loads(file.read_text())
    told["visual"] |= fields.pop("visual", {})
    file.write_text(json.dumps(told | fields))


def test_settings_of_another_model_are_refused(tmp_path):
    folder = published(tmp_path)
    changed(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"weights are missing: language.transformer.h.2"):
        read_checkpoint(folder).check()
    changed(folder, num_hidden_layers=2, vocab_size=99)
    with pytest.raises(ModelError, match=r"configuration asks for \[99, 16\]"):
        read_checkpoint(folder).check()
    changed(folder, vocab_size=500, visual={"output_dim": 8})
    with pytest.raises(ModelError, match="256 tokens of width 8, and the language model takes"):
        read_checkpoint(folder)


def test_four_bit_weights_are_refused(tmp_path):
    folder = with_tensor(published(tmp_path), "transformer.h.0.attn.c_attn.qweight")
    with pytest.raises(ModelError, match="holds 4-bit weights"):
        read_checkpoint(folder)


def test_a_lora_of_finetune_is_merged_and_taken_apart_again(tmp_path):
    base = published(tmp_path, dtype=torch.float32)
    torch.manual_seed(1)
    whole = read_checkpoint(base).build()
    adapted = get_peft_model(whole.language, LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "lora")
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        wanted = adapted(ids).logits
    found = read_checkpoint(tmp_path / "lora", Parts(base=base))
    assert found.layout == "qwen_vl_lora"
    with torch.no_grad():
        torch.testing.assert_close(found.build().language(ids).logits, wanted, atol=1e-5, rtol=1e-4)
    out = tmp_path / "apart"
    out.mkdir()
    find("qwen_vl_lora").write(found, out, Writing())
    first, second = open_weights(tmp_path / "lora"), open_weights(out)
    assert set(first) == set(second)
    assert all(torch.equal(first[key].read(), second[key].read()) for key in first)
