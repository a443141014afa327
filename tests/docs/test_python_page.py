"""The page about Python is run as it stands, on a model of a few thousand weights."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.structure.tree import ROOT
from tests.tiny_model import write_data, write_parts

PAGE = ROOT / "docs" / "python.md"
_BLOCKS = re.compile(r"```(python|text)\n(.*?)```", re.S)


def blocks(text: str) -> list[tuple[str, str]]:
    """Each piece of code with the output that the page says it has ("" where it says none)."""
    found = [(match[1], match[2]) for match in _BLOCKS.finditer(text)]
    following = [*found[1:], ("python", "")]
    return [
        (code, after if language == "text" else "")
        for (kind, code), (language, after) in zip(found, following, strict=True)
        if kind == "python"
    ]


def lay_out(folder: Path) -> None:
    """The files that the page names."""
    data = write_data(folder)
    vision, language = write_parts(folder / "made", data)
    shutil.copytree(vision, folder / "models" / "vision")
    shutil.copytree(language, folder / "models" / "language")
    data.rename(folder / "llava.json")


def outputs(text: str) -> list[str]:
    """What each piece of code prints, run one after another in the working folder."""
    names: dict[str, Any] = {}
    printed = []
    for code, _ in blocks(text):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(PAGE), "exec"), names)
        printed.append(out.getvalue())
    return printed


def without_numbers(text: str) -> str:
    """Numbers differ from machine to machine."""
    return re.sub(r"\d+(?:[.,]\d+)*(?:e-?\d+)?", "N", text)


@pytest.mark.slow
def test_the_page_prints_what_it_says(tmp_path, monkeypatch):
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    said = [output for _, output in blocks(text)]
    assert len(said) == 6
    assert all(said)
    for printed, wanted in zip(outputs(text), said, strict=True):
        assert without_numbers(printed) == without_numbers(wanted)
