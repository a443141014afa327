"""Better Synth's rules over a small folder: a sound one is kept, each bad one is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.challenges.small_better_synth import IDS, OFFLINE, write_kit, write_safetensors
from vlforge.challenges.better_synth import rules
from vlforge.challenges.better_synth.check import Checked
from vlforge.challenges.better_synth.config import (
    MMBENCH_TABLE,
    MODELS,
    SCRIPTS,
    TEXTVQA_IMAGES,
    TEXTVQA_QUESTIONS,
    Round,
)
from vlforge.challenges.better_synth.data_rules import contamination, training_data
from vlforge.challenges.better_synth.folder import RECORD, Kit, open_kit
from vlforge.challenges.better_synth.machine_rules import Estimate, disk, memory
from vlforge.challenges.better_synth.start import begin
from vlforge.challenges.verdicts import Verdict
from vlforge.cli import main
from vlforge.types import RecipeError

RECIPE = "solution/image_captioning.yaml"
SCRIPT = SCRIPTS[0]
TOOLS = "toolkit/training"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = write_kit(tmp_path_factory.mktemp("kit") / "contest")
    begin(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "contest"))


def judged(folder: Path, gpus: int = 1) -> dict[str, Verdict]:
    """All rules but those about the machine, by name."""
    kit = open_kit(folder)
    found = rules.common_rules(kit, "kit")
    found += [rules.global_batch(kit, gpus), rules.models(kit), rules.evaluation_files(kit)]
    return {one.rule: one for one in [*found, *training_data(kit)]}


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_sound_folder_keeps_every_rule(folder):
    found = judged(folder)
    assert {one.verdict for one in found.values()} == {"kept"}
    assert len(found) == 13
    assert contamination(open_kit(folder), None, always=False).verdict == "kept"


def batch_of_255(folder: Path) -> None:
    edit(folder, SCRIPT, "PER_GPU=4\nPRETRAIN_GRADIENT_ACCUMULATION_STEPS=64",
         "PER_GPU=5\nPRETRAIN_GRADIENT_ACCUMULATION_STEPS=51")  # fmt: skip


def no_synthesis(folder: Path) -> None:
    edit(folder, RECIPE, "image_captioning_mapper: {hf_img2seq: models/blip2-opt-2.7b, "
         "keep_original_sample: false}", "text_length_filter: {min_len: 3}")  # fmt: skip


def lost_shard(folder: Path) -> None:
    index_of = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    language = folder / MODELS["language"]
    (language / "model.safetensors.index.json").write_text(json.dumps(index_of))
    (language / "model.safetensors").rename(language / "model-1.safetensors")


def cut_off(folder: Path) -> None:
    path = folder / MODELS["language"] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def wrong_size(folder: Path) -> None:
    write_safetensors(folder / MODELS["language"] / "model.safetensors", (2, 4))


def unknown_id(folder: Path) -> None:
    edit(folder, f"{OFFLINE.seed}/{OFFLINE.rows}", IDS[1], "made_up")


def one_more_word(folder: Path) -> None:
    edit(folder, OFFLINE.finetuning, "Which colour?", "Which colour is it?")


BAD: dict[str, tuple[str, str, str, Callable[[Path], object]]] = {
    "a batch of 255": ("global-batch", "5 x 51 x 1 GPU = 255", "=4 and ", batch_of_255),
    "no synthesis": ("synthesis-step", "only has text_length_filter", "image_captioning_mapper",
                     no_synthesis),
    "an unknown operator": ("synthesis-step", "did you mean 'image_captioning_mapper'", "mend",
                            lambda f: edit(f, RECIPE, "image_captioning", "image_captoning")),
    "changed finetuning data": ("finetuning-data", "has changed since init", "vlforge fetch",
                                one_more_word),
    "a finetuning picture less": ("finetuning-data", "has 0 files, 1 at init", "finetune-rows",
                                  lambda f: (f / TOOLS / "data/finetuning_stage_1_12k/coco/1.jpg")
                                  .unlink()),
    "no questions file": ("evaluation-files", "no such question file", "--only benchmarks",
                          lambda f: (f / TEXTVQA_QUESTIONS).unlink()),
    "a benchmark's picture less": ("evaluation-files", "a1.jpg", "--only benchmarks",
                                   lambda f: (f / TEXTVQA_IMAGES / "a1.jpg").unlink()),
    "a broken table": ("evaluation-files", MMBENCH_TABLE, "--only benchmarks",
                       lambda f: edit(f, MMBENCH_TABLE, "question", "frage")),
    "another answer": ("evaluation-files", "has changed since init", "--only benchmarks",
                       lambda f: edit(f, MMBENCH_TABLE, "\tA\tcolour", "\tB\tcolour")),
    "another model": ("models", "is a model of type 'llama', not 'gemma'", "--only gemma-2b-it",
                      lambda f: edit(f, f"{MODELS['language']}/config.json", "gemma", "llama")),
    "weights cut off": ("models", "model.safetensors has", "--only gemma-2b-it", cut_off),
    "weights of another size": ("models", "embeddings of [2, 4], config.json says [2, 3]",
                                "gemma-2b-it", wrong_size),
    "a shard less": ("models", "lacks its shard model-2.safetensors of 2", "gemma", lost_shard),
    "half an encoder": ("models", "is cut off or no weights", "--only clip",
                        lambda f: (f / MODELS["vision"] / "pytorch_model.bin").write_bytes(b"PK")),
    "no second encoder": ("models", "is not there", "--only convnext",
                          lambda f: shutil.rmtree(f / MODELS["vision_high"])),
    "another rate": ("editable-values", "line 17: …GE_PATH --learning_rate 1e-3 -> …",
                     "put these lines back", lambda f: edit(f, SCRIPT, "1e-3", "2e-3")),
    "a command in the block": ("editable-values", "line 3: EXP_NAME=$(rm -r /)", "take it out",
                               lambda f: edit(f, SCRIPT, "=default", "=$(rm -r /)")),
    "another variable": ("editable-values", "line 10: CKPT=1", "the block may set EXP_NAME",
                         lambda f: edit(f, SCRIPT, "CKPT_SAVE_STEPS=100", "CKPT=1")),
    "Windows line ends": ("editable-values", "has Windows line ends", "LF alone",
                          lambda f: (f / SCRIPT).write_bytes(
                              (f / SCRIPT).read_bytes().replace(b"\n", b"\r\n"))),
    "changed code": ("training-code", "toolkit/training/train.py has changed", "contest's own",
                     lambda f: edit(f, f"{TOOLS}/train.py", "trains", "cheats")),
    "no evaluation script": ("evaluation-scripts", "toolkit/eval/mmbench.sh", "from the kit",
                             lambda f: (f / "toolkit/eval/mmbench.sh").unlink()),
    "no readme": ("solution-files", "lacks a readme", "init",
                  lambda f: (f / "solution/readme").unlink()),
    "a picture less": ("training-data", "1 pictures cannot be read", "fetch the pictures again",
                       lambda f: (f / OFFLINE.seed / f"images/00609/{IDS[0]}.jpg").unlink()),
    "no seed": ("training-data", "is not there", "--only data",
                lambda f: (f / OFFLINE.seed / OFFLINE.rows).unlink()),
    "an id without question": ("questions", "1 ids of input/", "keep the seed's ids", unknown_id),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_refused_with_the_rules_name_and_the_remedy(folder, name):
    rule, said, remedy, spoil = BAD[name]
    spoil(folder)
    verdict = judged(folder)[rule]
    assert verdict.verdict == "broken"
    assert said in verdict.found
    assert remedy in verdict.remedy


def test_a_split_that_is_right_elsewhere_is_no_fault_and_run_mends_it(folder):
    verdict = judged(folder, gpus=4)["global-batch"]
    assert verdict.verdict == "warning"
    assert "pretrain 4 x 64 x 4 GPUs = 1024" in verdict.found
    assert "PRETRAIN_GRADIENT_ACCUMULATION_STEPS=16" in verdict.remedy
    assert "CUDA_VISIBLE_DEVICES" in judged(folder, gpus=3)["global-batch"].remedy


def test_the_blocks_own_choice_of_gpus_counts(folder):
    edit(folder, SCRIPT, "EXP_NAME=default", "EXP_NAME=default\nexport CUDA_VISIBLE_DEVICES=0,1")
    assert "x 2 GPUs = 512" in judged(folder, gpus=8)["global-batch"].found


def test_too_many_rows_are_a_warning_that_says_what_is_drawn(folder):
    kit = open_kit(folder)
    few = Kit(kit.folder, Round(**{**kit.round.__dict__, "most_rows": 2}), kit.recorded)
    limit = {one.rule: one for one in training_data(few)}["sample-limit"]
    assert limit.verdict == "warning"
    assert "has 3 rows" in limit.found
    assert "2 of them are drawn, as the kit does (seed 1024)" in limit.found


def test_a_benchmarks_picture_in_the_seed_is_a_warning(folder):
    picture = folder / OFFLINE.seed / f"images/00609/{IDS[2]}.jpg"
    shutil.copyfile(folder / TEXTVQA_IMAGES / "a1.jpg", picture)
    verdict = contamination(open_kit(folder), None, always=False)
    assert verdict.verdict == "warning"
    assert f"{IDS[2]}: in textvqa" in verdict.found


@pytest.mark.parametrize(
    ("operator", "is_synthesis"),
    [
        ("image_captioning_mapper", True),
        ("image_diffusion_mapper", True),
        ("optimize_qa_mapper", True),
        ("image_text_similarity_filter", False),
        ("fix_unicode_mapper", False),
        ("image_blur_mapper", False),
    ],
)
def test_what_synthesises_is_told_by_the_operator_itself(folder, operator, is_synthesis):
    (folder / RECIPE).write_text(f"dataset_path: a.jsonl\nprocess: [{operator}]\n")
    assert (rules.synthesis_step(open_kit(folder)).verdict == "kept") is is_synthesis


def test_a_captioner_that_is_not_there_is_named(folder):
    verdict = rules.solution_models(open_kit(folder))
    assert verdict.verdict == "broken"
    assert "models/blip2-opt-2.7b: no such folder" in verdict.found
    assert "--only captioner" in verdict.remedy
    (folder / "models/blip2-opt-2.7b").mkdir(parents=True)
    assert rules.solution_models(open_kit(folder)).verdict == "kept"


LARGE = Estimate(hours=3, disk_gib=20.0, memory_gib=30.0, on_gpu=True, wants_gpu=True)
SMALL = Estimate(hours=0.1, disk_gib=0.0, memory_gib=0.1, on_gpu=False, wants_gpu=False)


def test_memory_and_disk_are_the_plans_figures_where_it_has_any(tmp_path):
    assert disk(tmp_path, SMALL, "kit").verdict == "kept"
    huge = Estimate(**{**LARGE.__dict__, "disk_gib": 1e9})
    assert disk(tmp_path, huge, "vlforge").verdict == "broken"
    assert memory(SMALL, "kit").verdict == "kept"
    assert disk(tmp_path, "the seed is not there", "kit").verdict == "warning"
    assert "50.0" in disk(tmp_path, LARGE, "kit").found
    assert Checked((), LARGE).cost_line() == "estimated 3 h 0 min, 20 GiB disk, 30 GiB GPU memory"


def test_init_notes_hashes_once_and_never_what_came_later(folder):
    before = (folder / RECORD).read_bytes()
    one_more_word(folder)
    done = begin(folder)
    assert (folder / RECORD).read_bytes() == before
    assert done.made == done.recorded == ()
    assert judged(folder)["finetuning-data"].verdict == "broken"


def test_init_makes_the_layout_and_names_what_brings_the_rest(tmp_path, capsys):
    home = tmp_path / "new"
    assert main(["challenge", "better-synth", "init", str(home)]) == 0
    shown = capsys.readouterr().out
    assert "Sign in at" in shown
    assert "seed-questions,finetune,finetune-rows,benchmarks,gemma-2b-it,clip" in shown
    assert {p.name for p in home.iterdir()} == {
        "input", "solution", "output", "submit", "toolkit", RECORD,
    }  # fmt: skip
    assert {p.name for p in (home / "solution").iterdir()} == {
        "image_captioning.yaml", "readme.md", "requirements.txt",
    }  # fmt: skip
    verdict = rules.synthesis_step(open_kit(home))
    assert verdict.verdict == "kept"
    (home / "solution/readme.md").write_text("mine")
    assert main(["challenge", "better-synth", "init", str(home)]) == 0
    assert (home / "solution/readme.md").read_text() == "mine"


def test_init_brings_a_kit_from_elsewhere_without_copying_its_data(sound, tmp_path):
    home = tmp_path / "mine"
    done = begin(home, None, sound / "toolkit", sound / "input")
    assert not [one for one in done.missing if one.name not in ("captioner",)]
    assert (home / "toolkit/training").is_symlink()
    assert not (home / SCRIPT).is_symlink()
    assert not (home / "toolkit/eval").is_symlink()
    assert set(open_kit(home).recorded) == {
        "script", "finetuning-data", "training-code", "evaluation-files",
    }  # fmt: skip
    edit(home, SCRIPT, "EXP_NAME=default", "EXP_NAME=other")
    assert "EXP_NAME=default" in (sound / SCRIPT).read_text()
    assert judged(home)["editable-values"].verdict == "kept"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "nowhere"], "nowhere: no such folder; begin with"),
        (["check", "."], "has no better_synth.json"),
        (["init", "x", "--round", "second"], "take offline or online"),
        (["init", "x", "--toolkit", "nowhere"], "--toolkit nowhere: no such folder"),
        (["init", "x", "--toolkit", "."], "holds no train_mgm_2b_stage_1.sh"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["challenge", "better-synth", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["EXP_NAM=x"], "did you mean 'EXP_NAME'?"),
        (["EXP_NAME"], "not of the form KEY=VALUE"),
        (["stages.align.lr=1", "--trainer", "kit"], "takes values of its block alone"),
        (["--trainer", "mine"], "take vlforge or kit"),
        (["--data", "nowhere.jsonl"], "--data nowhere.jsonl: no such file"),
    ],
)
def test_a_wrong_run_starts_nothing(folder, capsys, words, said):
    assert main(["challenge", "better-synth", "run", str(folder), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list((folder / "output").iterdir())


def test_a_folder_is_of_one_round(folder):
    with pytest.raises(RecipeError, match="set up for the offline round"):
        begin(folder, "online")
