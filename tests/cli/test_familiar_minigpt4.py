"""MiniGPT-4's commands, typed as its users do, on a folder as its users have it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.checkpoints.test_vicuna_delta import pair  # noqa: F401
from tests.download_site import running_site
from tests.signals import hears_ctrl_c
from vlforge.cli.familiar.every import translate
from vlforge.cli.familiar.minigpt4 import option_words
from vlforge.cli.familiar.old import take_apart
from vlforge.cli.start import main
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.types import RecipeError

PUBLISHED = (
    "--url_list laion_synthetic_filtered_large.tsv --input_format tsv --url_col url "
    "--caption_col caption --output_format webdataset --output_folder laion_dataset "
    "--processes_count 16 --thread_count 128 --image_size 256 --enable_wandb True"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of MiniGPT-4's: weights, data, prompts, configuration files."""
    return make_miniature("minigpt4", tmp_path_factory.mktemp("kit") / "minigpt4",
                          MiniatureConfig("minigpt4", rows=8))  # fmt: skip


def ours(line: str) -> list[str]:
    """Our commands for an old line."""
    return [" ".join(command) for command in translate(take_apart(line.split())).commands]


@pytest.mark.parametrize("name", ["ccs", "laion"])
def test_the_lists_are_converted_in_their_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"caption": "a\tcat", "url": "http://x/1"}, {"url": "http://x/2", "caption": "b"}]
    (tmp_path / f"{name}_synthetic_filtered_large.json").write_text(json.dumps(rows))
    script = "convert_cc_sbu.py" if name == "ccs" else "dataset/convert_laion.py"
    assert main(["compat", "python", script]) == 0
    told = (tmp_path / f"{name}_synthetic_filtered_large.tsv").read_text().splitlines()
    assert told == ["caption\turl", "a cat\thttp://x/1", "b\thttp://x/2"]
    assert "Written 2 of 2 rows" in capsys.readouterr().out


def test_a_download_script_is_read_and_its_words_are_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ours("bash dataset/download_laion.sh") == [f"download {PUBLISHED}"]
    script = tmp_path / "download_laion.sh"
    script.write_text(
        "#!/bin/bash\n# img2dataset fetches\nimg2dataset --url_list mine.tsv --input_format"
        ' "tsv"\\\n  --output_folder out --image_size 64\n'
    )
    assert ours("sh download_laion.sh --retries 3") == [
        "download --url_list mine.tsv --input_format tsv --output_folder out --image_size 64 "
        "--retries 3"
    ]
    script.write_text("img2dataset --url_list $LIST\n")
    with pytest.raises(RecipeError, match=r"download_laion\.sh:1: \$LIST is a shell's"):
        ours("sh download_laion.sh")
    script.write_text("echo nothing\n")
    with pytest.raises(RecipeError, match="starts no img2dataset"):
        ours("sh download_laion.sh")


@pytest.mark.slow
def test_pictures_are_downloaded_by_both_scripts_and_by_img2dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running_site(monkeypatch) as site:
        for name in ("ccs", "laion"):
            rows = f"caption\turl\na cat\t{site.url}/a.jpg\ngone\t{site.url}/404\n"
            (tmp_path / f"{name}_synthetic_filtered_large.tsv").write_text(rows)
        few = ["--allow_private", "true", "--processes_count", "1", "--thread_count", "2"]
        few += ["--timeout", "300", "--total_timeout", "900"]
        assert main(["compat", "bash", "download_cc_sbu.sh", *few]) == 0
        assert main(["compat", "bash", "dataset/download_laion.sh", *few]) == 0
        words = ["--url_list", "laion_synthetic_filtered_large.tsv", "--output_folder", "third"]
        assert main(["compat", "img2dataset", *words, *few]) == 0
    for made in ("cc_sbu_dataset", "laion_dataset", "third"):
        told = json.loads((tmp_path / made / "00000_stats.json").read_text())
        assert (told["count"], told["successes"]) == (2, 1)


def test_vicunas_differences_are_added(pair, tmp_path, capsys):  # noqa: F811
    _, _, llama, delta = pair
    for flags in (("--base", "--target", "--delta"),
                  ("--base-model-path", "--target-model-path", "--delta-path")):  # fmt: skip
        out = tmp_path / flags[0].strip("-")
        line = ["-m", "fastchat.model.apply_delta", flags[0], str(llama), flags[1], str(out),
                flags[2], str(delta), "--low-cpu-mem"]  # fmt: skip
        assert main(["compat", "python3", *line]) == 0
        assert len(load_file(next(out.glob("*.safetensors")))) > 5
    with pytest.raises(RecipeError, match="apply_delta needs --target"):
        ours("python -m fastchat.model.apply_delta --base a --delta b")


