"""The viewer in a real browser: quiet, no wider than the screen, reachable by keys."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from tests.browser import heard
from tests.serving.made_view import caption, write_picture, write_rows, write_work
from tests.serving.patience import PATIENCE_S
from vlforge.serving.viewer.server import Desk, build_app
from vlforge.serving.viewer.sources import open_sources

pytestmark = pytest.mark.slow
SHOTS = os.environ.get("VLFORGE_SHOTS", "")
"""A folder for screenshots to look at; none are made without it."""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def make_data(folder: Path) -> dict[str, list[Path]]:
    """Datasets by the name of their page."""
    pictures = [
        write_picture(folder / f"{n}.png", size, colour)
        for n, (size, colour) in enumerate([((90, 60), "teal"), ((60, 90), "olive")])
    ]
    turns = [
        {"from": "human", "value": "Is <image> like <image>?"},
        {"from": "gpt", "value": f"No. {HOSTILE} " + "and so on " * 400},
    ]
    talks = [{"id": n, "image": pictures, "conversations": turns, "score": n} for n in range(45)]
    before = [caption(n, f"a red car {n} {HOSTILE}", pictures[n % 2]) for n in range(30)]
    after = [caption(n, f"a {'blue' if n % 3 else 'red'} car {n}", pictures[0]) for n in range(25)]
    return {
        "talks": [write_rows(folder / "talks.jsonl", talks)],
        "pair": [write_rows(folder / f"{n}.jsonl", d) for n, d in enumerate((before, after))],
        "work": [write_work(folder / "work")],
        "empty": [write_work(folder / "empty")],
        "broken": [write_rows(folder / "broken.jsonl", [caption(0, "x", "nowhere.png")])],
    }


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """A running viewer for each dataset, by name."""
    data = make_data(tmp_path_factory.mktemp("viewer"))
    (data["empty"][0] / "data.jsonl").write_text("")
    found, servers, desks = {}, [], []
    for name, paths in data.items():
        desk = Desk(open_sources(paths[0]), open_sources(paths[1]) if len(paths) > 1 else ())
        desk.start()
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(build_app(desk), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, args=([listening],), daemon=True).start()
        found[name] = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        servers.append(server)
        desks.append(desk)
    yield found
    for server in servers:
        server.should_exit = True
    for desk in desks:
        desk.close()


@pytest.fixture
def tab(browser):
    """A page of a browser window."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def becomes(tab, expression: str, wanted: object) -> None:
    """Wait until the page says so; its policy forbids Playwright's own way of waiting."""
    end = time.monotonic() + PATIENCE_S
    while tab.evaluate(expression) != wanted and time.monotonic() < end:
        tab.wait_for_timeout(20)
    assert tab.evaluate(expression) == wanted


def status_becomes(tab, words: str) -> None:
    """Wait until the status line says so."""
    becomes(tab, "document.getElementById('status').textContent", words)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
