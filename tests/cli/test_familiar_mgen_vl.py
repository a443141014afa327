"""The ad-captioning task's commands, typed as its users do, on a folder as its users have it."""

from __future__ import annotations

import base64
import json

import pytest

from vlforge.cli.familiar.every import translate
from vlforge.cli.familiar.old import take_apart
from vlforge.cli.recipes import is_other_systems
from vlforge.cli.start import main
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.types import RecipeError

MODEL = "weights/mgen-vl-chat-7b"
LORA, FULL = (f"config/mgen_vl/{name}.json" for name in ("lora_sft_argument", "sft_argument"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The contest's folder: data, .pdparams, arguments, a contestant's own programs."""
    return make_miniature("mgen_vl", tmp_path_factory.mktemp("kit") / "ads",
                          MiniatureConfig("mgen_vl", rows=24))  # fmt: skip


def ours(line: str) -> list[str]:
    """Our commands for an old line."""
    return [" ".join(command) for command in translate(take_apart(line.split())).commands]


def test_labels_are_converted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture = base64.b64encode(b"GIF89a").decode()
    lines = [f"{number}\t{picture}\t第{number}张" for number in range(40)]
    (tmp_path / "TRAIN.txt").write_text("\n".join(lines), encoding="utf-8")
    assert main(["compat", "python", "tools/convert_labels.py", "TRAIN.txt", "out"]) == 0
    assert "out/val.json, 2 rows" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out/train.json").read_text(encoding="utf-8"))) == 38
    assert (tmp_path / "out/chat_template.json").is_file()


def test_lines_of_the_task_are_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlforge.data.machine.visible_gpus", list)
    assert ours(
        f"python -m paddle.distributed.launch --gpus 0,1 supervised_finetune.py {LORA}"
    ) == [f"run {LORA} --processes 2"]
    assert ours(f"sh paddlemix/tools/train.sh {FULL}") == [f"run {FULL}"]
    said = "predict W IN OUT --to tsv --overwrite"
    assert ours("sh run.sh IN OUT W python3.8") == ours("python predict.py IN OUT W") == [said]
    monkeypatch.setattr("vlforge.data.machine.visible_gpus", lambda: ["0"])
    assert ours("bash ./run.sh IN OUT W") == [f"{said} --precision bf16"]
    for line, words in (
        ("python supervised_finetune.py --learning_rate 1", "takes one JSON"),
        ("sh run.sh IN OUT", "takes INPUT OUTPUT WEIGHTS, not 2 words"),
        ("python chat.py", "needs the model's folder"),
        ("python chat.py W", r"chat\.py: does not say which picture"),
        ("python merge_lora_params.py --lora_path x", "needs --model_name_or_path"),
    ):
        with pytest.raises(RecipeError, match=words):
            ours(line)


def test_a_chat_script_names_its_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlforge.data.machine.visible_gpus", list)
    script = tmp_path / "chat.py"
    script.write_text("import sys\nquery = [{'image': 'pictures/ad.JPG'}, {'text': '请描述'}]\n")
    asked = "chat W --image pictures/ad.JPG --question 请描述图片内容"
    assert ours("python chat.py W") == [asked]
    assert ours("python chat.py W mine.png") == [asked.replace("pictures/ad.JPG", "mine.png")]
    script.write_text("a, b = 'a.jpg', 'b.jpg'\n")
    with pytest.raises(RecipeError, match="names 2 pictures; name the picture behind WEIGHTS"):
        ours("python chat.py W")


def test_adapters_are_found_in_the_run_that_has_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merge = "merge_lora_params.py --model_name_or_path B --lora_path ./checkpoints/ad"
    with pytest.raises(RecipeError, match="no such folder, and no run runs/ad with adapters"):
        ours(merge)
    (tmp_path / "runs/ad/01-tune").mkdir(parents=True)
    (tmp_path / "runs/ad/01-tune/adapted.json").write_text("{}")
    assert ours(f"{merge} --merge_model_path out") == ["merge B runs/ad/01-tune out --to paddle"]
    (tmp_path / "checkpoints/ad").mkdir(parents=True)
    assert ours(merge) == ["merge B checkpoints/ad ./checkpoints/ad_merged --to paddle"]


def test_arguments_are_told_from_a_dataset_of_the_same_ending(tmp_path):
    told = {"model_name_or_path": "m", "learning_rate": 1, "dataset": {}}
    (tmp_path / "a.json").write_text(json.dumps(told))
    (tmp_path / "rows.json").write_text(json.dumps([{"conversations": [["q", "a"]]}]))
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    found = [is_other_systems(tmp_path / f"{name}.json") for name in ("a", "rows", "b", "none")]
    assert found == [True, False, False, False]


@pytest.mark.slow
def test_the_whole_way_from_labels_to_captions(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main("compat python convert_labels.py data/train.txt data".split()) == 0
    for name, more in ((LORA, {}), (FULL, {"max_steps": 1})):
        told = json.loads((folder / name).read_text())
        few = {"max_steps": 1, "gradient_accumulation_steps": 2, "evaluation_strategy": "no"}
        (folder / name).write_text(json.dumps(told | few | more))
        assert main(["check", name]) == 0
        assert main(["compat", "python", "-u", "supervised_finetune.py", name]) == 0
    lora = "--lora_path checkpoints/mgen_vl_lora_sft_ckpts --merge_model_path merged"
    line = f"compat python merge_lora_params.py --model_name_or_path {MODEL} {lora}"
    assert main(line.split()) == 0
    assert (folder / "merged/model_state.pdparams").is_file()
    row = (folder / "data/train.txt").read_text(encoding="utf-8").splitlines()[0]
    (folder / "ad.jpg").write_bytes(base64.b64decode(row.split("\t")[1]))
    capsys.readouterr()
    assert main("compat python chat.py merged ad.jpg".split()) == 0
    assert " s (model loaded in " in capsys.readouterr().out
    tests = (folder / "data/test.txt").read_text(encoding="utf-8").splitlines()
    for program in ("sh run.sh", "python predict.py"):
        assert main(f"compat {program} data/test.txt out.txt merged".split()) == 0
        said = (folder / "out.txt").read_text(encoding="utf-8").splitlines()
        assert [one.partition("\t")[0] for one in said] == [one.partition("\t")[0] for one in tests]
