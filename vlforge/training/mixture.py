"""Which rows of which datasets a run sees, in which order.

The whole order is worked out before the first step from (rows, shares, budget,
seed). A checkpoint holds the step and a digest of the order: that is its
position, and going on from it gives the rows that would have come.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.data.detect import OnBad, files_of_pattern, read_samples, reader_of
from vlforge.data.mixing import DrawnMix, Share, parse_share, wanted_rows
from vlforge.text.captions import BlipCaption
from vlforge.text.minigpt4_templates import read_prompts
from vlforge.training.config import Mixing, Mixture
from vlforge.types import DataError, RecipeError, Sample, Turn

if TYPE_CHECKING:
    import numpy as np

Data = str | tuple[str | Mixture, ...]

KIT_SEED = 1024
"""Of the draw with which Better Synth's kit cuts a dataset down to its budget."""


def mixtures(data: Data) -> tuple[Mixture, ...]:
    """The datasets of a stage; one path is a mixture of one, `PATH#1000` one of 1,000 rows."""
    return tuple(_mixture(part) for part in ((data,) if isinstance(data, str) else data))


def _mixture(part: str | Mixture) -> Mixture:
    if isinstance(part, Mixture):
        return part
    share = parse_share(part)
    return Mixture(share.path, share.weight, share.count, share.epochs)


def spelled_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings with every `PATH#N` of its data as a table, so that paths are paths."""
    data = settings.get("data")
    listed = data if isinstance(data, list) else [data]
    tables = [_table(part) for part in listed]
    if tables == listed:
        return dict(settings)
    return {**settings, "data": tables}


def _table(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    made = _mixture(part)
    said = {"weight": made.weight, "rows": made.rows, "epochs": made.epochs}
    given = {key: value for key, value in said.items() if value is not None}
    return {"path": made.path, **given} if given else part


def samples_of(
    part: Mixture, image_root: str | None = None, on_bad: OnBad | None = None
) -> Iterator[Sample]:
    """The samples of one dataset; its own `image_root` comes before the stage's."""
    root = part.image_root or image_root
    samples = read_samples(Path(part.path), root, format_name=part.format, on_bad=on_bad)
    if part.at_most is not None:
        samples = _cut(part, part.at_most, samples)
    if part.questions is not None:
        samples = _with_questions(part.questions, samples, on_bad)
    if part.prompts is not None:
        samples = _with_prompts(part.prompts, samples)
    yield from samples if part.captions == "as_is" else map(_as_blip, samples)


def _cut(part: Mixture, most: int, samples: Iterator[Sample]) -> Iterator[Sample]:
    """The rows that Better Synth's kit keeps of too many, in the data's order."""
    rows = read_samples(Path(part.path), format_name=part.format, on_bad=lambda *_: None)
    total = sum(1 for _ in rows)
    if total <= most:
        return samples
    kept = set(random.Random(KIT_SEED).sample(range(total), most))
    return (sample for number, sample in enumerate(samples) if number in kept)


def _with_questions(path: str, samples: Iterator[Sample], on_bad: OnBad | None) -> Iterator[Sample]:
    """Each sample's answer under the question that its id has in another file."""
    asked = {sample.id: sample.turns[0] for sample in read_samples(path) if sample.turns}
    for number, sample in enumerate(samples, 1):
        answers = [turn for turn in sample.turns if turn.role == "assistant"]
        if sample.id in asked and answers:
            turns = (asked[sample.id], Turn("assistant", answers[-1].text))
            yield Sample(sample.id, sample.images, turns, sample.extra)
            continue
        problem = DataError(f"row {sample.id!r} is not in {path}, which has the questions")
        if on_bad is None:
            raise problem
        on_bad(number, problem)


def _with_prompts(path: str, samples: Iterator[Sample]) -> Iterator[Sample]:
    """Each sample's answer to one of the prompts of a file; a row's own does not change."""
    prompts = read_prompts(Path(path))
    for number, sample in enumerate(samples):
        answers = tuple(turn for turn in sample.turns if turn.role == "assistant")
        turns = (Turn("user", random.Random(number).choice(prompts)), *answers[-1:])
        yield Sample(sample.id, sample.images, turns, sample.extra)


def _as_blip(sample: Sample) -> Sample:
    clean = BlipCaption()
    turns = (Turn(t.role, clean(t.text)) if t.role == "assistant" else t for t in sample.turns)
    return Sample(sample.id, sample.images, tuple(turns), sample.extra)


