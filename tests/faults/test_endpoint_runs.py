"""Recipes that ask a server: killed, out of money, refused; what was paid is not paid again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.endpoint_server import endpoint

KEY = "sk-a-key-that-shows-9f3c"
ROWS = 60
RECIPE = """
dataset_path: {here}/rows.jsonl
export_path: {here}/{out}.jsonl
process:
  - tests.engine.model_ops:RewriteMapper: {{}}
endpoints:
  pen:
    model: judge
    url: {url}
    key_env: VLFORGE_TEST_KEY
    price_out: 1000000
    {more}
"""


def said(body) -> str:
    return body["messages"][-1]["content"]


def command(here: Path, url: str, out: str = "out", **more: float) -> list[str]:
    """A run of the recipe by the command line."""
    rows = [{"id": str(n), "text": f"row {n}", "images": []} for n in range(ROWS)]
    (here / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "\n    ".join(f"{name}: {value}" for name, value in more.items())
    recipe = here / f"{out}.yaml"
    recipe.write_text(RECIPE.format(here=here, out=out, url=url, more=told), encoding="utf-8")
    return [sys.executable, "-m", "vlforge", "process", str(recipe)]


def environment() -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return plain | {"VLFORGE_TEST_KEY": KEY}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def book(here: Path, out: str = "out") -> list[str]:
    """Keys of the replies that are kept."""
    path = here / f"{out}.process.replies.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [json.loads(line)["key"] for line in lines]


def places_of(folder: Path, secret: str) -> list[str]:
    """Files whose name or content holds the secret, in any way it is commonly written."""
    forms = [secret.encode(), secret[3:].encode(), secret.encode("utf-16-le")]
    return [
        str(path)
        for path in folder.rglob("*")
        if secret in path.name
        or (path.is_file() and any(form in path.read_bytes() for form in forms))
    ]


def test_a_run_that_is_killed_pays_no_reply_twice(tmp_path):
    early, lock, goes_on = [], threading.Lock(), threading.Event()

    def script(body, times):
        """Twenty are answered; the others wait, so that the run cannot be over before its kill."""
        with lock:
            is_early = not goes_on.is_set() and len(early) < 20
            early.extend([said(body)] * is_early)
        assert is_early or goes_on.wait(600)
        return f"new {said(body)}"

    with endpoint(script) as server:
        goes_on.set()
        assert run(command(tmp_path, server.url, "whole")).returncode == 0
        goes_on.clear()
        server.asked.clear()
        killed = subprocess.Popen(
            command(tmp_path, server.url, concurrency=4), env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while len(book(tmp_path)) < 20:
            assert killed.poll() is None
            time.sleep(0.002)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        goes_on.set()
        assert len(book(tmp_path)) == 20
        done = run(command(tmp_path, server.url, concurrency=4))
        assert done.returncode == 0, done.stderr
        times = Counter(map(said, list(server.asked)))
    assert len(times) == ROWS
    assert {times[text] for text in early} == {1}
    assert sum(number - 1 for number in times.values()) <= 4, "those under way at the kill"
    assert len(set(book(tmp_path))) == len(book(tmp_path)) == ROWS
    assert "20 cached" in done.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(tmp_path):
    with endpoint(lambda body, times: f"new {said(body)}") as server:  # three tokens each
        how = {"concurrency": 1}
        spent = run(command(tmp_path, server.url, max_cost=60, **how))
        assert spent.returncode == 2
        (line,) = [one for one in spent.stderr.splitlines() if "budget" in one]
        assert "the budget is spent: 60.00 of max_cost 60; give the same command" in line
        assert len(server.asked) == 20
        assert run(command(tmp_path, server.url, max_cost=60, **how)).returncode == 2
        assert len(server.asked) == 20
        done = run(command(tmp_path, server.url, max_cost=6000, **how))
        assert done.returncode == 0, done.stderr
        assert len(server.asked) == ROWS
        assert "60 replies (20 cached)" in done.stderr


def test_a_wrong_key_is_told_in_one_line(tmp_path):
    with endpoint(lambda body, times: (401, {}, f"Incorrect API key: {KEY}")) as server:
        done = run(command(tmp_path, server.url, concurrency=2))
        assert len(server.asked) <= 4
    assert done.returncode == 2
    assert "401 Incorrect API key: ***; set VLFORGE_TEST_KEY" in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert places_of(tmp_path, KEY) == []


@pytest.mark.parametrize(
    "fault",
    [
        *(400, 429, 500, "<drop>", "<nonsense>", "<empty>", "", "echo"),
        pytest.param("<hang>", marks=pytest.mark.slow),
    ],
)
def test_the_key_is_in_nothing_that_a_run_leaves(tmp_path, fault):
    """Some rows never get a reply, in one way each; the others do."""
    echo = f"Bearer {KEY} and {json.dumps(KEY)}"

    def script(body, times):
        if not said(body).endswith("7"):
            return f"new {said(body)}"
        if fault == "echo":
            return echo
        return (fault, {}, echo) if isinstance(fault, int) else fault

    # What is answered at all is answered sooner than any pause of a busy machine.
    patience = {"timeout_s": 10} if fault == "<hang>" else {}
    with endpoint(script) as server:
        done = run(command(tmp_path, server.url, retries=0, **patience))
        assert set(server.keys) == {f"Bearer {KEY}"}
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert places_of(tmp_path, KEY) == []
    dropped = (tmp_path / "out.process" / "dropped.jsonl").read_text().splitlines()
    reasons = Counter(json.loads(line)["reason"] for line in dropped)
    assert reasons == ({} if fault == "echo" else {"no reply": ROWS // 10})
    kept = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").open()]
    assert len(kept) == ROWS - sum(reasons.values())
