"""Training rows about scenes, as LLaVA's and Data-Juicer's files have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlforge.miniatures.pictures import write_picture
from vlforge.miniatures.scenes import Scene, said, scene

ASKED = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "What is this?",
    "Render a clear and concise summary of the photo.",
)
TEXTS = (
    ("Name a fruit that is yellow.", "A banana is yellow."),
    ("How many days has a week?", "A week has seven days."),
    ("Say hello in one word.", "Hello."),
    ("What is two plus three?", "Two plus three is five."),
)


def captioned(one: Scene, row_id: str, image: str, text: str = "") -> dict[str, Any]:
    """A pretraining row: a request before or after the picture, one answer."""
    asked = ASKED[one.number % len(ASKED)]
    first = f"<image>\n{asked}" if one.number % 2 else f"{asked}\n<image>"
    turns = [{"from": "human", "value": first}, {"from": "gpt", "value": text or one.alt_text}]
    return {"id": row_id, "image": image, "conversations": turns}


def spoken(one: Scene, row_id: str, image: str) -> dict[str, Any]:
    """An instruction row: several questions about a picture."""
    pairs = [*one.questions(), ("Describe the picture.", one.description)]
    return {"id": row_id, "image": image, "conversations": said(pairs)}


def text_only(number: int, row_id: str) -> dict[str, Any]:
    """An instruction row without a picture; it has no key `image`."""
    pairs = [TEXTS[number % len(TEXTS)], TEXTS[(number + 1) % len(TEXTS)]]
    return {"id": row_id, "conversations": said(pairs, has_image=False)}


def mixed(
    folder: Path, seed: int, places: Sequence[str], count: int, *, first: int, texts: int = 4
) -> list[dict[str, Any]]:
    """Instruction rows whose pictures lie in `places` by turns, and some of text alone.

    Args:
        folder: where the pictures' paths start from; they are drawn there.
        places: patterns of the paths, with `{n}` for a number.
        first: number of the first scene.
    """
    rows = []
    for offset in range(count):
        one = scene(seed, first + offset)
        image = places[offset % len(places)].format(n=one.number)
        write_picture(folder / image, one)
        rows.append(spoken(one, Path(image).stem, image))
    rows += [text_only(number, f"text_{number:03d}") for number in range(texts)]
    return rows
