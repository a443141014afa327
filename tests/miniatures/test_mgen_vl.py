"""The ad-captioning miniature is read by what reads the real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlforge.checkpoints.index import read_checkpoint
from vlforge.data.formats.paddle_labels import convert_labels
from vlforge.inference.load import load_model
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.miniatures.mgen_vl import MODEL


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "mgen_vl"
    return make_miniature("mgen_vl", folder, MiniatureConfig("mgen_vl", rows=41))


def test_the_weights_are_a_model_of_paddles(made):
    checkpoint = read_checkpoint(made / MODEL)
    checkpoint.check()
    assert (checkpoint.layout, checkpoint.template) == ("paddle", "mgen_vl")
    assert (checkpoint.notes, checkpoint.unused) == ((), ())
    dtypes = {lazy.dtype for lazy in checkpoint.weights.values()}
    assert dtypes == {torch.bfloat16}


def test_chinese_is_one_token_a_character(made):
    loaded = load_model(made / MODEL, "cpu")
    ids = loaded.tokenizer.ids("红色的球在沙滩上。")
    assert len(ids) == 9
    assert loaded.tokenizer.decode(ids) == "红色的球在沙滩上。"


def test_labels_are_made_of_it_and_what_is_no_picture_is_told(made, tmp_path):
    done = convert_labels(made / "data/train.txt", tmp_path)
    assert (done.train, done.val) == (38, 3)
    assert dict(done.dropped) == {"no picture in base64": 1, "columns are neither 2 nor 3": 1}
    rank3 = convert_labels(made / "data/train.txt", tmp_path / "rank3", mode="rank3")
    assert rank3.rows == 28
    template = (made / "config/mgen_vl/chat_template.json").read_text()
    assert json.loads(template) == json.loads((tmp_path / "chat_template.json").read_text())


def test_settings_name_what_is_there(made):
    lora, full = (
        json.loads((made / "config/mgen_vl" / name).read_text())
        for name in ("lora_sft_argument.json", "sft_argument.json")
    )
    assert (lora["lora_rank"], lora["max_steps"], len(lora["lora_target_modules"])) == (64, 10, 4)
    assert full["freeze_exclude"] == ["*visual.attn_pool*"]
    assert (made / full["model_name_or_path"] / "config.json").is_file()


def test_its_own_program_answers_every_line_under_sh(made, tmp_path):
    out = tmp_path / "out.tsv"
    words = ["sh", "run.sh", "data/test.txt", str(out), "weights", sys.executable]
    subprocess.run(words, cwd=made, check=True)
    lines = [line.split("\t") for line in out.read_text(encoding="utf-8").splitlines()]
    asked = (made / "data/test.txt").read_text().splitlines()
    assert [key for key, _ in lines] == [line.split("\t")[0] for line in asked]
    assert [said for _, said in lines].count("一张图片") == 1
    done = subprocess.run(["sh", "run.sh", "x"], cwd=made, capture_output=True, text=True)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")
