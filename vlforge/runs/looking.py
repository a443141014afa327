"""One row of a recipe or a dataset as training sees it; see `vlforge inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.recipe.kinds import find_kind
from vlforge.recipe.nearest import nearest
from vlforge.recipe.typed import build
from vlforge.runs.prepare import Choice, Prepared, prepare
from vlforge.text.encode import check_compat
from vlforge.text.look import Token, first_difference, piece_of, tokens_of
from vlforge.text.render import render
from vlforge.training.rows import Sieve
from vlforge.types import DataError, RecipeError, Sample, VLForgeError

if TYPE_CHECKING:
    from vlforge.inference.text_side import TextSide
    from vlforge.recipe.graph import Node
    from vlforge.training.config import Mixture, TrainConfig

Words = tuple[tuple[str, bool], ...]
"""Text in parts, each with whether it is learned."""


@dataclass(frozen=True)
class Asked:
    """Which row of what, and how it is encoded.

    row: its number from 0, bad rows counted, or its id; id: its id alone.
    sieve: what the stage does with rows that are too long or teach nothing.
    """

    side: TextSide
    parts: tuple[Mixture, ...]
    image_root: str | None
    max_length: int | None
    row: str | None = None
    id: str | None = None
    compat: str | None = None
    stage: str = ""
    sieve: Sieve | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture of the row: its place in the tokens, `lost` where it was cut away."""

    source: str
    size: tuple[int, int]
    span: tuple[int, int]
    lost: bool


@dataclass(frozen=True)
class Compat:
    """What a reference system would make of the row."""

    name: str
    learned: int
    same_ids: bool
    same_labels: bool
    first_difference: int | None
    mismatch: str | None = None
    refused: str | None = None
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Look:
    """A row with all that is shown of it.

    length: positions that are left, `whole`: before cutting. problem: why the row
    teaches nothing. fate: why the stage does not train on it.
    """

    dataset: str
    number: int
    id: str
    stage: str
    template: str
    tokenizer: str
    max_length: int | None
    length: int
    whole: int
    learned: int
    words: Words
    tokens: tuple[Token, ...]
    pictures: tuple[Picture, ...]
    problem: str | None = None
    fate: str | None = None
    compat: Compat | None = None
    notes: tuple[str, ...] = field(default=())


def look(asked: Asked) -> Look:
    """Find the row and encode it, whole and as it is cut.

    Raises:
        DataError: no such row, or one that cannot be encoded; names it.
        RecipeError: the template has no such `compat`.
    """
    side = asked.side
    if asked.compat and side.template is not None and not side.is_native:
        check_compat(side.template, asked.compat)
    dataset, number, sample = find_row(asked)
    try:
        whole = side.encode(sample)
        kept = whole if asked.max_length is None else side.encode(sample, asked.max_length)
        sizes = side.sizes(sample)
    except DataError as error:
        raise DataError(f"{dataset}: row {number} (id {sample.id}): {error}") from None
    piece = piece_of(side.tokenizer)
    tokens = tokens_of(whole.ids, whole.labels, whole.image_spans, piece, kept=kept.length)
    spans = whole.image_spans
    sources = [_source(image) for image in sample.images]
    return Look(
        dataset=dataset,
        number=number,
        id=sample.id,
        stage=asked.stage,
        template=side.template.name if side.template else "the model's own",
        tokenizer=type(getattr(side.tokenizer, "pieces", side.tokenizer)).__name__,
        max_length=asked.max_length,
        length=kept.length,
        whole=whole.length,
        learned=sum(token.state == "learned" for token in tokens),
        words=_words(side, sample, whole),
        tokens=tuple(tokens),
        pictures=tuple(
            Picture(source, size, span, span[1] > kept.length)
            for source, size, span in zip(sources, sizes, spans, strict=False)
        ),
        problem=kept.problem,
        fate=_fate(asked.sieve, kept),
        compat=_compat(asked, sample, kept) if asked.compat else None,
        notes=asked.notes,
    )


def _fate(sieve: Sieve | None, kept: Any) -> str | None:
    """What a stage does with a row that it does not train on."""
    if sieve is None or sieve.keeps(kept, ""):
        return None
    refused = next(iter(sieve.refused.counts), None)
    if refused:
        return f"the stage refuses to begin over it: {refused}"
    return f"the stage leaves it out: {next(iter(sieve.dropped.counts))}"


