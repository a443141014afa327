"""The page of an analysis: what it says of clean, dirty, little and no data."""

from __future__ import annotations

import json

import pytest

from tests.engine.made import config, write_picture, write_rows
from tests.reports.reading import read_page
from vlforge.engine.local import run_process
from vlforge.reports.analysis import headline, write_analysis
from vlforge.reports.analysis_plan import plan_analysis, read_percentiles
from vlforge.reports.analysis_reading import read_findings
from vlforge.reports.analysis_tables import describe, write_charts, write_tables
from vlforge.types import RecipeError

FILTERS = (
    {"text_length_filter": {"min_len": 8, "max_len": 60}},
    {"word_repetition_filter": {"rep_len": 2, "max_ratio": 0.5}},
    {"image_shape_filter": {"min_width": 40}},
)
HOSTILE = '<script>alert(1)</script> & "quotes" \u202e'


def dirty_rows(folder):
    """Rows of which one breaks a line, one a picture, one repeats, one is short, one is hostile."""
    pictures = [str(write_picture(folder / f"{k}.png", (30 * k, 40), k)) for k in (1, 2, 3)]
    rows = [
        {"id": f"r{k}", "text": f"a picture with the number {k}", "images": [pictures[k % 3]]}
        for k in range(12)
    ]
    rows += [
        {"id": "twin", "text": "a picture with the number 3", "images": []},
        {"id": "short", "text": "no", "images": [pictures[1]]},
        {"id": "again", "text": "cat cat cat cat cat cat", "images": pictures[1:]},
        {"id": "gone", "text": "its picture is gone", "images": [str(folder / "gone.png")]},
        {"id": "evil", "text": HOSTILE, "images": [pictures[2]]},
        '{"id": "broken", "text": ',
        {"id": "mute", "text": None},
    ]
    return rows


def analysed(folder, rows, *process, **keys):
    """(plan, findings, work folder) of an analysis of the rows."""
    hashes = keys.pop("hashes", False)
    data = write_rows(folder / "rows.jsonl", rows)
    plan = plan_analysis(config(data, *process, **keys), hashes_pictures=hashes)
    work = folder / "work"
    run_process(plan.config, work, workers=1)
    return plan, read_findings(plan, work), work


def page_of(folder, rows, *process, **keys):
    """The page, read."""
    plan, findings, work = analysed(folder, rows, *process, **keys)
    write_analysis(plan, findings, work, folder / "page.html", title="rows")
    assert (folder / "page.html").stat().st_size < 2_000_000
    page = read_page(folder / "page.html")
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.isdisjoint({"script", "iframe"})
    assert not {name for name in page.attributes if name.startswith("on")}
    return page


def test_each_filter_is_counted_alone_and_where_no_other_agrees(tmp_path):
    plan, found, _ = analysed(tmp_path, dirty_rows(tmp_path), *FILTERS)
    counts = {b.name: found.filters[b.place] for b in plan.filters}
    assert {name: (c.alone, c.only) for name, c in counts.items()} == {
        "text_length_filter": (1, 1),
        "word_repetition_filter": (1, 1),
        "image_shape_filter": (5, 5),
    }
    assert counts["image_shape_filter"].reasons["missing image"] == 1
    assert (found.rows_in, found.rows, found.kept) == (19, 17, 10)


def test_what_the_filters_would_keep_is_what_a_run_keeps(tmp_path):
    rows = dirty_rows(tmp_path)
    _, found, _ = analysed(tmp_path, rows, *FILTERS)
    funnel = run_process(config(tmp_path / "rows.jsonl", *FILTERS), tmp_path / "run", workers=1)
    assert found.kept == funnel["rows_out"]


def test_statistics_are_of_every_row_that_could_be_read(tmp_path):
    _, found, _ = analysed(tmp_path, dirty_rows(tmp_path), *FILTERS)
    assert found.numbers["text_len"].count == 17
    assert found.numbers["image_width"].count == 16
    assert dict(found.bad) == {"broken line": 1, "no text": 1}
    assert dict(found.pictures.faults) == {"missing image": 1}
    assert found.texts.rows == 1


