"""Data-Juicer's converters between MMC4's documents and its own rows, with its options."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, Literal

from vlforge.data.formats.mmc4 import place_of
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN, DataError, Row

_POSITIONS = ("before", "after", "random")


@dataclass(frozen=True)
class Mmc4ToDj:
    """How documents become rows; names and defaults of Data-Juicer's `mmc4_to_dj`.

    A sentence is a chunk; the tokens of its pictures stand before or after it, or
    where `seed` and the sentence say. A picture of a sentence that is not there is
    an error: Data-Juicer names the picture and writes no token.
    """

    image_dir: str | None = None
    eoc_special_token: str = EOC_TOKEN
    image_special_token: str = IMAGE_TOKEN
    image_special_token_insert_pos: Literal["before", "after", "random"] = "before"
    add_eoc_at_last: bool = True
    sent_separator: str = " "
    keep_other_fields: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_special_token_insert_pos not in _POSITIONS:
            given = self.image_special_token_insert_pos
            raise DataError(f"image_special_token_insert_pos is {given!r}: take {_POSITIONS}")

    def __call__(self, row: Row) -> Row:
        """One dj row.

        Raises:
            DataError: texts or pictures are missing, or of a wrong type.
        """
        texts, infos = _list(row, "text_list"), _list(row, "image_info")
        if not all(isinstance(text, str) for text in texts):
            raise DataError("'text_list' is no list of strings")
        places = [place_of(info, len(texts)) for info in infos]
        images = [self._path(infos[at]) for at in sorted(range(len(infos)), key=places.__getitem__)]
        chunks = [self._chunk(at, text, places.count(at)) for at, text in enumerate(texts)]
        ends = f" {self.eoc_special_token}"
        text = (ends + self.sent_separator).join(chunks)
        out = dict(row) if self.keep_other_fields else {}
        out["images"] = images
        out["text"] = text + ends if self.add_eoc_at_last else text
        return out

    def _chunk(self, at: int, text: str, count: int) -> str:
        tokens = [self.image_special_token] * count
        where = self.image_special_token_insert_pos
        if where == "random":
            where = random.Random(f"{self.seed}:{at}:{text}").choice(("before", "after"))
        parts = [*tokens, text] if where == "before" else [text, *tokens]
        return self.sent_separator.join(parts)

    def _path(self, info: Any) -> str:
        name = info.get("image_name")
        if not isinstance(name, str):
            raise DataError("a picture has no 'image_name'")
        return os.path.join(self.image_dir or "", name)


@dataclass(frozen=True)
class DjToMmc4:
    """How rows become documents; names and defaults of Data-Juicer's `dj_to_mmc4`.

    Pictures are written for which `image_info` has an entry: the first free one
    whose name the path ends in. A chunk's tokens are taken out of its text, also
    those between words, which Data-Juicer leaves there.
    """

    eoc_special_token: str = EOC_TOKEN
    image_special_token: str = IMAGE_TOKEN
    sent_separator: str = " "
    keep_dj_fields: bool = False

    def __call__(self, row: Row) -> Row | None:
        """One document; None for a row with an empty text.

        Raises:
            DataError: no text or no images, or of a wrong type.
        """
        text, images = row.get("text"), row.get("images")
        if not isinstance(text, str) or not isinstance(images, list):
            raise DataError("no 'text' or no 'images'")
        if not text:
            return None
        chunks = [chunk for chunk in text.split(self.eoc_special_token) if chunk.strip()]
        places = [
            at for at, chunk in enumerate(chunks) for _ in range(self._count(chunk))
        ]  # fmt: skip
        gone = () if self.keep_dj_fields else ("text", "images")
        out = {key: value for key, value in row.items() if key not in gone}
        out["image_info"] = _matched(row.get("image_info", []), images, places)
        out["text_list"] = [self._words(chunk) for chunk in chunks]
        return out

    def _count(self, chunk: str) -> int:
        return chunk.count(self.image_special_token)

    def _words(self, chunk: str) -> str:
        parts = (part.strip() for part in chunk.split(self.image_special_token))
        return self.sent_separator.join(part for part in parts if part)


def _matched(infos: Any, images: list[Any], places: list[int]) -> list[Row]:
    """The entries that have a picture, in their order, with its path and its chunk."""
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise DataError("'image_info' is no list of objects")
    found: dict[int, Row] = {}
    for number, image in enumerate(images):
        names = ((at, info.get("image_name")) for at, info in enumerate(infos))
        at = next(
            (at for at, name in names if at not in found and _ends(image, name)), None
        )  # fmt: skip
        if at is None:
            continue
        found[at] = {**infos[at], "image_name": image}
        if number < len(places):
            found[at]["matched_text_index"] = places[number]
    return [found[at] for at in sorted(found)]


def _ends(image: Any, name: Any) -> bool:
    return isinstance(image, str) and isinstance(name, str) and bool(name) and image.endswith(name)


def _list(row: Row, key: str) -> list[Any]:
    found = row.get(key)
    if not isinstance(found, list):
        raise DataError(f"no list {key!r}")
    return found
