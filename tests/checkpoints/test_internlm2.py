"""InternLM2 as a Llama: against a plain restatement of its attention, and back to the bit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from vlforge.checkpoints.internlm2 import adapter_to_llama, to_internlm2, to_llama
from vlforge.checkpoints.languages import read_language as open_language
from vlforge.checkpoints.lora import gather
from vlforge.checkpoints.merge import merge
from vlforge.checkpoints.weights import Lazy, open_weights
from vlforge.models.parts.internlm2 import Heads, internlm2_fields, llama_config
from vlforge.models.reading import read_language
from vlforge.types import ModelError

WIDTH, INNER, WORDS, LAYERS = 24, 20, 31, 2


def fields_of(queries=6, groups=2, **changes):
    return {
        "model_type": "internlm2", "vocab_size": WORDS, "hidden_size": WIDTH, "bias": False,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "hidden_act": "silu",
        "num_attention_heads": queries, "num_key_value_heads": groups, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32, "rope_theta": 1000.0, "rope_scaling": None,
        "initializer_range": 0.02, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2,
    } | changes  # fmt: skip


def state_of(fields, seed=0):
    """Random weights under InternLM2's names."""
    torch.manual_seed(seed)
    heads = Heads(fields["num_attention_heads"], fields["num_key_value_heads"])
    rows = (heads.queries + 2 * heads.groups) * (WIDTH // heads.queries)
    state = {
        "model.tok_embeddings.weight": torch.randn(WORDS, WIDTH),
        "model.norm.weight": torch.rand(WIDTH) + 0.5,
        "output.weight": torch.randn(WORDS, WIDTH) / 5,
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        state |= {
            f"{at}attention.wqkv.weight": torch.randn(rows, WIDTH) / 5,
            f"{at}attention.wo.weight": torch.randn(WIDTH, WIDTH) / 5,
            f"{at}feed_forward.w1.weight": torch.randn(INNER, WIDTH) / 5,
            f"{at}feed_forward.w3.weight": torch.randn(INNER, WIDTH) / 5,
            f"{at}feed_forward.w2.weight": torch.randn(WIDTH, INNER) / 5,
            f"{at}attention_norm.weight": torch.rand(WIDTH) + 0.5,
            f"{at}ffn_norm.weight": torch.rand(WIDTH) + 0.5,
        }
    return state


def write_internlm2(folder, state, fields):
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def rotated(x, theta):
    """[T, D] with each pair (i, i + D/2) turned by its position."""
    length, width = x.shape
    angle = torch.arange(length)[:, None] * theta ** -(torch.arange(0, width, 2) / width)
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * angle.cos() - high * angle.sin(),
                      high * angle.cos() + low * angle.sin()], -1)  # fmt: skip


def norm(x, weight, eps=1e-5):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def restated(state, fields, ids):
    """InternLM2 for one row, head after head as its own code lays `wqkv` out."""
    queries, groups = fields["num_attention_heads"], fields["num_key_value_heads"]
    width, share = WIDTH // queries, queries // groups
    x = state["model.tok_embeddings.weight"][ids]
    past = torch.full((len(ids), len(ids)), -math.inf).triu(1)
    for layer in range(LAYERS):
        of = {k.removeprefix(f"model.layers.{layer}."): v for k, v in state.items()}
        fused = norm(x, of["attention_norm.weight"]) @ of["attention.wqkv.weight"].T
        heads = []
        for head in range(queries):
            at = (head // share) * (share + 2)

            def cut(n, fused=fused):
                return fused[:, n * width : (n + 1) * width]

            q = rotated(cut(at + head % share), fields["rope_theta"])
            k = rotated(cut(at + share), fields["rope_theta"])
            heads.append(((q @ k.T) / width**0.5 + past).softmax(-1) @ cut(at + share + 1))
        x = x + torch.cat(heads, -1) @ of["attention.wo.weight"].T
        y = norm(x, of["ffn_norm.weight"])
        gate = F.silu(y @ of["feed_forward.w1.weight"].T) * (y @ of["feed_forward.w3.weight"].T)
        x = x + gate @ of["feed_forward.w2.weight"].T
    return norm(x, state["model.norm.weight"]) @ state["output.weight"].T


@pytest.mark.parametrize(("queries", "groups"), [(6, 2), (4, 4), (6, 1), (12, 3)])
def test_logits_are_those_of_internlm2s_own_attention(tmp_path, queries, groups):
    fields = fields_of(queries, groups)
    state = state_of(fields)
    folder = write_internlm2(tmp_path / "llm", state, fields)
    ids = torch.tensor([1, 7, 30, 4, 4, 12, 0])
    with torch.no_grad():
        found = read_language(folder)(ids[None]).logits[0]
    torch.testing.assert_close(found, restated(state, fields, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("queries", "groups"), [(6, 2), (4, 4), (12, 3)])
def test_there_and_back_is_the_same_to_the_bit(tmp_path, queries, groups):
    fields = fields_of(queries, groups)
    state = state_of(fields)
    folder = write_internlm2(tmp_path / "llm", state, fields)
    language = open_language(folder)
    assert language.kind == "internlm2"
    assert language.config.model_type == "llama"
    llama = {name.removeprefix("language."): lazy for name, lazy in language.weights.items()}
    back = to_internlm2(llama, language.config)
    assert set(back) == set(state)
    assert all(torch.equal(back[name].read(), tensor) for name, tensor in state.items())
    assert all(lazy.shape == tuple(state[name].shape) for name, lazy in back.items())
    shared = {key: fields[key] for key in internlm2_fields(language.config) if key in fields}
    assert {key: internlm2_fields(language.config)[key] for key in shared} == shared


def test_shards_are_read_like_one_file(tmp_path):
    fields = fields_of()
    state = state_of(fields)
    one = write_internlm2(tmp_path / "one", state, fields)
    many = write_internlm2(tmp_path / "many", state, fields)
    (many / "model.safetensors").unlink()
    names = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2],
              "pytorch_model-00002-of-00002.bin": names[1::2]}  # fmt: skip
    for file, own in shards.items():
        torch.save({name: state[name] for name in own}, many / file)
    index = {name: file for file, own in shards.items() for name in own}
    (many / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    first, second = read_language(one).state_dict(), read_language(many).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scaling", [None, {"type": "dynamic", "factor": 2.0},
                                     {"type": "linear", "factor": 4.0}])  # fmt: skip
