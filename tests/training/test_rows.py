"""Rows that are too long or teach nothing: cut, left out or refused, and always told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from tests.tiny_model import write_data, write_parts
from vlforge.models.config import ModelSpec
from vlforge.training.config import TrainConfig
from vlforge.training.loop import train
from vlforge.training.rows import Sieve
from vlforge.types import DataError


@dataclass
class Row:
    """An encoded row as a sieve sees it."""

    whole: int = 10
    length: int = 10
    lost_images: int = 0
    problem: str | None = None


LONG = Row(whole=14)
LOST = Row(whole=30, lost_images=1)
EMPTY = Row(problem="no answer")


def test_a_row_that_fits_and_teaches_is_kept_and_nothing_is_told():
    sieve = Sieve(10)
    assert sieve.keeps(Row(), "a:1")
    sieve.check()
    assert (sieve.told(), sieve.summary()) == ([], {})


def test_words_are_cut_and_counted():
    sieve = Sieve(10)
    assert sieve.keeps(LONG, "a:1")
    assert sieve.summary() == {"cut": {"rows": 1, "tokens": 4}}
    assert "1 of 1 rows are cut to max_length 10 (4 tokens)" in sieve.told()[0]


def test_a_picture_is_never_cut_away():
    sieve = Sieve(10)
    assert not sieve.keeps(LOST, "a:1")
    assert sieve.dropped.counts == {"pictures do not fit": 1}
    assert "a:1 (30 tokens, 1 pictures behind 10)" in sieve.told()[0]


@pytest.mark.parametrize("row", [LONG, LOST])
def test_long_rows_may_be_left_out_or_refused(row):
    drops, refuses = Sieve(10, "drop"), Sieve(10, "refuse")
    assert not drops.keeps(row, "a:1")
    assert not refuses.keeps(row, "a:1")
    drops.check()
    assert drops.dropped.counts == {"longer than max_length": 1}
    with pytest.raises(DataError, match=r"longer than max_length, as a:1.*raise max_l"):
        refuses.check()


def test_rows_without_a_label_may_be_refused_and_the_first_are_named():
    sieve = Sieve(10, on_no_labels="refuse")
    for number in range(5):
        sieve.keeps(EMPTY, f"a:{number}")
    with pytest.raises(DataError) as caught:
        sieve.check()
    assert str(caught.value) == (
        "5 of 5 rows: nothing supervised, as a:0 (no answer), a:1 (no answer), a:2 (no answer), …; "
        "mend them, or set on_no_labels to drop"
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> TrainConfig:
    """A stage over twelve rows, of which one is long and one has no answer."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    rows = json.loads(data.read_text())
    rows[2]["conversations"][1]["value"] = "It is red. " * 5
    rows[4]["conversations"][1]["value"] = ""
    data.write_text(json.dumps(rows))
    vision, language = write_parts(folder, data)
    spec = ModelSpec(vision=str(vision), language=str(language))
    return TrainConfig(
        model=spec, data=str(data), samples=8, batch=4, template="llava_v1", max_length=64
    )


def run(stage: TrainConfig, out, **changes):
    warnings: list[str] = []

    def log(event):
        warnings.extend([event["text"]] if event["event"] == "warning" else [])

    return train(replace(stage, **changes), out, device="cpu", log=log), warnings


def test_a_stage_says_what_it_cut(tmp_path, stage):
    summary, warnings = run(stage, tmp_path)
    assert summary["cut"]["rows"] == 1
    assert any("1 of 12 rows are cut to max_length 64" in line for line in warnings)
    assert json.loads((tmp_path / "summary.json").read_text())["cut"] == summary["cut"]


def test_a_stage_leaves_long_rows_out_or_refuses_to_begin(tmp_path, stage):
    summary, warnings = run(stage, tmp_path, on_too_long="drop")
    assert summary["dropped"] == {"longer than max_length": 1}
    assert any("left out: longer than max_length, as data.json:2" in line for line in warnings)
    with pytest.raises(DataError, match=r"data\.json:2"):
        run(stage, tmp_path, on_too_long="refuse")


def test_a_stage_refuses_rows_without_labels(tmp_path, stage):
    caption = {"template": "plain", "max_length": 64}
    assert run(stage, tmp_path, **caption)[0]["data_rows"] == 12
    rows = {"compat": "llava", "on_no_labels": "refuse"}
    with pytest.raises(DataError, match=r"supervised, as data\.json:0 .*tokenization mismatch"):
        run(stage, tmp_path, **rows)