@pytest.mark.parametrize("name", ["talks", "pair", "work", "empty"])
def test_page_is_quiet_local_and_fits_the_screen(browser, addresses, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = heard(tab)
    tab.goto(addresses[name])
    tab.wait_for_selector(".row, .empty")
    tab.wait_for_load_state("networkidle")
    if SHOTS:
        tab.screenshot(path=Path(SHOTS) / f"{name}-{width}-{scheme}.png")
    assert said == []
    assert [url for url in asked if not url.startswith((addresses[name], "data:"))] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    context.close()


def test_data_never_becomes_markup(addresses, tab):
    tab.goto(addresses["talks"])
    tab.wait_for_selector(".row")
    assert tab.locator("#rows script").count() == 0
    assert HOSTILE in tab.locator(".row .words").nth(1).inner_text()


def test_keys_move_through_rows_pages_and_pictures(addresses, tab):
    tab.goto(addresses["talks"])
    tab.wait_for_selector(".row")
    tab.keyboard.press("j")
    assert tab.locator(".row.is-here").get_attribute("id") == "row-1"
    tab.keyboard.press("n")
    status_becomes(tab, "21–40 of 45 rows")
    tab.keyboard.press("k")
    tab.wait_for_selector("#row-19.is-here")
    tab.keyboard.press("z")
    assert tab.locator("#zoom").is_visible()
    tab.keyboard.press("ArrowRight")
    becomes(tab, "document.getElementById('zoom-picture').naturalHeight", 90)
    tab.keyboard.press("+")
    assert tab.locator("#zoom-size").inner_text().endswith("%")
    tab.keyboard.press("Escape")
    assert not tab.locator("#zoom").is_visible()
    tab.keyboard.press("/")
    tab.keyboard.type("nothing like it")
    becomes(tab, "document.querySelector('.empty')?.textContent", "No row is like that.")
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    status_becomes(tab, "1–20 of 45 rows")


def test_a_larger_picture_stays_where_it_was_looked_at(addresses, tab):
    tab.goto(addresses["talks"])
    tab.locator(".row .picture").first.click()
    becomes(tab, "document.getElementById('zoom-picture').naturalWidth", 90)
    for _ in range(3):
        tab.keyboard.press("+")
    share = (
        "(() => {const s = document.getElementById('zoom-stage');"
        "return Math.round(10 * (s.scrollLeft + s.clientWidth / 2) / s.scrollWidth)})()"
    )
    assert tab.evaluate("document.getElementById('zoom-stage').scrollLeft") > 0
    assert tab.evaluate(share) == 5
    tab.keyboard.press("0")
    assert tab.locator("#zoom-size").inner_text() == "Fit"


def test_a_missing_picture_says_so_in_its_place(addresses, tab):
    tab.goto(addresses["broken"])
    tab.wait_for_selector(".picture.none")
    assert "missing image" in tab.locator(".picture.none").inner_text()
    assert tab.locator(".mark.lone").inner_text() == "image 1: not shown"
    tab.keyboard.press("z")
    assert not tab.locator("#zoom").is_visible()


def test_a_range_narrows_the_rows_and_the_address_brings_them_back(browser, addresses, tab):
    tab.goto(addresses["talks"])
    tab.wait_for_selector("#stat option[value=score]", state="attached")
    tab.select_option("#stat", "score")
    tab.fill("#low", "40")
    tab.keyboard.press("Tab")
    status_becomes(tab, "1–5 of 5 found in 45 rows")
    assert tab.locator("#shape rect.in").count() in (3, 4)
    again = browser.new_context().new_page()
    again.goto(tab.url)
    again.wait_for_selector("#row-40")
    assert again.locator(".row").count() == 5
    again.context.close()


def test_dropped_rows_say_why(addresses, tab):
    tab.goto(addresses["work"])
    tab.wait_for_selector(".row")
    becomes(tab, "document.querySelector('h1').textContent", "2 rows kept, 2 dropped")
    tab.keyboard.press("2")
    tab.wait_for_selector(".row .badge.on-dropped")
    words = tab.locator(".row .row-head").first.inner_text()
    assert "✕ text_len too low" in words
    assert "text_length_filter: text_len 5, wanted >= 10" in words


def test_a_pair_marks_what_differs(addresses, tab):
    tab.goto(addresses["pair"])
    tab.wait_for_selector(".row .sides")
    assert tab.locator("#row-1 ins").first.inner_text() == "blue"
    tab.select_option("#state", "missing")
    status_becomes(tab, "1–5 of 5 found in 30 rows")
    assert "✕ only before" in tab.locator(".row-head").first.inner_text()


def test_a_deep_link_lands_on_its_row(addresses, tab):
    tab.goto(f"{addresses['talks']}#set=data&at=40&row=43")
    tab.wait_for_selector("#row-43.is-here")
    top = tab.locator("#row-43").bounding_box()["y"]
    assert 0 <= top < 900
