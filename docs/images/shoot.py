"""Photographs the top of a page for the documents: one PNG, small enough to keep.

python docs/images/shoot.py runs/quickstart/report.html docs/images/report.png
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 860}
MOST_BYTES = 300_000


def shoot(page: Path, out: Path) -> int:
    """Write `out` and return its size in bytes.

    Raises:
        SystemExit: no Chromium, or the picture stays above the limit.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium on this machine; install Debian's package chromium")
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chrome.new_page(viewport=SIZE, device_scale_factor=1.5)
        tab.goto(page.resolve().as_uri())
        data = tab.screenshot()
        chrome.close()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    few = picture.quantize(256, dither=Image.Dither.NONE)
    few.save(out, optimize=True)
    size = out.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{out}: {size} bytes, more than {MOST_BYTES}; make the window smaller")
    return size


if __name__ == "__main__":
    print(shoot(Path(sys.argv[1]), Path(sys.argv[2])))
