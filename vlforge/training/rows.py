"""Which encoded rows are trained on, and what is told of the others.

A row that is too long or that teaches nothing is never passed over in silence: it is
counted and named, and a stage may refuse to begin over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vlforge.types import DataError

SHOWN_DROPS = 100
"""Dropped rows that a summary lists; all are counted."""
NAMED = 3
"""Rows that a message names."""

TooLong = Literal["cut", "drop", "refuse"]
NoLabels = Literal["drop", "refuse"]


@dataclass
class Dropped:
    """Rows left out, by reason; the first hundred with their place."""

    counts: dict[str, int] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)

    def add(self, reason: str, detail: str, row: str) -> None:
        """Count one row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.shown) < SHOWN_DROPS:
            self.shown.append({"row": row, "reason": reason, "detail": detail})

    def named(self, reason: str) -> str:
        """`PLACE (detail), …` of the first rows with a reason."""
        some = [one for one in self.shown if one["reason"] == reason][:NAMED]
        listed = ", ".join(f"{one['row']} ({one['detail']})" for one in some)
        return listed + (", …" if self.counts.get(reason, 0) > len(some) else "")


class Judged(Protocol):
    """What is looked at of an encoded row: ours or a native model's."""

    @property
    def length(self) -> int:
        """Tokens with pictures expanded, once cut."""
        ...

    @property
    def whole(self) -> int:
        """The same before anything was cut."""
        ...

    @property
    def lost_images(self) -> int:
        """Pictures that did not fit."""
        ...

    @property
    def problem(self) -> str | None:
        """Why nothing is supervised."""
        ...


@dataclass
class Sieve:
    """Takes rows one by one; keeps those that a stage trains on.

    on_too_long: `cut` takes the words that do not fit away, and drops a row whose
        pictures do not all fit; `drop` leaves every longer row out; `refuse` stops.
    on_no_labels: `drop` leaves rows out that teach nothing; `refuse` stops.
    """

    max_length: int
    on_too_long: TooLong = "cut"
    on_no_labels: NoLabels = "drop"
    dropped: Dropped = field(default_factory=Dropped)
    rows: int = 0
    cut_rows: int = 0
    cut_tokens: int = 0
    refused: Dropped = field(default_factory=Dropped)

    LONG, LOST, EMPTY = "longer than max_length", "pictures do not fit", "nothing supervised"

    def keeps(self, row: Judged, place: str) -> bool:
        """Whether a row is trained on; counts it where it is not, or is cut."""
        self.rows += 1
        if row.whole > row.length and self.on_too_long != "cut":
            return self._leave(self.on_too_long, self.LONG, f"{row.whole} tokens", place)
        if row.lost_images:
            detail = f"{row.whole} tokens, {row.lost_images} pictures behind {self.max_length}"
            return self._leave("drop", self.LOST, detail, place)
        if row.problem:
            return self._leave(self.on_no_labels, self.EMPTY, row.problem, place)
        if row.whole > row.length:
            self.cut_rows += 1
            self.cut_tokens += row.whole - row.length
        return True

    def _leave(self, choice: str, reason: str, detail: str, place: str) -> bool:
        (self.refused if choice == "refuse" else self.dropped).add(reason, detail, place)
        return False

    def check(self) -> None:
        """Stop where a row was refused.

        Raises:
            DataError: one was; counts them, names the first, says what to set.
        """
        for reason, count in self.refused.counts.items():
            remedy = f"raise max_length (now {self.max_length}), or set on_too_long to cut or drop"
            if reason == self.EMPTY:
                remedy = "mend them, or set on_no_labels to drop"
            raise DataError(
                f"{count:,} of {self.rows:,} rows: {reason}, as {self.refused.named(reason)}; "
                f"{remedy}"
            )

    def state(self) -> dict[str, Any]:
        """What was counted so far, as JSON."""
        return {
            "rows": self.rows,
            "cut": [self.cut_rows, self.cut_tokens],
            "dropped": [self.dropped.counts, self.dropped.shown],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Have counted what another sieve had when it gave its `state`."""
        self.rows, (self.cut_rows, self.cut_tokens) = state["rows"], state["cut"]
        counts, shown = state["dropped"]
        self.dropped.counts |= counts
        self.dropped.shown += shown

    def told(self) -> list[str]:
        """What the user should know of rows that were cut or left out, a line each."""
        lines = []
        if self.cut_rows:
            lines.append(
                f"{self.cut_rows:,} of {self.rows:,} rows are cut to max_length {self.max_length} "
                f"({self.cut_tokens:,} tokens); on_too_long: drop or refuse does otherwise"
            )
        for reason, count in self.dropped.counts.items():
            lines.append(f"{count:,} rows left out: {reason}, as {self.dropped.named(reason)}")
        return lines

    def summary(self) -> dict[str, Any]:
        """What was cut, where anything was."""
        if not self.cut_rows:
            return {}
        return {"cut": {"rows": self.cut_rows, "tokens": self.cut_tokens}}


Log = Callable[[dict[str, Any]], None]


def say(sieve: Sieve, log: Log) -> None:
    """Each line of `told` as a warning of the run."""
    for line in sieve.told():
        log({"event": "warning", "text": line})
