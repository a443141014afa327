"""What a check of a dataset needs from elsewhere: tokenizers, languages, hashes, benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from vlforge.data.checking.check import Encode, Labels, Training
from vlforge.data.checking.overlap import Known, learn
from vlforge.data.checking.pictures import Hash, Looking
from vlforge.data.checking.texts import Guess
from vlforge.data.records import Fault, Format, Picture, Record, as_turns, with_marks
from vlforge.runs.prepare import Choice, prepare
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, DataError, RecipeError, Sample, Turn

if TYPE_CHECKING:
    from vlforge.runs.row_lengths import StageRows

_DECIDES = (
    "model", "template", "tokenizer", "compat", "image_aspect_ratio", "max_length", "on_too_long",
)  # fmt: skip
"""Settings of a stage that decide what its rows become."""


def read_records(
    path: Path, reader: Format, image_root: Path | None = None
) -> Iterator[Record | Fault]:
    """What `reader` reads, relative picture paths below `image_root` where it is given."""
    if image_root is None:
        yield from reader.read(path)
        return
    home = os.path.abspath(image_root)
    for found in reader.read(path):
        if isinstance(found, Record):
            moved = (replace(p, root=home) if p.root else p for p in found.pictures)
            found = replace(found, pictures=tuple(moved))
        yield found


def phash() -> Hash:
    """The perceptual hash that also `image_deduplicator` takes."""
    from vlforge.ops.dedup.hashes import image_hash

    return lambda image: image_hash(image, "phash")


def guesser() -> Guess | None:
    """Guesses languages; None where the library for it is not installed."""
    from vlforge.ops.text.language import bundled_guesser

    try:
        return bundled_guesser()
    except RecipeError:
        return None


def training(name: str, folder: str, template: str, max_length: int) -> Training:
    """A use with the tokenizer in `folder`, whose pictures are one token each.

    Raises:
        ModelError: no tokenizer there.
        RecipeError: no such template.
    """
    from vlforge.runs.row_lengths import text_rows
    from vlforge.text.templates import find_template
    from vlforge.text.tokenizers import load_tokenizer

    rows = text_rows(find_template(template), load_tokenizer(folder))
    return Training(name, max_length, _encoder(rows, max_length))


def _encoder(rows: StageRows, max_length: int) -> Encode:
    from vlforge.data.images import ImageError

    def encode(record: Record) -> Labels | None:
        marked = with_marks(replace(record, turns=as_turns(record), chunks=()))
        pictures = tuple([_source(one) for one in marked.pictures])
        sample = Sample(str(record.id), pictures, marked.turns)
        try:
            whole = rows.encode(sample, None)
            fits = whole.whole <= max_length
            kept = whole if fits else rows.encode(sample, max_length)
        except ImageError:
            return None
        return Labels(
            whole.whole, _learned(whole), _learned(kept),
            len(pictures), len(pictures) - kept.lost_images,
        )  # fmt: skip

    return encode


def _source(picture: Picture) -> str | bytes:
    if picture.content is not None:
        return picture.content
    return picture.path if "://" in picture.path else picture.place


def _learned(row: Any) -> int:
    return sum(label not in (IGNORE_INDEX, IMAGE_INDEX) for label in row.labels)


class Trainings(NamedTuple):
    """The different trainings of a recipe, and what the user has to know of the others."""

    found: list[Training]
    notes: list[str]
    image_root: Path | None
    """Where their relative picture paths start, if they say so."""


def trainings_of(recipe: Path, choice: Choice = Choice()) -> Trainings:
    """The trainings of a recipe whose tokenizers are there already.

    Raises:
        RecipeError: the recipe cannot be read, or has no train stage.
    """
    from vlforge.recipe.kinds import find_kind
    from vlforge.recipe.typed import build
    from vlforge.runs.row_lengths import stage_rows

    prepared = prepare(recipe, choice)
    found: dict[str, Training] = {}
    notes, roots = [], []
    stages = [node for node in prepared.nodes if node.kind == "train"]
    if not stages:
        raise RecipeError(f"{recipe}: has no train stage; name --tokenizer and --template instead")
    for node in stages:
        config: Any = build(
            find_kind(node.kind).config_class(), prepared.settings(node), lambda *_, n=node: n.name
        )
        model = config.model
        roots += [config.image_root] if config.image_root else []
        folder = model if isinstance(model, str) else model.tokenizer or model.language
        if not folder or not Path(folder).exists():
            notes.append(f"stage {node.name}: its tokenizer is made by the run; labels not counted")
            continue
        key = repr([getattr(config, name) for name in _DECIDES])
        if key in found:
            continue
        rows = stage_rows(config)
        notes += [f"stage {node.name}: {rows.doubt}"] if rows.doubt else []
        found[key] = Training(
            node.name, config.max_length, _encoder(rows, config.max_length), config.on_too_long
        )
    return Trainings(list(found.values()), notes, Path(roots[0]) if roots else None)


def known_set(given: str, looking: Looking) -> Known:
    """Another dataset, or a benchmark's questions, by its keys; `PATH=FOLDER` says where
    its pictures are.

    Raises:
        DataError: it is not there, or nothing here reads it.
    """
    name, equals, root = given.partition("=")
    path = Path(name)
    if equals and not Path(root).is_dir():
        raise DataError(f"--against {given}: {root} is no folder")
    folder = Path(root) if equals else None
    return learn(path.name, _records_of(path, folder), looking)


def _records_of(path: Path, folder: Path | None) -> Iterator[Record]:
    from vlforge.data.formats.index import detect

    questions = _questions(path, folder)
    if questions is not None:
        for number, question in enumerate(questions, 1):
            yield _as_record(question, number)
        return
    for found in read_records(path, detect(path), folder):
        if isinstance(found, Record):
            yield found


def _as_record(question: Any, line: int) -> Record:
    image = question.image
    pictures: Sequence[Picture] = ()
    if image:
        pictures = (Picture(content=image) if isinstance(image, bytes) else Picture(image),)
    text = question.asked or question.text
    return Record(question.id, tuple(pictures), (Turn("user", text),), line=line)


def _questions(path: Path, folder: Path | None) -> list[Any] | None:
    """The questions of a benchmark's file; None for anything else."""
    from vlforge.evaluation.config import BenchmarkSpec

    if not path.is_file():
        return None
    if path.suffix == ".tsv" and _has_columns(path):
        from vlforge.evaluation.benchmarks import mmbench

        return mmbench.read(BenchmarkSpec("mmbench", str(path)))
    if path.suffix == ".jsonl" and _asks(path):
        from vlforge.evaluation.benchmarks import textvqa

        images = str(folder) if folder else None
        return textvqa.read(BenchmarkSpec("textvqa", str(path), images=images))
    return None


def _has_columns(path: Path) -> bool:
    """Whether the first line names the columns of a multiple-choice table."""
    with path.open("rb") as file:
        heads = file.readline(1 << 16).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\t")
    return {b"index", b"question", b"A"} <= set(heads)


def _asks(path: Path) -> bool:
    """Whether a row of the file is a question of LLaVA's question files."""
    from vlforge.data.json_lines import read_values

    for _, value in read_values(path):
        return isinstance(value, dict) and {"question_id", "text"} <= value.keys()
    return False
