"""After a run the command line says how to talk with what it trained."""

from __future__ import annotations

import json

from vlforge.cli.follow import next_command


def write_run(folder, nodes):
    folder.mkdir(parents=True)
    (folder / "graph.json").write_text(json.dumps({"nodes": nodes}))
    return folder


def test_the_last_model_is_named_with_a_picture_that_was_asked_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nodes = [
        {"kind": "train", "folder": "01-align"},
        {"kind": "train", "folder": "02-instruct@refined.s0"},
        {"kind": "evaluate", "folder": "03-score"},
    ]
    run = write_run(tmp_path / "runs/small", nodes)
    (run / "03-score").mkdir()
    (tmp_path / "a cat.png").write_bytes(b"")
    rows = [{"image": None}, {"image": "gone.png"}, {"image": str(tmp_path / "a cat.png")}]
    (run / "03-score/examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = "runs/small/02-instruct@refined.s0"
    assert next_command(run) == f"vlforge chat {model} --image 'a cat.png'"


def test_a_run_without_model_has_nothing_to_follow(tmp_path):
    assert next_command(write_run(tmp_path / "run", [{"kind": "process", "folder": "x"}])) is None
    assert next_command(tmp_path / "nowhere") is None
