"""The page of two evaluations: the questions that changed sides, with what was said."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.two_evaluations import evaluated, write_questions
from tests.reports.made_run import HOSTILE
from tests.reports.reading import read_page
from vlforge.evaluation.pairing import compare_folders
from vlforge.reports.answers_compared import EACH, headline, table_rows, write_comparison


def page_of(tmp_path, a, b):
    """The page of two folders, and what was compared."""
    found = compare_folders(a, b)
    write_comparison(found, a, b, tmp_path / "page.html")
    return found, (tmp_path / "page.html").read_text()


@pytest.fixture
def pair(tmp_path):
    """Two evaluations of 160 questions on 80 pictures."""
    questions = write_questions(tmp_path / "data", 160)
    a = evaluated(tmp_path / "a", questions, 0.2, seed=1)
    return a, evaluated(tmp_path / "b", questions, 0.9, seed=2, says="The answer is {}")


def test_questions_that_changed_stand_with_picture_answers_and_truth(tmp_path, pair):
    found, text = page_of(tmp_path, *pair)
    read = read_page(tmp_path / "page.html")
    rose, fell = found[0].rose, found[0].fell
    shown = [name for name in read.ids if name.startswith("question-custom-")]
    assert len(rose) > EACH
    assert len(shown) == EACH + min(EACH, len(fell))
    assert f"{EACH} of {len(rose)} shown" in text
    assert text.count("data:image/webp;base64") == len(shown)
    card = text.partition(f'id="question-custom-{rose[0]}"')[2].partition("</article>")[0]
    question = found[0].questions[rose[0]]
    letter = question.answers[0]
    assert f"{letter} {question.options[letter]}" in card
    assert "The answer is" in card
    assert f"read as {letter}" in card


def test_the_first_heading_says_who_is_better_at_what(tmp_path, pair):
    found, text = page_of(tmp_path, *pair)
    assert headline(found).startswith("B beats A on custom 0.")
    assert headline(compare_folders(*reversed(pair))).startswith("B loses to A on custom")
    same = headline(compare_folders(pair[0], pair[0]))
    assert same.startswith("The questions do not tell A and B apart on custom")
    assert "160 questions share 80 pictures" in text


def test_the_terminals_rows_name_benchmark_and_categories(pair):
    rows = table_rows(compare_folders(*pair))
    assert [row[0] for row in rows] == ["custom", "  fruit", "  colour"]
    assert {len(row) for row in rows} == {9}
    assert rows[0][-1] == "< 0.001"


def test_what_comes_from_data_is_escaped_and_missing_pictures_are_said(tmp_path):
    questions = write_questions(tmp_path / "data", 6)
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    hostile = HOSTILE.split("\ud83d")[0]
    for row in rows:
        row |= {"question": hostile, "category": hostile + row["id"][:1], "image": "gone.png"}
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data" / "gone.png").write_bytes((tmp_path / "data" / "0.png").read_bytes())
    a = evaluated(tmp_path / "a", questions, 0.0)
    b = evaluated(tmp_path / "b", questions, 1.0, says="{}")
    (tmp_path / "data" / "gone.png").unlink()
    _, text = page_of(tmp_path, a, b)
    assert "<script" not in text
    assert "<img" not in text
    assert "file missing" in text
    assert "only 1 pictures" not in text
    assert "all questions are about one picture" in text
