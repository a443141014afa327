"""A stage with a user's operators runs, is reused, and runs again when their file changes."""

from __future__ import annotations

import json

from vlforge.cli import main

OPERATOR = """
from dataclasses import dataclass
from vlforge.ops.base import TextMapper

@dataclass(frozen=True, kw_only=True)
class ShoutMapper(TextMapper):
    "Shouts."

    def rewrite(self, text):
        "Louder."
        return text.upper() + "{mark}"
"""
RECIPE = """\
name: mine
stages:
  loud:
    kind: process
    dataset_path: rows.jsonl
    custom_operator_paths: [shout.py]
    process: [shout_mapper]
"""


def test_a_changed_operator_file_runs_the_stage_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "hello"}\n')
    (tmp_path / "ours.yaml").write_text(RECIPE)
    for mark, reused in (("!", 0), ("!", 1), ("?", 0)):
        (tmp_path / "shout.py").write_text(OPERATOR.replace("{mark}", mark))
        assert main(["run", "ours.yaml"]) == 0
        data = (tmp_path / "runs" / "mine" / "01-loud" / "data.jsonl").read_text()
        assert json.loads(data)["text"] == f"HELLO{mark}"
        timing = json.loads((tmp_path / "runs" / "mine" / "timing.json").read_text())
        assert timing["nodes_reused"] == reused
