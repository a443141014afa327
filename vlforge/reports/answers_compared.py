"""The page of `vlforge eval compare`: who is better at what, and the questions that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.evaluation.comparison import Difference
from vlforge.evaluation.pairing import Comparison, Evaluated
from vlforge.evaluation.questions import Question
from vlforge.reports import charts, numbers
from vlforge.reports.page import Anchors, write_page
from vlforge.reports.pictures import Thumbnail, Thumbnails
from vlforge.reports.run_files import number, shorten

EACH = 24
"""Questions shown of each direction and benchmark."""
PARTS = 60
"""Categories shown of a benchmark."""
_PICTURE_BYTES = 1_300_000
_TONES = (0, 1)
_TOLD = ("protocol", "n", "missing", "unparsed", "prompt_hash", "data_hash")
HEAD = ("benchmark", "n", "A", "B", "B − A", "95 % interval", "only A", "only B", "p")


@dataclass(frozen=True)
class PartRow:
    """A category's line: where B lies against A."""

    kind: str
    name: str
    n: int
    a: float
    b: float
    value: float
    interval: tuple[float, float]
    outcome: str
    chart: Markup


@dataclass(frozen=True)
class Said:
    """One side's answer; `read` is what the rule made of it where that is not the same."""

    letter: str
    text: str
    read: str
    credit: float


@dataclass(frozen=True)
class FlipCard:
    """A question on its picture with the right answer and the two that were given."""

    anchor: str
    id: str
    question: str
    options: tuple[tuple[str, str], ...]
    truth: str
    thumbnail: Thumbnail
    answers: tuple[Said, Said]


@dataclass(frozen=True)
class Panel:
    """One benchmark: `scores` are (letter, folder, tone, mean, chart)."""

    key: str
    anchor: str
    protocol: str
    unit: str
    scores: tuple[tuple[str, str, int, float, Markup | None], ...]
    whole: PartRow
    test: str
    notes: tuple[str, ...]
    parts: tuple[PartRow, ...]
    parts_left: int
    rose: int
    fell: int
    rose_cards: tuple[FlipCard, ...]
    fell_cards: tuple[FlipCard, ...]


def write_comparison(found: Sequence[Comparison], a: Path, b: Path, out: Path) -> None:
    """Write the page of two evaluations to `out`: one file, no scripts, under 2 MB."""
    write_page(out, "answers_compared.html.j2", lambda scale: _values(found, a, b, scale))


def headline(found: Sequence[Comparison]) -> str:
    """One sentence: on what B is above A, below it, or not told apart."""
    words: dict[str, list[str]] = {}
    for one in found:
        values = f"{one.whole.a:.3f}\u00a0→\u00a0{one.whole.b:.3f}"
        words.setdefault(one.whole.outcome, []).append(f"{one.key} {values}")
    parts: list[str] = []
    for outcome, verb in (("above", "beats"), ("below", "loses to")):
        if outcome in words:
            parts.append(f"{'it' if parts else 'B'} {verb} A on {_joined(words[outcome])}")
    if "open" in words:
        parts.append(f"the questions do not tell A and B apart on {_joined(words['open'])}")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def table_rows(found: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Cells of the terminal's table, categories indented below their benchmark."""
    rows = []
    for one in found:
        changed = (str(len(one.fell)), str(len(one.rose)))
        rows.append(
            (one.key, *_cells(one.whole), *changed, p_words(one.test.p if one.test else None))
        )
        rows += [(f"  {shorten(p.name, 28)}", *_cells(p.difference), "", "", "") for p in one.parts]
    return rows


def p_words(p: float | None) -> str:
    """A p value as one writes it; a graded benchmark has none."""
    if p is None:
        return numbers.NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cells(whole: Difference) -> tuple[str, ...]:
    low, high = (numbers.signed(value) for value in whole.interval)
    means = (numbers.score(whole.a), numbers.score(whole.b), numbers.signed(whole.value))
    return (numbers.count(whole.n), *means, f"{low} to {high}")


def _values(found: Sequence[Comparison], a: Path, b: Path, scale: float) -> dict[str, Any]:
    anchors, pictures = Anchors(), Thumbnails(int(_PICTURE_BYTES * scale))
    for name in ("scores", "categories", "questions", "how"):
        anchors.take(name)
    panels = [_panel(one, anchors, pictures, max(2, int(EACH * scale))) for one in found]
    return {
        "title": " and ".join(_names(a, b)),
        "headline": headline(found),
        "folders": (("A", str(a)), ("B", str(b))),
        "panels": panels,
        "settings": _settings(found),
        "part_count": sum(len(panel.parts) + panel.parts_left for panel in panels),
    }


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names, with their runs' where those alone tell them apart."""
    if a.name != b.name:
        return a.name, b.name
    return f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}"


def _panel(one: Comparison, anchors: Anchors, pictures: Thumbnails, each: int) -> Panel:
    reach = _reach([one.whole, *(part.difference for part in one.parts)])
    is_share = max(one.whole.a, one.whole.b) <= 1
    scores = []
    for letter, side, tone, mean in zip(
        "AB", (one.a, one.b), _TONES, (one.whole.a, one.whole.b), strict=True
    ):
        own = side.fields.get("interval") if one.is_score else None
        is_own = own and abs((number(side.fields.get("score")) or 0.0) - mean) < 1e-6
        chart = charts.score_track(mean, own if is_own else None, {}, tone, letter)
        scores.append((letter, str(side.folder), tone, mean, chart if is_share else None))
    cards = [
        tuple(_card(key, one, anchors, pictures) for key in some[:each])
        for some in (one.rose, one.fell)
    ]
    return Panel(
        key=one.key,
        anchor=anchors.take("benchmark", one.key),
        protocol=str(one.a.fields.get("protocol")),
        unit="share right" if one.test else "mean credit",
        scores=tuple(scores),
        whole=_row("", one.key, one.whole, reach),
        test=_test_words(one),
        notes=one.notes,
        parts=tuple(_row(p.kind, p.name, p.difference, reach) for p in one.parts[:PARTS]),
        parts_left=max(0, len(one.parts) - PARTS),
        rose=len(one.rose),
        fell=len(one.fell),
        rose_cards=cards[0],
        fell_cards=cards[1],
    )


