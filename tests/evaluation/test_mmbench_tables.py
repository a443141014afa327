"""MMBench's table: reading it, wording it, scoring every rotation."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import mmbench
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.tables import read_table
from vlforge.types import DataError, RecipeError

MADE = Path(__file__).with_name("made")
PICTURE = base64.b64encode(b"\x89PNG one").decode()


def table(folder: Path, rows: list[dict[str, str]]) -> BenchmarkSpec:
    """A table of these rows, cells quoted as a spreadsheet would."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(column, "").replace('"', '""') for column in columns] for row in rows]
    lines = ["\t".join(columns), *("\t".join(f'"{c}"' if c else c for c in row) for row in cells)]
    path = folder / "table.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return BenchmarkSpec("mmbench", str(path))


def row(index: int, answer: str = "A", **cells: str) -> dict[str, str]:
    base = {"index": str(index), "question": "Which?", "A": "cat", "B": "dog", "answer": answer}
    return {**base, **cells}


def turned() -> list[dict[str, str]]:
    return [row(1), row(1_000_001, "B", A="dog", B="cat")]


def test_ccbench_equals_the_recorded_scores():
    golden = json.loads((MADE / "ccbench_made_expected.json").read_text(encoding="utf-8"))
    path = MADE / "ccbench_made.tsv"
    questions = mmbench.read(BenchmarkSpec("mmbench", str(path)))
    said = {r["index"]: r["prediction"] for r in read_table(path)}
    wanted = golden["vlmevalkit_exact_matching"]
    got = mmbench.score(questions, said, "vlmevalkit")
    assert got.fields["score"] == pytest.approx(wanted["circular_overall"])
    assert {k: int(v) for k, v in got.credits.items()} == wanted["hits"]
    assert got.fields["vanilla_all"] == pytest.approx(wanted["vanilla_all"])
    assert got.extracted == wanted["extracted"]
    table = {k: v for k, v in wanted["report_acc"].items() if k != "split"}
    assert got.fields["splits"]["none"] == pytest.approx(table)
    static = mmbench.score(questions, said, "lmms-eval").fields["score"]
    assert static == pytest.approx(golden["lmms_eval_static"])


def test_one_wrong_rotation_costs_the_question(tmp_path):
    questions = mmbench.read(table(tmp_path, turned()))
    right = mmbench.score(questions, {"1": "A", "1000001": "B"}, "auto").fields
    wrong = mmbench.score(questions, {"1": "A", "1000001": "A"}, "auto").fields
    assert (right["score"], right["vanilla"], right["n"]) == (1.0, 1.0, 1)
    assert (wrong["score"], wrong["vanilla"], wrong["vanilla_all"]) == (0.0, 1.0, 0.5)
    assert wrong["protocol"] == "mmbench@circular/vlforge"


def test_a_missing_answer_is_wrong_and_counted(tmp_path):
    questions = mmbench.read(table(tmp_path, turned()))
    fields = mmbench.score(questions, {"1": "?"}, "auto").fields
    assert (fields["score"], fields["missing"], fields["unparsed"]) == (0.0, 1, 1)


def test_without_rotations_the_score_is_vanilla_and_says_so(tmp_path):
    questions = mmbench.read(table(tmp_path, [row(1), row(2, "B")]))
    fields = mmbench.score(questions, {"1": "A", "2": "A"}, "auto").fields
    assert (fields["score"], fields["protocol"]) == (0.5, "mmbench@vanilla/vlforge")


@pytest.mark.parametrize(
    ("rows", "incomplete"),
    [
        (turned(), 0),
        ([*turned(), row(2)], 1),
        ([row(1, C="owl"), row(1_000_001, "C", A="dog", B="owl", C="cat")], 1),
        ([row(1, C="all"), row(1_000_001, "B", A="dog", B="cat", C="all")], 0),
    ],
)
def test_lacking_rotations_are_counted(tmp_path, rows, incomplete):
    score = mmbench.score(mmbench.read(table(tmp_path, rows)), {}, "auto")
    assert score.fields["incomplete"] == incomplete
    assert bool(score.problem) == bool(incomplete)


