"""`vlforge view`: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import typer
from typer.testing import CliRunner

from tests.serving.made_view import caption, write_rows, write_work
from vlforge.cli import view
from vlforge.types import DataError


def app():
    """The verb alone."""
    made = typer.Typer(rich_markup_mode=None)
    made.command("view", epilog=view.EXAMPLES)(view.view)
    return made


def refusal(*arguments: str) -> str:
    """The one line that the verb ends with."""
    error = CliRunner().invoke(app(), list(arguments)).exception
    assert isinstance(error, DataError)
    return str(error)


def test_help_shows_examples():
    told = CliRunner().invoke(app(), ["--help"]).output
    assert "vlforge view before.jsonl after.jsonl" in told


def test_without_its_libraries_it_names_the_extra(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "d.jsonl", [caption(0, "x")])
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refusal(str(path)) == "vlforge view needs fastapi: pip install 'vlforge[serve]'"


def test_what_it_cannot_show_is_one_line(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [caption(0, "x")])
    assert "does not exist" in refusal(str(tmp_path / "nobody.jsonl"))
    assert "no dropped.jsonl" in refusal(str(path), "--dropped")
    assert "unknown format" in refusal(str(path), "--from", "nobody")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in refusal(str(path), "--port", port)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped_and_leaves_nothing(tmp_path, stop):
    write_work(tmp_path / "work")
    data = tmp_path / "work" / "data.jsonl"
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    spool = tmp_path / "spool"
    spool.mkdir()
    code = "import typer; from vlforge.cli import view; typer.run(view.view)"
    command = [sys.executable, "-c", code, str(tmp_path / "work"), str(packed)]
    command += ["--dropped", "--no-open"]
    done = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(spool)},
    )  # fmt: skip
    lines = [done.stdout.readline() for _ in range(3)]
    url = re.search(r"http://127\.0\.0\.1:\d+/", lines[1]).group()
    with urllib.request.urlopen(url + "api/about") as answer:
        assert b'"opens":"dropped"' in answer.read()
    done.send_signal(stop)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0
    assert out == "Stopped\n"
    assert err.startswith("note: ")
    assert err.count("\n") == 1
    assert list(spool.iterdir()) == []
