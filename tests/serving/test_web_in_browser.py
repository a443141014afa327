"""The chat page in a real browser: as a person uses it, with a mouse or with keys alone."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tests.browser import heard
from tests.serving.made_web import picture, serving, talker, until
from tests.serving.patience import PATIENCE_S
from vlforge.serving.web.door import Login
from vlforge.serving.web.hall import Example, Hall
from vlforge.serving.web.rooms import Bounds
from vlforge.serving.web.votes import Votes
from vlforge.types import Drawing, Sample, Turn, VLForgeError

pytestmark = pytest.mark.slow
SHOTS = os.environ.get("VLFORGE_SHOTS", "")
"""A folder for screenshots to look at; none are made without it."""
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WORDS = "A small dog sits on a porch beside two pairs of muddy boots. " * 4


def says(sample, drawing, key):
    """What was asked, of how many turns and pictures, or what the question wants to see."""
    question = sample.turns[-1].text.replace("<image>\n", "")
    if question == "break":
        raise VLForgeError("the model broke")
    if question == "long":
        return WORDS
    return f"{question} ({len(sample.turns)} turns, {len(sample.images)} pictures, key {key})"


class Page:
    """A tab with the chat, and what one does there."""

    def __init__(self, tab, url):
        self.tab = tab
        self.said, self.asked = heard(tab)
        tab.goto(url)
        self.becomes("document.body.ariaBusy", None)

    def becomes(self, expression, wanted):
        """Wait until the page says so; its policy forbids Playwright's own way of waiting."""
        end = time.monotonic() + PATIENCE_S
        while self.tab.evaluate(expression) != wanted and time.monotonic() < end:
            self.tab.wait_for_timeout(20)
        assert self.tab.evaluate(expression) == wanted

    def ask(self, question, *, ends=True):
        """Type a question and press Enter; wait for the answer's end."""
        self.tab.fill("#question", question)
        self.tab.keyboard.press("Enter")
        if ends:
            self.ends()

    def ends(self):
        """Wait until nothing is being answered."""
        self.becomes("document.getElementById('stop').hidden", True)

    def answers(self):
        """The texts of all answers."""
        return self.tab.locator(".assistant .words").all_inner_texts()

    def add(self, *files):
        """Choose picture files; wait until they are sent."""
        before = self.tab.locator("#draft li").count()
        self.tab.set_input_files("#files", list(files))
        self.becomes("document.querySelectorAll('#draft li img').length", before + len(files))


def file(name="cat.png", **how):
    """A picture as a browser's file dialog gives it."""
    return {"name": name, "mimeType": "image/png", "buffer": picture(**how)}


@pytest.fixture
def open_page(browser):
    """Opens the page of a hall; all is closed at the end."""
    opened = []

    def open_hall(hall, *, login=None, **how):
        server = serving(hall, login=login)
        url = server.__enter__()
        how = {"viewport": {"width": 1280, "height": 900}} | how
        context = browser.new_context(**how)
        context.set_default_timeout(1000 * PATIENCE_S)
        opened.append((context, server))
        return Page(context.new_page(), url) if login is None else (context.new_page(), url)

    yield open_hall
    for context, server in opened:
        context.close()
        server.__exit__(None, None, None)


def test_upload_question_answer_and_the_next_question(open_page):
    hall = Hall([talker(says)])
    page = open_page(hall)
    assert page.tab.locator("h1").inner_text() == "Ask parrot about a picture"
    page.add(file("a.png"), file("b.png", colour="red"))
    page.tab.locator("#draft button").first.click()
    page.becomes("document.querySelectorAll('#draft li').length", 1)
    page.ask("What is it?")
    page.ask("Sure?")
    first, second = (text.partition(", key")[0] for text in page.answers())
    assert first == "What is it? (1 turns, 1 pictures"
    assert second == "Sure? (3 turns, 1 pictures"
    page.becomes("document.querySelector('.pictures img').naturalWidth", 64)
    assert page.said == []
    assert page.tab.evaluate("document.activeElement.id") == "question"


