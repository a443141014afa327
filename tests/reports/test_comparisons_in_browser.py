"""Comparisons in a real browser: quiet, offline, no wider than a phone."""

from __future__ import annotations

import pytest

from tests.browser import heard
from tests.evaluation.two_evaluations import evaluated, write_questions
from tests.reports.made_run import make_run
from tests.reports.watched_run import make_watched
from vlforge.evaluation.pairing import compare_folders
from vlforge.reports.answers_compared import write_comparison
from vlforge.reports.runs_compared import compare_runs, write_runs_page

pytestmark = pytest.mark.slow
ARMS = ("raw", "filtered", "refined", "a-rather-long-name-of-an-arm")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two evaluations; two runs, and many."""
    folder = tmp_path_factory.mktemp("pages")
    questions = write_questions(folder / "data", 120)
    sides = [evaluated(folder / f"e{k}", questions, 0.3 + 0.4 * k, seed=k) for k in (0, 1)]
    write_comparison(compare_folders(*sides), *sides, folder / "answers.html")
    two = [make_watched(folder / name, hostile=True) for name in ("a", "b")]
    write_runs_page(compare_runs(two), folder / "two.html")
    many = [make_run(folder / f"m{k}", arms=ARMS, rows=90 + k) for k in range(3)]
    write_runs_page(compare_runs([*many, two[0]]), folder / "many.html")
    return {name: folder / f"{name}.html" for name in ("answers", "two", "many")}


@pytest.fixture(params=["answers", "two", "many"])
def page(request, pages):
    """One page after the other."""
    return pages[request.param]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_page_is_quiet_offline_and_fits_the_screen(browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = heard(tab)
    tab.goto(page.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", page.as_uri()))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert page.stat().st_size < 2_000_000
    context.close()


def test_ids_are_unique_links_lead_somewhere_and_pictures_have_words(browser, page):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(page.as_uri())
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    links = tab.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.hash.slice(1))"
    )
    assert set(links) <= set(ids)
    assert tab.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
    context.close()
