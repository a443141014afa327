"""MiniGPT-4's layered configuration: the merged tree of every recorded case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.recipe.adopt.minigpt4_config import merged_config
from vlforge.types import RecipeError

GOLDEN = {"merged_file": "minigpt4_qwenvl/minigpt4/config/config_merge*.json"}


def test_the_merged_tree_is_the_references(merged_file: Path):
    for case in json.loads(merged_file.read_text(encoding="utf-8")):
        path = merged_file.parent / case["yaml"]
        if "merged" in case:
            assert merged_config(path, case["options"]) == case["merged"], case["yaml"]
        else:
            with pytest.raises(RecipeError):
                merged_config(path, case["options"])
