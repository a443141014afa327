"""The rules about rows: readable, with their pictures and questions, not too many, not leaked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.challenges.better_synth.benchmark_files import specs_of
from vlforge.challenges.better_synth.folder import Kit
from vlforge.challenges.better_synth.solution import read_solution
from vlforge.challenges.verdicts import Verdict, broken, kept, warning
from vlforge.types import DataError, VLForgeError

if TYPE_CHECKING:
    from vlforge.data.records import Record
    from vlforge.evaluation.config import BenchmarkSpec

_SHOWN = 2
LOOKED_THROUGH = 50_000
"""Rows whose pictures `check` compares with the benchmarks' without being asked to."""


@dataclass
class Rows:
    """What was seen of a file of rows."""

    count: int = 0
    pictures: int = 0
    bad: list[str] = field(default_factory=list)
    lost_pictures: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)


def asked_ids(path: Path) -> set[str]:
    """Ids of the original questions.

    Raises:
        DataError: the file cannot be read.
    """
    from vlforge.data.detect import read_samples

    return {sample.id for sample in read_samples(path, on_bad=lambda *_: None) if sample.turns}


def look_through(path: Path, asked: set[str] | None) -> Rows:
    """Every row of a dataset: its shape, its pictures' headers, its id among the questions.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    from vlforge.data.detect import read_samples
    from vlforge.data.images import header_size

    found = Rows()
    seen: set[str] = set()

    def take_bad(line: int, problem: DataError) -> None:
        found.bad.append(f"line {line}: {problem}")

    for sample in read_samples(path, on_bad=take_bad):
        found.count += 1
        if asked is not None and sample.id not in asked:
            found.unasked.append(sample.id)
        for image in sample.images:
            if not isinstance(image, str) or image in seen:
                continue
            seen.add(image)
            found.pictures += 1
            try:
                header_size(image)
            except (VLForgeError, OSError) as error:
                found.lost_pictures.append(f"row {sample.id}: {error}")
    return found


def training_data(kit: Kit, data: Path | None = None, recipe: str | None = None) -> list[Verdict]:
    """Rows readable in dj format, pictures there, ids among the questions, not too many.

    Of the seed, or of `data`, which was processed already.
    """
    try:
        path = data or seed_of(kit, recipe)
    except VLForgeError as error:
        return [broken("training-data", str(error), "mend the recipe")]
    if not path.exists():
        fetch = f"vlforge fetch better_synth {kit.named} --only {kit.round.group}"
        return [broken("training-data", f"{kit.shown(path)} is not there", fetch)]
    asked, verdict = _questions(kit)
    try:
        rows = look_through(path, asked)
    except VLForgeError as error:
        return [broken("training-data", str(error), "give rows as Data-Juicer has them")]
    name = kit.shown(path)
    verdicts = [_shape(name, rows)]
    verdicts.append(verdict or _restored(kit, name, rows))
    verdicts.append(_limit(kit, name, rows.count, is_seed=data is None))
    return verdicts


def seed_of(kit: Kit, recipe: str | None = None) -> Path:
    """The rows that the solution's recipe begins with.

    Raises:
        RecipeError: the recipe cannot be read.
    """
    first = next(iter(read_solution(kit.folder, recipe).stages.values()))
    named = str(first.get("dataset_path") or "")
    return Path(named) if named else kit.seed_rows


def _questions(kit: Kit) -> tuple[set[str] | None, Verdict | None]:
    path = kit.questions
    fetch = f"vlforge fetch better_synth {kit.named} --only seed-questions"
    if not path.is_file():
        return None, broken("questions", f"{kit.shown(path)} is not there", fetch)
    try:
        return asked_ids(path), None
    except VLForgeError as error:
        return None, broken("questions", str(error), fetch)


def _shape(name: str, rows: Rows) -> Verdict:
    rule = "training-data"
    if not rows.count:
        first = f": {rows.bad[0]}" if rows.bad else ""
        return broken(rule, f"{name} has no row that can be read{first}", "check the file")
    said = f"{name}: {rows.count:,} rows, {rows.pictures:,} pictures"
    if rows.lost_pictures:
        return broken(
            rule, f"{said}; {len(rows.lost_pictures):,} pictures cannot be read: "
            f"{'; '.join(rows.lost_pictures[:_SHOWN])}",
            "fetch the pictures again, or name images relative to the rows' own file",
        )  # fmt: skip
    if rows.bad:
        return warning(
            rule, f"{said}; {len(rows.bad):,} rows are left out: {'; '.join(rows.bad[:_SHOWN])}",
            "`vlforge repair` mends what can be mended",
        )  # fmt: skip
    return kept(rule, said)


def _restored(kit: Kit, name: str, rows: Rows) -> Verdict:
    path = kit.shown(kit.questions)
    if not rows.unasked:
        return kept("questions", f"all ids of {name} are in {path}")
    shown = ", ".join(map(repr, rows.unasked[:_SHOWN]))
    return broken(
        "questions",
        f"{len(rows.unasked):,} ids of {name} are not in {path}, whose questions are restored: "
        f"{shown}",
        "keep the seed's ids on the rows that come of them",
    )


def _limit(kit: Kit, name: str, count: int, *, is_seed: bool) -> Verdict:
    most = kit.round.most_rows
    if count <= most:
        return kept("sample-limit", f"{count:,} rows, {most:,} are allowed")
    then = "; if the recipe leaves as many," if is_seed else ","
    return warning(
        "sample-limit",
        f"{name} has {count:,} rows{then} {most:,} of them are drawn, as the kit does (seed 1024)",
        f"choose {most:,} yourself, e.g. with a selector in the recipe",
    )


def contamination(kit: Kit, recipe: str | None, *, always: bool) -> Verdict:
    """Whether pictures or questions of the seed are the benchmarks' too."""
    from vlforge.data.checking.overlap import learn
    from vlforge.data.checking.pictures import Looking, look_at
    from vlforge.data.formats.index import detect
    from vlforge.data.records import Fault
    from vlforge.runs.data_check import read_records

    rule = "contamination"
    try:
        path = seed_of(kit, recipe)
        if not path.is_file():
            return warning(rule, "not looked for: there is no seed", "fetch it first")
        count = sum(1 for _ in path.open("rb"))
        if count > LOOKED_THROUGH and not always:
            return warning(
                rule, f"{count:,} rows were not compared with the benchmarks",
                "give --contamination: every picture is read",
            )  # fmt: skip
        how = Looking(reads=True)
        known = [learn(name, records, how) for name, records in _benchmarks(kit)]
        leaks: list[str] = []
        for record in read_records(path, detect(path)):
            if isinstance(record, Fault):
                continue
            looks = [look_at(picture, how) for picture in record.pictures]
            found = (leak for one in known for leak in one.leaks(record, looks))
            leaks += [
                f"{record.id}: {said}" for kind, said, _ in found if kind != "shared_question"
            ]
    except (VLForgeError, OSError) as error:
        return warning(rule, f"not looked for: {error}", "mend what the other rules say first")
    if not leaks:
        return kept(rule, f"no picture of {count:,} rows is in TextVQA or MMBench")
    return warning(
        rule, f"{len(leaks):,} rows are in the benchmarks: {'; '.join(leaks[:_SHOWN])}",
        "leave them out: their score says nothing",
    )  # fmt: skip


def _benchmarks(kit: Kit) -> Iterator[tuple[str, Iterator[Record]]]:
    """Both benchmarks as records with pictures and questions."""
    from vlforge.data.records import Picture, Record
    from vlforge.evaluation.benchmarks import questions_of
    from vlforge.types import Turn

    def records(spec: BenchmarkSpec) -> Iterator[Record]:
        for question in questions_of(spec):
            pictures = tuple(
                Picture(content=image) if isinstance(image, bytes) else Picture(image)
                for image in question.images
            )
            asked = question.asked or question.text
            yield Record(question.id, pictures, (Turn("user", asked),))

    for name, spec in specs_of(kit).items():
        yield name, records(spec)
