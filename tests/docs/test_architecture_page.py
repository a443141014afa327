"""The page of the architecture shows the folders that there are."""

from __future__ import annotations

import re

from tests.structure.tree import PACKAGE, ROOT, python_files

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def folders_of_the_page() -> set[str]:
    """Names at two spaces' depth of the first block, which are folders of the package."""
    block = PAGE.partition("```\nvlforge/\n")[2].partition("```")[0]
    return set(re.findall(r"^  (\w+)/ ", block, re.M))


def folders_of_the_package() -> set[str]:
    """Packages below `vlforge`."""
    found = (path.relative_to(PACKAGE).parts for path in python_files("vlforge"))
    return {parts[0] for parts in found if len(parts) > 1}


def test_every_folder_of_the_package_is_on_the_page_and_no_other():
    assert folders_of_the_page() == folders_of_the_package()


def test_folders_named_in_its_text_exist():
    named = re.findall(r"`((?:[a-z_]+/)+)`", PAGE)
    assert named
    missing = [
        name for name in named if not (PACKAGE / name).is_dir() and not (ROOT / name).is_dir()
    ]
    assert not missing
