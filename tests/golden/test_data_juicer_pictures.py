"""What Data-Juicer's image mappers write, described by size, mean, spread and a thumbnail."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.golden.conftest import golden_root
from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.image.copies import SOURCE_FILES
from vlforge.ops.index import places

FAMILY = "data_juicer"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per recorded case whose output describes pictures."""
    if "described" not in metafunc.fixturenames:
        return
    base = golden_root(metafunc.config)
    found = described_cases(base / FAMILY) if base and (base / FAMILY).is_dir() else []
    reason = f"goldens not found at {metafunc.config.getoption('--golden-root')}: {FAMILY}"
    missing = pytest.param(
        None, None, id=f"{FAMILY}/described", marks=pytest.mark.skip(reason=reason)
    )
    metafunc.parametrize(("described", "root"), found or [missing])


def described_cases(root: Path) -> list[Any]:
    """(case, folder of the family) of each recorded run of an image mapper."""
    return [
        pytest.param(case, root, id=f"{FAMILY}/ops/{path.stem}[{number}]-pictures")
        for path in sorted((root / "ops").glob("image_*_mapper.jsonl"))
        if path.stem in places()
        for number, case in enumerate(map(json.loads, path.read_bytes().splitlines()))
        if any("images_desc" in row for row in case["output"])
    ]


def differences(path: str, told: Any, source: str) -> list[str]:
    """What is not as told of a picture: mean and spread to 1, thumbnail to 2."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    dots = np.asarray(image, dtype=np.float64).reshape(-1, 3)
    small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), dtype=int).ravel()
    checks = {
        "written": (path != source) == told["written"],
        "size": list(image.size) == told["size"],
        "mean": np.abs(dots.mean(0) - told["mean_rgb"]).max() <= 1,
        "spread": np.abs(dots.std(0) - told["std_rgb"]).max() <= 1,
        "thumbnail": np.abs(small - told["thumb8x8_L"]).max() <= 2,
    }
    return [f"{Path(source).name}: {name}" for name, is_right in checks.items() if not is_right]


def test_pictures_are_those_that_data_juicer_writes(described, root):
    rows = [
        {**row, "images": [str(root / path) for path in row["images"]]}
        for row in described["input"]
    ]
    items = [Item(str(number), number + 1, row) for number, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as produced, contextlib.chdir(root):
        bound = bind([{described["op"]: described["params"]}])
        ran = run_in_memory(bound, items, Context(produced=produced))
        kept = [item.row for item in ran.kept]
        assert len(kept) == len(described["output"])
        wrong = [
            fault
            for row, source, told in zip(kept, rows, described["output"], strict=True)
            for path, before, one in zip(
                row["images"], source["images"], told["images_desc"], strict=True
            )
            for fault in differences(path, one, before)
        ]
    assert not wrong
    for row, told in zip(kept, described["output"], strict=True):
        assert row[SOURCE_FILES] == [str(root / path) for path in told["source_file"]]
        assert {key: row[key] for key in ("id", "text")} == {k: told[k] for k in ("id", "text")}
