"""What DeepSpeed shares out learns what one process learns; skipped where it is not installed.

Its first engine compiles an extension, which takes minutes.
"""

import importlib.util
import json
import shutil

import pytest

from tests.side_by_side import run_stage, write_mixed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deepspeed,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="needs deepspeed: pip install 'vlforge[deepspeed]'",
    ),
]
PATIENT = {"timeout_s": 1500}


@pytest.mark.parametrize("name", ["zero1", "deepspeed_zero2", "deepspeed_zero3"])
def test_zero_learns_what_one_process_learns_and_goes_on(tmp_path, name):
    made, stopped, taken = (tmp_path / name for name in ("made", "stopped", "taken"))
    write_mixed(made)
    alone = run_stage(made, tmp_path / "alone", 1)
    assert run_stage(made, tmp_path / "whole", 2, parallel=name, **PATIENT) == pytest.approx(
        alone, abs=1e-3
    )
    run_stage(made, stopped, 2, until=4, parallel=name, **PATIENT)
    shutil.copytree(stopped, taken)
    again = run_stage(made, stopped, 2, parallel=name, **PATIENT)
    assert again == pytest.approx(alone, abs=1e-3)
    assert run_stage(made, taken, 1) == pytest.approx(alone, abs=1e-3)


def test_a_json_of_the_trainer_works_in_one_process(tmp_path):
    made = tmp_path / "made"
    write_mixed(made)
    file = tmp_path / "zero2.json"
    zero = {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": False}
    file.write_text(json.dumps({"train_batch_size": "auto", "zero_optimization": zero}))
    alone = run_stage(made, tmp_path / "alone", 1)
    shared = run_stage(made, tmp_path / "shared", 1, parallel=str(file), **PATIENT)
    assert shared == pytest.approx(alone, abs=1e-3)