def test_a_group_without_its_first_rotation_is_left_out(tmp_path):
    questions = mmbench.read(table(tmp_path, [*turned(), row(1_000_002)]))
    assert mmbench.score(questions, {}, "auto").fields["n"] == 1


def test_a_table_without_answers_has_no_score(tmp_path):
    rows = [{k: v for k, v in row(1).items() if k != "answer"}]
    fields = mmbench.score(mmbench.read(table(tmp_path, rows)), {"1": "A"}, "auto").fields
    assert fields["score"] is None


def test_options_that_read_like_nothing_stay_options(tmp_path):
    (question,) = mmbench.read(table(tmp_path, [row(1, B="None", D="NA")]))
    assert question.options == {"A": "cat", "B": "None", "D": "NA"}
    cells = {"A": "cat", "B": "None", "D": "NA"}
    assert mmbench.options_of(cells, compat="llava") == {"A": "cat"}


def test_the_prompt_asks_in_the_questions_language():
    assert mmbench.prompt_of(row(1, hint="Look.")) == (
        "Look.\nWhich?\nA. cat\nB. dog\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert mmbench.prompt_of(row(1, question="哪个？")).endswith("\n请直接回答选项字母。")


def test_rotations_turn_the_options_and_remember_their_letters():
    rounds = mmbench.rotations(row(1, C="owl"))
    assert [[r["A"], r["B"], r["C"]] for r in rounds] == [
        ["cat", "dog", "owl"],
        ["dog", "owl", "cat"],
        ["owl", "cat", "dog"],
    ]
    assert [r["letters"] for r in rounds] == ["ABC", "BCA", "CAB"]


def test_categories_and_splits_are_reported_apart(tmp_path):
    label = {"l2-category": "logic_reasoning", "category": "order", "split": "dev"}
    questions = mmbench.read(table(tmp_path, [row(1, **label), row(2, "B", **label)]))
    fields = mmbench.score(questions, {"1": "A", "2": "A"}, "auto").fields
    assert fields["groups"]["logic_reasoning"]["score"] == 0.5
    assert fields["splits"] == {"dev": {"Overall": 0.5, "LR": 0.5, "order": 0.5}}


def test_a_picture_may_stand_in_another_row(tmp_path):
    rows = [row(1, image=PICTURE), row(2, image="1"), row(3, image="2")]
    questions = mmbench.read(table(tmp_path, rows))
    assert {q.image for q in questions} == {b"\x89PNG one"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(1, image="####" * 20)], "index 1: its picture is no base64"),
        ([row(1, image="7")], "takes its picture from row 7, which has none"),
        ([row(1, image="2"), row(2, image="1")], "which has none"),
        ([row(1), row(1)], "index 1 stands twice"),
        ([{**row(1), "index": "x"}], "index 'x' is no number"),
        ([{"index": "1", "A": "cat"}], "no column 'question'; it has: index, A"),
    ],
)
def test_a_broken_table_is_named_in_one_line(tmp_path, rows, words):
    with pytest.raises(DataError, match=words) as caught:
        mmbench.read(table(tmp_path, rows))
    assert "\n" not in str(caught.value)


def test_a_picture_beyond_the_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mmbench, "_LARGEST_IMAGE", 60)
    with pytest.raises(DataError, match="its picture is larger"):
        mmbench.read(table(tmp_path, [row(1, image="A" * 100)]))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.tsv: no such table"):
        mmbench.read(BenchmarkSpec("mmbench", str(tmp_path / "none.tsv")))


@pytest.mark.parametrize("rule", ["exact", "circular/exact", "judge/vlforge"])
def test_an_unknown_protocol_names_the_known(rule):
    assert not mmbench.knows(rule)
    with pytest.raises(RecipeError, match="vlmevalkit"):
        mmbench.protocol_name([], rule)


def test_a_protocol_goes_by_its_full_name_too(tmp_path):
    questions = mmbench.read(table(tmp_path, turned()))
    for rule in ("vanilla/xtuner", "mmbench@vanilla/xtuner"):
        assert mmbench.protocol_name(questions, rule) == "mmbench@vanilla/xtuner"
