from __future__ import annotations

import builtins
import json
import os
import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import llava, small_processor
from tests.tiny_qwen import published, tokenizer
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing, expected
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.checkpoints.paddle import (
    LINEAR,
    PaddleLora,
    in_torch_layout,
    our_name,
    read_weights,
    their_name,
)
from vlforge.checkpoints.pdparams import (
    CUT_ARRAYS,
    NAME_TABLE,
    open_pdparams,
    read_pdparams,
    write_pdparams,
)
from vlforge.checkpoints.weights import Lazy, write_weights
from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.parts.qwen_lm import QwenConfig
from vlforge.models.parts.qwen_vit import QwenVitConfig
from vlforge.models.qwen_vl import QwenVlConfig
from vlforge.types import ModelError


def dumped(path: Path, state: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(state, protocol=protocol))
    return path


def made(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "attn.c_attn.weight": draw.normal(size=(4, 12)).astype(np.float32),
        "attn.c_proj.weight": draw.normal(size=(4, 4)).astype(np.float16),
        "wte.weight": draw.normal(size=(900, 4)).astype(np.float32),
        "proj": draw.normal(size=(4, 4)),
        "steps": np.arange(3),
        "scalar": np.float32(3.0),
        "one": np.array(3.0),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }


def lazies(**tensors: torch.Tensor) -> dict[str, Lazy]:
    return {name: Lazy.of(tensor, name) for name, tensor in tensors.items()}


