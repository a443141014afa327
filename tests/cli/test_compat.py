"""Old command lines, taken apart and run as ours."""

import json

import pytest

from vlforge.cli.familiar.every import familiar, translate
from vlforge.cli.familiar.old import take_apart
from vlforge.cli.start import main
from vlforge.types import RecipeError


@pytest.mark.parametrize(
    ("line", "program", "words", "processes"),
    [
        ("dj-process --config a.yaml", "dj-process", "--config a.yaml", None),
        ("python -u tools/process_data.py --config a", "tools/process_data.py", "--config a", None),
        ("NPROC_PER_NODE=8 xtuner train CFG --deepspeed z2", "xtuner", "train CFG --deepspeed z2",
         8),
        ("torchrun --nproc-per-node 4 --master_port=9 train.py --cfg-path c", "train.py",
         "--cfg-path c", 4),
        ("torchrun --standalone --nproc_per_node=2 -m a.train x", "a.train", "x", 2),
        ("CUDA_VISIBLE_DEVICES=0,1 bash run.sh a b", "run.sh", "a b", None),
        ("deepspeed --include localhost:0,1,3 mgm/train/train_mem.py --bf16 True",
         "mgm/train/train_mem.py", "--bf16 True", 3),
        ("python3 -m torchrun --nproc_per_node 2 train.py", "train.py", "", 2),
        ("python -m paddle.distributed.launch --gpus 0,1 supervised_finetune.py c.json",
         "supervised_finetune.py", "c.json", 2),
        ("accelerate launch --num_processes 4 train.py", "train.py", "", 4),
        ("env A=1 sh run.sh", "run.sh", "", None),
    ],
)  # fmt: skip
def test_settings_and_launchers_come_off_the_front(line, program, words, processes):
    old = take_apart(line.split())
    assert (old.program, " ".join(old.words), old.processes) == (program, words, processes)


def test_options_of_an_old_command():
    old = take_apart("a.py IN --k v --flag OUT --n=-1 --m -2 --last".split())
    assert old.options(flags=("flag",)) == (
        ["IN", "OUT"], {"k": "v", "flag": "true", "n": "-1", "m": "-2", "last": "true"},
    )  # fmt: skip


def test_every_example_is_known_as_the_command_it_is_of():
    seen = set()
    for _, one in familiar():
        old = take_apart(one.old.split())
        first = next(other for _, other in familiar() if other.fits(old))
        assert first is one, one.old
        assert one.ours.startswith("vlforge ")
        assert one.old not in seen
        seen.add(one.old)


def test_an_unknown_command_names_the_nearest():
    with pytest.raises(RecipeError, match=r"dj-proces: no command .*dj-process.*list commands"):
        translate(take_apart(["dj-proces", "--config", "a.yaml"]))
    with pytest.raises(RecipeError, match="no command given"):
        take_apart(["A=1", "bash"])


def test_the_old_command_runs_as_ours_which_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": "a long enough line"}, {"text": "short"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "clean.yaml").write_text(
        "dataset_path: in.jsonl\nexport_path: out.jsonl\n"
        "process:\n  - text_length_filter: {min_len: 10}\n"
    )
    words = ["compat", "--dry-run", "python", "tools/process_data.py", "--config", "clean.yaml"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == "$ vlforge process --config clean.yaml"
    assert not (tmp_path / "out.jsonl").exists()
    words.remove("--dry-run")
    assert main([*words, "--np", "1"]) == 0
    assert capsys.readouterr().out.startswith("$ vlforge process --config clean.yaml --np 1\n")
    assert json.loads((tmp_path / "out.jsonl").read_text())["text"] == "a long enough line"
    assert main(["compat", "dj-process", "--config", "absent.yaml"]) == 2


def test_a_foreign_file_runs_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"text": "a long enough line"}\n')
    (tmp_path / "clean.yaml").write_text(
        "project_name: tidy\ndataset_path: in.jsonl\nexport_path: out.jsonl\nop_fusion: true\n"
        "process:\n  - text_length_filter: {min_len: 10}\n"
    )
    assert main(["run", "clean.yaml"]) == 0
    said = capsys.readouterr()
    assert "clean.yaml is runs/tidy.yaml here" in said.err + said.out
    assert "op_fusion" in said.err + said.out
    assert (tmp_path / "runs/tidy.yaml").read_text().startswith("# From clean.yaml (Data-Juicer)")
    assert main(["plan", "clean.yaml"]) == 0
    assert main(["adopt", "clean.yaml", "-o", "clean.yaml"]) == 2
    assert main(["adopt", "clean.yaml", "-o", "mine/ours.yaml", "np=3"]) == 0
    assert "np: 3" in (tmp_path / "mine/ours.yaml").read_text()
    assert main(["run", "mine/ours.yaml"]) == 0
