"""The data report of one processed dataset, little and much."""

from __future__ import annotations

import json
import random

import pytest

from tests.reports.made_run import (
    FILTERS,
    dj,
    make_filter_stage,
    make_world,
    run_filter,
    write_json,
    write_jsonl,
)
from tests.reports.reading import read_page
from vlforge.reports.data_report import view_texts, write_data_report
from vlforge.types import DataError


def processed(folder, rows, hostile=False):
    """A processed dataset's folder."""
    rng = random.Random(1)
    seed, faults = make_world(folder / "world", rng, rows, 12, hostile)
    make_filter_stage(folder / "stage", rng, seed, faults)
    return folder / "stage"


def written(stage):
    """The stage's page, read."""
    write_data_report(stage, stage / "report.html")
    return read_page(stage / "report.html")


def test_first_screen_says_what_came_in_and_what_stayed(tmp_path):
    stage = processed(tmp_path, 100)
    kept = len((stage / "data.jsonl").read_text().splitlines())
    page = written(stage)
    assert f"{kept} of 101 rows kept" in page.text
    assert "image_text_agreement_filter dropped most".replace("_", "_ ") in page.text


def test_every_operator_and_the_lines_that_were_no_rows_stand_in_the_funnel(tmp_path):
    page = written(processed(tmp_path, 100))
    for name in ("read", *(f.name for f in FILTERS)):
        assert name.replace("_", "_ ") in page.text
    assert "1 × broken line" in page.text
    assert 'not JSON: {"text": "a gre' in page.text


def test_twenty_thousand_drops_fit_and_the_rest_is_named(tmp_path):
    stage = processed(tmp_path, 300)
    lines = (stage / "dropped.jsonl").read_text().splitlines()[1:]
    many = [json.loads(lines[k % len(lines)]) for k in range(20_000)]
    write_jsonl(
        stage / "dropped.jsonl", ({**d, "uid": f"u-{k}", "id": str(k)} for k, d in enumerate(many))
    )
    page = written(stage)
    assert (stage / "report.html").stat().st_size < 2_000_000
    assert 100 < sum(i.startswith("drop-") for i in page.ids) <= 500
    assert "dropped.jsonl" in page.links
    assert len(page.ids) == len(set(page.ids))


def test_a_page_grown_too_large_shows_fewer_samples(tmp_path):
    stage = processed(tmp_path, 40)
    rows = [dj(f"{k}", "word " * 5000, stage / "none.png") for k in range(3000)]
    drops = [
        {"uid": f"u-{k}", "id": r["id"], "op": f"op_{k}", "reason": "no " * 2000, "row": r}
        for k, r in enumerate(rows)
    ]
    write_jsonl(stage / "dropped.jsonl", drops)
    write_json(
        stage / "funnel.json",
        {
            "rows_in": 3000,
            "rows_out": 0,
            "ops": [
                {"op": f"op_{k}", "rows_in": 3000 - k, "rows_out": 2999 - k, "dropped": 1}
                for k in range(300)
            ],
        },
    )
    written(stage)
    assert (stage / "report.html").stat().st_size < 2_000_000


def test_an_empty_result_is_a_page_too(tmp_path):
    write_json(tmp_path / "funnel.json", {"rows_in": 0, "rows_out": 0, "ops": []})
    assert "No rows came in" in written(tmp_path).text


def test_a_folder_without_a_funnel_is_refused(tmp_path):
    with pytest.raises(DataError, match="vlforge process"):
        write_data_report(tmp_path, tmp_path / "report.html")


def test_broken_lines_and_odd_values_are_survived(tmp_path):
    stage = processed(tmp_path, 20)
    funnel = json.loads((stage / "funnel.json").read_text())
    funnel["ops"][1]["stats"] = {"x": {"histogram": {"edges": [0, None], "counts": ["a"]}}, "y": 3}
    funnel["ops"][2]["reasons"] = None
    write_json(stage / "funnel.json", funnel)
    with open(stage / "data.jsonl", "ab") as file:
        file.write(b'\xff\xfe broken\n{"id": 3, "text": null, "images": 7}\n')
    assert "rows kept" in written(stage).text


def test_hostile_words_stay_words(tmp_path):
    page = written(processed(tmp_path, 150, hostile=True))
    assert page.tags.isdisjoint({"script", "iframe"})
    assert not {name for name in page.attributes if name.startswith("on")}


def test_words_are_counted_in_both_kinds_of_script(tmp_path):
    rows = [dj("1", "two words", "x.png"), dj("2", "一个红色", "y.png"), dj("3", "two", "z.png")]
    write_jsonl(tmp_path / "data.jsonl", rows)
    facts = dict(view_texts(tmp_path).facts)
    assert facts["words"] == "7"
    assert facts["distinct words"] == "6"
    assert (facts["shortest"], facts["longest"]) == ("1", "4")


def test_made_filters_drop_mostly_what_they_are_for():
    rows = [dj(f"{k}", "text", "x.png") for k in range(200)]
    faults = {f"{k}": "repeat" if k < 50 else None for k in range(200)}
    _, lost, _ = run_filter(FILTERS[2], random.Random(0), rows, faults)
    assert sum(faults[d["id"]] == "repeat" for d in lost) > 0.8 * len(lost)