def readers_of(settings: Mapping[str, Any]) -> list[str]:
    """The modules of the formats that a stage's datasets are in, those that are there."""
    data = settings.get("data")
    found = set()
    for part in data if isinstance(data, list | tuple) else [data]:
        table = part if isinstance(part, Mapping) else {"path": part}
        path = Path(str(table.get("path", "")))
        if not path.is_absolute() or not (path.exists() or files_of_pattern(str(path))):
            continue
        try:
            reader = reader_of(path, str(table.get("format", "auto")))
        except DataError:
            continue
        if reader is not None:
            found.add(type(reader).__module__)
    return sorted(found)


def names_its_rows(parts: Sequence[Mixture]) -> bool:
    """Whether the datasets say themselves how many rows are to be seen."""
    return any(part.rows is not None or part.epochs is not None for part in parts)


def budget(
    parts: Sequence[Mixture], sizes: Sequence[int], samples: int | None, epochs: float | None
) -> int:
    """Samples to see in all: those given, or so many epochs of the rows that `parts` name."""
    if samples is not None:
        return samples
    whole = sum(wanted_rows(_shares(parts), sizes)) if names_its_rows(parts) else sum(sizes)
    return whole if epochs is None else math.ceil(epochs * whole)


def draw_order(
    parts: Sequence[Mixture],
    sizes: Sequence[int],
    samples: int,
    seed: int,
    mixing: Mixing = Mixing(),
    batch: int = 1,
) -> np.ndarray:
    """Row numbers [samples] of the datasets laid end to end.

    Each dataset is walked in shuffled passes: no row comes again before every
    row of its dataset has come (drawn per batch, every row but those beyond the
    last whole batch).

    Args:
        parts: the datasets.
        sizes: usable rows of each.
        samples: how many to draw.
        seed: decides the order.
        mixing: how they are mixed.
        batch: rows of a global batch.

    Raises:
        DataError: a dataset is empty or would get no row, or shares that contradict each other.
    """
    shares = _shares(parts)
    counts = wanted_rows(shares, sizes, samples, mixing.temperature)
    if mixing.draw == "exact":
        from vlforge.training.batches import walk

        return walk(sizes, counts, seed)
    return _drawn(shares, sizes, counts, seed, mixing, batch)


def _drawn(
    shares: Sequence[Share],
    sizes: Sequence[int],
    counts: Sequence[int],
    seed: int,
    mixing: Mixing,
    batch: int,
) -> np.ndarray:
    import numpy as np

    has_weights = all(share.weight is not None for share in shares)
    weights = [float(share.weight or 0) for share in shares] if has_weights else counts
    mix = DrawnMix(
        tuple(share.path for share in shares),
        tuple(sizes),
        tuple(weights),
        seed,
        batch if mixing.draw == "per_batch" else 1,
    )
    starts = np.cumsum([0, *sizes[:-1]])
    total = sum(counts)
    rows = (starts[pick.dataset] + pick.row for pick in islice(mix.picks(), total))
    return np.fromiter(rows, dtype=np.int64, count=total)


def check_mixing(parts: Sequence[Mixture], mixing: Mixing, groups_by_length: bool) -> None:
    """Raise for shares that contradict each other, before anything is read."""
    for part in parts:
        said = [name for name in ("weight", "rows", "epochs") if getattr(part, name) is not None]
        if len(said) > 1:
            raise RecipeError(f"{part.path}: {' and '.join(said)} are given: take one of them")
        if part.at_most is not None and part.at_most < 1:
            raise RecipeError(f"{part.path}: at_most is {part.at_most}: give at least 1")
        for name in said:
            if not (0 < getattr(part, name) < math.inf):
                raise RecipeError(f"{part.path}: {name} is {getattr(part, name)}: take more than 0")
    weighed = [part.path for part in parts if part.weight is not None]
    if weighed and len(weighed) < len(parts):
        bare = next(part.path for part in parts if part.weight is None)
        raise RecipeError(f"{bare} has no weight while others do: give all datasets one, or none")
    if mixing.temperature <= 0:
        raise RecipeError(f"temperature is {mixing.temperature:g}: it must be above 0")
    if weighed and mixing.temperature != 1:
        raise RecipeError("weights and a temperature are both given: take one of the two")
    if mixing.draw == "per_batch" and groups_by_length:
        raise RecipeError(
            "group_by_length moves rows between batches, draw: per_batch keeps a dataset's "
            "rows together: take one of the two"
        )


def _shares(parts: Sequence[Mixture]) -> list[Share]:
    return [Share(part.path, part.rows, part.epochs, part.weight) for part in parts]
