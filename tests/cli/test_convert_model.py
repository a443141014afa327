import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import tiny_llava as tiny
from tests.inference.tiny import picture
from tests.signals import hears_ctrl_c
from vlforge.checkpoints import conversion
from vlforge.checkpoints.checkpoint import expected
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.weights import Lazy, write_weights
from vlforge.cli import main
from vlforge.cli.convert_model import read_size
from vlforge.models.llava import LlavaConfig
from vlforge.models.reading import write_json
from vlforge.types import RecipeError


@pytest.fixture
def ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny.folder(tmp_path / "ours", tiny.model())


def convert(*words) -> int:
    return main(["convert-model", *map(str, words)])


def test_a_model_goes_round_through_every_whole_layout(ours, capsys):
    steps = ["llava", "llava_hf_nested", "llava_hf", "vlforge"]
    source = ours
    for number, layout in enumerate(steps):
        assert convert(source, f"step{number}", "--to", layout) == 0
        source = Path(f"step{number}")
    found, wanted = read_checkpoint(source), read_checkpoint(ours)
    for name, lazy in wanted.weights.items():
        assert torch.equal(found.weights[name].read()[: lazy.shape[0]], lazy.read()), name
    shown = capsys.readouterr()
    assert "Read    ours as vlforge (llava): " in shown.out
    assert "Written step1 as llava_hf_nested: " in shown.out
    assert "<image> are new to the tokenizer" in shown.err or "<image>" in shown.err


def test_what_is_written_answers_in_the_chat(ours, capsys):
    assert convert(ours, "out", "--to", "llava") == 0
    picture(1).save("cat.png")
    capsys.readouterr()
    answers = []
    for folder in (ours, "out"):
        code = main(["chat", str(folder), "--image", "cat.png", "-q", "what is red"])
        assert code == 0
        answers.append(capsys.readouterr().out.split("\n")[0])
    assert answers[0] == answers[1]


def test_shards_precision_and_pickles_are_as_asked(ours):
    assert convert(ours, "o", "--to", "llava", "--dtype", "bf16", "--shard-size", "6KB") == 0
    assert len(list(Path("o").glob("model-*.safetensors"))) > 1
    assert {lazy.dtype for lazy in read_checkpoint(Path("o")).weights.values()} == {torch.bfloat16}
    assert convert(ours, "p", "--to", "llava", "--bin") == 0
    assert Path("p/pytorch_model.bin").is_file()


def test_a_dry_run_lists_every_tensor_and_writes_nothing(ours, capsys):
    assert convert(ours, "out", "--to", "llava", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "0 unused, 0 without a place, 0 of another shape, 0 missing" in shown
    assert "connector.0.weight" in shown
    assert not Path("out").exists()


def test_a_dry_run_of_a_broken_model_lists_what_is_wrong_and_fails(ours, capsys):
    file = ours / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("connector.0.bias")
    tensors |= {"connector.0.weight": torch.zeros(3, 3), "other": torch.zeros(1)}
    save_file(tensors, file)
    assert convert(ours, "out", "--to", "llava", "--dry-run") == 1
    shown = capsys.readouterr().out
    assert "1 without a place, 1 of another shape, 1 missing" in shown
    assert convert(ours, "out", "--to", "llava") == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path("out").exists()


def test_unused_tensors_are_listed(ours, capsys):
    convert(ours, "out", "--to", "llava")
    file = Path("out/model.safetensors")
    save_file(
        load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, file
    )
    capsys.readouterr()
    assert convert("out", "again", "--to", "vlforge") == 0
    shown = capsys.readouterr().err
    assert "1 tensors are not used" in shown
    assert "rotary_emb.inv_freq (computed today)" in shown


def test_a_second_run_says_that_it_is_there(ours, capsys):
    assert convert(ours, "out", "--to", "llava") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert convert(ours, "out", "--to", "llava") == 2
    assert "out exists already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nowhere", "out", "--to", "llava"], "no model at nowhere"),
        (["ours", "out", "--to", "lava"], "did you mean 'llava'"),
        (["ours", "out", "--to", "llava", "--from", "hf"], "unknown layout 'hf'"),
        (["ours", "out", "--to", "llava", "--shard-size", "big"], "--shard-size 'big'"),
        (["ours", "out", "--to", "llava_lora"], "no adapter apart"),
        (["ours", "out", "--to", "llava", "--template", "none"], "no conversation template"),
        (["ours/config.json", "out", "--to", "llava"], "nothing of it was run"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(ours, words, part, capsys):
    assert convert(*words) == 2
    shown = capsys.readouterr().err.splitlines()
    assert part in shown[-1]
    assert not [path for path in Path().iterdir() if "out" in path.name]


def test_a_template_can_be_given(ours):
    assert convert(ours, "out", "--to", "llava", "--template", "chatml_direct") == 0
    assert read_checkpoint(Path("out")).template == "chatml_direct"


def test_too_little_room_is_said_before_writing(ours, monkeypatch, capsys):
    class Usage:
        free = 1000

    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: Usage)
    assert convert(ours, "out", "--to", "llava") == 2
    assert "GB left" in capsys.readouterr().err
    assert not Path("out").exists()


