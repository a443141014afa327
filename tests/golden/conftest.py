"""Every golden test names its files; each file found becomes one test.

A test module says which files it reads:

    GOLDEN = {"normaliser_file": "evaluation/vqa/normalizer*.json"}

and a test that takes `normaliser_file` runs once per file under `--golden-root`,
its id the path below the root. Where nothing is found it is skipped with a reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest


def golden_root(config: pytest.Config) -> Path | None:
    """The folder of reference files, or None where this machine has none."""
    root = Path(config.getoption("--golden-root")).resolve()
    return root if root.is_dir() else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise each declared argument with the files that match its pattern."""
    declared: dict[str, str] = getattr(metafunc.module, "GOLDEN", {})
    root = golden_root(metafunc.config)
    for name in [one for one in declared if one in metafunc.fixturenames]:
        files = sorted(root.glob(declared[name])) if root else []
        where = metafunc.config.getoption("--golden-root")
        missing = pytest.mark.skip(reason=f"goldens not found at {where}: {declared[name]}")
        cases = [pytest.param(path, id=path.relative_to(root).as_posix()) for path in files]
        empty = pytest.param(None, id=declared[name].replace("*", "-"), marks=missing)
        metafunc.parametrize(name, cases or [empty])
