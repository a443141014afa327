"""What the tests of pages share: a browser from the system, and an ear at its tabs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE_MS = 180_000
"""How long a browser and its pages may take: a busy machine is no fault of a page's."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium from the system; what it notes for itself lies in a folder of the test."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    home = str(tmp_path_factory.mktemp("browser"))
    notes = {"XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path, args=list(QUIET), env=os.environ | notes, timeout=PATIENCE_MS
        )
        opened.new_context = _patient(opened.new_context)
        opened.new_page = _patient(opened.new_page)
        yield opened


def _patient(opens: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but what it opens waits longer than half a minute."""

    def opens_patient(**how: Any) -> Any:
        made = opens(**how)
        made.set_default_timeout(PATIENCE_MS)
        return made

    return opens_patient


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