def test_rotary_settings_survive_both_ways(scaling):
    config = llama_config(fields_of(rope_scaling=scaling, rope_theta=1e6))
    rope = config.rope_parameters
    assert rope["rope_theta"] == 1e6
    assert rope["rope_type"] == (scaling or {"type": "default"})["type"]
    assert rope.get("factor") == (scaling or {}).get("factor")
    back = internlm2_fields(config)
    assert back["rope_theta"] == 1e6
    assert back["rope_scaling"] == scaling


def test_dynamic_scaling_is_internlm2s_beyond_its_longest_text(tmp_path):
    fields = fields_of(rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=8)
    state = state_of(fields)
    folder = write_internlm2(tmp_path / "llm", state, fields)
    ids = torch.arange(12) % WORDS
    width = WIDTH // fields["num_attention_heads"]
    stretched = fields["rope_theta"] * (2.0 * 12 / 8 - 1) ** (width / (width - 2))
    with torch.no_grad():
        found = read_language(folder)(ids[None]).logits[0]
    wanted = restated(state, fields | {"rope_theta": stretched}, ids)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_on_wqkv_changes_what_the_fused_weight_would(dora):
    fields = fields_of()
    heads, state = Heads(6, 2), state_of(fields)
    base = {name: Lazy.of(tensor, name) for name, tensor in state.items()}
    torch.manual_seed(1)
    tensors = {}
    for name in state:
        if name.endswith(("wqkv.weight", "w1.weight", "wo.weight", "output.weight")):
            module, shape = name.removesuffix(".weight"), state[name].shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(3, shape[1])
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(shape[0], 3)
            if dora:
                key = f"base_model.model.{module}.lora_magnitude_vector"
                tensors[key] = torch.rand(shape[0]) + 0.5
    settings = {"lora_alpha": 6, "r": 3, "use_dora": dora, "target_modules": ["wqkv", "w1"]}
    adapter = gather({k: Lazy.of(v, k) for k, v in tensors.items()}, settings_of(settings))
    fused = to_llama(adapter.onto(base), heads)
    ours = adapter_to_llama(adapter, heads)
    found = ours.onto(to_llama(base, heads))
    for name, lazy in fused.items():
        torch.testing.assert_close(found[name].read(), lazy.read(), atol=1e-6, rtol=1e-6)
    parts = [f"model.layers.0.self_attn.{side}_proj.weight" for side in "qkv"]
    assert all(ours.pairs[name].a is ours.pairs[parts[0]].a for name in parts)
    assert ours.settings.fields["target_modules"] == ["gate_proj", "k_proj", "q_proj", "v_proj"]