def _row(kind: str, name: str, found: Difference, reach: float) -> PartRow:
    chart = charts.difference_track(found.value, found.interval, 1, reach)
    return PartRow(
        kind, name, found.n, found.a, found.b, found.value, found.interval, found.outcome, chart
    )


def _reach(found: Sequence[Difference]) -> float:
    """What the axis of differences shows: of small categories the middle, not the intervals."""
    widest = max(abs(value) for value in (*found[0].interval, *(one.value for one in found)))
    return min(max(0.05, 1.25 * widest), max(1.0, widest))


def _test_words(one: Comparison) -> str:
    """McNemar's test in a sentence, with what it does not see."""
    if one.test is None:
        return f"Credit rose for {len(one.rose):,} questions and fell for {len(one.fell):,}."
    kind = "exact binomial" if one.test.method == "exact" else "chi-square with continuity"
    text = f"Only A right: {one.test.only_a:,}, only B right: {one.test.only_b:,}; "
    text += f"McNemar p {p_words(one.test.p)} ({kind})."
    if one.whole.clusters < one.whole.n:
        text += f" {one.whole.n:,} questions share {one.whole.clusters:,} pictures, which only "
        text += "the interval takes into account."
    return text


def _settings(found: Sequence[Comparison]) -> list[tuple[str, str, str, bool]]:
    """What both were made with: (what, A's, B's, whether they differ)."""
    sides: list[dict[str, str]] = []
    for which in (0, 1):
        fields = [((one.a, one.b)[which].key, (one.a, one.b)[which].fields) for one in found]
        first = fields[0][1]
        told = {"model": str(first.get("model"))}
        told |= {f"{key}: {name}": str(f.get(name)) for key, f in fields for name in _TOLD}
        sides.append(told | _flat(first.get("generation")) | _flat(first.get("versions")))
    names = dict.fromkeys([*sides[0], *sides[1]])
    rows = [(name, *(side.get(name, numbers.NONE) for side in sides)) for name in names]
    return [(name, a, b, a != b) for name, a, b in rows]


def _flat(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


def _card(key: str, one: Comparison, anchors: Anchors, pictures: Thumbnails) -> FlipCard:
    question = one.questions.get(key) or Question(key, "")
    options = tuple((letter, shorten(text, 80)) for letter, text in question.options.items())
    rows = _rows_of(one, question)
    truth = " · ".join(dict.fromkeys(_named(_right(row), row) for row in rows if row.answers))
    sides = zip("AB", (one.a, one.b), strict=True)
    said = tuple(_said(letter, side, rows, key) for letter, side in sides)
    return FlipCard(
        anchor=anchors.take("question", one.key, key),
        id=key,
        question=shorten((question.asked or question.text).replace("<image>", " "), 240),
        options=options,
        truth=shorten(truth, 160),
        thumbnail=_thumbnail(question, one, pictures),
        answers=(said[0], said[1]),
    )


def _rows_of(one: Comparison, question: Question) -> list[Question]:
    """The question with its rotations, which share its credit."""
    if not question.group or question.group != question.id:
        return [question]
    others = one.questions.values()
    tied = [q for q in others if q.group == question.group and q.id not in one.a.credits]
    return [question, *tied]


def _said(letter: str, side: Evaluated, rows: Sequence[Question], key: str) -> Said:
    texts = [side.said.get(row.id) for row in rows]
    shown = [
        _named(t, row) if t is not None else "(no answer)"
        for t, row in zip(texts, rows, strict=True)
    ]
    text = " · ".join(shown)
    read = side.extracted.get(key) if len(rows) == 1 else None
    is_news = read is not None and read.strip().lower() != (texts[0] or "").strip().lower()
    return Said(
        letter, shorten(text, 160), shorten(read, 60) if read and is_news else "", side.credits[key]
    )


def _right(question: Question) -> str:
    """The accepted answer, of several the most given one."""
    answers = list(question.answers)
    return max(answers, key=answers.count) if answers else ""


def _named(answer: str, question: Question) -> str:
    """`A` as `A red`; an empty answer says that it is."""
    answer = answer.strip()
    named = question.options.get(answer)
    return f"{answer} {named}" if named else answer or "(nothing)"


def _thumbnail(question: Question, one: Comparison, pictures: Thumbnails) -> Thumbnail:
    image = question.image
    if isinstance(image, bytes):
        from vlforge.evaluation.asking import picture_name

        image = picture_name(question, image)
    roots = (Path.cwd(), *(root for side in (one.a, one.b) for root in _roots(side)))
    return pictures.make(image, roots)


def _roots(side: Evaluated) -> list[Path]:
    """Where a picture's path may start: the folder, its `images`, and those of the benchmark."""
    named = [side.spec.images] if side.spec and side.spec.images else []
    return [side.folder, side.folder / "images", *map(Path, named)]


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
