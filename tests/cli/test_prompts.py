"""`vlforge list prompts`: every prompt is told of, and one comes out as a copy to edit."""

from __future__ import annotations

import re

import pytest

from vlforge import ops
from vlforge.cli import main
from vlforge.ops.index import find
from vlforge.ops.synthesis.prompt_files import HOME, read_prompt

NAMES = sorted(path.stem for path in HOME.glob("*.txt"))


def test_every_prompt_is_listed_with_its_fields(capsys):
    assert main(["list", "prompts"]) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^{name}\b", shown, re.M) for name in NAMES)
    assert re.search(r"^caption_fusion +alt, caption +You merge", shown, re.M)
    assert f"{len(NAMES)} prompts" in shown
    assert main(["list", "prompts", "caption_fus"]) == 0
    assert "2 prompts" in capsys.readouterr().out


def test_a_printed_prompt_is_a_copy_that_an_operator_takes(tmp_path, capsys):
    assert main(["list", "prompts", "caption_fusion"]) == 0
    copy = tmp_path / "my.txt"
    copy.write_text(capsys.readouterr().out, encoding="utf-8")
    assert read_prompt("", str(copy)) == read_prompt("caption_fusion")


@pytest.mark.parametrize("name", NAMES)
def test_prompts_in_two_languages_have_the_same_fields(name):
    prompt = read_prompt(name)
    assert prompt.user
    if name.endswith("_zh"):
        assert prompt.fields() == read_prompt(name.removesuffix("_zh")).fields()


def test_every_prompt_that_an_operator_names_is_there_with_fields_it_fills_in():
    asking = [find(op.name) for op in ops.names()]
    named = [cls for cls in asking if getattr(cls, "prompt_name", "")]
    assert len(named) > 8
    for cls in named:
        assert read_prompt(cls.prompt_name).fields() <= set(cls.prompt_fields)
