"""The docs cannot lie about what can be checked: links, commands, generated pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from tests.structure.tree import ROOT, shown, source_files
from vlforge.cli.pages import part_of, write_part
from vlforge.cli.start import build_app
from vlforge.types import DataError

PAGES = [p for p in source_files() if p.suffix == ".md"]
GENERATED = {"docs/operators.md": ["list", "ops"], "docs/stages.md": ["list", "kinds"]}
PARTS = {"keys": ["list", "keys", "--markdown"], "operators": ["list", "ops", "--data-juicer"]}
"""Parts of docs/data-juicer.md, and the commands that write them."""


def headings(text: str) -> set[str]:
    """Anchors of a Markdown page, as code hosts make them from its headings."""
    found = re.findall(r"^#{1,6} +(.+?) *$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in found)
    return {head.replace(" ", "-") for head in plain}


def broken_links(text: str, folder: Path) -> list[str]:
    """Links and pictures of a page that lead nowhere; addresses on the web are left alone."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|srcset|href)="([^"]+)"', text
    )
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name
        is_there = path.exists()
        if is_there and anchor:
            is_there = anchor in headings(path.read_text(encoding="utf-8") if name else text)
        if not is_there:
            broken.append(target)
    return broken


def commands(text: str) -> list[str]:
    """Every `vlforge …` line of the page's ```sh blocks, continued lines joined, remarks cut."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split("  #")[0].strip().removeprefix(".venv/bin/")
            if words.startswith("vlforge "):
                found.append(words)
    return found


def parse(command: str) -> None:
    """Raise where a command names a verb or an option that does not exist."""
    words = shlex.split(command)[1:]
    group = typer.main.get_command(build_app())
    with group.make_context("vlforge", list(words), resilient_parsing=True) as context:
        name = words.pop(0)
        while hasattr(group, "get_command"):
            leaf = group.get_command(context, name)
            assert leaf is not None, f"no verb {name!r} in: {command}"
            if not hasattr(leaf, "get_command"):
                leaf.make_context(name, words, parent=context)
                return
            group, name = leaf, words.pop(0)


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page):
    assert not broken_links(page.read_text(encoding="utf-8"), page.parent)


@pytest.mark.parametrize(
    ("page", "command"),
    [(shown(p), c) for p in PAGES for c in commands(p.read_text(encoding="utf-8"))],
)
def test_commands_exist_with_their_options(page, command):
    parse(command)


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_fresh(page, capsys):
    from vlforge.cli import main

    assert main([*GENERATED[page], "--markdown"]) == 0
    written = (ROOT / page).read_text(encoding="utf-8")
    assert written == capsys.readouterr().out, f"{page} is old: run `make docs`"


@pytest.mark.parametrize("name", PARTS)
def test_generated_parts_of_the_data_juicer_page_are_fresh(name, capsys):
    from vlforge.cli import main

    assert main(PARTS[name]) == 0
    page = (ROOT / "docs/data-juicer.md").read_text(encoding="utf-8")
    assert part_of(page, name) == capsys.readouterr().out.strip("\n"), "run `make docs`"


def test_a_part_is_written_between_its_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- keys: x -->\nold\n<!-- end keys -->\nb\n")
    write_part(page, "keys", "new\nlines")
    assert page.read_text() == "a\n<!-- keys: x -->\n\nnew\nlines\n\n<!-- end keys -->\nb\n"
    with pytest.raises(DataError, match="has no part"):
        write_part(page, "operators", "x")


def test_every_page_is_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8")):
            waiting.append((page.parent / target).resolve())
    docs = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert docs <= seen


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.md").write_text("# One head\n")
    text = "[x](a.md#one-head) [y](a.md#two) [z](b.md) ![p](c.png) [w](https://example.com)"
    assert broken_links(text, tmp_path) == ["a.md#two", "b.md", "c.png"]


def test_a_wrong_command_is_seen():
    text = "```sh\nvlforge run a.yaml --seeds 3  # remark\nvlforge run a.yaml --sede 3\n```\n"
    right, wrong = commands(text)
    parse(right)
    with pytest.raises(Exception, match="--sede"):
        parse(wrong)
