"""Two processes compute layers twice, leave rows out and make features together."""

import pytest

from tests.tiny_model import write_data, write_parts
from tests.training import test_two_processes
from tests.training.test_two_processes import STAGE, run
from vlforge.training.feature_cache import HOME

ROWS = STAGE.replace("micro_batch=2,", "micro_batch=2, lean=Lean(last_layer_rows=True),").replace(
    "import ModelSpec", "import Lean, ModelSpec"
)
FROZEN = ROWS.replace('"vision", "connector"', '"connector"')


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_every_switch(tmp_path, monkeypatch):
    made = tmp_path / "made"
    write_parts(made, write_data(made))
    monkeypatch.setattr(test_two_processes, "STAGE", ROWS)
    alone = run(made, tmp_path / "alone", 1)
    for parallel in ("ddp", "fsdp2"):
        how = {"parallel": parallel, "checkpointing": ["vision", "language"]}
        together = run(made, tmp_path / parallel, 2, **how)
        assert together == pytest.approx(alone, abs=1e-4)
    monkeypatch.setattr(test_two_processes, "STAGE", FROZEN)
    alone = run(made, tmp_path / "frozen", 1, cache="off")
    together = run(made, tmp_path / "kept", 2, cache="on")
    assert together == pytest.approx(alone, abs=1e-4)
    assert list((tmp_path / HOME).rglob("*.safetensors"))