def test_pictures_come_by_dropping_and_by_pasting(open_page):
    page = open_page(Hall([talker(says)]))
    make = """([where, kind, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
      const target = document.querySelector(where);
      target.dispatchEvent(kind === "paste"
        ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true})
        : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    content = list(picture())
    page.tab.evaluate(make, ["#drop", "drop", content])
    page.becomes("document.querySelectorAll('#draft li img').length", 1)
    page.tab.evaluate(make, ["#question", "paste", content])
    page.becomes("document.querySelectorAll('#draft li img').length", 2)
    page.ask("Both?")
    assert "2 pictures" in page.answers()[0]


def test_what_cannot_be_taken_is_told_and_the_rest_is_taken(open_page):
    page = open_page(Hall([talker(says)], bounds=Bounds(pictures=3, bytes=1 << 20)))
    files = [
        file(f"{HOSTILE.replace('/', '')}.png"),
        {"name": "zip.jpg", "mimeType": "image/jpeg", "buffer": b"PK\x03\x04zip"},
        {"name": "big.png", "mimeType": "image/png", "buffer": bytes(2 << 20)},
        file("fourth.png"),
    ]
    page.tab.set_input_files("#files", files)
    page.tab.wait_for_selector("#notice:not([hidden])")
    told = page.tab.locator("#notice span").inner_text()
    assert "zip.jpg is no picture; JPEG, PNG, WebP, GIF and BMP are taken" in told
    assert "big.png has more than 1 MB; send a smaller one" in told
    assert "A conversation takes 3 pictures: 1 were left out." in told
    assert page.tab.locator("#draft li img").count() == 1
    page.tab.locator("#notice button").click()
    assert not page.tab.locator("#notice").is_visible()


def test_words_of_people_and_models_never_become_markup(open_page):
    page = open_page(Hall([talker(lambda *_: HOSTILE, HOSTILE.replace("/", ""))]))
    page.add(file(f"{HOSTILE.replace('/', '')}.png"))
    page.ask(HOSTILE)
    assert page.answers() == [HOSTILE]
    assert page.tab.locator(".user .words").inner_text() == HOSTILE
    page.tab.locator(".pictures button").click()
    assert page.tab.locator("#zoom-name").inner_text().startswith("<img src=x")
    assert page.tab.locator("main script, main img[src=x], header script").count() == 0
    assert page.said == []


def test_an_answer_streams_and_stops_when_told(open_page):
    goes = threading.Semaphore(0)
    speaker = talker(says, goes=goes.acquire)
    hall = Hall([speaker])
    page = open_page(hall)
    page.ask("long", ends=False)
    goes.release(3)
    page.becomes("document.querySelector('.assistant .words').textContent", "A small dog")
    assert page.tab.locator(".is-live").count() == 1
    page.tab.locator("#stop").click()
    page.ends()
    assert page.answers() == ["A small dog"]
    assert "stopped" in page.tab.locator(".assistant .foot").inner_text()
    (room,) = hall.rooms._rooms.values()
    until(lambda: not room.asking)
    goes.release(1)
    until(lambda: speaker.speaker.closed == 1)
    goes.release(100)
    page.ask("next")
    assert page.answers()[1].startswith("next (3 turns")


def test_regenerating_draws_the_same_question_with_a_new_seed(open_page):
    speaker = talker(says)
    page = open_page(Hall([speaker]))
    page.tab.locator("#settings-open").click()
    page.tab.fill("#temperature", "0.7")
    page.tab.fill("#max_tokens", "64")
    page.tab.keyboard.press("Escape")
    page.ask("Well?")
    page.tab.get_by_role("button", name="Regenerate").click()
    page.becomes("document.querySelectorAll('.assistant').length", 1)
    until(lambda: len(speaker.speaker.asked) == 2)
    page.ends()
    (first, drawing, key), (second, _, other) = speaker.speaker.asked
    assert (first.turns, drawing.temperature, drawing.max_new_tokens) == (second.turns, 0.7, 64)
    assert key != other
    assert f"seed {other}" in page.tab.locator(".assistant .foot").inner_text()


def test_an_edited_question_goes_on_from_there(open_page):
    page = open_page(Hall([talker(says)]))
    page.add(file())
    page.ask("first")
    page.ask("second")
    page.tab.get_by_role("button", name="Edit").first.click()
    assert page.tab.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.tab.keyboard.press("Escape")
    assert page.tab.locator(".exchange").count() == 2
    page.tab.get_by_role("button", name="Edit").first.click()
    page.tab.locator(".edit textarea").fill("other")
    page.tab.keyboard.press("Enter")
    page.ends()
    (only,) = page.answers()
    assert only.startswith("other (1 turns, 1 pictures")


def test_a_fault_is_told_and_asked_again(open_page):
    faults = [True, True, False]

    def reply(sample, drawing, key):
        if faults.pop(0):
            raise VLForgeError(f"no memory left {HOSTILE}")
        return "well"

    page = open_page(Hall([talker(reply)]))
    page.ask("go")
    assert page.tab.locator(".fault").inner_text() == f"no memory left {HOSTILE}"
    for _ in range(2):
        page.tab.get_by_role("button", name="Try again").click()
        page.ends()
    assert page.answers() == ["well"]
    assert page.tab.locator(".fault").count() == 0


def test_a_new_conversation_forgets_words_and_pictures(open_page):
    hall = Hall([talker(says)])
    page = open_page(hall)
    page.add(file())
    page.ask("first")
    page.tab.locator("#restart").click()
    page.becomes("document.querySelectorAll('.exchange').length", 0)
    assert page.tab.locator("h1").is_visible()
    until(lambda: hall.rooms.held == 0 and len(hall.rooms) == 1)
    page.ask("again")
    assert page.answers()[0].startswith("again (1 turns, 0 pictures")


def test_a_page_loaded_again_is_as_it_was_and_a_closed_one_is_forgotten(open_page):
    hall = Hall([talker(says)], bounds=Bounds(grace_s=1000))
    page = open_page(hall)
    page.add(file())
    page.ask("first")
    page.tab.reload()
    page.becomes("document.querySelectorAll('.exchange').length", 1)
    page.becomes("document.querySelector('.pictures img').naturalWidth", 64)
    page.ask("second")
    assert page.answers()[1].startswith("second (3 turns, 1 pictures")
    (room,) = hall.rooms._rooms.values()
    page.tab.close()
    until(lambda: room.left_at is not None)
    hall.rooms.sweep()
    assert len(hall.rooms) == 1
    hall.rooms.clock = lambda: time.monotonic() + 1001
    hall.rooms.sweep()
    assert len(hall.rooms) == 0
    assert hall.rooms.held == 0


def test_closing_the_tab_stops_its_answer(open_page):
    goes = threading.Semaphore(0)
    speaker = talker(says, goes=goes.acquire)
    hall = Hall([speaker])
    page = open_page(hall)
    page.ask("long", ends=False)
    goes.release(1)
    page.becomes("document.querySelector('.assistant .words').textContent", "A")
    (room,) = hall.rooms._rooms.values()
    page.tab.close()
    until(lambda: not room.asking)
    goes.release(1)
    until(lambda: speaker.speaker.closed == 1)
    assert speaker.answered == 0


def test_two_models_answer_side_by_side_and_a_vote_is_kept(open_page, tmp_path):
    votes = tmp_path / "votes.jsonl"
    models = talker(lambda *_: "left words", "raw"), talker(lambda *_: "right words", "refined")
    page = open_page(Hall(models, votes=Votes(votes)))
    page.add(file())
    page.ask("Which?")
    assert page.answers() == ["left words", "right words"]
    assert page.tab.locator(".assistant .role").all_inner_texts() == ["A · raw", "B · refined"]
    page.tab.get_by_role("button", name="B is better").click()
    page.tab.wait_for_selector(".vote .saved")
    told = json.loads(votes.read_text())
    assert (told["vote"], told["winner"], told["question"]) == ("right", "refined", "Which?")
    assert page.tab.locator(".vote [aria-pressed=true]").inner_text() == "B is better"
    page.tab.locator("#modes button", has_text="refined").click()
    page.ask("And now?")
    assert page.answers()[2:] == ["right words"]
    asked = models[1].speaker.asked[-1][0]
    assert [turn.text for turn in asked.turns] == ["<image>\nWhich?", "right words", "And now?"]


def test_hidden_names_are_told_after_the_vote(open_page, tmp_path):
    models = talker(lambda *_: "one", "raw"), talker(lambda *_: "two", "refined")
    page = open_page(Hall(models, votes=Votes(tmp_path / "votes.jsonl")))
    page.tab.locator("#settings-open").click()
    page.tab.check("#hidden")
    page.tab.locator("#settings-close").click()
    page.ask("Which?")
    assert page.tab.locator(".assistant .role").all_inner_texts() == ["A", "B"]
    page.tab.get_by_role("button", name="A is better").click()
    page.tab.wait_for_selector(".vote .saved")
    told = json.loads((tmp_path / "votes.jsonl").read_text())
    assert told["hidden"] is True
    left = page.tab.locator(".assistant").first
    assert left.locator(".role").inner_text() == f"A · {told['winner']}"
    assert left.locator(".words").inner_text() == told["left"]["answer"]


def test_a_conversation_is_saved_with_its_pictures(open_page):
    page = open_page(Hall([talker(lambda *_: "a cat")]))
    page.add(file("cat.png"))
    page.ask("What?")
    with page.tab.expect_download() as waiting:
        page.tab.locator("#save").click()
    archive = zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    assert archive.namelist() == ["conversation.json", "images/01-cat.png"]
    (row,) = json.loads(archive.read("conversation.json"))
    assert row["conversations"] == [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"},
    ]  # fmt: skip


def test_an_example_brings_its_picture_and_question(open_page, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    page = open_page(Hall([talker(says)], examples=[Example(tmp_path / "a.png", "What colour?")]))
    page.tab.get_by_role("button", name="What colour?").click()
    page.becomes("document.querySelectorAll('#draft li img').length", 1)
    page.tab.keyboard.press("Enter")
    page.becomes("document.querySelectorAll('.exchange').length", 1)
    page.ends()
    assert page.answers()[0].startswith("What colour? (1 turns, 1 pictures")


def test_one_who_waits_is_told_the_place_in_line(open_page):
    goes = threading.Semaphore(0)
    busy = talker(says, goes=goes.acquire)
    busy.batch = 1
    page = open_page(Hall([busy]))
    others = [busy.ask(Sample("x", (), (Turn("user", "a"),)), Drawing()) for _ in range(2)]
    page.ask("me", ends=False)
    page.becomes("document.querySelector('.waits').textContent", "Waiting: place 2 in line …")
    goes.release(200)
    page.ends()
    assert page.answers()[0].startswith("me (")
    assert all(other.whole()[0] for other in others)


def test_keys_alone_are_enough(open_page):
    page = open_page(Hall([talker(says)]))
    tab = page.tab
    tab.keyboard.type("first")
    tab.keyboard.press("Shift+Enter")
    tab.keyboard.type("line")
    tab.keyboard.press("Enter")
    page.becomes("document.querySelectorAll('.exchange').length", 1)
    page.ends()
    assert page.answers()[0].startswith("first\nline (1 turns")
    found = []
    for _ in range(14):
        tab.keyboard.press("Tab")
        found.append(tab.evaluate("document.activeElement.textContent.trim()"))
    assert {"New", "Save", "Settings", "Edit", "Copy", "Regenerate", "+ Picture"} <= set(found)
    tab.get_by_role("button", name="Regenerate").focus()
    tab.keyboard.press("Enter")
    page.ends()
    assert tab.evaluate("document.activeElement.id") == "question"


def test_without_a_login_nobody_comes_in(open_page):
    tab, url = open_page(Hall([talker(says)]), login=Login("ada", "correct horse"))
    said, _ = heard(tab)
    tab.goto(url)
    for password in ("wrong", "correct horse"):
        tab.fill("#user", "ada")
        tab.fill("#password", password)
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#fault:not([hidden])" if password == "wrong" else "#composer")
    tab.wait_for_selector("body:not([aria-busy])")
    assert tab.locator("h1").inner_text() == "Ask parrot about a picture"
    assert len(said) == 1
    assert "401" in said[0]
    (cookie,) = tab.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
@pytest.mark.parametrize("count", [1, 2])
def test_page_is_quiet_local_and_fits_the_screen(open_page, tmp_path, count, width, scheme):
    names = ["a-model-with-a-rather-long-name/instruct@refined", "another/one"][:count]
    models = [talker(lambda *_: f"{WORDS} {'long' * 99}", name) for name in names]
    hall = Hall(models, votes=Votes(tmp_path / "votes.jsonl"))
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = open_page(hall, **view)
    fits = "document.documentElement.scrollWidth"
    assert page.tab.evaluate(fits) <= width
    page.add(*(file(f"{n}.png", size=(900, 300 * n + 100)) for n in range(3)))
    page.ask("What? " * 40 + "long" * 99)
    page.tab.wait_for_load_state("networkidle")
    if SHOTS:
        page.tab.screenshot(path=Path(SHOTS) / f"web-{count}-{width}-{scheme}.png")
    assert page.tab.evaluate(fits) <= width
    page.tab.locator("#settings-open").click()
    assert page.tab.evaluate("document.getElementById('settings').scrollWidth") <= width
    assert page.said == []
    home = page.tab.url
    assert [url for url in page.asked if not url.startswith((home, "data:"))] == []
    ids = page.tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


CONTRAST = """() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = parts.slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return [0.2126 * r + 0.7152 * g + 0.0722 * b, parts.length > 3 ? parts[3] : 1];
  };
  const ground = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const [value, alpha] = light(getComputedStyle(one).backgroundColor);
      if (alpha === 1) return value;
    }
    return 1;
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!words || !node.checkVisibility() || node.closest(":disabled, .is-off, .unseen, .skip")) continue;
    const [a, b] = [light(getComputedStyle(node).color)[0], ground(node)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${node.tagName}.${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""  # noqa: E501


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(open_page, tmp_path, scheme):
    models = [talker(says, name) for name in ("raw", "refined")]
    page = open_page(Hall(models, votes=Votes(tmp_path / "v.jsonl")), color_scheme=scheme)
    assert page.tab.evaluate(CONTRAST) == []
    page.ask("What?")
    page.tab.get_by_role("button", name="Tie").click()
    page.tab.wait_for_selector(".vote .saved")
    page.ask("break")
    assert page.tab.locator(".fault").count() == 2
    page.tab.locator("#settings-open").click()
    assert page.tab.evaluate(CONTRAST) == []
