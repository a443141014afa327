"""Vicuna's differences added to LLaMA, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tests.tiny_model import llama_config
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.vicuna_delta import apply_delta, check_pair
from vlforge.checkpoints.weights import open_weights
from vlforge.types import ModelError


def written(folder: Path, state: dict, shards: int = 1, **config) -> Path:
    """A LLaMA's folder with these weights, in `shards` pickles or one safetensors file."""
    folder.mkdir()
    rows = state["model.embed_tokens.weight"].shape[0]
    fields = llama_config(rows, **config).to_dict() | {"_name_or_path": "somewhere"}
    (folder / "config.json").write_text(json.dumps(fields))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    names, parts = list(state), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: state[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        parts |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    return folder


@pytest.fixture
def pair(tmp_path):
    """LLaMA and Vicuna v0 in fp16 (one token more), and the folders of base and delta."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(llama_config(40)).half().state_dict()
    vicuna = {name: (t + 0.01 * torch.randn_like(t)).clone() for name, t in base.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        vicuna[name] = torch.cat([vicuna[name], torch.randn(1, 16).half()])
    delta = {}
    for name, tensor in vicuna.items():
        start = torch.zeros_like(tensor)
        start[: len(base[name])] = base[name]
        delta[name] = tensor - start
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folders = (
        written(tmp_path / "llama", base | buffer, shards=2),
        written(tmp_path / "delta", delta),
    )
    (folders[1] / "tokenizer.model").write_bytes(b"of the delta")
    (folders[0] / "tokenizer.model").write_bytes(b"of the base")
    return base, delta, *folders


def test_the_sum_is_fastchats_bit_for_bit(tmp_path, pair):
    base, delta, llama, differences = pair
    out = tmp_path / "vicuna"
    merged = apply_delta(llama, differences, out, Writing(shard_bytes=3000))
    found = {name: lazy.read() for name, lazy in open_weights(out).items()}
    assert merged.tensors == len(found) == len(delta)
    assert merged.notes == ()
    assert len(list(out.glob("*-of-*.safetensors"))) > 1
    for name, tensor in delta.items():
        wanted = tensor.clone()
        wanted[: len(base[name])] += base[name]
        assert found[name].dtype == torch.float16
        assert torch.equal(found[name], wanted)
    assert (out / "tokenizer.model").read_bytes() == b"of the delta"
    fields = json.loads((out / "config.json").read_text())
    assert (fields["vocab_size"], fields["torch_dtype"]) == (41, "float16")
    assert "_name_or_path" not in fields
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model(torch.tensor([[1, 40]])).logits.shape == (1, 2, 41)


def test_a_base_in_fp32_is_rounded_before_it_is_added(tmp_path, pair):
    base, delta, _, differences = pair
    torch.manual_seed(1)
    wide = {
        name: t.float() + 1e-5 * torch.rand_like(t, dtype=torch.float32) for name, t in base.items()
    }
    apply_delta(written(tmp_path / "wide", wide), differences, tmp_path / "vicuna")
    found = load_file(tmp_path / "vicuna/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[name], wide[name].half() + delta[name])


def test_the_sum_may_be_written_in_another_precision(tmp_path, pair):
    _, _, llama, differences = pair
    how = Writing(dtype=torch.bfloat16, kind="bin")
    apply_delta(llama, differences, tmp_path / "vicuna", how)
    found = torch.load(tmp_path / "vicuna/pytorch_model.bin")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_base_and_delta_exchanged_are_refused(pair):
    *_, llama, differences = pair
    with pytest.raises(ModelError, match="has 41 tokens and the delta 40"):
        check_pair(differences, llama)


def test_a_base_that_is_a_delta_is_refused(tmp_path, pair):
    base, _, llama, _ = pair
    small = written(tmp_path / "small", {name: t * 0.01 for name, t in base.items()})
    with pytest.raises(ModelError, match=r"looks like a delta and .* like a model; exchange them"):
        check_pair(small, llama)


def test_a_whole_model_is_no_delta(tmp_path, pair):
    base, _, llama, _ = pair
    whole = written(tmp_path / "whole", base)
    with pytest.raises(ModelError, match="looks like a whole model, not like a delta"):
        check_pair(llama, whole)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"hidden_size": 32}, "with hidden_size 16 and .* has 32; take the base of the same size"),
        ({"max_position_embeddings": 128}, "looks like another LLaMA of the same size"),
    ],
)
def test_a_base_of_another_kind_is_refused(tmp_path, pair, change, line):
    *_, differences = pair
    other = LlamaForCausalLM(llama_config(40, **change)).state_dict()
    with pytest.raises(ModelError, match=line):
        apply_delta(written(tmp_path / "other", other, **change), differences, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_eps_is_doubted(tmp_path, pair):
    base, _, _, differences = pair
    (note,) = check_pair(written(tmp_path / "other", base, rms_norm_eps=1e-5), differences)
    assert "rms_norm_eps is 1e-05" in note


def test_missing_and_misshapen_weights_are_named(tmp_path, pair):
    base, _, _, differences = pair
    lacking = {name: t for name, t in base.items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match=r"lacks 1 weights, the first is model\.norm\.weight"):
        check_pair(written(tmp_path / "lacking", lacking), differences)
    bent = base | {"model.layers.0.mlp.up_proj.weight": torch.zeros(3, 16)}
    with pytest.raises(ModelError, match=r"up_proj\.weight has shape \[3, 16\]"):
        check_pair(written(tmp_path / "bent", bent), differences)


def test_sums_of_the_base_are_held(tmp_path, pair):
    *_, llama, differences = pair
    name = "pytorch_model-00001-of-00002.bin"
    right = hashlib.sha256((llama / name).read_bytes()).hexdigest()
    apply_delta(llama, differences, tmp_path / "out", sums={name: right})
    with pytest.raises(ModelError, match="it is another file"):
        apply_delta(llama, differences, tmp_path / "other", sums={name: "0" * 64})
    with pytest.raises(ModelError, match="has no missing"):
        apply_delta(llama, differences, tmp_path / "other", sums={"missing.bin": "0"})


def test_what_is_there_is_not_overwritten(tmp_path, pair):
    *_, llama, differences = pair
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        apply_delta(llama, differences, tmp_path / "out")
