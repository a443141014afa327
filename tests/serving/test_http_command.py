"""`vlforge serve`: names, keys, addresses, and a process that ends what it has begun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests import families
from tests.serving.patience import PATIENCE_S
from tests.serving.served import user
from tests.signals import hears_ctrl_c
from vlforge.cli import main
from vlforge.cli.listening import bound
from vlforge.cli.serve import named_models
from vlforge.types import ModelError, RecipeError

ROOT = Path(__file__).resolve().parents[2]


def test_models_are_called_by_their_folders_or_by_name(tmp_path):
    one, two = tmp_path / "a" / "model", tmp_path / "b" / "model"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    assert named_models([one], []) == {"model": one}
    assert named_models([one, two], [f"x={two}"]) == {"model": one, "x": two}
    assert list(named_models([two, one], [f"x={two}", f"y={one}"])) == ["x", "y"]
    with pytest.raises(ModelError, match="two models are called 'model'"):
        named_models([one, two], [])
    with pytest.raises(RecipeError, match="not among the models"):
        named_models([one], [f"x={two}"])
    with pytest.raises(RecipeError, match="NAME=MODEL"):
        named_models([one], ["x"])
    with pytest.raises(ModelError, match="no such model folder"):
        named_models([tmp_path / "none"], [])


def test_what_cannot_be_served_is_one_line(tmp_path, capsys, monkeypatch):
    folder = str(families.written("llava"))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert main(["serve", folder, "--api-key-env", "NO_SUCH_KEY"]) == 2
    assert "error: --api-key-env NO_SUCH_KEY: that variable is not set" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", folder, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["serve", str(tmp_path / "empty"), "--port", "0"]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_pieces_do_not_wait_for_the_one_before_to_be_confirmed():
    # asyncio sets TCP_NODELAY on what such a socket accepts, and on nothing else.
    with bound("127.0.0.1", 0) as taken:
        assert taken.proto == socket.IPPROTO_TCP


@contextmanager
def command(*arguments: str):
    """The process, and the lines it said until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vlforge", "serve", *arguments, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
    )
    said = {}
    try:
        for line in process.stdout:
            word, _, rest = line.strip().partition(" ")
            said[word] = rest.strip()
            if word == "Stop":
                break
        yield process, said
    finally:
        process.kill()
        process.communicate()


def ready(client: openai.OpenAI) -> None:
    """The address is told a moment before it answers."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(0.1)
    raise TimeoutError("it never answered")


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_what_is_under_way_and_takes_nothing_new(way):
    folder = families.written("llava", 32)
    # What is under way may take as long as it does on a slow machine.
    with command(str(folder), "--name", f"little={folder}", "--drain", "100") as (process, said):
        client = openai.OpenAI(base_url=said["At"], api_key="none", max_retries=0)
        ready(client)
        assert [model.id for model in client.models.list()] == ["little"]
        how = {"model": "little", "messages": [user("what is the cat")], "max_tokens": 300}
        # Sampled at a high temperature, the tiny model does not stop soon.
        streams = [
            client.chat.completions.create(**how, stream=True, temperature=2, seed=seed)
            for seed in range(3)
        ]
        begun = [next(iter(stream)) for stream in streams]
        process.send_signal(way)
        ends = [None] * 3

        def read(place):
            for chunk in streams[place]:
                ends[place] = chunk.choices[0].finish_reason or ends[place]

        threads = [threading.Thread(target=read, args=(place,)) for place in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(begun) == 3
        assert set(ends) <= {"stop", "length"}
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (0, "")
        assert "Stopped" in out
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


@pytest.mark.slow
def test_other_machines_need_the_key_that_was_printed():
    folder = families.written("llava")
    with command(str(folder), "--host", "0.0.0.0") as (_, said):
        port = said["At"].rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        ready(openai.OpenAI(base_url=url, api_key=said["Key"], max_retries=0))
        assert said["Key"].startswith("sk-")
        assert len(said["Key"]) > 40
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="sk-guess", max_retries=0).models.list()
        assert openai.OpenAI(base_url=url, api_key=said["Key"], max_retries=0).models.list().data
