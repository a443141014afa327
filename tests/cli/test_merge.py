"""`vlforge merge` on the command line: what it prints, and its mistakes in one line."""

from __future__ import annotations

import json
import re

import pytest
import torch

from tests.checkpoints import tiny_llava, tiny_xtuner
from tests.checkpoints.test_internlm2 import fields_of, state_of, write_internlm2
from tests.checkpoints.test_peft import adapted, language
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.weights import open_weights
from vlforge.cli import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*words) -> int:
    return main([str(word) for word in words])


def test_a_language_models_adapter_is_merged(tmp_path, capsys):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    assert run("merge", "base", "adapter", "out", "--dtype", "fp16", "--shard-size", "8KB") == 0
    shown = capsys.readouterr()
    assert re.search(r"Written out: 21 tensors, 4 of them trained, \d+ files", shown.out)
    assert {lazy.dtype for lazy in open_weights(tmp_path / "out").values()} == {torch.float16}
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()


def test_an_xtuner_run_is_merged_and_its_doubts_are_told(tmp_path, capsys):
    made = tiny_xtuner.run(tmp_path)
    recipe = tmp_path / "finetune.txt"
    recipe.write_text(tiny_xtuner.RECIPE)
    tiny_xtuner.write_pth(tmp_path / "iter_7.pth", made, recipe=None)
    words = ["merge", "llm", "iter_7.pth", "out", "--vision", "clip"]
    assert run(*words) == 2
    assert "does not say lora_alpha" in capsys.readouterr().err
    assert run(*words, "--config", recipe, "--to", "llava_hf") == 0
    shown = capsys.readouterr()
    assert "Written out as llava_hf" in shown.out
    assert "<image> gets id 18" in shown.err
    assert read_checkpoint(tmp_path / "out").layout == "llava_hf"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["merge", "base", "nowhere", "out"], "nothing at nowhere"),
        (["merge", "adapter", "base", "out"], "name the base first"),
        (["merge", "base", "adapter", "out", "--to", "llava"], "sees no pictures"),
        (["merge", "ours", "adapter", "out", "--to", "lava"], "did you mean 'llava'"),
        (["merge", "base", "adapter", "ours"], "exists already"),
        (["merge", "base", "adapter", "out", "--shard-size", "big"], "--shard-size 'big'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, words, part):
    adapted(language(tmp_path / "base"), tmp_path / "adapter")
    tiny_llava.folder(tmp_path / "ours", tiny_llava.model())
    capsys.readouterr()
    assert run(*words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert part in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_internlm2_becomes_a_llama_and_comes_back(tmp_path, capsys):
    fields = fields_of()
    write_internlm2(tmp_path / "internlm2", state_of(fields), fields)
    assert run("convert-model", "internlm2", "llama", "--to", "llama") == 0
    assert "Written llama as llama" in capsys.readouterr().out
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert run("convert-model", "llama", "back", "--to", "internlm2") == 0
    given = open_weights(tmp_path / "internlm2")
    for name, lazy in open_weights(tmp_path / "back").items():
        assert torch.equal(lazy.read(), given[name].read())
    capsys.readouterr()
    assert run("convert-model", "llama", "no", "--to", "llama") == 2
    assert "takes internlm2" in capsys.readouterr().err