def _source(image: str | bytes) -> str:
    return image if isinstance(image, str) else f"in the data, {len(image):,} bytes"


def _words(side: TextSide, sample: Sample, whole: Any) -> Words:
    if side.is_native:
        parts, at = [], 0
        for start, end in whole.said:
            parts += [(whole.text[at:start], False), (whole.text[start:end], True)]
            at = end
        return tuple(part for part in (*parts, (whole.text[at:], False)) if part[0])
    assert side.template is not None
    eos = getattr(side.tokenizer, "eos_token", None)
    made = render(side.template, sample.turns, with_images=bool(sample.images), eos=eos).pieces
    return tuple(
        (piece.text + ((eos or "") if piece.ends_sequence else ""), piece.supervised)
        for piece in made
    )


def _compat(asked: Asked, sample: Sample, ours: Any) -> Compat:
    """What the reference makes of the row, beside ours."""
    assert asked.compat is not None
    try:
        theirs: Any = asked.side.encode(sample, asked.max_length, asked.compat)
    except DataError as error:
        return Compat(asked.compat, 0, False, False, None, refused=str(error))
    different = first_difference(ours.ids, theirs.ids)
    if different is None:
        different = first_difference(ours.labels, theirs.labels)
    piece = piece_of(asked.side.tokenizer)
    tokens = tokens_of(theirs.ids, theirs.labels, theirs.image_spans, piece)
    return Compat(
        name=asked.compat,
        learned=sum(token.state == "learned" for token in tokens),
        same_ids=ours.ids == theirs.ids,
        same_labels=ours.labels == theirs.labels,
        first_difference=different,
        mismatch=theirs.mismatch,
        tokens=tuple(tokens),
    )


def find_row(asked: Asked) -> tuple[str, int, Sample]:
    """The dataset's name, the row's number in all datasets, and the row.

    Raises:
        DataError: no such row, or one that no sample can be made of.
    """
    wanted = int(asked.row) if asked.row is not None and asked.row.isdigit() else None
    name = asked.id if asked.id is not None else asked.row
    by_id: tuple[str, int, Sample] | None = None
    number, last = 0, ""
    for dataset, found in _rows(asked.parts, asked.image_root):
        last = dataset
        is_bad = isinstance(found, DataError)
        if asked.id is None and number == wanted:
            if is_bad:
                raise DataError(f"{dataset}: row {number} is none: {found}")
            return dataset, number, found
        if not is_bad and by_id is None and _is_called(found, name):
            by_id = (dataset, number, found)
            if asked.id is not None or wanted is None:
                return by_id
        number += 1
    if by_id is not None:
        return by_id
    there = f"its rows are 0 to {number - 1:,}" if number else "it has no rows"
    raise DataError(f"{last or asked.parts[0].path}: no row {name!r}; {there}, or give an id")


def _is_called(sample: Sample, name: str | None) -> bool:
    return name is not None and name in (sample.id, str(sample.extra.get("uid")))


def _rows(parts: Sequence[Mixture], image_root: str | None) -> Iterator[tuple[str, Any]]:
    """Each row's dataset with the sample, or with what is wrong with the row."""
    from vlforge.training.mixture import samples_of

    for part in parts:
        name = Path(part.path).name
        bad: list[DataError] = []
        for sample in samples_of(part, image_root, lambda _, error, bad=bad: bad.append(error)):
            yield from ((name, error) for error in bad)
            bad.clear()
            yield name, sample
        yield from ((name, error) for error in bad)