def test_the_page_of_a_recipe_tells_bounds_shares_and_reasons(tmp_path):
    page = page_of(tmp_path, dirty_rows(tmp_path), *FILTERS, {"document_deduplicator": None})
    assert "The filters would keep 10 of 19 rows (53 %)" in page.text
    assert "keeps 8 to 60 · 1 below (6 %)" in page.text
    assert "text_len too low: 2, bound ≥ 8" in page.text.replace("_ ", "_")
    assert "missing image" in page.text
    assert "broken line" in page.text
    assert "Not run here: document_ deduplicator" in page.text
    assert "min_len: " in page.text


def test_rows_that_would_be_dropped_stand_with_their_reason_and_picture(tmp_path):
    page_of(tmp_path, dirty_rows(tmp_path), *FILTERS)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    card = html[html.index('id="sample-again"') :].split("</article>")[0]
    assert "data:image/webp;base64," in card
    assert "word_<wbr>rep_<wbr>ratio too high" in card
    assert "2 pictures" in card


def test_without_a_recipe_all_that_is_cheap_is_measured_and_nothing_judged(tmp_path):
    plan, found, _ = analysed(tmp_path, dirty_rows(tmp_path))
    assert {"text_len", "num_words", "image_width", "aspect_ratios"} <= set(found.numbers)
    assert not plan.is_recipe
    assert (found.kept, found.dropped_examples) == (17, [])
    text = headline(plan, found)
    assert text.startswith("19 rows with 17 pictures: 2 rows cannot be read")
    page = page_of(tmp_path, dirty_rows(tmp_path))
    assert "At the edges" in page.text
    assert "lowest avg_ line_ length: 2" in page.text
    assert "sample-short" in page.ids
    assert "would be dropped" not in page.text.lower()


def test_a_recipe_of_mappers_alone_is_measured_like_plain_data(tmp_path):
    plan, _, _ = analysed(tmp_path, dirty_rows(tmp_path), "clean_links_mapper")
    assert not plan.is_recipe
    assert plan.left_out == ("clean_links_mapper",)


