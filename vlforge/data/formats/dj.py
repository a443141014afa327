"""Data-Juicer's rows: `{"id", "text", "images"}`, one JSON object a line.

The k-th image token of `text` stands for `images[k]`; chunks of text and image
end in the end-of-chunk token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import as_row, read_values, write_lines
from vlforge.data.roots import place_all
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN, LLAVA_IMAGE_TOKEN, DataError, Row, Sample, Turn

ROLE = re.compile(r"\[\[(human|gpt)\]\]: ")
"""How a dialogue is written into `text`: `[[human]]: question`, `[[gpt]]: answer`."""
_TURN_ROLES = {"human": "user", "gpt": "assistant"}
_USED = frozenset({"id", "text", "images"})


def read(path: str | Path) -> Iterator[Row]:
    """The rows of a file, streamed.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object; names both.
    """
    for number, value in read_values(Path(path)):
        if isinstance(value, DataError):
            raise DataError(f"{path}:{number}: {value}")
        try:
            yield as_row(value)
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None


def write(path: str | Path, rows: Iterable[Row]) -> int:
    """Write rows as JSON lines, whole or not at all; gives their number."""
    return write_lines(Path(path), rows)


def plain_text(text: str, image_token: str = IMAGE_TOKEN, eoc_token: str = EOC_TOKEN) -> str:
    """`text` without special tokens and without white space around it."""
    return text.replace(image_token, "").replace(eoc_token, "").strip()


def image_paths(row: Row, root: str, key: str = "images") -> list[str]:
    """The row's image paths, relative ones below `root`.

    Raises:
        DataError: not a list of paths; says what it is.
    """
    images = row.get(key)
    if images is None:
        return []
    if not isinstance(images, list):
        raise DataError(f"{key!r} is a {type(images).__name__}, not a list of paths")
    for image in images:
        if not isinstance(image, str) or not image:
            raise DataError(f"{key!r} holds {image!r} where a path is wanted")
    return place_all(root, images)


def to_sample(row: Row, root: str, place: str = "") -> Sample:
    """A dj row as turns: a dialogue where `[[human]]: ` marks one, else a caption.

    A caption becomes the turns `<image>` (one per image) and the text without
    special tokens; a text without images becomes one assistant turn.

    Raises:
        DataError: no text, token and image counts differ, or paths of a wrong type.
    """
    text = row.get("text")
    if not isinstance(text, str):
        raise DataError(f"'text' is {type(text).__name__}, not a string")
    images = image_paths(row, root)
    token = IMAGE_TOKEN if IMAGE_TOKEN in text or not images else LLAVA_IMAGE_TOKEN
    count = text.count(token)
    if count != len(images):
        raise DataError(f"{count} image tokens but {len(images)} images")
    turns = _dialogue(text, token) if ROLE.match(text) else _caption(text, token, len(images))
    extra = {key: value for key, value in row.items() if key not in _USED}
    return Sample(str(row.get("id", place)), tuple(images), tuple(turns), extra)


def _caption(text: str, token: str, images: int) -> list[Turn]:
    caption = " ".join(
        chunk for part in text.split(EOC_TOKEN) if (chunk := plain_text(part, token))
    )
    if not caption:
        raise DataError("no text beside the special tokens")
    answer = Turn("assistant", caption)
    return [Turn("user", "\n".join([LLAVA_IMAGE_TOKEN] * images)), answer] if images else [answer]


def _dialogue(text: str, token: str) -> list[Turn]:
    parts = ROLE.split(text)[1:]
    turns: list[Turn] = []
    for role, said in zip(parts[::2], parts[1::2], strict=True):
        clean = said.replace(EOC_TOKEN, "").replace(token, LLAVA_IMAGE_TOKEN).strip()
        turns.append(Turn("user" if _TURN_ROLES[role] == "user" else "assistant", clean))
    return turns


def from_sample(sample: Sample) -> Row:
    """A sample as a dj row: captions as Data-Juicer writes them, dialogues with `[[role]]: `."""
    said = [turn for turn in sample.turns if turn.role != "system"]
    images = [LLAVA_IMAGE_TOKEN] * len(sample.images)
    row: dict[str, Any] = {"id": sample.id}
    if len(said) == 2 and said[0].text.split() == images:
        tokens = "".join([IMAGE_TOKEN] * len(images))
        row["text"] = f"{tokens}\n{said[1].text} {EOC_TOKEN}".lstrip("\n")
    elif len(said) == 1 and not images:
        row["text"] = f"{said[0].text} {EOC_TOKEN}"
    else:
        names = {"user": "human", "assistant": "gpt"}
        lines = [f"[[{names[t.role]}]]: {t.text}" for t in said]
        row["text"] = "\n".join(lines).replace(LLAVA_IMAGE_TOKEN, IMAGE_TOKEN) + f" {EOC_TOKEN}"
    row["images"] = list(sample.images)
    return {**row, **sample.extra}
