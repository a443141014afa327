"""`process` killed again and again, in every pass, ends with the bytes of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.engine.made import (
    FRESH,
    config,
    contents,
    fresh,
    text_rows,
    write_picture,
    write_rows,
)
from vlforge.data.json_lines import decode
from vlforge.engine.outputs import JOURNAL
from vlforge.types import DataError

OPS = (
    "clean_links_mapper",
    {"text_length_filter": {"min_len": 12}},
    "image_shape_filter",
    {"image_deduplicator": {"consider_text": True}},
    {"tests.engine.custom_ops:FirstWordDedup": {"text_key": "id"}},
    "tests.engine.custom_ops:CommonWordMapper",
    {"topk_specified_field_selector": {"field_key": "score", "top_ratio": 0.8}},
    "whitespace_normalization_mapper",
    {"document_deduplicator": {"ignore_non_character": True}},
)


def place_of(folder: Path) -> tuple[int, int] | None:
    """The pass and block of the last commit; None before the first."""
    try:
        state = decode((folder / JOURNAL).read_bytes())["state"]
    except (OSError, DataError):
        return None
    return state["pass"], state["at"][0]


DIES = f"""
import os, signal
from vlforge.engine.outputs import Outputs
commit, asked = Outputs.commit, [0]
def is_due(self):
    asked[0] += 1
    return asked[0] == 8
def commit_and_die(self, state):
    commit(self, state)
    os.kill(os.getpid(), signal.SIGKILL)
Outputs.commit, Outputs.due = commit_and_die, is_due
{FRESH}
"""
"""Kills itself right after its next commit, which is eight blocks or the end of a pass away."""


def is_killed_at_a_commit(command: list[str]) -> bool:
    """Let the run die after its next commit; False when it came to its end before."""
    process = subprocess.Popen([*command[:2], DIES, *command[3:]], start_new_session=True)
    code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
def test_killed_after_every_commit_it_ends_with_the_same_bytes(tmp_path):
    rows = [{**row, "images": [f"{n % 7}.png"]} for n, row in enumerate(text_rows(6000))]
    for number in range(6):
        write_picture(tmp_path / f"{number}.png", (640, 480), number)
    recipe = config(write_rows(tmp_path / "a.jsonl", rows), *OPS)
    subprocess.run(fresh(recipe, tmp_path / "whole", workers=2), check=True)
    out, passes, kills = tmp_path / "cut", set(), 0
    command = fresh(recipe, out, workers=2)
    while is_killed_at_a_commit(command):
        kills += 1
        found = place_of(out)
        passes.add(found[0] if found else -1)
        assert kills < 60
    assert kills >= 4
    assert len(passes) >= 4
    assert contents(out) == contents(tmp_path / "whole")
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