def test_mappers_run_first_on_demand(tmp_path):
    rows = [{"text": "see https://example.org/a/long/address now"}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    recipe = config(data, "clean_links_mapper", "text_length_filter")
    for is_mapped, length in ((False, 42), (True, 8)):
        plan = plan_analysis(recipe, is_mapped=is_mapped)
        work = tmp_path / f"work-{is_mapped}"
        run_process(plan.config, work, workers=1)
        assert read_findings(plan, work).numbers["text_len"].low == length


def test_pictures_that_look_alike_are_found_on_demand(tmp_path):
    first, second = (write_picture(tmp_path / f"{k}.png", (64, 48), 1) for k in "ab")
    other = write_picture(tmp_path / "c.png", (64, 48), 8)
    rows = [{"id": p.stem, "text": "t", "images": [str(p)]} for p in (first, other, second)]
    _, found, _ = analysed(tmp_path, rows, hashes=True)
    assert (found.looks.rows, found.looks.largest) == (1, ((2, 0, 2),))
    page = page_of(tmp_path, rows, hashes=True)
    assert "Pictures that look alike 1 row repeats an earlier one" in page.text


def test_samples_come_from_all_of_the_data(tmp_path):
    page = page_of(tmp_path, [{"id": k, "text": f"row {k} of many rows"} for k in range(500)],
                   FILTERS[0])  # fmt: skip
    places = [int(name.removeprefix("sample-")) for name in page.ids if name.startswith("sample-")]
    assert len(places) == 12
    assert min(places) < 150
    assert max(places) > 350


def test_one_row_is_enough(tmp_path):
    rows = [{"text": "just one", "images": [str(write_picture(tmp_path / "a.png"))]}]
    assert "1 row with 1 picture, nothing broken or repeated" in page_of(tmp_path, rows).text
    assert "would keep all of 1 row" in page_of(tmp_path, rows, *FILTERS).text


def test_rows_without_pictures_have_no_part_for_them(tmp_path):
    page = page_of(tmp_path, [{"text": f"words and {k}"} for k in range(30)])
    assert "30 rows without pictures" in page.text
    assert "pictures" not in page.ids


def test_hostile_words_stay_words(tmp_path):
    page = page_of(tmp_path, dirty_rows(tmp_path), {"text_length_filter": {"max_len": 30}})
    assert "<script>alert(1)</script>" in page.text
    assert "script" not in page.tags


def test_statistics_that_came_with_the_file_are_judged_as_in_a_run(tmp_path):
    rows = [{"text": "some text", "__dj__stats__": {"text_len": n}} for n in (5, 50, 500)]
    _, found, _ = analysed(tmp_path, rows, FILTERS[0])
    assert found.kept == 1
    assert sorted(found.filters[0].reasons) == ["text_len too high", "text_len too low"]


def test_the_describe_table_is_data_juicers(tmp_path):
    rows = [{"text": "x" * n} for n in (1, 2, 3, 4)]
    plan, found, _ = analysed(tmp_path, rows, "text_length_filter",
                              extra={"percentiles": [0.125]})  # fmt: skip
    assert describe(found, plan) == {
        "text_len": {
            "count": 4.0, "mean": 2.5, "std": pytest.approx(1.2909944487358056), "min": 1.0,
            "12.5%": 1.375, "25%": 1.75, "50%": 2.5, "75%": 3.25, "max": 4.0,
        }
    }  # fmt: skip
    csv, markdown = (f.read_text().splitlines() for f in write_tables(found, plan, tmp_path))
    assert csv[:3] == [",text_len", "count,4.0", "mean,2.5"]
    assert markdown[0] == "|       | text_len |"
    assert markdown[2] == "| count |        4 |"


def test_words_are_counted_in_the_describe_table(tmp_path):
    rows = [{"text": text} for text in ("buy now", "a cat", "buy now")]
    pattern = {"text_pattern_filter": {"patterns": ["buy"]}}
    plan, found, _ = analysed(tmp_path, rows, pattern)
    assert describe(found, plan)["matched_pattern"] == {
        "count": 3.0, "unique": 2.0, "top": "buy", "freq": 2.0,
    }  # fmt: skip


def test_each_chart_can_stand_alone(tmp_path):
    plan, found, _ = analysed(tmp_path, dirty_rows(tmp_path), *FILTERS)
    files = write_charts(found, plan, tmp_path)
    assert [f.name for f in files] == [
        "text_len-hist.svg", "word_rep_ratio-hist.svg", "image_width-hist.svg",
        "image_height-hist.svg",
    ]  # fmt: skip
    assert files[0].read_text().startswith("<svg xmlns=")


@pytest.mark.parametrize("given", [[5], "many", [True], [0.5, -0.1]])
def test_percentiles_are_shares(given):
    with pytest.raises(RecipeError, match="percentiles"):
        read_percentiles(given)
    assert read_percentiles([0.9, 0.25]) == (0.25, 0.5, 0.75, 0.9)


def test_a_long_tail_does_not_flatten_its_chart(tmp_path):
    rows = [{"text": "x" * (40 + k % 30)} for k in range(200)] + [{"text": "x" * 90_000}]
    plan, found, work = analysed(tmp_path, rows, "text_length_filter")
    write_analysis(plan, found, work, tmp_path / "page.html", title="rows")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    chart = html[html.index('id="stat-text_len"') :].split("</figure>")[0]
    assert chart.count('class="fill-kept"') > 20


def test_equal_rows_give_equal_pages(tmp_path):
    pages = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        rows = json.loads(json.dumps([r for r in dirty_rows(tmp_path) if isinstance(r, dict)]))
        page_of(folder, rows, *FILTERS)
        pages.append((folder / "page.html").read_bytes())
    assert pages[0] == pages[1]
