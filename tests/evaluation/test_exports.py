"""Answers as other tools take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks.mmbench import upload_cells
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.export import export_answers
from vlforge.evaluation.run import evaluate
from vlforge.evaluation.sheets import write_xlsx
from vlforge.evaluation.tables import read_table
from vlforge.types import Caption, DataError


class Same:
    """Says the same to everything."""

    def answer(self, samples, max_new_tokens):
        return [Caption("B\x07 it is", 0.0) for _ in samples]

    def stream(self, sample, max_new_tokens):
        yield "B"


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    table = tmp_path / "table.tsv"
    table.write_text(
        "index\tquestion\thint\tA\tB\tanswer\tcategory\tsource\tsplit\n"
        "7\tWhich?\t\tcat\tdog\tB\tkind\tmade\tdev\n"
        "8\tWhich?\t\tNone\tdog\tA\tkind\tmade\tdev\n",
        encoding="utf-8",
    )
    config = EvalConfig(model="m", benchmarks=(BenchmarkSpec("mmbench", str(table)),))
    evaluate(config, tmp_path / "out", chat=Same())
    return tmp_path / "out"


def test_mmbenchs_sheet_has_the_prediction_seventh_and_no_dropped_column(answered):
    target = export_answers(answered, "mmbench", answered / "upload.xlsx")
    openpyxl = pytest.importorskip("openpyxl")
    rows = list(openpyxl.load_workbook(target).active.values)
    assert rows[0] == ("index", "question", "A", "B", "answer", "split", "prediction")
    assert rows[2] == (8, "Which?", "None", "dog", "A", "dev", "B  it is")
    assert [path.name for path in answered.glob(".*")] == []


def test_a_question_without_answer_gets_an_empty_cell(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("index\tquestion\tA\n1\tWhich?\tcat\n", encoding="utf-8")
    columns, rows = upload_cells(read_table(table), {})
    assert columns == ["index", "question", "A", "prediction"]
    assert rows == [[1, "Which?", "cat", None]]


def test_llavas_answer_file_has_llavas_fields(answered):
    target = export_answers(answered, "mmbench", answered / "answers.jsonl")
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["question_id"] for row in rows] == [7, 8]
    assert set(rows[0]) == {
        "question_id", "prompt", "text", "answer_id", "model_id", "metadata"
    }  # fmt: skip
    assert len(rows[0]["answer_id"]) == 22
    assert rows[0]["prompt"].startswith("Which?\nA. cat\nB. dog\n")


def test_an_unknown_benchmark_names_the_known(answered):
    with pytest.raises(DataError, match="it has: mmbench"):
        export_answers(answered, "textvqa", answered / "answers.jsonl")


def test_a_text_too_long_for_a_cell_is_refused(tmp_path):
    pytest.importorskip("openpyxl")
    with pytest.raises(DataError, match="row 1: prediction has 40000 characters"):
        write_xlsx(tmp_path / "x.xlsx", ["prediction"], [["a" * 40_000]])
