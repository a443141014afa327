"""The page's part about training: curves, looks, odd steps, speed, resumes."""

from __future__ import annotations

import json

import pytest

from tests.reports.reading import read_page
from tests.reports.watched_run import make_watched
from vlforge.reports.curves import Curve, Event, loss_chart, smoothed, thinned
from vlforge.reports.run_files import read_run
from vlforge.reports.run_report import write_run_report
from vlforge.reports.training_curves import read_trained, view_losses


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of one stage, read."""
    return read_run(make_watched(tmp_path_factory.mktemp("runs") / "run"))


def trained(run):
    """The run's one stage with its log."""
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return read_trained(run.nodes[0], log)


def test_speed_and_resumes_are_those_of_the_starts_that_count(watched):
    found = trained(watched)
    steps = [at / 16 for at, _ in found.rates]
    assert steps == [*range(10, 161, 10), *range(170, 401, 10)]
    assert found.resumed == [160 * 16]


def test_a_stage_that_began_anew_was_not_resumed(watched):
    again = [{"event": "fit", "from_step": 160}, {"event": "fit", "from_step": 0}]
    assert read_trained(watched.nodes[0], again).resumed == []


def test_a_resume_behind_a_later_checkpoint_is_forgotten(watched):
    starts = [{"event": "fit", "from_step": step} for step in (0, 200, 100)]
    assert read_trained(watched.nodes[0], starts).resumed == [1600]


def test_the_page_shows_all_that_was_seen(watched, tmp_path):
    write_run_report(watched.folder, tmp_path / "page.html")
    page = read_page(tmp_path / "page.html")
    for words in (
        "○ held-out rows, ▼ odd step, ┆ went on from a checkpoint",
        "textvqa, asked while training",
        "learning rate, samples a second",
        "Odd steps",
        "loss 19.4, median 1.05",
        "conversations.json:907, conversations.json:906, conversations.json:905 and 5 more",
    ):
        assert words in page.text


def test_odd_steps_stand_where_they_happened(watched):
    (view,) = view_losses(watched, {})
    assert [(spike.step, spike.action) for spike in view.spikes] == [
        (230, "left out"),
        (311, "left out"),
    ]
    assert view.spikes[1].what == "no number"
    assert str(view.chart).count("at-spike-sign") == 2
    assert 'x1="57.50%"' in str(view.chart)
    assert "held-out at 1.12" in str(view.chart)


def test_one_spike_does_not_flatten_the_axis_nor_bend_the_line(watched):
    (view,) = view_losses(watched, {})
    assert ">4<" in str(view.chart)
    assert ">20<" not in str(view.chart)
    line = smoothed(trained(watched).losses)
    assert max(y for x, y in line if x > 200 * 16) < 1.3


def test_arms_have_a_curve_each_and_their_looks(tmp_path):
    run = read_run(make_watched(tmp_path / "run", arms=("raw", "refined")))
    (view,) = view_losses(run, {"raw": 0, "refined": 1})
    chart = str(view.chart)
    assert "raw ends at" in chart
    assert "refined held-out at" in chart
    assert view.runs == 2
    assert view.spike_count == 4


@pytest.mark.parametrize("broken", ["eval.jsonl", "spikes.jsonl", "metrics.jsonl"])
def test_broken_lines_cost_only_themselves(tmp_path, broken):
    run = make_watched(tmp_path / "run", hostile=True)
    path = run / "00-instruct" / broken
    odd = ['{"step": "x", "samples": null}', "no json", "[]", '{"step": 5, "rows": 3, "loss": "y"}']
    path.write_text("\n".join(odd) + "\n" + path.read_text())
    write_run_report(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Odd steps" in page
    assert "<script>alert" not in page


def test_a_run_without_a_log_or_looks_has_its_loss(tmp_path):
    run = make_watched(tmp_path / "run")
    for name in ("log.jsonl", "00-instruct/eval.jsonl", "00-instruct/spikes.jsonl"):
        (run / name).unlink()
    (view,) = view_losses(read_run(run), {})
    assert (view.signs, view.scores, view.spikes) == ((), (), ())
    assert [title for title, _ in view.more] == ["learning rate"]


def test_points_are_thinned_to_means():
    assert thinned([(k, float(k)) for k in range(10)], 5) == (
        [(1, 0.5), (3, 2.5), (5, 4.5), (7, 6.5), (9, 8.5)],
        2,
    )


def test_titles_of_events_are_escaped():
    chart = loss_chart([Curve("a", 0, [(1, 1.0)])], "x", [Event(1, "spike", "<script>")])
    assert "<script>" not in chart