def test_an_adapter_on_q_k_and_v_merges_into_internlm2s_own_names(tmp_path):
    """Trained where an InternLM2 is a Llama, merged where it is not."""
    fields = fields_of()
    state = state_of(fields)
    base = write_internlm2(tmp_path / "base", state, fields)
    torch.manual_seed(2)
    tensors = {}
    for module, rows in (("q_proj", 24), ("k_proj", 8), ("v_proj", 8), ("o_proj", 24)):
        key = f"base_model.model.model.layers.1.self_attn.{module}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(2, WIDTH)
        tensors[f"{key}.lora_B.weight"] = torch.randn(rows, 2)
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4,
                "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}  # fmt: skip
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    done = merge(base, tmp_path / "lora", tmp_path / "whole")
    assert (done.changed, json.loads((tmp_path / "whole/config.json").read_text())) == (4, fields)
    found = open_weights(tmp_path / "whole")
    assert set(found) == set(state)
    llama = to_llama(found, Heads(6, 2))
    before = to_llama(open_weights(base), Heads(6, 2))
    for name, lazy in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (tensors.get(f"{key}.lora_{side}.weight") for side in "AB")
        change = 0 if a is None or b is None else 2 * b @ a
        torch.testing.assert_close(llama[name].read(), lazy.read() + change, atol=1e-5, rtol=1e-5)


def settings_of(fields):
    from pathlib import Path

    from vlforge.checkpoints.lora import LoraSettings

    return LoraSettings.from_json(fields, Path("adapter_config.json"))


def refusal(action):
    with pytest.raises(ModelError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_llama_is_refused(tmp_path):
    assert "with bias" in refusal(lambda: llama_config(fields_of(bias=True)))
    fields = fields_of()
    wrong = write_internlm2(tmp_path / "wrong", state_of(fields), fields_of(6, 3))
    said = refusal(lambda: open_language(wrong))
    assert "40 rows" in said
    assert "belongs to another model" in said
    assert refusal(lambda: read_language(wrong))


def test_what_is_missing_or_left_over_is_named(tmp_path):
    fields, state = fields_of(), state_of(fields_of())
    short = {name: tensor for name, tensor in state.items() if name != "output.weight"}
    folder = write_internlm2(tmp_path / "short", short, fields)
    assert "lacks 1 weights, the first is lm_head.weight" in refusal(lambda: read_language(folder))
    more = write_internlm2(tmp_path / "more", state | {"odd.weight": torch.ones(2)}, fields)
    assert "odd.weight" in refusal(lambda: read_language(more))


def test_what_internlm2_cannot_hold_is_refused():
    fields = fields_of()
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
    config = llama_config(fields)
    config.rope_parameters = llama3 | {"rope_theta": 1e4}
    assert "rotary scaling 'llama3'" in refusal(lambda: internlm2_fields(config))
    biased = llama_config(fields)
    biased.attention_bias = True
    assert "biases" in refusal(lambda: internlm2_fields(biased))


def test_a_model_is_assembled_on_an_internlm2(tmp_path):
    from tests.tiny_model import write_data, write_parts
    from vlforge.models.config import ModelSpec
    from vlforge.models.folder import assemble

    vision, llama = write_parts(tmp_path, write_data(tmp_path))
    words = json.loads((llama / "config.json").read_text())["vocab_size"]
    fields = fields_of(vocab_size=words)
    state = state_of(fields)
    for name in ("model.tok_embeddings.weight", "output.weight"):
        state[name] = torch.randn(words, WIDTH)
    folder = write_internlm2(tmp_path / "internlm2", state, fields)
    spec = ModelSpec(vision=str(vision), language=str(folder), tokenizer=str(llama))
    model = assemble(spec).model
    q = open_weights(folder)["model.layers.0.attention.wqkv.weight"].read()
    q = Heads(6, 2).split(q)[0]
    assert torch.equal(model.language.model.layers[0].self_attn.q_proj.weight, q)


def test_the_7b_has_the_published_names_and_shapes():
    fields = fields_of(
        32, 8, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=92544,
        max_position_embeddings=32768, rope_theta=1e6,
    )  # fmt: skip
    config = llama_config(fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    llama = {name: Lazy.of(tensor, name) for name, tensor in model.state_dict().items()}
    shapes = {name: lazy.shape for name, lazy in to_internlm2(llama, config).items()}
    assert len(shapes) == 3 + 32 * 7
    layer = {
        "attention.wqkv.weight": (6144, 4096), "attention.wo.weight": (4096, 4096),
        "feed_forward.w1.weight": (14336, 4096), "feed_forward.w3.weight": (14336, 4096),
        "feed_forward.w2.weight": (4096, 14336), "attention_norm.weight": (4096,),
        "ffn_norm.weight": (4096,),
    }  # fmt: skip
    assert {name: shapes[f"model.layers.31.{name}"] for name in layer} == layer
    assert shapes["model.tok_embeddings.weight"] == shapes["output.weight"] == (92544, 4096)
    back = to_llama({name: Lazy.of(torch.empty(shape, device="meta"), name)
                     for name, shape in shapes.items()}, Heads(32, 8))  # fmt: skip
    assert {name: lazy.shape for name, lazy in back.items()} == {
        name: lazy.shape for name, lazy in llama.items()
    }
