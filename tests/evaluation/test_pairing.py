"""What two evaluation folders are compared over, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.evaluation.two_evaluations import Scripted, evaluated, write_questions
from vlforge.cli import main
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.pairing import compare_folders, evaluation_folder, read_evaluations
from vlforge.evaluation.run import evaluate
from vlforge.evaluation.scoring import score_folder
from vlforge.types import DataError

PREDICTIONS = "predictions.custom.jsonl"


def rows_of(path):
    """A jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def only(folder):
    """The one benchmark of a folder."""
    return next(iter(read_evaluations(folder).values()))


@pytest.fixture
def questions(tmp_path):
    """Forty questions about twenty pictures in two categories."""
    return write_questions(tmp_path / "data")


@pytest.fixture
def pair(tmp_path, questions):
    """Two evaluations of the same questions."""
    return [
        evaluated(tmp_path / name, questions, share, seed=seed)
        for name, share, seed in (("a", 0.3, 1), ("b", 0.9, 2))
    ]


def test_scoring_keeps_the_credit_of_every_question(pair):
    rows = rows_of(pair[0] / "extracted.custom.jsonl")
    metrics = json.loads((pair[0] / "metrics.json").read_text())["custom"]
    assert [set(row) for row in rows] == [{"id", "extracted", "credit"}] * 40
    assert sum(row["credit"] for row in rows) / 40 == metrics["score"]


def test_the_difference_is_that_of_the_scores_and_its_parts_add_up(pair):
    (found,) = compare_folders(*pair)
    scores = [json.loads((p / "metrics.json").read_text())["custom"]["score"] for p in pair]
    assert found.whole.value == pytest.approx(scores[1] - scores[0])
    assert (found.whole.n, found.whole.clusters, found.whole.outcome) == (40, 20, "above")
    assert found.is_score
    parts = {part.name: part.difference for part in found.parts}
    assert set(parts) == {"colour", "fruit"}
    assert sum(p.value * p.n for p in parts.values()) / 40 == pytest.approx(found.whole.value)
    assert (found.test.only_a, found.test.only_b) == (len(found.fell), len(found.rose))
    assert all(found.b.credits[key] > found.a.credits[key] for key in found.rose)
    assert found.notes == ()


def test_a_folder_against_itself_differs_nowhere(pair):
    (found,) = compare_folders(pair[0], pair[0])
    assert (found.whole.value, found.whole.outcome, found.test.p) == (0.0, "open", 1.0)
    assert found.fell == found.rose == ()


