"""What lies in the caches of this machine, in all the layouts that the libraries have had."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlforge.data.fetch.caches import find
from vlforge.data.fetch.manifest import Item
from vlforge.data.fetch.source import source_of

VARIABLES = (
    "HF_HOME HF_HUB_CACHE HUGGINGFACE_HUB_CACHE TRANSFORMERS_CACHE TORCH_HOME MODELSCOPE_CACHE "
    "XDG_CACHE_HOME"
).split()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A home with nothing in it."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def item(*sources: str, kind: str = "repo", **options) -> Item:
    """An item from these places."""
    return Item("x", kind, "x", tuple(source_of(text) for text in sources), **options)


def put(path: Path, text: str = "{}") -> Path:
    """A file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "value", "below"),
    [
        (None, "", ".cache/huggingface/hub"),
        ("XDG_CACHE_HOME", "xdg", "xdg/huggingface/hub"),
        ("HF_HOME", "hf", "hf/hub"),
        ("HF_HUB_CACHE", "hub", "hub"),
        ("TRANSFORMERS_CACHE", "old", "old"),
    ],
)
def test_hugging_faces_snapshots_are_found(home, monkeypatch, name, value, below):
    if name:
        monkeypatch.setenv(name, str(home / value))
    repo = home / below / "datasets--o--n.5"
    put(repo / "snapshots" / "abc" / "a.json")
    put(repo / "snapshots" / "def" / "a.json")
    put(repo / "refs" / "main", "abc")
    assert find(item("hf:datasets/o/n.5")).path == repo / "snapshots" / "abc"
    assert find(item("hf:datasets/o/n.5@def")).path == repo / "snapshots" / "def"
    assert find(item("hf:datasets/o/n.5/a.json", kind="file")).path == (
        repo / "snapshots" / "abc" / "a.json"
    )
    assert find(item("hf:o/n.5")).path is None


def test_a_snapshot_with_a_dangling_link_or_without_a_named_file_is_none(home):
    snapshot = home / ".cache/huggingface/hub/models--o--n/snapshots/abc"
    put(snapshot / "config.json")
    assert find(item("hf:o/n")).path == snapshot
    assert find(item("hf:o/n", patterns=("vocab.txt",))).path is None
    (snapshot / "weights").symlink_to(home / "gone")
    assert find(item("hf:o/n")).path is None


@pytest.mark.parametrize(
    "below",
    [
        "models/org--Qwen2.5-7B/snapshots/master",
        "models/org/Qwen2___5-7B",
        "hub/models/org/Qwen2___5-7B",
        "org/Qwen2___5-7B",
        "hub/org/Qwen2___5-7B",
        "hub/org/Qwen2.5-7B",
    ],
)
def test_modelscopes_spellings_are_all_found(home, monkeypatch, below):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(home / "ms"))
    put(home / "ms" / below / "config.json")
    assert find(item("modelscope:org/Qwen2.5-7B")).path == home / "ms" / below


def test_files_of_torch_are_found_and_have_to_have_their_size(home, monkeypatch):
    url = "https://a.org/models/eva_vit_g.pth"
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    path = put(home / "torch" / "hub" / "checkpoints" / "eva_vit_g.pth", "weights")
    assert find(item(url, kind="file")).path == path
    assert find(item(url, kind="file", size=7)).path == path
    assert find(item(url, kind="file", size=9)).path is None


def test_each_place_that_was_looked_at_is_named(home):
    found = find(item("hf:o/n", "modelscope:o/n.1", "https://a.org/n.bin"))
    assert found.path is None
    shown = [str(path.relative_to(home / ".cache")) for path in found.looked]
    assert shown[0] == "huggingface/hub/models--o--n"
    assert "modelscope/hub/models/o/n___1" in shown
    assert "modelscope/hub/models/o/n.1" in shown
    assert shown[-1] == "torch/hub/checkpoints/n.bin"
