import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlforge.checkpoints.weights import Lazy, open_weights, write_safetensors, write_weights
from vlforge.types import ModelError

TENSORS = {
    "half": torch.randn(3, 5).bfloat16(),
    "whole": torch.randn(7),
    "flags": torch.tensor([True, False, True]),
    "number": torch.tensor(3),
    "empty": torch.zeros(0, 4),
    "turned": torch.randn(4, 6).T,
    "small": torch.randn(2).to(torch.float8_e4m3fn),
}


def lazies(tensors=TENSORS):
    return {name: Lazy.of(tensor, name) for name, tensor in tensors.items()}


def test_files_are_what_safetensors_reads_and_every_tensor_is_aligned(tmp_path):
    write_safetensors(lazies(), tmp_path / "ours.safetensors")
    found = load_file(tmp_path / "ours.safetensors")
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.float()), name
    data = (tmp_path / "ours.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % TENSORS[name].dtype.itemsize == 0
    assert len(data) == 8 + size + sum(tensor.nbytes for tensor in TENSORS.values())


def test_a_tensor_that_is_not_what_it_said_is_refused(tmp_path):
    wrong = Lazy((2, 2), torch.float32, lambda: torch.zeros(3), "file:name")
    with pytest.raises(ModelError, match=r"file:name is torch.float32 \[3\], not"):
        write_safetensors({"name": wrong}, tmp_path / "ours.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_come_back_whole(tmp_path, kind):
    files = write_weights(lazies(), tmp_path, kind=kind, shard_bytes=60)
    assert len(files) > 2
    found = open_weights(tmp_path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name].read().float(), tensor.float()), name


def test_a_part_of_a_large_tensor_is_saved_without_the_rest(tmp_path):
    large = torch.zeros(10000, 10)
    (file,) = write_weights({"row": Lazy.of(large[3:4], "row")}, tmp_path, kind="bin")
    assert file.stat().st_size < 5000


def test_precision_is_rounded_once():
    exact = torch.tensor([1 + 2**-9 + 2**-12])
    lazy = Lazy((1,), torch.bfloat16, lambda: exact.bfloat16(), "x", exact=lambda: exact)
    assert torch.equal(lazy.to(torch.float32).read(), exact)
    assert torch.equal(lazy.map(lambda t: t * 2).to(torch.float16).read(), (exact * 2).half())


def test_a_truncated_file_says_so(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(ModelError, match="cannot be read"):
        open_weights(tmp_path)
