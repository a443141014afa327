"""Photographs the chat page for the documents, with models of the quickstart that really answer.

vlforge web runs/quickstart/15-instruct@refined.s0 --examples PICTURES --port 8766 --no-browser
vlforge web runs/quickstart/15-instruct@raw.s0 runs/quickstart/15-instruct@refined.s0 \\
    --examples PICTURES --port 8765 --no-browser
python docs/images/shoot_chat.py http://127.0.0.1:8766/ http://127.0.0.1:8765/ docs/images
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

MOST_BYTES = 200_000
DESKTOP, PHONE = (1280, 940), (375, 760)
SHORT = "{}\nAnswer the question using a single word or phrase."


def talk(tab: Any, url: str, *more: str) -> None:
    """Ask the first example's question about its picture, then more questions."""
    tab.goto(url)
    tab.wait_for_selector("body:not([aria-busy])")
    tab.locator("#examples button").first.click()
    tab.wait_for_selector("#draft li img")
    tab.click("#send")
    tab.wait_for_selector("#stop", state="hidden")
    for question in more:
        tab.fill("#question", question)
        tab.click("#send")
        tab.wait_for_selector("#stop", state="hidden")


def keep(tab: Any, out: Path) -> None:
    """Write what is to be seen now, in few colours."""
    picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    if out.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{out}: {out.stat().st_size} bytes, more than {MOST_BYTES}")


def shoot(one: str, two: str, folder: Path) -> None:
    """Write chat-web.png, chat-web-phone.png and chat-web-compare.png.

    Raises:
        SystemExit: no Chromium, or a picture above the limit.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium on this machine; install Debian's package chromium")
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])

        def open_tab(size: tuple[int, int], scheme: Any) -> Any:
            view: Any = {"width": size[0], "height": size[1]}
            return chrome.new_page(viewport=view, device_scale_factor=1.5, color_scheme=scheme)

        tab = open_tab(DESKTOP, "light")
        talk(tab, one, SHORT.format("what colour is the ground?"))
        tab.evaluate("scrollTo(0, 0)")
        keep(tab, folder / "chat-web.png")
        tab = open_tab(PHONE, "dark")
        talk(tab, one)
        keep(tab, folder / "chat-web-phone.png")
        tab = open_tab(DESKTOP, "light")
        talk(tab, two)
        tab.get_by_role("button", name="B is better").click()
        tab.wait_for_selector(".vote .saved")
        tab.mouse.move(0, 0)
        keep(tab, folder / "chat-web-compare.png")
        chrome.close()


if __name__ == "__main__":
    shoot(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