def same(left, right) -> bool:
    if set(left) != set(right):
        return False
    return all(
        left[key].dtype == right[key].dtype and torch.equal(left[key].read(), right[key].read())
        for key in left
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_from_every_protocol(tmp_path, protocol):
    state = made()
    named = OrderedDict((key, ("eager_tmp", value)) for key, value in state.items())
    named[NAME_TABLE] = dict.fromkeys(state, "w_0")
    for given in (state, named):
        found = read_pdparams(dumped(tmp_path / "m.pdparams", given, protocol))
        assert list(found) == list(state)
        for key, value in state.items():
            assert np.array_equal(found[key].read().numpy(), value)
            assert found[key].shape == value.shape


def test_arrays_in_fortran_order_and_bf16_are_read_right(tmp_path):
    state = {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    state["b"] = torch.tensor([1.5, -2.0]).bfloat16().view(torch.int16).numpy().view(np.uint16)
    found = read_pdparams(dumped(tmp_path / "m.pdparams", state))
    assert found["f"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].dtype == torch.bfloat16
    assert found["b"].read().tolist() == [1.5, -2.0]


def test_arrays_that_paddle_cut_are_joined(tmp_path):
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    flat = whole.reshape(-1)
    state = {"a@@.0": flat[:5], "a@@.1": flat[5:], "b": flat}
    state[CUT_ARRAYS] = {"a": {"OriginShape": (3, 4), "slices": ["a@@.0", "a@@.1"]}}
    found = read_pdparams(dumped(tmp_path / "m.pdparams", state, 2))
    assert set(found) == {"a", "b"}
    assert np.array_equal(found["a"].read().numpy(), whole)


def test_what_is_written_is_what_pickle_and_we_read(tmp_path):
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in made().items()}
    state["bf16"] = torch.randn(3, 2).bfloat16()
    state["flag"] = torch.tensor([True, False])
    write_pdparams(lazies(**state), tmp_path / "m.pdparams")
    assert same(read_pdparams(tmp_path / "m.pdparams"), lazies(**state))
    plain = pickle.loads((tmp_path / "m.pdparams").read_bytes())
    assert list(plain.pop(NAME_TABLE)) == list(plain) == list(state)
    assert plain["bf16"].dtype == np.uint16
    assert all(type(value) is np.ndarray for value in plain.values())
    assert np.array_equal(plain["wte.weight"], made()["wte.weight"])


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (builtins.eval, ("open('{}', 'w')",), "eval"),
        (builtins.exec, ("open('{}', 'w')",), "exec"),
        (builtins.getattr, (int, "real"), "getattr"),
        (np.load, ("{}",), "load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_asks_for_code_is_refused_in_one_line(
    tmp_path, function, arguments, name, protocol
):
    mark = tmp_path / "ran"
    call = [part.format(mark) if isinstance(part, str) else part for part in arguments]
    state = {"w": np.ones(2), "evil": Evil(function, *call)}
    path = dumped(tmp_path / "model_state.pdparams", state, protocol)
    with pytest.raises(
        ModelError, match=rf"asks for [\w.]*{name}; nothing of it was run"
    ) as caught:
        read_pdparams(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_known_names_called_in_odd_ways_are_no_weights(tmp_path):
    class Odd:
        def __reduce__(self):
            return tuple, (5,)

    for state in (Odd(), [1, 2], {"w": Odd()}, {"w": {1, 2}}, {"w": 1 + 2j}):
        with pytest.raises(ModelError):
            read_pdparams(dumped(tmp_path / "m.pdparams", state))


def test_no_cut_of_a_file_is_read(tmp_path):
    raw = dumped(tmp_path / "whole", {"a": np.ones((40, 10)), "b": np.ones(3)}).read_bytes()
    path = tmp_path / "cut.pdparams"
    for length in [*range(0, len(raw), 37), len(raw) - 1]:
        path.write_bytes(raw[:length])
        with pytest.raises(ModelError, match=r"cannot be read .* fetch or copy it again"):
            read_pdparams(path)


def test_a_shape_that_its_bytes_do_not_fill_is_no_array(tmp_path):
    raw = pickle.dumps({"a": np.ones((4, 2), dtype=np.float32)}, protocol=4)
    path = tmp_path / "m.pdparams"
    path.write_bytes(raw.replace(b"K\x04K\x02\x86", b"K\x04K\x03\x86"))
    with pytest.raises(ModelError, match="a has 32 bytes"):
        read_pdparams(path)


def test_linear_weights_are_told_by_name():
    config = QwenVlConfig(vision_config=QwenVitConfig(), text_config=QwenConfig())
    turned = {name for name in expected(config) if LINEAR.search(their_name(name))}
    kinds = ("ln_", "bias", "wte", "conv1", "positional_embedding", "pos_embed", "query")
    straight = {name for name in expected(config) if any(kind in name for kind in kinds)} | {
        "connector.proj"
    }
    assert turned | straight == set(expected(config))
    assert not turned & straight
    assert "connector.attn_pool.attn.in_proj_weight" in turned


def test_names_are_those_of_paddlemix():
    names = {
        "language.transformer.wte.weight": "transformer.llm.wte.weight",
        "language.transformer.h.3.mlp.w2.weight": "transformer.llm.h.3.mlp.w2.weight",
        "language.lm_head.weight": "lm_head.weight",
        "vision.conv1.weight": "visual.vit.conv1.weight",
        "vision.transformer.resblocks.0.ln_1.bias": "visual.vit.transformer.resblocks.0.ln_1.bias",
        "connector.attn_pool.query": "visual.attn_pool.query",
        "connector.ln_post.weight": "visual.ln_post.weight",
        "connector.proj": "visual.proj",
    }
    for ours, theirs in names.items():
        assert their_name(ours) == theirs
        assert our_name(theirs) == ours


def written(tmp_path: Path, **how) -> tuple[Checkpoint, Path]:
    """A published folder opened, and the same in Paddle's layout."""
    torch_side = read_checkpoint(published(tmp_path))
    out = tmp_path / "paddle"
    out.mkdir()
    find("paddle").write(torch_side, out, Writing(**how))
    return torch_side, out


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_a_model_goes_to_paddle_and_back_to_the_bit(tmp_path, shard_bytes):
    torch_side, out = written(tmp_path, shard_bytes=shard_bytes)
    paddle_side = read_checkpoint(out)
    assert paddle_side.layout == "paddle"
    assert detect(next(out.glob("*.pdparams"))).name == "paddle"
    paddle_side.check()
    assert same(paddle_side.weights, torch_side.weights)
    plain = pickle.loads(next(out.glob("*.pdparams")).read_bytes())
    lm_head = torch_side.weights["language.lm_head.weight"]
    if shard_bytes > 10**6:
        assert plain["lm_head.weight"].shape == lm_head.shape[::-1]
    back = tmp_path / "back"
    back.mkdir()
    find("qwen_vl").write(paddle_side, back, Writing())
    again = read_checkpoint(back)
    assert same(again.weights, torch_side.weights)
    assert again.config.to_dict() == torch_side.config.to_dict()
    assert (back / "qwen.tiktoken").read_bytes() == (out / "qwen.tiktoken").read_bytes()


def test_paddles_safetensors_are_known_by_their_names(tmp_path):
    torch_side, out = written(tmp_path)
    write_weights(open_pdparams(out), out)
    (out / "model_state.pdparams").unlink()
    found = read_checkpoint(out)
    assert found.layout == "paddle"
    assert same(found.weights, torch_side.weights)


def test_sizes_that_the_configuration_leaves_out_come_from_the_weights(tmp_path):
    torch_side, out = written(tmp_path)
    fields = json.loads((out / "config.json").read_text())
    for name in ("num_hidden_layers", "vocab_size", "intermediate_size"):
        del fields[name]
    del fields["visual"]["layers"], fields["visual"]["mlp_ratio"]
    (out / "config.json").write_text(json.dumps(fields))
    found = read_checkpoint(out)
    found.check()
    assert "does not say vocab_size, num_hidden_layers, intermediate_size" in found.notes[0]
    assert found.config.text_config.to_dict() == torch_side.config.text_config.to_dict()


def lora(folder: Path, names: list[str], base, dtype: str = "float32", **fields) -> Path:
    """A LoRA of rank 2 on weights of `base`, as PaddleNLP saves it."""
    folder.mkdir()
    draw = np.random.default_rng(3)
    state = {}
    for name in names:
        outputs, inputs = base[our_name(f"{name}.weight")].shape
        state[f"{name}.lora_A"] = draw.normal(size=(inputs, 2)).astype(np.float32)
        state[f"{name}.lora_B"] = draw.normal(size=(2, outputs)).astype(np.float32)
    dumped(folder / "lora_model_state.pdparams", state)
    told = {"r": 2, "lora_alpha": 16, "dtype": dtype, "merge_weights": False} | fields
    (folder / "lora_config.json").write_text(json.dumps(told))
    return folder


NAMES = ["transformer.llm.h.0.attn.c_attn", "transformer.llm.h.1.mlp.w2"]


@pytest.mark.parametrize("base_layout", ["paddle", "published"])
def test_a_lora_and_its_base_make_one_model(tmp_path, base_layout):
    torch_side, _ = written(tmp_path)
    folder = lora(tmp_path / "lora", NAMES, torch_side.weights)
    found = find("paddle").read(folder, Parts(base=tmp_path / base_layout))
    found.check()
    state = pickle.loads((folder / "lora_model_state.pdparams").read_bytes())
    for name in NAMES:
        a, b = (torch.from_numpy(state[f"{name}.lora_{side}"]) for side in "AB")
        before = torch_side.weights[our_name(f"{name}.weight")].read().float()
        after = found.weights[our_name(f"{name}.weight")].read()
        torch.testing.assert_close(after, before + (a @ b).T * 8)
    untouched = "language.transformer.h.0.mlp.w2.weight"
    assert found.weights[untouched].dtype == torch.float32
    assert torch.equal(
        found.weights[untouched].read(), torch_side.weights[untouched].read().float()
    )
    assert "LoRA of" in found.notes[-1]


def test_bf16_rounds_as_paddle_does_and_rslora_scales_by_the_root(tmp_path):
    torch_side, _ = written(tmp_path)
    folder = lora(tmp_path / "lora", NAMES[:1], torch_side.weights, "bfloat16", rslora=True)
    adapter = PaddleLora.read(folder)
    ((name, (a, b)),) = adapter.pairs.items()
    assert adapter.scale == 16 / 2**0.5
    base = torch_side.weights[our_name(name)]
    product = a.read().bfloat16() @ b.read().bfloat16()
    stepwise = base.read().bfloat16() + (product * adapter.scale).T
    merged = adapter.onto({name: base})[name]
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged.read(), stepwise)
    exact = base.read().float() + (a.read() @ b.read()).T * adapter.scale
    assert not torch.equal(merged.read(), exact.bfloat16())


def test_a_lora_that_cannot_be_merged_says_why(tmp_path):
    torch_side, base = written(tmp_path)
    whole = torch_side.weights
    folder = lora(tmp_path / "lora", NAMES, whole)
    layout = find("paddle")
    with pytest.raises(ModelError, match="is a LoRA; name the model that it belongs to"):
        layout.read(folder, Parts())
    odd = lora(tmp_path / "odd", NAMES, whole, pissa=True)
    with pytest.raises(ModelError, match="pissa is not read"):
        layout.read(odd, Parts(base=base))
    (folder / "lora_config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks lora_config.json"):
        layout.read(folder, Parts(base=base))
    small = {name: Lazy.of(torch.zeros(3, 3), "w") for name in whole}
    plain = PaddleLora.read(lora(tmp_path / "plain", NAMES, whole)).renamed()
    with pytest.raises(ModelError, match="the LoRA belongs to another model"):
        plain.onto(small)


def test_what_is_missing_or_elsewhere_is_named(tmp_path):
    torch_side, out = written(tmp_path, shard_bytes=20_000)
    next(out.glob("*00002-of*")).unlink()
    with pytest.raises(ModelError, match=r"lacks its shard model_state-00002-of-\d+.pdparams"):
        read_checkpoint(out)
    slices = tmp_path / "slices"
    slices.mkdir()
    (slices / "model_state.tp00.pdparams").write_bytes(b"")
    with pytest.raises(ModelError, match="cut for 1 tensor-parallel ranks"):
        open_pdparams(slices)
    with pytest.raises(ModelError, match=r"holds no model_state.pdparams"):
        open_pdparams(tmp_path)
    with pytest.raises(ModelError, match="no weights at"):
        read_weights(tmp_path / "none.pdparams")
    toy = tmp_path / "toy"
    toy.mkdir()
    (toy / "config.json").write_text("{}")
    dumped(toy / "model_state.pdparams", made())
    with pytest.raises(ModelError, match="this is no Qwen-VL of PaddleMIX"):
        read_checkpoint(toy)
    less = dict(torch_side.weights)
    less.pop("connector.proj")
    with pytest.raises(ModelError, match=r"1 weights are missing: connector.proj"):
        replace(torch_side, weights=less).check()


def test_another_family_is_refused(tmp_path):

    write_folder(ModelFolder(llava(), tokenizer(), small_processor(16)), tmp_path / "llava")
    other = read_checkpoint(tmp_path / "llava")
    for name in ("paddle", "qwen_vl"):
        with pytest.raises(ModelError, match="holds Qwen-VL with Qwen-1, not llava with llama"):
            find(name).write(other, tmp_path, Writing())


def test_turning_twice_is_turning_not_at_all():
    weights = lazies(**{"a.c_proj.weight": torch.randn(2, 3), "proj": torch.randn(2, 3)})
    once = in_torch_layout(weights)
    assert once["a.c_proj.weight"].shape == (3, 2)
    assert same(in_torch_layout(once), weights)