def test_folders_scored_before_credits_were_kept_are_scored_in_passing(pair):
    expected = compare_folders(*pair)[0].as_json()
    path = pair[0] / "extracted.custom.jsonl"
    rows = [{k: v for k, v in row.items() if k != "credit"} for row in rows_of(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    assert compare_folders(*pair)[0].as_json() == expected
    assert path.read_bytes() == before


def test_without_the_benchmarks_files_pictures_still_count_and_it_is_said(pair, questions):
    whole = compare_folders(*pair)[0].whole
    shutil.rmtree(questions.parent)
    (found,) = compare_folders(*pair)
    assert found.whole == whole
    assert found.parts == ()
    assert "the benchmark's files are gone" in found.notes[-1]
    path = pair[0] / "extracted.custom.jsonl"
    path.write_text(path.read_text().replace("credit", "was"))
    with pytest.raises(DataError, match=r"has no credits; score again: vlforge eval score"):
        compare_folders(*pair)


def test_other_protocols_are_refused_whatever_is_asked(tmp_path, questions):
    a = evaluated(tmp_path / "a", questions, 0.5)
    b = evaluated(tmp_path / "b", questions, 0.5, metric="contains")
    for common in (False, True):
        with pytest.raises(DataError) as error:
            compare_folders(a, b, common=common)
        assert "custom was scored by custom@choice and by custom@contains" in str(error.value)
        assert "vlforge eval score FOLDER --protocol custom@choice" in str(error.value)
        assert "\n" not in str(error.value)
    score_folder(b, protocol="custom@choice")
    assert len(compare_folders(a, b)) == 1


def test_other_data_are_refused_and_common_questions_compared_on_wish(tmp_path, pair, questions):
    lines = questions.read_text().splitlines()
    changed = json.loads(lines[12])
    changed["answer"] = "B" if changed["answer"] != "B" else "C"
    less = tmp_path / "data" / "less.jsonl"
    less.write_text("\n".join([*lines[10:12], json.dumps(changed), *lines[13:30]]) + "\n")
    third = evaluated(tmp_path / "c", less, 0.9, seed=5)
    with pytest.raises(DataError, match=r"custom has other prompts and data; --common compares"):
        compare_folders(pair[0], third)
    (found,) = compare_folders(pair[0], third, common=True)
    assert found.whole.n == 19
    assert "19 common questions of 40 (A) and 20 (B)" in found.notes[0]
    assert not set(found.fell + found.rose) & {"q12", "q0", "q35"}


def test_questions_asked_in_other_words_are_counted(tmp_path, pair, questions):
    bare = evaluated(tmp_path / "c", questions, 0.9, seed=5, prompt="as-is")
    with pytest.raises(DataError, match="custom has other prompts; --common"):
        compare_folders(pair[0], bare)
    (found,) = compare_folders(pair[0], bare, common=True)
    assert found.whole.n == 40
    assert "40 of them were asked in other words" in found.notes


def test_nothing_in_common_is_one_line(tmp_path, pair):
    other = evaluated(tmp_path / "c", write_questions(tmp_path / "more", 4), 0.9, label="mine")
    with pytest.raises(DataError, match=r"no benchmark is in both: .*a has custom, .*c has mine"):
        compare_folders(pair[0], other)


def mmbench(folder, name, letters, rounds=2):
    """MMBench of six questions in two rotations; `letters` answer every row."""
    header = "index\tquestion\tA\tB\tanswer\tcategory\timage"
    picture = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    rows, answers = [], {}
    for k in range(6):
        for r in range(rounds):
            index = k + 1_000_000 * r
            options, right = (("x", "y"), "A") if r == 0 else (("y", "x"), "B")
            rows.append(
                f"{index}\twhich {k}\t{options[0]}\t{options[1]}\t{right}\tc{k % 2}\t{picture}"
            )
            answers[str(index)] = letters[(2 * k + r) % len(letters)]
    path = folder / f"{name}.tsv"
    path.write_text("\n".join([header, *rows]) + "\n")
    config = EvalConfig(name, (BenchmarkSpec("mmbench", str(path)),), batch=4)
    evaluate(config, folder / name, chat=Scripted(answers))
    return folder / name


def test_rotations_are_one_question_with_one_credit(tmp_path):
    right, half = mmbench(tmp_path, "right", "AB"), mmbench(tmp_path, "half", "ABAA")
    rows = rows_of(half / "extracted.mmbench.jsonl")
    assert [row.get("credit") for row in rows] == [1.0, None, 0.0, None] * 3
    (found,) = compare_folders(half, right)
    assert (found.whole.n, found.whole.a, found.whole.b) == (6, 0.5, 1.0)
    assert found.rose == ("1", "3", "5")


def test_a_question_with_fewer_rotations_is_no_common_one(tmp_path):
    both, one = mmbench(tmp_path, "both", "AB"), mmbench(tmp_path, "one", "A", rounds=1)
    with pytest.raises(DataError, match="mmbench was scored by"):
        compare_folders(both, one, common=True)
    path = tmp_path / "one" / "metrics.json"
    path.write_text(
        path.read_text().replace(only(one).fields["protocol"], "mmbench@circular/vlforge")
    )
    again = read_evaluations(both)["mmbench"]
    assert set(again.credits) == {str(k) for k in range(6)}
    with pytest.raises(DataError, match="mmbench has no question in common"):
        compare_folders(both, one, common=True)


def made_graph(run, *nodes):
    """A run's graph of evaluate nodes: (node, stage, folder)."""
    run.mkdir(parents=True, exist_ok=True)
    rows = [{"node": n, "stage": s, "kind": "evaluate", "folder": f} for n, s, f in nodes]
    (run / "graph.json").write_text(json.dumps({"nodes": rows}))


def test_a_runs_evaluate_stage_is_found_by_every_name(tmp_path, pair):
    run = tmp_path / "runs" / "r"
    made_graph(run, ("score.s0", "score", "07-score.s0"))
    with pytest.raises(DataError, match="no evaluate stage of this run has finished"):
        evaluation_folder(run)
    (run / "07-score.s0").symlink_to(pair[0])
    names = (".", "score", "$score", "score.s0", "07-score.s0")
    assert {evaluation_folder(run / name).resolve() for name in names} == {pair[0].resolve()}
    made_graph(run, ("score.s0", "score", "07-score.s0"), ("score.s1", "score", "08-score.s1"))
    (run / "08-score.s1").symlink_to(pair[1])
    with pytest.raises(DataError, match=r"holds 2 evaluations; name one of .*07-score.s0, .*08-"):
        evaluation_folder(run / "score")
    assert evaluation_folder(run / "score.s1").resolve() == pair[1].resolve()


def test_the_command_prints_a_table_writes_a_page_and_json(pair, tmp_path, capsys):
    page = tmp_path / "compared.html"
    assert main(["eval", "compare", *map(str, pair), "-o", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "B − A" in shown
    assert "B beats A on custom" in shown
    assert page.read_text().startswith("<!doctype html>")
    assert main(["eval", "compare", *map(str, pair), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["benchmarks"]["custom"]
    assert set(found["groups"]) == {"category: colour", "category: fruit"}
    assert len(found["rose"]) == found["mcnemar"]["only_b"]


@pytest.mark.parametrize(
    ("name", "says"), [("gone", "no such folder"), ("data", "holds no scores")]
)
def test_a_wrong_path_is_one_line(pair, tmp_path, name, says, capsys):
    assert main(["eval", "compare", str(pair[0]), str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert f"{name}: {says}" in said
    assert said.count("\n") == 1
