"""Turns a small folder of captioned photographs into the files that the stages read.

`photos.json` lists pictures, each with a caption and short questions; it becomes
instruction rows, texts for the decoder and a benchmark in TextVQA's files. The
pictures stay where they are: everything written names them by absolute path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.quickstart.config import PhotosConfig
from vlforge.types import DataError, ProgressFn, no_progress

ANNOTATORS = 10
"""TextVQA scores against ten answers; one annotator's answer is repeated."""


@dataclass(frozen=True)
class Photo:
    """One picture with its caption and its `(question, answer)` pairs."""

    name: str
    image: Path
    caption: str
    questions: tuple[tuple[str, str], ...]


def prepare_photos(
    config: PhotosConfig, out: Path, seed: int = 0, progress: ProgressFn = no_progress
) -> dict[str, int]:
    """Write what a recipe needs of the photographs into `out`.

    `seed.jsonl` (dj rows as given, pictures by absolute path), `instruct.json`
    (LLaVA), `text.jsonl` (`{"text"}` lines), `textvqa_questions.jsonl`,
    `textvqa_annotation.json` and `groups.json` (question ids per kind of
    answer). The result depends on the folder only; `seed` is taken because
    every stage takes one.

    Returns:
        Numbers of `pictures`, `questions` and `seed_rows`.

    Raises:
        DataError: the folder or one of its files is missing, or an entry lacks
            a field or its picture.
    """
    folder = Path(os.path.abspath(config.path))
    photos = read_photos(folder)
    seed_lines = list(_seed_lines(folder))
    out.mkdir(parents=True, exist_ok=True)
    asked = _number_questions(photos)
    files = {
        "seed.jsonl": "".join(seed_lines),
        "instruct.json": _json(list(_instruct_rows(photos, config))),
        "text.jsonl": _lines({"text": text} for text in _texts(photos, config)),
        "textvqa_questions.jsonl": _lines(_questions(asked, config)),
        "textvqa_annotation.json": _json({"data": list(_annotation(asked))}),
        "groups.json": _json(_groups(asked)),
    }
    for done, (name, text) in enumerate(files.items(), start=1):
        _write(out / name, text)
        progress(done, len(files), name)
    return {"pictures": len(photos), "questions": len(asked), "seed_rows": len(seed_lines)}


def read_photos(folder: Path) -> list[Photo]:
    """The entries of `photos.json`, checked: fields, pictures on disk."""
    listing = folder / "photos.json"
    _require(folder, listing)
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{listing} is not JSON ({error}); restore the file") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{listing} holds no list of pictures; restore the file")
    return [_photo(folder, listing, place, entry) for place, entry in enumerate(entries)]


def _require(folder: Path, file: Path) -> None:
    if file.is_file():
        return
    missing = file.name if folder.is_dir() else "the folder itself"
    raise DataError(
        f"no photographs at {folder}: {missing} is missing; give the folder that holds "
        "photos.json, seed.jsonl and images/ with stages.photos.path=DIR"
    )


def _photo(folder: Path, listing: Path, place: int, entry: Any) -> Photo:
    try:
        image = folder / entry["image"]
        pairs = tuple((str(q["question"]), str(q["answer"])) for q in entry["questions"])
        caption = str(entry["caption_en"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{listing}, entry {place}: no usable {error}; an entry has image, caption_en "
            "and questions with question and answer"
        ) from None
    if not image.is_file():
        raise DataError(f"{listing}, entry {place}: no picture {image}; restore it")
    return Photo(image.stem, image, caption, pairs)


def _seed_lines(folder: Path) -> Iterator[str]:
    """The dj lines, pictures made absolute; a line that is no row passes unchanged."""
    path = folder / "seed.jsonl"
    _require(folder, path)
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        try:
            row = json.loads(line)
            row["images"] = [str(folder / image) for image in row["images"]]
        except (ValueError, KeyError, TypeError):
            yield line + "\n"
        else:
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _number_questions(photos: list[Photo]) -> list[tuple[int, Photo, str, str]]:
    pairs = [(photo, *pair) for photo in photos for pair in photo.questions]
    return [(number, *pair) for number, pair in enumerate(pairs, start=1)]


def _instruct_rows(photos: list[Photo], config: PhotosConfig) -> Iterator[dict[str, Any]]:
    """Each question as the benchmark asks it and as a person would; each caption on request."""
    for photo in photos:
        rows = [(config.describe, photo.caption)]
        for question, answer in photo.questions:
            rows += [(f"{question}\n{config.short}", answer), (question, answer)]
        for number, (question, answer) in enumerate(rows):
            yield {
                "id": f"{photo.name}-{number}",
                "image": str(photo.image),
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question}"},
                    {"from": "gpt", "value": answer},
                ],
            }


def _texts(photos: list[Photo], config: PhotosConfig) -> Iterator[str]:
    """What the decoder should have read: captions as seed rows spell them, questions, answers."""
    for photo in photos:
        yield photo.caption.lower()
        yield f"{config.describe} {photo.caption}"
        for question, answer in photo.questions:
            yield f"{question} {config.short} {answer}"
            yield f"{question} {answer}"


def _questions(
    asked: list[tuple[int, Photo, str, str]], config: PhotosConfig
) -> Iterator[dict[str, Any]]:
    for number, photo, question, _ in asked:
        yield {
            "question_id": number,
            "image_id": photo.name,
            "image": str(photo.image),
            "text": f"{question}\n{config.short}",
            "category": "default",
        }


def _annotation(asked: list[tuple[int, Photo, str, str]]) -> Iterator[dict[str, Any]]:
    for number, photo, question, answer in asked:
        yield {
            "question_id": number,
            "image_id": photo.name,
            "question": question,
            "answers": [answer] * ANNOTATORS,
        }


def _groups(asked: list[tuple[int, Photo, str, str]]) -> dict[str, list[int]]:
    """Question ids by what the answer is: yes or no, a number, or words."""
    groups: dict[str, list[int]] = {"yes or no": [], "numbers": [], "words": []}
    for number, _, _, answer in asked:
        kind = "numbers" if answer.isdigit() else "words"
        groups["yes or no" if answer in ("yes", "no") else kind].append(number)
    return {name: ids for name, ids in groups.items() if ids}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _lines(rows: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(part, path)
