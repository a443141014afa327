"""The gate on skipped tests opens only for listed ones."""

from __future__ import annotations

import pytest

from tests.skips import allowed_patterns, unlisted

TESTS = """
import pytest

def test_runs(): pass

@pytest.mark.skip(reason="no such device")
def test_needs_device(): pass
"""


def test_comments_of_the_allow_list_are_not_patterns():
    assert allowed_patterns("# head\n\ntests/a.py::*  # why\n") == ["tests/a.py::*"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("tests/golden/*", ["tests/x.py::test_a[1]"]), ("tests/x.py::test_a[1]", ["tests/golden/y"])],
)
def test_only_skips_matching_a_pattern_are_listed(pattern, left):
    skipped = ["tests/golden/y", "tests/x.py::test_a[1]"]
    assert unlisted(skipped, [pattern]) == left


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_an_unlisted_skip_fails_the_session(pytester: pytest.Pytester, workers):
    pytester.makepyfile(test_device=TESTS)
    empty = pytester.makefile(".txt", allowed="# nothing\n")
    result = pytester.runpytest_subprocess(
        "-p", "tests.skips", "--strict-skips", "--allowed-skips", empty, *workers
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_device.py::test_needs_device*"])


def test_a_listed_skip_passes(pytester: pytest.Pytester):
    pytester.makepyfile(test_device=TESTS)
    listed = pytester.makefile(".txt", allowed="test_device.py::test_needs_device  # no device\n")
    result = pytester.runpytest_subprocess(
        "-p", "tests.skips", "--strict-skips", "--allowed-skips", listed
    )
    assert result.ret == pytest.ExitCode.OK
