"""Shows what a contest's rules say of a folder: a row a rule, then the remedies, then the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlforge.cli.show import plain_line, table

if TYPE_CHECKING:
    from vlforge.challenges.verdicts import Verdict

_MARKS = {"kept": "ok", "warning": "warning", "broken": "BROKEN"}


def say_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print them; a rule with a remedy is named again before it."""
    rows = [(one.rule, _MARKS[one.verdict], one.found) for one in verdicts]
    table(("rule", "verdict", "found"), rows)
    for one in verdicts:
        if one.remedy:
            plain_line(f"{one.rule}: {one.remedy}")
    broken = sum(one.verdict == "broken" for one in verdicts)
    plain_line(f"{len(verdicts)} rules, {broken} broken")
