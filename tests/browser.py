"""What the tests of pages share: a browser from the system, and an ear at its tabs."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium from the system."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=list(QUIET))


def heard(tab: Any) -> tuple[list[str], list[str]]:
    """Two lists that grow from now on: what the page says (console, errors, dialogs), what it asks.

    A page that is well says nothing and asks for nothing outside.
    """
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    return said, asked