def test_options_may_stand_anywhere():
    line = "train.py --options run.seed=1 model.ckpt=x --cfg-path a.yaml"
    assert option_words(take_apart(line.split())) == ["run.seed=1", "model.ckpt=x"]
    assert option_words(take_apart(["train.py", "--cfg-path", "a.yaml"])) == []


def test_training_and_demo_lines_are_ours(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vlforge.data.machine.visible_gpus", list)
    config = "train_configs/minigpt4_stage1_pretrain.yaml"
    assert ours(f"torchrun --nproc-per-node 4 train.py --cfg-path {config}") == [
        f"run {config} --processes 4"
    ]
    assert ours(f"python train.py --cfg-path={config} --options run.max_epoch 1") == [
        f"adopt {config} run.max_epoch=1 -o runs/minigpt4_stage1_pretrain.yaml",
        "run runs/minigpt4_stage1_pretrain.yaml",
    ]
    demo = "demo.py --cfg-path eval_configs/minigpt4_eval.yaml"
    shown = "web weights/prerained_minigpt4_7b.pth --vision weights/eva_vit_g.pth"
    parts = "--qformer weights/blip2_pretrained_flant5xxl.pth --language weights/vicuna-7b"
    assert ours(f"python {demo} --gpu-id 1") == [
        f"{shown} {parts} --device cuda:1 --low-resource --no-browser"
    ]
    monkeypatch.setattr("vlforge.data.machine.visible_gpus", lambda: ["0"])
    assert ours(f"python {demo} --options model.low_resource False") == [
        f"{shown} {parts} --precision fp16 --no-browser"
    ]
    with pytest.raises(RecipeError, match=r"demo\.py needs --cfg-path FILE"):
        ours("python demo.py --cfg-path")
    with pytest.raises(RecipeError, match="no command that is known"):
        ours("python train.py --config other.yaml")


@pytest.mark.slow
def test_both_stages_train_from_their_own_files_and_the_second_on_the_first(folder, monkeypatch):
    monkeypatch.chdir(folder)
    few = "run.iters_per_epoch=1 run.max_epoch=1 run.batch_size_train=2 run.warmup_steps=1"
    line = "torchrun --nproc-per-node 1 train.py --cfg-path train_configs/minigpt4_{}.yaml"
    first = line.format("stage1_pretrain")
    drawn = "datasets.cc_sbu.sample_ratio=115 run.iters_per_epoch=3"  # so that both are drawn
    assert main(["compat", *first.split(), "--options", *few.split(), *drawn.split()]) == 0
    made = next((folder / "runs/minigpt4_stage1_pretrain").glob("*align"))
    assert (made / "config.json").is_file()
    second = line.format("stage2_finetune").split()
    ckpt = f"model.ckpt={made.relative_to(folder)}"
    assert main(["compat", *second, "--options", *few.split(), ckpt]) == 0
    made = next((folder / "runs/minigpt4_stage2_finetune").glob("*instruct"))
    assert (made / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_demo_answers_over_http_and_ends(folder):
    root = Path(__file__).resolve().parents[2]
    line = "python demo.py --cfg-path eval_configs/minigpt4_eval.yaml --gpu-id 0"
    command = [sys.executable, "-m", "vlforge", "compat", *line.split(), "--options"]
    done = subprocess.Popen(
        [*command, "model.low_resource", "False"], stdout=subprocess.PIPE, cwd=folder, text=True,
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=hears_ctrl_c,
    )  # fmt: skip
    try:
        assert done.stdout.readline().startswith("$ vlforge web weights/prerained_minigpt4_7b.pth")
        lines = [done.stdout.readline() for _ in range(3)]
        url = re.search(r"http://127\.0\.0\.1:\d+/", lines[2]).group()
        assert lines[0].startswith("Loaded  prerained_minigpt4_7b.pth")
        room = json.loads(posted(f"{url}api/rooms", b""))["room"]
        picture = min((folder / "cc_sbu_align/image").iterdir()).read_bytes()
        shown = json.loads(posted(f"{url}api/rooms/{room}/pictures?name=a.jpg", picture))
        asked = {"exchanges": [{"question": "what is this", "pictures": [shown["number"]]}],
                 "settings": {"max_tokens": 8}}  # fmt: skip
        answer = posted(f"{url}api/rooms/{room}/answers", json.dumps(asked).encode())
        last = json.loads(answer.decode().splitlines()[-1])
        assert last["ended"] in ("length", "stop"), last
    finally:
        done.send_signal(signal.SIGINT)
        try:
            out, _ = done.communicate(timeout=600)
        finally:
            done.kill()
    assert out.splitlines()[-1] == "Stopped"


def posted(url: str, body: bytes) -> bytes:
    """What an address answers."""
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=600) as answer:
        return answer.read()
