"""A pytest plugin: with `--strict-skips`, a skip that nobody allowed fails the run."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")


def allowed_patterns(text: str) -> list[str]:
    """The patterns of an allow-list, comments and blank lines removed."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def unlisted(skipped: list[str], patterns: list[str]) -> list[str]:
    """The skipped ids that no pattern names.

    `[` is literal: test ids end in their parameters.
    """
    literal = [pattern.replace("[", "[[]") for pattern in patterns]
    return [name for name in skipped if not any(fnmatchcase(name, p) for p in literal)]


class SkipGate:
    """Collects every skip of a session and judges them at its end."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = patterns
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test skipped while it was set up or ran; expected failures are no skips."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module skipped while it was imported."""
        if report.skipped:
            self.skipped.append(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a green session red where a skip is not allowed."""
        if unlisted(self.skipped, self.patterns) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the skips that made the session fail."""
        names = unlisted(self.skipped, self.patterns)
        if names:
            terminalreporter.section("skips that tests/allowed_skips.txt does not name")
            for name in names:
                terminalreporter.line(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--strict-skips [--allowed-skips FILE]`."""
    parser.addoption("--strict-skips", action="store_true", help="fail on skips nobody allowed")
    parser.addoption("--allowed-skips", default=str(ALLOWED), help="the allow-list")


def pytest_configure(config: pytest.Config) -> None:
    """Judge skips in the process that sees all reports, never in an xdist worker."""
    if config.getoption("--strict-skips") and not hasattr(config, "workerinput"):
        text = Path(config.getoption("--allowed-skips")).read_text(encoding="utf-8")
        config.pluginmanager.register(SkipGate(allowed_patterns(text)), "skip-gate")
