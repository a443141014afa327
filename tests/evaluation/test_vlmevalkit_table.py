"""VLMEvalKit's table of predictions, written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import mmbench
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.export import export_file
from vlforge.evaluation.questions import Question
from vlforge.evaluation.vlmevalkit_table import table_of, write_table
from vlforge.types import DataError

TABLE = (
    "index\tquestion\thint\tA\tB\timage\tanswer\tcategory\tl2-category\tsplit\n"
    '7\t"Which\none?"\t\tcat\tNone\t\tB\tkind\tcoarse_perception\tdev\n'
    "8\tWhich?\t\tcat\tdog\t\tA\tkind\tcoarse_perception\tdev\n"
)


@pytest.fixture
def mmb(tmp_path: Path) -> BenchmarkSpec:
    (tmp_path / "table.tsv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "said.json").write_text(json.dumps({"7": "B.\tthe\nlast", "8": "A"}))
    return BenchmarkSpec("mmbench", str(tmp_path / "table.tsv"))


@pytest.mark.parametrize("ending", ["xlsx", "tsv", "json"])
def test_a_table_is_read_back_as_it_was_said(mmb, tmp_path, ending):
    if ending == "xlsx":
        pytest.importorskip("openpyxl")
    target = export_file(mmb, tmp_path / "said.json", tmp_path / f"m_D.{ending}", "vlmevalkit")
    assert read_answers(target, mmbench.read(mmb)).said == {"7": "B.\tthe\nlast", "8": "A"}


def test_an_empty_cell_that_json_calls_nan_is_no_text(mmb, tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text('[{"index": 7, "prediction": NaN}, {"index": 8, "prediction": "A"}]')
    assert read_answers(path, mmbench.read(mmb)).said == {"7": "", "8": "A"}


def test_its_columns_are_the_data_sets_without_pictures(mmb):
    columns, rows = table_of(mmbench.read(mmb), {"7": "B"})
    assert columns == ["index", "question", "hint", "A", "B", "answer", "category",
                       "l2-category", "split", "prediction"]  # fmt: skip
    assert rows[0]["index"] == 7
    assert [row["prediction"] for row in rows] == ["B", ""]


def test_questions_of_other_files_get_its_columns():
    questions = [
        Question("3", "Is it?\nAnswer.", answers=("yes",), labels={"category": ("a", "b")},
                 asked="Is it?"),
        Question("x", "What?", answers=("one", "two"), options={"A": "one", "C": "two"}),
    ]  # fmt: skip
    columns, rows = table_of(questions, {"3": "yes", "x": "A"})
    assert columns == ["index", "question", "A", "C", "answer", "category", "prediction"]
    assert rows == [
        {"index": 3, "question": "Is it?", "answer": "yes", "category": "a,b", "prediction": "yes"},
        {"index": "x", "question": "What?", "A": "one", "C": "two", "answer": "['one', 'two']",
         "prediction": "A"},
    ]  # fmt: skip


def test_other_endings_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"m\.csv: VLMEvalKit reads \.xlsx, \.tsv, \.json"):
        write_table([Question("1", "?")], {}, tmp_path / "m.csv")