def asked_of_recipe(recipe: Path, choice: Choice, stage: str | None, **row: Any) -> Asked:
    """A row of a recipe's train stage, encoded as the stage does.

    Args:
        stage: its name; the last train stage where None.
        row: `row`, `id` and `compat` of `Asked`.

    Raises:
        RecipeError: no such stage, or one that needs others to run first.
    """
    from vlforge.inference.text_side import open_text_side
    from vlforge.training.mixture import mixtures

    prepared, older = _with_older(prepare(recipe, choice))
    node = _stage(prepared, recipe, stage)
    config = _config(prepared, node)
    model, dialect, notes = _model(prepared, node, recipe)
    try:
        side = open_text_side(model, config.template, dialect)
    except VLForgeError as error:
        raise RecipeError(f"stage {node.name}: {error}") from None
    parts = mixtures(config.data)
    for part in parts:
        _needs(prepared, node, part.path, recipe)
    row["compat"] = row.get("compat") or config.compat
    used = [name for name in node.inputs.values() if name in older]
    notes += tuple(f"stage {name} is the last run's; its settings or code changed" for name in used)
    sieve = Sieve(config.max_length, config.on_too_long, config.on_no_labels)
    how = {"stage": node.name, "sieve": sieve, "notes": notes, **row}
    return Asked(side, parts, config.image_root, config.max_length, **how)


def _with_older(prepared: Prepared) -> tuple[Prepared, set[str]]:
    """What the run folder still has of stages that would be made anew, and which they are."""
    keys = dict(prepared.keys)
    for node in prepared.nodes:
        link = prepared.run_dir / f"{node.number:02d}-{node.name}"
        if not prepared.folder(node.name).exists() and link.exists():
            keys[node.name] = link.resolve().name
    older = {name for name, key in keys.items() if key != prepared.keys[name]}
    return replace(prepared, keys=keys), older


def _stage(prepared: Prepared, recipe: Path, name: str | None) -> Node:
    stages = [node for node in prepared.nodes if node.kind == "train"]
    if not stages:
        raise RecipeError(f"{recipe}: no train stage; give a dataset with --model and --template")
    if name is None:
        return stages[-1]
    chosen = [node for node in stages if name in (node.stage, node.name)]
    if not chosen:
        known = list(dict.fromkeys(node.stage for node in stages))
        kinds = [node.kind for node in prepared.nodes if name in (node.stage, node.name)]
        what = f"is of kind {kinds[0]}" if kinds else f"is no stage{nearest(name, known)}"
        raise RecipeError(f"--stage {name!r} {what}; train stages: {', '.join(known)}")
    return chosen[0]


def _config(prepared: Prepared, node: Node) -> TrainConfig:
    settings = prepared.settings(node)
    config: TrainConfig = build(
        find_kind(node.kind).config_class(), settings, lambda *keys: f"stage {node.name}"
    )
    return config


def _model(prepared: Prepared, node: Node, recipe: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """The model that a stage begins with; of one that has not run, what that begins with."""
    dialect, notes = "auto", ()
    while True:
        config = _config(prepared, node)
        dialect = config.tokenizer if dialect == "auto" else dialect
        model = config.model
        if not isinstance(model, str):
            for part in (model.vision, model.language, model.tokenizer):
                _needs(prepared, node, part, recipe)
            return model, dialect, notes
        before = _maker(prepared, node, model)
        if before is None or Path(model).exists():
            return model, dialect, notes
        if before.kind != "train":
            _needs(prepared, node, model, recipe)
        notes = (*notes, f"stage {before.name} has not run: shown with the model it begins with")
        node = before


def _maker(prepared: Prepared, node: Node, path: str) -> Node | None:
    """The stage that makes what lies at a path."""
    for name in node.inputs.values():
        if Path(path).is_relative_to(prepared.folder(name)):
            return next(one for one in prepared.nodes if one.name == name)
    return None


def _needs(prepared: Prepared, node: Node, path: str | None, recipe: Path) -> None:
    maker = None if path is None else _maker(prepared, node, path)
    if path is None or maker is None or Path(path).exists():
        return
    raise RecipeError(
        f"stage {node.name} needs what stage {maker.stage} makes, which has not run: "
        f"vlforge run {recipe} --until {maker.stage}"
    )


def asked_of_data(
    data: Path,
    side: TextSide,
    *,
    format_name: str = "auto",
    image_root: str | None = None,
    max_length: int | None = None,
    **row: Any,
) -> Asked:
    """A row of a dataset, encoded for a model."""
    from vlforge.training.config import Mixture

    part = Mixture(str(data), format=format_name)
    return replace(Asked(side, (part,), image_root, max_length), **row)
