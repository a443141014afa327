"""The pages in a real browser: quiet, offline, no wider than the screen."""

from __future__ import annotations

import random

import pytest

from tests.browser import heard
from tests.reports.made_run import make_filter_stage, make_run, make_world
from tests.reports.watched_run import make_watched
from vlforge.reports.data_report import write_data_report
from vlforge.reports.run_report import write_run_report

pytestmark = pytest.mark.slow
ARMS = ("raw", "filtered", "refined", "clean", "a-rather-long-name-of-an-arm")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of little and much data, by name."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {
        "full": make_run(folder / "full", arms=ARMS, seeds=(0, 1, 2)),
        "small": make_run(folder / "small", rows=5, note="memorised"),
        "much": make_run(folder / "much", rows=45_000, hostile=True, evaluated=False),
    }
    runs["watched"] = make_watched(folder / "watched", arms=ARMS[:2], hostile=True)
    for name, run in runs.items():
        write_run_report(run, folder / f"{name}.html")
    rng = random.Random(1)
    rows, faults = make_world(folder / "world", rng, 45_000, 12, hostile=True)
    make_filter_stage(folder / "stage", rng, rows, faults)
    write_data_report(folder / "stage", folder / "data.html")
    return {name: folder / f"{name}.html" for name in (*runs, "data")}


@pytest.fixture(params=["full", "small", "much", "watched", "data"])
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


def test_ids_are_unique_and_every_picture_has_words(browser, page):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(page.as_uri())
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert tab.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
    context.close()


def test_everything_can_be_read_without_scripts(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(pages["full"].as_uri())
    assert tab.locator("h1").inner_text().startswith("Refined beats raw")
    assert tab.locator("#answers .card").count() >= 12
    context.close()


def test_the_keyboard_reaches_content_and_details(browser, pages):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(pages["full"].as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.locator("summary").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details[open]").count() == 1
    context.close()


def test_a_deep_link_lands_on_its_sample(browser, pages):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    tab.goto(pages["full"].as_uri())
    name = tab.locator("[id^=sample-]").last.get_attribute("id")
    tab.goto(f"{pages['full'].as_uri()}#{name}")
    top = tab.locator(f"[id='{name}']").bounding_box()["y"]
    assert 0 <= top < 800
    context.close()
