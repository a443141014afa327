"""What was shown and said: the state of one conversation, and the pictures that come into it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, Sample, Turn, VLForgeError

_MARK = f"{LLAVA_IMAGE_TOKEN}\n"
LARGEST_FETCHED = 32 << 20
"""Bytes of a picture from the web."""
FETCH_S = 20.0
"""Seconds that fetching one may take."""


@dataclass(frozen=True)
class Shown:
    """A picture: its path or address, and what a model opens."""

    name: str
    source: str | bytes


def look(place: str | Path, *, allow_private: bool = False) -> Shown:
    """A picture that opens, from a file or from an http(s) address.

    Args:
        allow_private: fetch from this machine and its networks, too.

    Raises:
        DataError: nothing there, nothing that may be fetched, or no readable picture.
    """
    if "://" in str(place):
        return _fetched(str(place), allow_private)
    return Shown(path := check_picture(place), path)


def check_picture(path: str | Path) -> str:
    """The absolute path of a picture that opens.

    Raises:
        DataError: the file is missing or is no readable picture.
    """
    from vlforge.data.images import load_rgb

    given = Path(path).expanduser()
    if not given.is_file():
        raise DataError(f"no picture at {path}; check the path")
    load_rgb(given)
    return os.path.abspath(given)


def _fetched(address: str, allow_private: bool) -> Shown:
    from vlforge.data.download.addresses import PRIVATE, Refused
    from vlforge.data.download.client import picture_client
    from vlforge.data.images import ImageError, load_rgb

    client = picture_client(allow_private=allow_private, most_bytes=LARGEST_FETCHED, time_s=FETCH_S)
    try:
        content = client.get(address)
        load_rgb(content)
    except Refused as error:
        why = str(error)
        if why == PRIVATE:
            why = "it is a private address, which is only asked with --allow-private"
        raise DataError(f"no picture from {address}: {why}") from None
    except ImageError as error:
        raise DataError(f"no picture at {address}: {error.reason}") from None
    finally:
        client.close()
    return Shown(address, content)


@dataclass
class Conversation:
    """The pictures looked at and what was said about them.

    Pictures that nothing was asked about yet go with the next question. `system` stands
    before all turns; "" leaves that to the model's template.
    """

    images: tuple[Shown, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    system: str = ""

    @property
    def spoken_of(self) -> int:
        """How many of the pictures stand in the turns."""
        return sum(_marks(turn) for turn in self.turns)

    def with_question(self, question: str) -> Sample:
        """The conversation so far and `question`, as the model takes it.

        A question carries one `<image>` per picture that came since the one before.

        Raises:
            DataError: words that would stand for a picture.
        """
        if self.images and LLAVA_IMAGE_TOKEN in question:
            raise DataError(f"a question cannot hold {LLAVA_IMAGE_TOKEN}; /add PATH adds a picture")
        tags = _MARK * (len(self.images) - self.spoken_of)
        told = (Turn("system", self.system),) if self.system else ()
        turns = (*told, *self.turns, Turn("user", tags + question))
        return Sample(id="chat", images=tuple(one.source for one in self.images), turns=turns)

    def keep(self, sample: Sample, answer: str) -> None:
        """Remember what was asked and answered."""
        told = [turn for turn in sample.turns if turn.role != "system"]
        self.turns = [*told, Turn("assistant", answer)]

    def undo(self) -> str:
        """Forget the last question and its answer; its words come back, its pictures stay.

        Raises:
            VLForgeError: nothing was said.
        """
        if len(self.turns) < 2:
            raise VLForgeError("nothing has been said yet")
        asked = self.turns[-2]
        self.turns = self.turns[:-2]
        return asked.text[len(_MARK) * _marks(asked) :]

    def as_llava(self) -> dict[str, Any]:
        """The conversation as one row of a LLaVA json file."""
        speakers = {"user": "human", "assistant": "gpt", "system": "system"}
        row: dict[str, Any] = {"id": "chat"}
        names = [one.name for one in self.images[: self.spoken_of]]
        if names:
            row["image"] = names[0] if len(names) == 1 else names
        told = [Turn("system", self.system)] if self.system else []
        turns = [*told, *self.turns]
        row["conversations"] = [{"from": speakers[t.role], "value": t.text} for t in turns]
        return row


def _marks(turn: Turn) -> int:
    """How many pictures lead a turn."""
    count, text = 0, turn.text
    while turn.role == "user" and text.startswith(_MARK):
        count, text = count + 1, text[len(_MARK) :]
    return count
