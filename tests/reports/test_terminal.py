"""What the terminal shows fits it."""

from __future__ import annotations

import io
import json

from tests.reports.made_run import make_run
from vlforge.reports.scores import summarise
from vlforge.reports.terminal import funnel_lines, funnel_table, score_lines, score_table


def test_plain_funnel_fits_and_adds_up(tmp_path):
    run = make_run(tmp_path / "run", rows=60, evaluated=False)
    funnel = json.loads((run / "02-filter" / "funnel.json").read_text())
    lines = funnel_lines(funnel)
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["operator", "rows", "in", "changed", "dropped", "kept", "seconds"]
    assert lines[-1].split()[:2] == ["all", "61"]
    assert lines[-1].split()[-3:-1] == [f"−{61 - funnel['rows_out']}", str(funnel["rows_out"])]


def test_plain_scores_start_with_the_sentence(tmp_path):
    run = make_run(tmp_path / "run", arms=("raw", "filtered", "refined", "clean"), rows=10)
    lines = score_lines(summarise(run))
    assert lines[0].startswith("In one seed, refined is above raw")
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[-4:]] == ["raw", "filtered", "refined", "clean"]


def test_no_scores_no_lines(tmp_path):
    assert score_lines(summarise(make_run(tmp_path / "run", rows=10, evaluated=False))) == []


def test_rich_tables_fit_100_columns_and_take_no_markup_from_data(tmp_path):
    from rich.console import Console

    run = make_run(tmp_path / "run", arms=("raw", "[red]refined"), rows=10)
    funnel = json.loads((run / "02-filter" / "funnel.json").read_text())
    funnel["ops"][0]["op"] = "[bold]my_op"
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    console.print(funnel_table(funnel))
    console.print(score_table(summarise(run)))
    assert "[bold]my_op" in shown.getvalue()
    assert "[red]refined" in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 100
