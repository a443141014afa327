"""Which of several processes this one is, by what launchers tell."""

import pytest

from vlforge.cli import main
from vlforge.runs.launch import find_launch, first_host, forget_launch, without_local_rank
from vlforge.types import RecipeError

TORCHRUN = {
    "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8",
    "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SRUN = {
    "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "6", "SLURM_NTASKS": "6", "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "4,2", "SLURM_JOB_ID": "100001",
}  # fmt: skip


def test_torchrun_tells_all():
    found = find_launch(TORCHRUN)
    assert found is not None
    assert (found.rank, found.count, found.local_rank, found.local_count) == (9, 16, 1, 8)
    assert (found.address, found.port, found.has_host, found.attempt) == ("gpu1", 29500, True, 2)


def test_deepspeed_tells_no_local_count_and_has_no_store():
    told = {k: v for k, v in TORCHRUN.items() if k[:5] not in ("TORCH", "LOCAL")}
    found = find_launch(told | {"LOCAL_RANK": "1"})
    assert found is not None
    assert (found.local_rank, found.has_host) == (1, False)


def test_srun_tells_it_in_its_own_words():
    found = find_launch(SRUN)
    assert found is not None
    assert (found.rank, found.count, found.local_rank, found.local_count) == (5, 6, 1, 2)
    assert found.address == "gpu07"
    other = find_launch(SRUN | {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"})
    assert other is not None
    assert (other.address, other.port) == (found.address, found.port)
    assert other.local_count == 4
    beside = find_launch(SRUN | {"SLURM_STEP_ID": "4"})
    assert beside is not None
    assert beside.port != found.port


def test_a_batch_script_itself_is_one_process():
    script = {k: v for k, v in SRUN.items() if "STEP" not in k} | {"SLURM_PROCID": "0"}
    assert find_launch(script) is None


def test_one_process_is_no_launch():
    assert find_launch({}) is None
    assert find_launch(TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert find_launch(SRUN | {"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_torchrun_inside_of_srun_counts():
    found = find_launch(SRUN | TORCHRUN)
    assert found is not None
    assert found.rank == 9


def test_a_launcher_without_a_place_is_refused():
    with pytest.raises(RecipeError, match="MASTER_ADDR"):
        find_launch({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(RecipeError, match="RANK is 'one'"):
        find_launch(TORCHRUN | {"RANK": "one"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu1", "gpu1"), ("gpu[07-09,12],login1", "gpu07"), ("a,b", "a"), ("n[3]-ib", "n3-ib")],
)
def test_the_first_of_a_short_list(nodes, first):
    assert first_host(nodes) == first


def test_deepspeeds_option_is_taken_off_and_others_stay():
    assert without_local_rank(["--local_rank=3", "train", "r.yaml"]) == ["train", "r.yaml"]
    assert without_local_rank(["--local-rank", "3", "train"]) == ["train"]
    assert without_local_rank(["train", "--local_rank=3"]) == ["train", "--local_rank=3"]


def test_a_process_of_ours_joins_nobody():
    told = dict(TORCHRUN) | {"PATH": "/bin"}
    forget_launch(told)
    assert told == {"PATH": "/bin"}


@pytest.mark.parametrize("words", [["process", "none.jsonl"], ["plan", "none.yaml"]])
def test_verbs_that_train_nothing_are_the_first_processs_alone(monkeypatch, capsys, words):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 0
    monkeypatch.setenv("RANK", "0")
    assert main(words) == 2
    assert "none." in capsys.readouterr().err
