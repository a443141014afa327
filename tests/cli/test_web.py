"""`vlforge web`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.serving.made_web import picture
from vlforge.cli import web
from vlforge.types import DataError, ModelError, RecipeError, VLForgeError, WriteError


def app():
    """The verb alone."""
    made = typer.Typer(rich_markup_mode=None)
    made.command("web", epilog=web.EXAMPLES)(web.web)
    return made


def refusal(*arguments: str) -> tuple[type, str]:
    """The one line that the verb ends with."""
    error = CliRunner().invoke(app(), list(arguments)).exception
    assert isinstance(error, VLForgeError), error
    return type(error), str(error)


def test_help_shows_examples():
    told = CliRunner().invoke(app(), ["--help"]).output
    assert "vlforge web runs/raw/model runs/refined/model" in told


def test_what_it_cannot_serve_is_one_line_before_a_model_is_loaded(tmp_path):
    model = str(tmp_path)
    assert refusal(str(tmp_path / "nobody"))[0] is ModelError
    assert refusal(model, "--open", "--login", "ada")[0] is RecipeError
    assert refusal(model, "--examples", str(tmp_path / "none"))[0] is DataError
    kind, words = refusal(model, model, "--votes", str(tmp_path))
    assert (kind, "is a folder; name a file" in words) == (WriteError, True)
    assert "--precision" in refusal(model, "--precision", "fp64")[1]


def test_without_its_libraries_it_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refusal(str(tmp_path))[1] == "vlforge web needs fastapi: pip install 'vlforge[serve]'"


def test_models_are_told_apart_by_the_shortest_ends_of_their_paths(tmp_path):
    for name in ("raw/instruct", "refined/instruct"):
        (tmp_path / name).mkdir(parents=True)
    raw, refined = tmp_path / "raw" / "instruct", tmp_path / "refined" / "instruct"
    assert list(web.named_folders([raw])) == ["instruct"]
    assert list(web.named_folders([raw, refined])) == ["raw/instruct", "refined/instruct"]
    assert list(web.named_folders([raw, raw])) == ["instruct (1)", "instruct (2)"]
    assert list(web.named_folders([raw, tmp_path / "refined"])) == ["instruct", "refined"]


@pytest.mark.parametrize(
    ("host", "user", "is_open", "wanted"),
    [
        ("127.0.0.1", "", False, None),
        ("127.0.0.1", "ada", False, "ada"),
        ("0.0.0.0", "", False, "guest"),
        ("192.168.1.9", "ada", False, "ada"),
        ("0.0.0.0", "", True, None),
    ],
)
def test_other_machines_are_asked_to_log_in_unless_open_is_said(
    host, user, is_open, wanted, monkeypatch
):
    monkeypatch.delenv(web.PASSWORD, raising=False)
    login, is_made = web._login(host, user, is_open=is_open)
    assert (login.user if login else None, is_made) == (wanted, wanted is not None)
    if login:
        assert len(login.password) >= 16
        monkeypatch.setenv(web.PASSWORD, "mine")
        told, is_made = web._login(host, user, is_open=is_open)
        assert (told.password, is_made) == ("mine", False)


PROGRAM = """
import sys, typer
from vlforge.cli import web
from tests.serving.made_web import talker
web.open_talker = lambda name, *rest, **how: talker(name=name)
typer.run(web.web)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped_and_leaves_nothing(tmp_path, stop):
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("raw", "refined"):
        (tmp_path / name).mkdir()
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", PROGRAM, "raw", "refined", "--no-browser", "--login", "ada"]
    done = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(kept), "PYTHONPATH": str(root), web.PASSWORD: "x"},
    )  # fmt: skip
    lines = [done.stdout.readline().rstrip() for _ in range(5)]
    url = re.search(r"http://127\.0\.0\.1:\d+/", lines[1]).group()
    assert lines[0] == "Chat    raw and refined"
    assert lines[2:] == [
        "Login   ada, password as VLFORGE_WEB_PASSWORD says",
        "Votes   votes.jsonl",
        "Stop    Ctrl-C",
    ]
    head = {"Content-Type": "application/json"}
    login = urllib.request.Request(f"{url}api/login", b'{"user":"ada","password":"x"}', head)
    with urllib.request.urlopen(login) as answer:
        cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
    room = urllib.request.Request(f"{url}api/rooms", b"", cookie)
    with urllib.request.urlopen(room) as answer:
        key = re.search(rb'"room":"([^"]+)"', answer.read()).group(1).decode()
    sent = urllib.request.Request(f"{url}api/rooms/{key}/pictures?name=a.png", picture(), cookie)
    with urllib.request.urlopen(sent) as answer:
        assert answer.status == 200
    assert len(list(kept.rglob("*.shown"))) == 1
    done.send_signal(stop)
    out, err = done.communicate(timeout=300)
    assert (done.returncode, out, err) == (0, "Stopped\n", "")
    assert list(kept.iterdir()) == []
