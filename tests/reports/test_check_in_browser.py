"""The page of a dataset's check in a real browser: quiet, offline, no wider than the screen."""

from __future__ import annotations

import json

import pytest

from tests.browser import heard
from tests.engine.made import write_picture, write_rows
from vlforge.cli import main

pytestmark = pytest.mark.slow
TEXTS = ("A red cup.", "", "ok</s> <|im_end|>", "ein KÃ¤fer", '<img src=x onerror="alert(1)">',
         "x" * 9000, "一只红色的猫坐在桌子上", "<image> again", "\x00\x07")  # fmt: skip


def row(number, image, answer, *more):
    turns = ["<image>\nWhat stands on the table here?", answer, *more]
    said = [{"from": "human" if k % 2 == 0 else "gpt", "value": t} for k, t in enumerate(turns)]
    return {"id": f"id-{'long-' * 20 * (number % 7 == 0)}{number}", "image": image,
            "conversations": said}  # fmt: skip


def dirty(folder, count):
    """Rows with every kind of fault that is cheap to make."""
    names = [write_picture(folder / f"{k}.png", (60 + 30 * k, 400 - 30 * k), 9 * k).name
             for k in range(9)]  # fmt: skip
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    names += ["broken.png", "gone.png", "0.gif", "https://example.org/a.jpg"]
    rows = [row(k, names[k % 13], TEXTS[k * 5 % 9], *(("And?",) if k % 17 == 3 else ()))
            for k in range(count)]  # fmt: skip
    return [line if k % 30 != 9 else '{"id": "cut off' for k, line in enumerate(rows)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of much that is wrong, of nothing that is, and of nothing at all, by name."""
    folder = tmp_path_factory.mktemp("checks")
    write_rows(folder / "dirty.jsonl", dirty(folder, 800))
    write_rows(folder / "sound.jsonl", [row(1, "1.png", "A red cup.")])
    write_rows(folder / "test.jsonl", [row(1, "2.png", "A red cup.")])
    write_rows(folder / "none.jsonl", ['{"conversations": []}'])
    calls = {"dirty": ["--near", "--against", "test.jsonl", "--max-samples", "9"], "sound": []}
    calls["none"] = ["--from", "llava"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        codes = {name: main(["check", f"{name}.jsonl", *words]) for name, words in calls.items()}
    assert codes == {"dirty": 1, "sound": 0, "none": 1}
    return {name: folder / f"{name}.check" / "check.html" for name in calls}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("name", ["dirty", "sound", "none"])
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


def test_every_finding_has_its_place_on_the_page(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(pages["dirty"].as_uri())
    found = json.loads(pages["dirty"].with_name("check.json").read_text(encoding="utf-8"))
    kinds = [one["kind"] for one in found["findings"]]
    assert len(kinds) >= 15
    for kind in kinds:
        assert tab.locator(f"#finding-{kind} tbody tr").count() >= 1
    links = tab.locator("nav a, .counts a").evaluate_all("all => all.map(a => a.hash.slice(1))")
    ids = tab.locator("[id]").evaluate_all("all => all.map(e => e.id)")
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))
    context.close()


def test_the_first_line_says_how_it_is(browser, pages):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(pages["sound"].as_uri())
    assert tab.locator("h1").inner_text() == "1 row with 1 picture: nothing is wrong"
    tab.goto(pages["dirty"].as_uri())
    assert "more kinds of error" in tab.locator("h1").inner_text()
    context.close()
