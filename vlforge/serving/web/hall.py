"""What stands behind the chat page: models, rooms, examples, votes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlforge.serving.talking import Talker
from vlforge.serving.web.pictures import SUFFIXES, look, plain_name
from vlforge.serving.web.rooms import Bounds, Kept, Refused, Room, Rooms
from vlforge.serving.web.votes import Votes
from vlforge.types import DataError

_AT_ONCE = 2
"""Pictures decoded at a time."""
_MOST_EXAMPLES = 24


@dataclass(frozen=True)
class Example:
    """A picture to begin with, and a question about it."""

    path: Path
    question: str = ""


def read_examples(folder: Path) -> list[Example]:
    """Pictures of a folder, each with the question in the text file of the same name.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"--examples {folder} is no folder; give one with pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"--examples {folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    found = []
    for path in paths[:_MOST_EXAMPLES]:
        words = path.with_suffix(".txt")
        text = words.read_text("utf-8", "replace").strip() if words.is_file() else ""
        found.append(Example(path, text))
    return found


class Hall:
    """Everything behind the page.

    Args:
        talkers: the models, one or two.
        examples: pictures to begin with.
        votes: where votes on pairs of answers go; None takes none.
        low_resource: answers are drawn with one beam.
        notes: what a user should know of each model.
    """

    def __init__(
        self,
        talkers: Sequence[Talker],
        *,
        bounds: Bounds = Bounds(),
        examples: Sequence[Example] = (),
        votes: Votes | None = None,
        low_resource: bool = False,
        notes: Sequence[Sequence[str]] = (),
    ):
        if low_resource:
            bounds = replace(bounds, beams=1)
        self.talkers, self.bounds, self.votes = tuple(talkers), bounds, votes
        self.low_resource, self.notes = low_resource, notes
        self.rooms = Rooms(bounds)
        self.turn = asyncio.Semaphore(_AT_ONCE)
        try:
            self.examples = self._looked_at(examples)
        except DataError:
            self.rooms.close()
            raise

    def _looked_at(self, examples: Sequence[Example]) -> list[tuple[Kept, str]]:
        folder = self.rooms.folder / "examples"
        folder.mkdir()
        found = []
        for number, example in enumerate(examples):
            path = folder / str(number)
            try:
                path.write_bytes(example.path.read_bytes())
                kept = look(path, number, plain_name(example.path.name), self.bounds)
            except (OSError, Refused) as error:
                raise DataError(f"--examples: {error}; remove it") from None
            found.append((kept, example.question))
        return found

    def about(self) -> dict[str, Any]:
        """What the page can do."""
        models = [
            {
                "name": talker.name,
                "sees": bool(getattr(talker.speaker, "sees", True)),
                "notes": list(self.notes[place]) if place < len(self.notes) else [],
            }
            for place, talker in enumerate(self.talkers)
        ]
        bounds = {
            name: getattr(self.bounds, name)
            for name in ("bytes", "pixels", "pictures", "characters", "tokens", "beams")
        }
        return {
            "models": models,
            "bounds": bounds,
            "votes": self.votes is not None,
            "low_resource": self.low_resource,
            "examples": [
                {
                    "name": kept.name,
                    "question": question,
                    "side": max(kept.width, kept.height),
                }
                for kept, question in self.examples
            ],
        }

    def talker(self, number: int) -> Talker:
        """A model by its place; `Refused` where there is none."""
        if not 0 <= number < len(self.talkers):
            raise Refused(422, f"model {number}: there are {len(self.talkers)}")
        return self.talkers[number]

    def give_example(self, room: Room, number: int) -> Kept:
        """An example's picture as one of a room; `Refused` where there is none."""
        if not 0 <= number < len(self.examples):
            raise Refused(404, "no such example")
        given = self.examples[number][0]
        place = next(room.numbers)
        path = room.folder / str(place)
        kept = replace(given, number=place, path=path, shown=path.with_suffix(".shown"))
        with self.rooms.place(room) as claim:
            claim.add(given.size)
            kept.path.write_bytes(given.path.read_bytes())
            kept.shown.write_bytes(given.shown.read_bytes())
            self.rooms.keep(room, kept, claim)
        return kept

    def close(self, wait_s: float = 2.0) -> None:
        """Remove all that was kept; models end within so many seconds."""
        self.rooms.close()
        for talker in self.talkers:
            talker.close(wait_s)
