"""The page of an analysis in a real browser: quiet, offline, no wider than the screen."""

from __future__ import annotations

import random

import pytest

from tests.browser import heard
from tests.engine.made import write_picture, write_rows
from vlforge.cli import main

pytestmark = pytest.mark.slow
WORDS = "a red cat sits under the big table near two grey dogs of my friend".split()
RECIPE = """\
dataset_path: rows.jsonl
percentiles: [0.01, 0.05, 0.95, 0.99]
process:
  - text_length_filter: {min_len: 12, max_len: 300}
  - special_characters_filter: {max_ratio: 0.4}
  - word_repetition_filter: {rep_len: 3, max_ratio: 0.3}
  - words_num_filter: {min_num: 3}
  - image_shape_filter: {min_width: 48, max_width: 400, min_height: 48}
  - image_aspect_ratio_filter: {min_ratio: 0.5, max_ratio: 2}
  - image_size_filter: {max_size: 40kb}
  - document_deduplicator:
"""


def dirty(folder, count):
    """Lines of which a few are broken, hostile, repeated, very long or without their picture."""
    rng = random.Random(5)
    sizes = [(rng.randint(20, 500), rng.randint(20, 400)) for _ in range(12)]
    pictures = [str(write_picture(folder / f"{k}.png", s, k)) for k, s in enumerate(sizes)]
    broken = folder / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    lines = []
    for k in range(count):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 5, 12, 12, 30))))
        text = {0: "again the same", 1: '<img src=x onerror="alert(1)">', 2: "x" * 9000,
                3: "一只红色的猫坐在桌子上"}.get(k % 40, text)  # fmt: skip
        images = [rng.choice([*pictures, str(broken), "gone.png"])] * rng.choice((0, 1, 1, 2))
        row = {"id": f"id-{'long-' * 9}{k}" if k % 50 == 7 else k, "text": text, "images": images}
        lines.append(row if k % 30 != 9 else '{"text": "cut off')
    return lines


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of recipes and of plain data, much and little, by name."""
    folder = tmp_path_factory.mktemp("analyses")
    write_rows(folder / "rows.jsonl", dirty(folder, 3000))
    write_rows(folder / "one.jsonl", [{"text": "one row", "images": [str(folder / "1.png")]}])
    write_rows(folder / "texts.jsonl", [{"text": f"only words {k}"} for k in range(40)])
    (folder / "clean.yaml").write_text(RECIPE)
    calls = {"recipe": ["clean.yaml", "--pictures"], "plain": ["rows.jsonl"]}
    calls |= {name: [f"{name}.jsonl"] for name in ("one", "texts")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, words in calls.items():
            assert main(["analyze", *words, "-o", f"{name}.html"]) == 0
    return {name: folder / f"{name}.html" for name in calls}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("name", ["recipe", "plain", "one", "texts"])
def test_page_is_quiet_offline_and_fits_the_screen(browser, pages, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = heard(tab)
    tab.goto(pages[name].as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", pages[name].as_uri()))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert pages[name].stat().st_size < 2_000_000
    assert tab.evaluate("[...document.images].every(i => i.alt && i.naturalWidth > 0)")
    context.close()


@pytest.mark.parametrize("width", [375, 1280])
def test_no_words_of_a_chart_leave_it(browser, pages, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.goto(pages["recipe"].as_uri())
    outside = tab.evaluate(
        """[...document.querySelectorAll('svg.chart text')].filter(t => {
             const box = t.getBoundingClientRect();
             return box.left < 0 || box.right > window.innerWidth;
           }).map(t => t.textContent)"""
    )
    assert outside == []
    context.close()


def test_bounds_are_drawn_where_the_recipe_has_them(browser, pages):
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": 1280, "height": 800}
    )
    tab = context.new_page()
    tab.goto(pages["recipe"].as_uri())
    chart = tab.locator("#stat-text_len svg")
    assert chart.locator("text.bound-label").all_text_contents() == ["≥ 12", "≤ 300"]
    low, high = (line.bounding_box()["x"] for line in chart.locator("line.bound").all())
    bars = [bar.bounding_box() for bar in chart.locator("rect.fill-kept").all()]
    assert min(b["x"] + b["width"] for b in bars) > low
    assert max(b["x"] for b in bars) < high
    context.close()


def test_every_link_of_the_head_leads_to_a_section(browser, pages):
    context = browser.new_context()
    tab = context.new_page()
    for page in pages.values():
        tab.goto(page.as_uri())
        targets = tab.evaluate("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert set(targets) <= set(ids)
        assert len(ids) == len(set(ids))
        assert len(targets) >= 5
    context.close()