def test_sizes_are_read():
    assert [read_size(text) for text in ("2GB", "500 mb", "1GiB", "7")] == [
        2 * 10**9, 5 * 10**8, 2**30, 7,
    ]  # fmt: skip
    with pytest.raises(RecipeError):
        read_size("0GB")


def test_the_layouts_are_listed(capsys):
    assert main(["list", "layouts"]) == 0
    shown = capsys.readouterr().out
    for layout in ("vlforge", "llava", "llava_lora", "llava_projector", "llava_hf", "peft_adapter"):
        assert f"\n{layout} " in shown


def large_folder(out: Path, layers: int) -> int:
    """A folder of ours with made-up weights, written tensor by tensor; returns its bytes."""
    text = tiny.LANGUAGES["llama"]()
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 2048, layers
    text.num_attention_heads = text.num_key_value_heads = 8
    text.head_dim, text.vocab_size = 64, 4000
    config = LlavaConfig(vision_config=tiny.TOWERS["clip"](), text_config=text)
    weights = {
        name: Lazy(shape, torch.bfloat16, lambda shape=shape: torch.ones(shape).bfloat16(), name)
        for name, shape in expected(config).items()
    }
    out.mkdir()
    write_weights(weights, out)
    write_json(out / "config.json", config.to_dict())
    return sum(lazy.nbytes for lazy in weights.values())


def anonymous_kb() -> int:
    """Memory of this process that is no mapped file."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split("RssAnon:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_converting_takes_the_memory_of_a_tensor_not_of_the_model(tmp_path):
    size = large_folder(tmp_path / "large", layers=20)
    checkpoint = read_checkpoint(tmp_path / "large")
    checkpoint.check()
    most, ended = anonymous_kb(), threading.Event()
    before = most

    def watch():
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, anonymous_kb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        from vlforge.checkpoints.checkpoint import Writing
        from vlforge.checkpoints.index import find

        conversion.write(checkpoint, tmp_path / "out", find("llava"), Writing())
    finally:
        ended.set()
        watcher.join()
    assert size > 150e6
    assert (most - before) * 1024 < size / 3


HELD = """
import contextlib, pathlib, sys, time
from vlforge.cli import convert_model, main

@contextlib.contextmanager
def progress(name):
    def shown(*told):
        pathlib.Path("begun").touch()
        time.sleep(600)
    yield shown

convert_model.progress = progress
sys.exit(main(sys.argv[1:]))
"""
"""The command line, which waits behind the first shard: it is in the middle until it is stopped."""


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half(tmp_path):
    large_folder(tmp_path / "large", layers=10)
    words = ["convert-model", "large", "out", "--to", "llava", "--shard-size", "20MB"]
    root = str(Path(__file__).resolve().parents[2])
    how = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}}
    running = subprocess.Popen(
        [sys.executable, "-c", HELD, *words], stderr=subprocess.PIPE, preexec_fn=hears_ctrl_c, **how
    )
    end, part = time.monotonic() + 300, tmp_path / ".out.part"
    try:
        while not (tmp_path / "begun").exists() and running.poll() is None:
            assert time.monotonic() < end, "no shard was written"
            time.sleep(0.01)
        assert any(part.iterdir())
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 130
    assert not part.exists()
    assert not (tmp_path / "out").exists()
    assert b"Traceback" not in said
    command = [sys.executable, "-m", "vlforge", *words]
    assert subprocess.run(command, check=False, **how).returncode == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llava_llama"
