"""Votes on pairs of answers, a line of JSON each."""

from __future__ import annotations

import hashlib
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from vlforge.serving.web.rooms import Answer, Refused
from vlforge.types import WriteError

Choice = Literal["left", "right", "tie", "both bad"]


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of two answers is better; `hidden`: the models' names were not shown."""

    left: str
    right: str
    vote: Choice
    hidden: bool = False


class Votes:
    """A file that votes are appended to; it is made with the first one.

    Raises:
        WriteError: it could not be written.
    """

    def __init__(self, path: Path):
        self.path = path.absolute()
        self.count = 0
        self._lock = threading.Lock()
        place = self.path if self.path.exists() else self.path.parent
        if self.path.is_dir():
            raise WriteError(f"--votes {path} is a folder; name a file")
        if not place.exists() or not os.access(place, os.W_OK):
            raise WriteError(f"--votes {path} cannot be written; name a file in a folder of yours")

    def add(self, vote: Vote, left: Answer, right: Answer) -> None:
        """Append a vote; of several on the same pair the last one counts.

        Raises:
            Refused: the answers belong to different questions, or the disk is full.
        """
        if (left.question, left.pictures, left.turn) != (
            right.question, right.pictures, right.turn,
        ):  # fmt: skip
            raise Refused(422, "these are answers to different questions")
        line = msgspec.json.encode(_told(vote, left, right)) + b"\n"
        try:
            with self._lock, self.path.open("ab+") as file:
                if file.tell() and not _ends_whole(file):
                    line = b"\n" + line
                file.write(line)
                self.count += 1
        except OSError as error:
            raise Refused(507, f"the vote cannot be written: {error.strerror}") from None


def _ends_whole(file: Any) -> bool:
    """Whether the last line is complete, not cut off by a full disk."""
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _told(vote: Vote, left: Answer, right: Answer) -> dict[str, Any]:
    winner = {"left": left.model, "right": right.model}.get(vote.vote)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "pair": hashlib.sha256(f"{vote.left} {vote.right}".encode()).hexdigest()[:16],
        "vote": vote.vote,
        "winner": winner,
        "hidden": vote.hidden,
        "turn": left.turn,
        "question": left.question,
        "pictures": [
            {"name": kept.name, "sha256": kept.sha256, "width": kept.width, "height": kept.height}
            for kept in left.pictures
        ],
        "left": _side(left),
        "right": _side(right),
    }


def _side(answer: Answer) -> dict[str, Any]:
    return {
        "model": answer.model,
        "answer": answer.text.strip(),
        "ended": answer.ended,
        "settings": answer.settings,
    }
