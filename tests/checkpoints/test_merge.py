"""What was trained beside a base becomes one model with it, in every system's own form."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny_mgm, tiny_qwen
from tests.checkpoints import tiny_llava, tiny_xtuner
from tests.checkpoints.test_internlm2 import fields_of, state_of, write_internlm2
from tests.checkpoints.test_paddle import NAMES, lora
from tests.checkpoints.test_peft import adapted, language, refusal, said
from vlforge.checkpoints import conversion
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, find, match, read_checkpoint
from vlforge.checkpoints.internlm2_folder import convert
from vlforge.checkpoints.merge import merge
from vlforge.checkpoints.weights import open_file, open_weights
from vlforge.models.reading import read_language
from vlforge.types import DataError, ModelError

PIXELS = torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)
FP16_ULP = 2.0**-10


def test_a_llava_lora_becomes_llavas_own_layout(tmp_path):
    source = tiny_llava.checkpoint(tmp_path / "ours", tiny_llava.model())
    base = tmp_path / "base"
    base.mkdir()
    find("llava").write(source, base, Writing())
    model = read_checkpoint(base).build()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    wrapped = peft.get_peft_model(model.language, config)
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    for parameter in model.connector.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path / "llava-lora")
    whole = {
        f"base_model.model.model.mm_projector.{name}": value
        for name, value in model.connector.state_dict().items()
    }
    torch.save(whole, tmp_path / "llava-lora" / "non_lora_trainables.bin")
    wanted = tiny_llava.logits(model, PIXELS)
    done = merge(base, tmp_path / "llava-lora", tmp_path / "out")
    assert done.layout == "llava"
    assert done.changed == 4 + len(whole)
    found = read_checkpoint(tmp_path / "out").build()
    torch.testing.assert_close(tiny_llava.logits(found, PIXELS), wanted, atol=1e-5, rtol=1e-5)


def mgm_lora(folder, *, has_config=True):
    """A Mini-Gemini, its base, and a LoRA folder as its training leaves it; its logits."""
    model = tiny_mgm.mgm(image_aspect_ratio="pad")
    low, high = tiny_mgm.write_towers(folder / "towers", model)
    model.language.save_pretrained(folder / "base")
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "up_proj"])
    wrapped = peft.get_peft_model(model.language, config)
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    out = folder / "mgm-lora"
    wrapped.save_pretrained(out)
    from vlforge.checkpoints.mgm import their_name

    whole = {
        f"base_model.model.{their_name('connector.' + name)}": value
        for name, value in model.connector.state_dict().items()
    }
    assert any("vlm_uni_" in name for name in whole)
    torch.save(whole, out / "non_lora_trainables.bin")
    fields = {"model_type": "mgm", "image_size_aux": 64, "image_aspect_ratio": "pad",
              "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2}  # fmt: skip
    if has_config:
        (out / "config.json").write_text(json.dumps(fields))
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    return out, Parts(vision=low, vision_high=high), model, pixels


def asked(model, pixels):
    with torch.no_grad():
        return model(torch.tensor([[1, 5, -200, 7, 9]]), pixels).logits


def test_a_mini_gemini_lora_which_its_own_code_cannot_read(tmp_path):
    adapter, parts, model, pixels = mgm_lora(tmp_path)
    wanted = asked(model, pixels)
    assert detect(adapter).name == "mgm_lora"
    done = merge(tmp_path / "base", adapter, tmp_path / "out", parts)
    assert done.layout == "mgm"
    assert done.changed == 4
    assert not [line for line in done.notes if line.startswith("not used")]
    found = read_checkpoint(tmp_path / "out", parts)
    torch.testing.assert_close(asked(found.build(), pixels), wanted, atol=1e-5, rtol=1e-5)


def test_a_mini_gemini_lora_is_known_without_its_configuration(tmp_path):
    adapter, _, _, _ = mgm_lora(tmp_path, has_config=False)
    assert detect(adapter).name == "mgm_lora"


def test_a_mini_gemini_lora_is_written_as_it_was(tmp_path):
    adapter, parts, _, _ = mgm_lora(tmp_path)
    source = read_checkpoint(adapter, replace(parts, base=tmp_path / "base"))
    out = tmp_path / "again"
    out.mkdir()
    find("mgm_lora").write(source, out, Writing())
    for name in ("adapter_model.safetensors", "non_lora_trainables.bin"):
        found, given = open_file(out / name), open_file(adapter / name)
        assert set(found) == set(given)
        assert all(torch.equal(found[key].read(), lazy.read()) for key, lazy in given.items())
    again = read_checkpoint(out, replace(parts, base=tmp_path / "base"))
    assert again.layout == "mgm_lora"
    tiny_llava.same_weights(again, source)


@pytest.mark.parametrize("form", ["pth", "hf", "zero"])
@pytest.mark.parametrize("to", ["", "llava", "llava_hf", "vlforge"])
def test_an_xtuner_run_becomes_one_model(tmp_path, form, to):
    run = tiny_xtuner.run(tmp_path)
    adapter = {
        "pth": lambda: tiny_xtuner.write_pth(tmp_path / "iter_7.pth", run),
        "hf": lambda: tiny_xtuner.write_hf(tmp_path / "hf", run),
        "zero": lambda: tiny_xtuner.write_zero(tmp_path / "iter_9.pth", run, 2, 2),
    }[form]()
    tiny_xtuner.forget_foreign()
    ids = [1, 5, -200, 7, 8, 9]
    with torch.no_grad():
        wanted = run.model(ids, PIXELS)
    done = merge(run.llm, adapter, tmp_path / "out", Parts(vision=run.clip), to=to)
    assert done.layout == (to or "xtuner")
    found = read_checkpoint(tmp_path / "out").build()
    with torch.no_grad():
        logits = found(torch.tensor([ids]), PIXELS).logits[0]
    torch.testing.assert_close(logits[:, : wanted.shape[1]], wanted, atol=1e-5, rtol=1e-5)
    assert not list((tmp_path / "out").rglob("adapter_config.json"))


def test_an_adapter_of_an_internlm2_is_merged_under_internlm2s_names(tmp_path):
    fields, state = fields_of(), state_of(fields_of())
    base = write_internlm2(tmp_path / "base", state, fields)
    (base / "modeling_internlm2.py").write_text("raise SystemExit('never run')\n")
    (base / "tokenizer.model").write_bytes(b"words")
    adapter = internlm2_adapter(tmp_path / "adapter", state)
    merge(base, adapter, tmp_path / "out")
    found = open_weights(tmp_path / "out")
    assert set(found) == set(state)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "modeling_internlm2.py", "tokenizer.model"}
    wanted = read_language(tmp_path / "out").state_dict()
    convert(base, tmp_path / "llama", "llama", Writing())
    assert detect_plain(tmp_path / "llama") == "llama"
    merge(tmp_path / "llama", adapter, tmp_path / "as_llama")
    for name, tensor in read_language(tmp_path / "as_llama").state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)
    convert(tmp_path / "llama", tmp_path / "back", "internlm2", Writing())
    for name, lazy in open_weights(tmp_path / "back").items():
        assert torch.equal(lazy.read(), state[name])


def detect_plain(folder):
    assert match(folder) is None
    return json.loads((folder / "config.json").read_text())["model_type"]


def internlm2_adapter(folder, state):
    folder.mkdir()
    torch.manual_seed(4)
    tensors = {}
    for name, weight in state.items():
        if re.search(r"wqkv|\.w2\.|^output", name):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(2, weight.shape[1])
            tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], 2)
    torch.save(tensors, folder / "adapter_model.bin")
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["wqkv", "w2"]}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def test_paddles_lora_becomes_paddles_whole(tmp_path):
    torch_side = read_checkpoint(tiny_qwen.published(tmp_path))
    base = tmp_path / "paddle"
    base.mkdir()
    find("paddle").write(torch_side, base, Writing())
    adapter = lora(tmp_path / "lora", NAMES, torch_side.weights)
    done = merge(base, adapter, tmp_path / "out")
    assert done.layout == "paddle"
    wanted = find("paddle").read(adapter, Parts(base=base))
    tiny_llava.same_weights(read_checkpoint(tmp_path / "out"), wanted)
    with pytest.raises(ModelError, match="is a whole model of Paddle's"):
        merge(tiny_qwen.published(tmp_path / "second"), base, tmp_path / "no")


def test_a_qwen_vl_adapter_is_merged_in_qwens_layout(tmp_path):
    base = tiny_qwen.published(tmp_path, dtype=torch.float32)
    model = read_checkpoint(base).build()
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["c_attn", "w1"])
    wrapped = peft.get_peft_model(model.language, config)
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    wanted = wrapped.merge_and_unload().state_dict()
    done = merge(base, tmp_path / "adapter", tmp_path / "out")
    assert done.layout == "qwen_vl"
    found = read_checkpoint(tmp_path / "out").weights
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[f"language.{name}"].read(), tensor, atol=1e-5, rtol=1e-5)


def test_vicunas_differences_are_summed(tmp_path):
    base = language(tmp_path / "llama").half()
    base.save_pretrained(tmp_path / "llama")
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for parameter in base.parameters():
        parameter.data = (0.01 * torch.randn(parameter.shape)).half()
    base.save_pretrained(tmp_path / "delta")
    done = merge(tmp_path / "llama", tmp_path / "delta", tmp_path / "out")
    delta = open_weights(tmp_path / "delta")
    for name, lazy in open_weights(tmp_path / "out").items():
        assert torch.equal(lazy.read(), state[name] + delta[name].read())
    assert done.changed == done.tensors == len(state)
    line = refusal(tmp_path / "llama", tmp_path / "out", tmp_path / "no")
    assert "looks like a whole model" in line


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_are_rounded_once_and_within_an_ulp_of_pefts(tmp_path, dtype):
    model = language(tmp_path / "base")
    adapted(model, tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", how=Writing(dtype=dtype))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    wanted = theirs.state_dict()
    found = {name: lazy.read() for name, lazy in open_weights(tmp_path / "out").items()}
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    ulp = torch.finfo(dtype).eps
    for name, tensor in found.items():
        off = (tensor.float() - wanted[name].float()).abs()
        scale = torch.maximum(wanted[name].float().abs(), torch.tensor(0.1))
        assert bool((off <= 2 * ulp * scale).all()), name
    said_dtype = json.loads((tmp_path / "out" / "config.json").read_text())
    assert str(dtype).removeprefix("torch.") in (
        said_dtype.get("dtype"),
        said_dtype.get("torch_dtype"),
    )


def test_shards_and_progress_and_carried_files(tmp_path):
    wrapped = adapted(language(tmp_path / "base"), tmp_path / "adapter")
    for name in ("tokenizer.json", "preprocessor_config.json", "generation_config.json"):
        (tmp_path / "base" / name).write_text('{"of": "the base"}')
    (tmp_path / "base" / "notes.md").write_text("not carried")
    shown = []
    how = Writing(
        shard_bytes=4000, kind="bin", on_shard=lambda done, total: shown.append((done, total))
    )
    done = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "out", how=how)
    count = len(list((tmp_path / "out").glob("*-of-*.bin")))
    assert count > 2
    assert shown == [(number, count) for number in range(1, count + 1)]
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == {"of": "the base"}
    assert "preprocessor_config.json" in done.files
    assert "notes.md" not in done.files
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(said(found), said(wrapped), atol=1e-5, rtol=1e-5)


def test_mistakes_are_one_line_and_leave_nothing(tmp_path):
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    adapted(language(base), adapter)
    language(tmp_path / "other", "qwen2")
    assert "name the base first" in refusal(adapter, base, out)
    assert "as base and as adapter" in refusal(base, base, out)
    assert "nothing at" in refusal(base, tmp_path / "nowhere", out)
    assert "whole qwen2 and no adapter" in refusal(base, tmp_path / "other", out)
    source = tiny_llava.folder(tmp_path / "ours", tiny_llava.model())
    assert "is a whole model (vlforge)" in refusal(base, source, out)
    with pytest.raises(ModelError, match="sees no pictures"):
        merge(base, adapter, out, to="llava")
    with pytest.raises(ModelError, match="unknown layout"):
        merge(source, adapter, out, to="lava")
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(DataError, match="exists already"):
        merge(base, adapter, out)
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_a_truncated_adapter_leaves_nothing(tmp_path):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    line = refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "adapter_model.safetensors cannot be read" in line


def test_a_full_disk_is_known_before_a_byte_is_written(tmp_path, monkeypatch):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    usage = conversion.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage)
    line = refusal(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    assert "make room" in line


def test_an_adapter_of_a_whole_model_keeps_the_bases_layout(tmp_path):
    source = tiny_llava.checkpoint(tmp_path / "ours", tiny_llava.model())
    base = tmp_path / "base"
    base.mkdir()
    find("llava_hf").write(source, base, Writing())
    model = read_checkpoint(base).build()
    adapted(model.language, tmp_path / "adapter")
    wanted = tiny_llava.logits(model, PIXELS)
    done = merge(base, tmp_path / "adapter", tmp_path / "out")
    assert done.layout == "llava_hf"
    found = read_checkpoint(tmp_path / "out").build()
    torch.testing.assert_close(tiny_llava.logits(found, PIXELS), wanted, atol=1e-5, rtol=1e-5)
    assert (tiny_llava.logits(source.build(), PIXELS)[:, :18] - wanted[:, :18]).abs().max() > 1e-2
