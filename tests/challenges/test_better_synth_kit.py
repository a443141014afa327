"""Driving the kit: its script's block, its log, the rows it is given, its processes, the zip."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from tests.challenges.small_better_synth import OFFLINE, SCRIPT, write_kit
from tests.recipe.adopting import check_origins
from tests.structure.tree import ROOT
from vlforge.challenges.better_synth.check import Asked
from vlforge.challenges.better_synth.config import MMBENCH_TABLE, SCRIPTS
from vlforge.challenges.better_synth.folder import open_kit
from vlforge.challenges.better_synth.kit_log import KitLog, read_stage_log, tail
from vlforge.challenges.better_synth.kit_run import Places, left_to_do, settle_values, told, verify
from vlforge.challenges.better_synth.own_recipe import own_recipe
from vlforge.challenges.better_synth.own_run import export_rows, process_for_kit
from vlforge.challenges.better_synth.processes import descendants, lines_of, lives
from vlforge.challenges.better_synth.script import TrainScript, read_script
from vlforge.challenges.better_synth.solution import read_solution
from vlforge.challenges.better_synth.start import begin
from vlforge.cli import main
from vlforge.data.formats.dj import read
from vlforge.recipe.load import load_recipe
from vlforge.recipe.source import MadeSource
from vlforge.types import DataError, RecipeError, VLForgeError

NAME = "MGM-2B-Finetune-default"
ENDED = "{'train_runtime': 3600.0, 'train_loss': 2.5, 'epoch': 1.0}\n"
LOGS = {
    "MGM-2B-Pretrain-default/pretrain.log": "{'loss': 3.0, 'learning_rate': 0.001}\n" + ENDED,
    f"{NAME}/finetuning.log": "{'loss': 2.0, 'learning_rate': 2e-05}\n" + ENDED,
}
TEXTVQA = f"output/eval_results/{NAME}/textvqa/bm1.jsonl"
MMBENCH = f"output/eval_results/{NAME}/mmbench/answers/mmbench_dev_20230712/{NAME}.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = write_kit(tmp_path_factory.mktemp("kit") / "contest")
    begin(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "contest"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def finished(folder: Path) -> Path:
    """What the kit leaves, laid into a folder."""
    for name, text in LOGS.items():
        write(folder / "output/training_dirs" / name, text)
    write(folder / "output/training_dirs/MGM-2B-Pretrain-default/mm_projector.bin", "weights")
    for name in ("config.json", "pytorch_model.bin"):
        write(folder / "output/training_dirs" / NAME / name, "{}")
    write(folder / TEXTVQA, json.dumps({"question_id": "a1", "text": "stop"}) + "\n")
    write(folder / MMBENCH, json.dumps({"question_id": 1, "text": "A"}) + "\n")
    shutil.copyfile(folder / SCRIPTS[0], folder / "output/train.sh")
    return folder


def test_only_the_values_of_the_block_are_written(folder):
    path = folder / SCRIPTS[0]
    path.chmod(0o755)
    rows = folder / "output/res.jsonl"
    kit = open_kit(folder)
    settle_values(kit, rows, 4, {"EXP_NAME": "second", "LOGGING_STEP": "50"})
    wanted = SCRIPT.replace("EXP_NAME=default", "EXP_NAME=second")
    wanted = wanted.replace(f"../{OFFLINE.seed}/{OFFLINE.rows}", "../output/res.jsonl")
    wanted = wanted.replace("STEPS=64", "STEPS=16").replace("STEPS=32", "STEPS=8")
    wanted = wanted.replace('IDX="0"\n', 'IDX="0"\nLOGGING_STEP=50\n')
    assert path.read_text() == wanted
    assert path.stat().st_mode & 0o777 == 0o755
    script = read_script(path)
    assert script.fixed_digest == kit.recorded["script"]["fixed_sha256"]
    assert script.strays() == []
    before = path.stat().st_mtime_ns
    settle_values(kit, rows, 4, {"EXP_NAME": "second", "LOGGING_STEP": "50"})
    assert path.stat().st_mtime_ns == before


def test_names_that_would_leave_their_folder_are_refused(folder):
    with pytest.raises(RecipeError, match="names folders"):
        settle_values(open_kit(folder), folder / "r.jsonl", 1, {"EXP_NAME": "../x"})


def test_the_scripts_words_are_read_with_their_variables():
    lines = tuple(SCRIPT.split("\n"))
    script = TrainScript(Path("/kit/toolkit/train.sh"), lines, first=1, last=11)
    assert script.given("--data_path")[1] == (
        "/kit/toolkit/training/data/finetuning_stage_1_12k/mgm_instruction_stage_1_12k.json"
    )
    assert script.assigned("ORIGINAL_DATASET_ALL").endswith("_10k/stage_1.json")
    assert script.values["PRETRAIN_DATALOADER_NUM_WORKERS"] == "4"


SHARED = (
    "template", "train", "epochs", "batch", "micro_batch", "accumulation", "expect_global_batch",
    "max_length", "seed", "save_every_samples", "data",
)  # fmt: skip
RATES = ("lr", "schedule", "warmup_ratio", "groups")


def test_with_and_without_a_script_our_recipe_has_the_published_settings(folder):
    kit, published = open_kit(folder), ROOT / "recipes/better_synth/published.yaml"
    solution = read_solution(folder)
    (folder / SCRIPTS[0]).unlink()
    without = own_recipe(kit, published, solution, gpus=1)
    shutil.copyfile(ROOT / "vlforge/miniatures/kit" / SCRIPTS[0], folder / SCRIPTS[0])
    with_script = own_recipe(kit, published, solution, gpus=1)
    split = own_recipe(kit, published, solution, gpus=4).tree["stages"]
    assert [split[one]["accumulation"] for one in ("align", "instruct")] == [16, 8]
    for recipe in (without, with_script):
        load_recipe(MadeSource(recipe.tree, recipe.text()))
        check_origins(recipe)
        assert list(recipe.tree["stages"])[:2] == ["synthesise", "align"]
    for name in ("align", "instruct"):
        first, second = (one.tree["stages"][name] for one in (without, with_script))
        assert {key: first[key] for key in SHARED} == {key: second[key] for key in SHARED}
        assert [first["optimiser"][key] for key in RATES] == [
            second["optimiser"][key] for key in RATES
        ]
    assert without.tree["stages"]["score"] == with_script.tree["stages"]["score"]


def test_the_log_tells_part_progress_loss_and_time_left():
    log = KitLog()
    assert log.take(" 10%|█  | 78/781 [07:20<1:05:51,  5.62s/it]") is None
    log.take("{'loss': 4.4551, 'learning_rate': 0.001, 'epoch': 0.06}")
    assert (log.part, log.done, log.total) == ("pretrain", 78, 781)
    assert log.note == "loss 4.455, 1:05:51 left"
    assert log.take("{'train_runtime': 4424.4, 'train_loss': 3.99, 'epoch': 1.0}") == "pretrain"
    log.take("Loading checkpoint shards:  50%|█  | 1/2 [00:02<00:02,  2.10s/it]")
    assert log.total is None
    log.take("  0%|   | 1/1875 [00:09<?, ?it/s]")
    assert (log.part, log.note) == ("finetune", "")
    log.take("torch.cuda.OutOfMemoryError: CUDA out of memory.")
    assert log.error == "torch.cuda.OutOfMemoryError: CUDA out of memory."
    assert log.take("Infer on TextVQA...") == "finetune"
    assert log.take("Infer on MMBench...") == "textvqa"


def test_a_stages_log_is_read_between_its_bars(tmp_path):
    path = tmp_path / "pretrain.log"
    path.write_text("x\r 1/2 [..]\n{'loss': 3.5, 'epoch': 0.5}\r 2/2\n" + ENDED)
    said = read_stage_log(path)
    assert (said.losses, said.runtime_s, said.train_loss) == ((3.5,), 3600.0, 2.5)
    assert tail(path, 2) == [" 2/2", ENDED.strip()]


def test_rows_are_given_as_the_kits_converter_takes_them(tmp_path):
    rows = [
        {"id": "a", "text": "<image> one <|__dj__eoc|>", "images": ["x/1.jpg"]},
        {"id": "b", "text": "<__dj__image> two", "images": ["/abs/2.jpg"], "tag": 1},
        {"id": "c", "text": "<__dj__image> three", "images": ["3.jpg"]},
        {"id": "lost", "text": "<__dj__image> four", "images": ["4.jpg"]},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out" / "res.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    remark = export_rows(source, target, {"a", "b", "c"}, 5)
    assert remark == "1 rows have no question"
    assert [(r["id"], r["text"], r["images"]) for r in read(target)] == [
        ("a", "<__dj__image> one <|__dj__eoc|>", [str(tmp_path / "x/1.jpg")]),
        ("b", "<__dj__image> two", ["/abs/2.jpg"]),
        ("c", "<__dj__image> three", [str(tmp_path / "3.jpg")]),
    ]
    assert "2 of 3 rows are drawn" in export_rows(source, target, {"a", "b", "c"}, 2)
    drawn = sorted(random.Random(1024).sample(range(3), 2))
    assert [row["id"] for row in read(target)] == ["abc"[n] for n in drawn]
    source.with_name("l.json").write_text('[{"id": "a", "conversations": []}]')
    with pytest.raises(DataError, match="vlforge convert"):
        export_rows(source.with_name("l.json"), target, {"a"}, 5)
    with pytest.raises(DataError, match="among the original questions"):
        export_rows(source, target, {"z"}, 5)


def test_rows_that_another_tool_made_are_not_written_over(folder):
    kit = open_kit(folder)
    rows = folder / OFFLINE.seed / OFFLINE.rows
    asked = Asked(folder / "none.yaml", "kit", data=rows)
    target, _, remark = process_for_kit(kit, asked, fresh=False)
    assert (len(list(read(target))), remark) == (3, "")
    process_for_kit(kit, asked, fresh=False)
    target.write_text("hours of work\n")
    with pytest.raises(DataError, match="was not made by this command: train on it with --data"):
        process_for_kit(kit, asked, fresh=False)
    assert target.read_text() == "hours of work\n"
    process_for_kit(kit, asked, fresh=True)
    assert len(list(read(target))) == 3


def test_what_is_finished_is_not_run_again_and_other_values_do_not_go_over_it(folder):
    finished(folder)
    kit = open_kit(folder)
    script = kit.script()
    places = Places(kit, "default")
    with pytest.raises(RecipeError, match="holds a finished training of other values"):
        left_to_do(places, script)
    write(places.note, told(script))
    assert left_to_do(places, script) == []
    (folder / MMBENCH).unlink()
    mmbench = ["bash", "eval/mmbench.sh", NAME, "mmbench_dev_20230712", "0"]
    assert left_to_do(places, script) == [mmbench]
    whole = [["bash", Path(SCRIPTS[0]).name]]
    log = folder / "output/training_dirs" / f"{NAME}/finetuning.log"
    write(log, "{'loss': 2.0}\n")
    assert left_to_do(places, script) == whole
    # Its trainer may tell of its end and then fail to write its weights.
    write(log, f"{ENDED}ModuleNotFoundError: No module named 'torch'\n")
    assert left_to_do(places, script) == [mmbench]
    for lost in (places.finetune / "pytorch_model.bin", places.pretrain / "mm_projector.bin"):
        lost.unlink()
        assert left_to_do(places, script) == whole


def test_checkpoints_of_another_training_are_not_gone_on_from(folder):
    kit = open_kit(folder)
    script = kit.script()
    places = Places(kit, "default")
    (places.finetune / "checkpoint-100").mkdir(parents=True)
    with pytest.raises(RecipeError, match="holds checkpoints of other values"):
        left_to_do(places, script)
    write(places.note, told(script))
    assert left_to_do(places, script) == [["bash", Path(SCRIPTS[0]).name]]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("output/training_dirs/MGM-2B-Pretrain-default/pretrain.log", "the kit's pretrain did"),
        ("output/training_dirs/MGM-2B-Pretrain-default/mm_projector.bin", "no mm_projector.bin"),
        (f"output/training_dirs/{NAME}/pytorch_model.bin", "it left no model"),
        (TEXTVQA, "no answers in output/eval_results"),
    ],
)
def test_what_the_kit_did_not_leave_is_named_with_the_logs_end(folder, lost, said):
    kit, script = open_kit(finished(folder)), read_script(folder / SCRIPTS[0])
    places = Places(kit, "default")
    verify(kit, places, script, "")
    (folder / lost).unlink()
    write(places.log, "a line\nValueError: no such tensor\n")
    with pytest.raises(VLForgeError, match=said) as error:
        verify(kit, places, script, "ValueError: no such tensor")
    assert "ValueError: no such tensor" in str(error.value)
    assert "(log: " in str(error.value)


def follow_until_ctrl_c(script: str, folder: Path, heard: list[str]) -> None:
    """Lines, then the processes below this one, until this one is sent Ctrl-C."""
    with (folder / "log").open("wb") as kept:
        for line in lines_of(["bash", "-c", script], folder, kept, patience=(0.3, 120.0)):
            heard.append(line)
            heard += map(str, descendants(os.getpid()))
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_ends_everything_that_the_command_started(tmp_path):
    # The grandchild leaves the group and does not hear Ctrl-C, as launchers' workers may.
    # It says so once it is deaf.
    deaf = (
        "import os, signal, time; os.setsid(); signal.signal(2, signal.SIG_IGN); "
        'print("begun", os.getpid(), flush=True); time.sleep(600)'
    )
    heard: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        follow_until_ctrl_c(f"{sys.executable} -c '{deaf}' & wait", tmp_path, heard)
    grandchild = heard[0].split()[1]
    assert grandchild in heard[1:]
    assert not lives(int(grandchild))
    assert (tmp_path / "log").read_text() == f"begun {grandchild}\n"


MEMBERS = [
    MMBENCH,
    TEXTVQA,
    "output/train.sh",
    f"output/training_dirs/{NAME}/finetuning.log",
    "output/training_dirs/MGM-2B-Pretrain-default/pretrain.log",
    "solution/image_captioning.yaml",
    "solution/readme",
    "solution/requirements.txt",
]


def test_the_package_has_the_required_members_and_the_same_bytes_twice(folder, capsys):
    finished(folder)
    write(folder / "output/training_dirs" / NAME / "pytorch_model.bin", "weights")
    write(folder / "solution/__pycache__/x.pyc", "made")
    assert main(["challenge", "better-synth", "package", str(folder)]) == 0
    target = folder / "submit/submit.zip"
    with zipfile.ZipFile(target) as packed:
        assert packed.namelist() == MEMBERS
        assert packed.read("output/train.sh") == (folder / SCRIPTS[0]).read_bytes()
    first = target.read_bytes()
    manifest = json.loads((folder / "submit/submit.json").read_text())
    assert manifest["official"] is True
    assert manifest["trainer"] == "kit"
    assert manifest["scores"]["textvqa"]["score"] == 1.0
    assert [one["name"] for one in manifest["members"]] == MEMBERS
    assert {one["verdict"] for one in manifest["rules"]} == {"kept"}
    os.utime(folder / "output/train.sh", (0, 0))
    assert main(["challenge", "better-synth", "package", str(folder)]) == 0
    assert target.read_bytes() == first
    assert "textvqa    100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "output/train.sh").unlink(), "members: output/train.sh is missing"),
        (lambda f: (f / TEXTVQA).unlink(), f"members: {TEXTVQA} is missing"),
        (
            lambda f: write(f / "output/training_dirs" / NAME / "finetuning.log", "{'loss': 1.0}"),
            "finetune-log: output/training_dirs/",
        ),
        (
            lambda f: write(f / "output/train.sh", SCRIPT.replace("2e-5", "3e-5")),
            "train-script: output/train.sh has changed where it is fixed",
        ),
        (
            lambda f: write(f / "output/train.sh", SCRIPT.replace("=default", "=x")),
            "train-script: output/train.sh is of the experiment 'x'",
        ),
        (lambda f: write(f / SCRIPTS[0], SCRIPT.replace("1e-3", "2e-3")), "editable-values: "),
        (lambda f: (f / MMBENCH_TABLE).unlink(), "evaluation-files: "),
        (
            lambda f: write(f / "output/eval_results/MGM-2B-Finetune-b/x", "x"),
            "experiments: several fit (b, default); name one with --experiment",
        ),
        (lambda f: shutil.rmtree(f / "output"), "no results of the kit's trainer"),
    ],
)
def test_a_package_is_refused_with_the_rules_name(folder, spoil, said, capsys):
    spoil(finished(folder))
    assert main(["challenge", "better-synth", "package", str(folder)]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "submit/submit.zip").exists()


def test_an_experiment_is_packed_by_its_name(folder):
    write(finished(folder) / "output/eval_results/MGM-2B-Finetune-b/x", "x")
    words = ["challenge", "better-synth", "package", str(folder), "--experiment"]
    assert main([*words, "default"]) == 0
    assert main([*words, "third"]) == 2
