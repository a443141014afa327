"""Two evaluations side by side: what each folder holds, what both were asked, who did better.

Refuses to compare what is not comparable: another rule, other prompts, other data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from vlforge.evaluation.benchmarks import benchmark, questions_of
from vlforge.evaluation.comparison import (
    FEW,
    Difference,
    McNemar,
    changed_ids,
    mcnemar,
    paired,
)
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import read_json, read_lines
from vlforge.evaluation.judging import verdicts_for
from vlforge.evaluation.questions import Question, picture_hash
from vlforge.evaluation.scoring import scored_answers
from vlforge.types import DataError, VLForgeError

_WHAT = {"protocol": "protocols", "prompt_hash": "prompts", "data_hash": "data"}


@dataclass(frozen=True)
class Given:
    """What scoring a file of answers found; a folder's files say it themselves."""

    said: dict[str, str]
    extracted: dict[str, str | None]
    credits: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    """One benchmark of a folder that `eval run` wrote, or of a file of answers (`given`).

    `fields` is its part of `metrics.json`; a folder's files are read when they are asked for.
    """

    folder: Path
    key: str
    fields: Mapping[str, Any]
    spec: BenchmarkSpec | None
    given: Given | None = None

    @cached_property
    def questions(self) -> list[Question]:
        """The benchmark's questions; as they were asked where its files are gone."""
        if self.spec is not None:
            try:
                return questions_of(self.spec)
            except (VLForgeError, OSError):
                pass
        return [_as_asked(row) for row in read_lines(self.folder / f"prompts.{self.key}.jsonl")]

    @property
    def has_answers(self) -> bool:
        """Whether the right answers could be read."""
        return any(question.answers for question in self.questions)

    @cached_property
    def said(self) -> dict[str, str]:
        """What the model said, by question id; empty where the folder has no predictions."""
        if self.given is not None:
            return self.given.said
        path = self.folder / f"predictions.{self.key}.jsonl"
        return {row["id"]: row["text"] for row in read_lines(path)} if path.is_file() else {}

    @cached_property
    def extracted(self) -> dict[str, str | None]:
        """What the rule read from each answer, by question id."""
        if self.given is not None:
            return self.given.extracted
        path = self.folder / f"extracted.{self.key}.jsonl"
        rows = read_lines(path) if path.is_file() else []
        return {row["id"]: row.get("extracted") for row in rows}

    @cached_property
    def credits(self) -> dict[str, float]:
        """Credit by question id, as scoring left it.

        Raises:
            DataError: scored before credits were kept, and the benchmark's files are gone.
        """
        if self.given is not None:
            return self.given.credits
        path = self.folder / f"extracted.{self.key}.jsonl"
        rows = read_lines(path)
        found = {row["id"]: float(row["credit"]) for row in rows if row.get("credit") is not None}
        return found or self._scored_again(path)

    def _scored_again(self, path: Path) -> dict[str, float]:
        if self.spec is not None and self.has_answers:
            module, name = benchmark(self.spec.name), str(self.fields.get("protocol"))
            rule = _rule(name).partition("/judge=")[0]
            rule = rule if module.knows(rule) else self.spec.protocol
            verdicts = verdicts_for(self.folder / f"judged.{self.key}.jsonl", self.said)
            score = module.score(self.questions, self.said, rule, verdicts)
            if score.credits and score.fields["protocol"] == name:
                return dict(score.credits)
        raise DataError(f"{path}: has no credits; score again: vlforge eval score {self.folder}")


@dataclass(frozen=True)
class Part:
    """A category's difference; `kind` is what it is a category of."""

    kind: str
    name: str
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """One benchmark in two evaluations.

    fell, rose: questions whose credit changed from A to B. is_score: the mean credit is the
    benchmark's score (MME's points, POPE's F1 and the like are others). notes: what a reader
    has to know.
    """

    key: str
    a: Evaluated
    b: Evaluated
    whole: Difference
    test: McNemar | None
    parts: tuple[Part, ...]
    fell: tuple[str, ...]
    rose: tuple[str, ...]
    is_score: bool
    notes: tuple[str, ...] = ()
    questions: Mapping[str, Question] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        return {
            "protocol": self.a.fields.get("protocol"),
            "score": {"a": self.a.fields.get("score"), "b": self.b.fields.get("score")},
            "credit_is_score": self.is_score,
            **_numbers(self.whole),
            "mcnemar": asdict(self.test) if self.test else None,
            "groups": {f"{p.kind}: {p.name}": _numbers(p.difference) for p in self.parts},
            "fell": list(self.fell),
            "rose": list(self.rose),
            "notes": list(self.notes),
        }


def evaluation_folder(path: Path) -> Path:
    """The folder with scores that `path` means: itself, or an evaluate stage of a run.

    `RUN` where it has one such stage, else `RUN/STAGE` or `RUN/$STAGE`, by stage or by node.

    Raises:
        DataError: there is none, or there are several; names them.
    """
    if (path / "metrics.json").is_file():
        return path
    run, name = (path, "") if (path / "graph.json").is_file() else (path.parent, path.name)
    if not (run / "graph.json").is_file():
        what = "no such folder" if not path.exists() else "holds no scores (metrics.json)"
        what = "a file of answers needs --benchmark and its files" if path.is_file() else what
        raise DataError(
            f"{path}: {what}; else give what `vlforge eval run` wrote, or a run's evaluate stage"
        )
    nodes = [node for node in read_json(run / "graph.json")["nodes"] if node["kind"] == "evaluate"]
    wanted = name.removeprefix("$")
    chosen = [n for n in nodes if not wanted or wanted in (n["node"], n["stage"])]
    places = [run / str(node["folder"]) for node in chosen]
    found = {place.resolve(): place for place in places}
    found = {key: one for key, one in found.items() if (one / "metrics.json").is_file()}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(str(folder) for folder in found.values())
        raise DataError(f"{path}: holds {len(found)} evaluations; name one of {names}")
    raise DataError(f"{path}: no evaluate stage of this run has finished")


def read_evaluations(folder: Path) -> dict[str, Evaluated]:
    """The benchmarks of a folder with scores, by their keys.

    Raises:
        DataError: its files cannot be read.
    """
    metrics = read_json(folder / "metrics.json")
    settings = read_json(folder / "settings.json") if (folder / "settings.json").is_file() else {}
    specs = {}
    for given in settings.get("benchmarks", []):
        try:
            spec = BenchmarkSpec(**given)
        except (TypeError, ValueError):
            continue  # of another version: its questions are read as they were asked
        specs[spec.key] = spec
    return {
        key: Evaluated(folder, key, fields, specs.get(key))
        for key, fields in metrics.items()
        if isinstance(fields, Mapping)
    }


def read_answer_file(path: Path, spec: BenchmarkSpec) -> dict[str, Evaluated]:
    """A file of answers that any tool wrote, scored: one benchmark, by its key.

    Raises:
        DataError: files that cannot be read or do not belong together.
        RecipeError: a protocol that the benchmark does not know.
    """
    _, found, score, fields = scored_answers(spec, path)
    given = Given(found.said, dict(score.extracted), dict(score.credits))
    return {spec.key: Evaluated(path, spec.key, fields, spec, given)}


def compare_folders(
    a: Path, b: Path, *, common: bool = False, spec: BenchmarkSpec | None = None
) -> list[Comparison]:
    """Every benchmark that both folders hold.

    Args:
        spec: what files of answers are to; where a side is no folder.
        common: compare the questions that both were asked where prompts or data differ.

    Raises:
        DataError: nothing in common, or what may not be compared; one line.
    """
    ours, theirs = (
        read_answer_file(one, spec) if spec and one.is_file() else read_evaluations(one)
        for one in (a, b)
    )
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise DataError(
            f"no benchmark is in both: {a} has {', '.join(ours) or 'none'}, "
            f"{b} has {', '.join(theirs) or 'none'}"
        )
    wrong = [line for key in shared if (line := refusal(ours[key], theirs[key], common=common))]
    if wrong:
        raise DataError(f"{a} and {b} are not comparable: {'; '.join(wrong)}")
    known = [key for key in shared if ours[key].fields.get("score") is not None]
    if not known:
        raise DataError(f"{a} and {b}: no right answers are known for {', '.join(shared)}")
    return [compare(ours[key], theirs[key]) for key in known]


def refusal(a: Evaluated, b: Evaluated, *, common: bool = False) -> str:
    """Why two evaluations of a benchmark may not be compared; "" where they may."""
    differing = differences(a, b)
    if not differing:
        return ""
    pair = [str(one.fields.get("protocol")) for one in (a, b)]
    if _rule(pair[0]) != _rule(pair[1]):
        again = f"score one again: vlforge eval score FOLDER --protocol {pair[0]}"
        return f"{a.key} was scored by {pair[0]} and by {pair[1]}; {again}"
    if common:
        return ""
    words = " and ".join(_WHAT[name] for name in differing if name != "protocol") or "prompts"
    return f"{a.key} has other {words}; --common compares the questions that both were asked"


def differences(a: Evaluated, b: Evaluated) -> list[str]:
    """Which of protocol, prompts and data two evaluations do not share."""
    return [name for name in _WHAT if a.fields.get(name) != b.fields.get(name)]


def compare(a: Evaluated, b: Evaluated) -> Comparison:
    """One benchmark, over the questions that both have.

    Raises:
        DataError: no question in common, or credits that cannot be had.
    """
    notes: list[str] = []
    differing = differences(a, b)
    if differing:
        keys = _common(a, b)
        notes.append(
            f"{len(keys):,} common questions of {len(a.credits):,} (A) and {len(b.credits):,} (B); "
            "scores below are theirs alone"
        )
        if "prompt_hash" in differing:
            same = sum(_texts(a)[key] == _texts(b)[key] for key in keys)
            if same < len(keys):
                notes.append(f"{len(keys) - same:,} of them were asked in other words")
    else:
        keys = [key for key in a.credits if key in b.credits]
    if not keys:
        raise DataError(f"{a.folder} and {b.folder}: {a.key} has no question in common")
    questions = {question.id: question for question in a.questions}
    if not a.has_answers and b.has_answers and not differing:
        questions = {question.id: question for question in b.questions}
    pictures = {key: questions[key].picture_key() if key in questions else key for key in keys}
    whole = _difference(a, b, keys, pictures)
    ones, twos = [a.credits[key] for key in keys], [b.credits[key] for key in keys]
    fell, rose = changed_ids(a.credits, b.credits, keys)
    is_score = bool(differing) or (_is_mean(whole.a, a) and _is_mean(whole.b, b))
    notes += _notes(a, b, whole, is_score)
    if not any(question.answers for question in questions.values()):
        notes.append("the benchmark's files are gone: no right answers, no categories")
    parts = _parts(a, b, keys, questions, pictures)
    return Comparison(
        a.key, a, b, whole, mcnemar(ones, twos), tuple(parts), tuple(fell), tuple(rose),
        is_score, tuple(notes), questions,
    )  # fmt: skip


def _notes(a: Evaluated, b: Evaluated, whole: Difference, is_score: bool) -> Iterable[str]:
    """What a reader has to know besides the numbers."""
    if not is_score:
        scores = (f"{one.fields.get('score'):.4g}" for one in (a, b))
        yield "its score (A {}, B {}) is no mean over questions; tested is the mean credit".format(
            *scores
        )
    if whole.clusters == 1:
        yield "all questions are about one picture: the interval says nothing of others"
    elif whole.clusters < FEW:
        yield f"only {whole.clusters} pictures: too few to lean on an interval"
    if whole.doubt:
        yield whole.doubt
    for letter, one in (("A", a), ("B", b)):
        if lacks := one.fields.get("missing"):
            yield f"{letter} has no answer to {lacks:,} questions, which count as wrong"
    if a.given or b.given:
        yield "in which words the answers in a file were asked for is not known"


def _difference(
    a: Evaluated, b: Evaluated, keys: Sequence[str], pictures: Mapping[str, str]
) -> Difference:
    ones, twos = ([one.credits[key] for key in keys] for one in (a, b))
    return paired(ones, twos, [pictures[key] for key in keys])


def _parts(
    a: Evaluated,
    b: Evaluated,
    keys: Sequence[str],
    questions: Mapping[str, Question],
    pictures: Mapping[str, str],
) -> Iterable[Part]:
    """Categories that the questions' labels or the `groups` file name; lone ones say nothing."""
    members: dict[tuple[str, str], list[str]] = {}
    for key in keys:
        question = questions.get(key)
        for kind in question.labels if question else ():
            for name in question.labels_of(kind) if question else ():
                members.setdefault((kind, name), []).append(key)
    asked = set(keys)
    for name, ids in _groups_file(a.spec).items():
        found = [key for key in dict.fromkeys(map(str, ids)) if key in asked]
        members |= {("group", str(name)): found} if found else {}
    kinds = [kind for kind, _ in members]
    for (kind, name), some in members.items():
        if kinds.count(kind) > 1:
            yield Part(kind, name, _difference(a, b, some, pictures))


def _groups_file(spec: BenchmarkSpec | None) -> Mapping[str, Any]:
    if spec is None or not spec.groups or not Path(spec.groups).is_file():
        return {}
    found = read_json(Path(spec.groups))
    return found if isinstance(found, Mapping) else {}


def _common(a: Evaluated, b: Evaluated) -> list[str]:
    """Ids of scored questions that ask both the same of the same picture."""
    marks = [{question.id: _mark(question) for question in one.questions} for one in (a, b)]
    same = {key for key, mark in marks[0].items() if marks[1].get(key) == mark}
    whole = [_tied(one, same) for one in (a, b)]
    both = (key for key in a.credits if key in b.credits)
    return [key for key in both if key in whole[0] and key in whole[1]]


def _tied(one: Evaluated, same: set[str]) -> set[str]:
    """Of the scored ids those in `same` with every row that shares their credit (rotations)."""
    others: dict[str, list[str]] = {}
    for question in one.questions:
        if question.group and question.id not in one.credits:
            others.setdefault(question.group, []).append(question.id)
    groups = {question.id: question.group for question in one.questions}
    return {
        key
        for key in one.credits
        if key in same and all(row in same for row in others.get(groups[key], ()))
    }


def _mark(question: Question) -> tuple[Any, ...]:
    """What makes a question the same in two files; the prompt around it may differ."""
    shown = tuple(
        picture_hash(image) if isinstance(image, bytes) else PurePath(image).name
        for image in question.images
    )
    return question.asked or question.text, shown, question.answers, tuple(question.options.items())


def _texts(one: Evaluated) -> dict[str, str]:
    return {question.id: question.text for question in one.questions}


def _rule(protocol: str) -> str:
    """`textvqa@m4c` of `textvqa@m4c+ocr`: what stands behind the plus is about prompts."""
    return protocol.partition("+")[0]


def _is_mean(value: float, one: Evaluated) -> bool:
    score = one.fields.get("score")
    return isinstance(score, int | float) and abs(score - value) < 1e-6


def _as_asked(row: Mapping[str, Any]) -> Question:
    image = row.get("image")
    images = image if isinstance(image, list) else [image] if image else []
    return Question(id=row["id"], text=row["prompt"], images=tuple(map(str, images)))


def _numbers(found: Difference) -> dict[str, Any]:
    return {
        "n": found.n,
        "pictures": found.clusters,
        "a": found.a,
        "b": found.b,
        "difference": found.value,
        "interval": list(found.interval),
        "changed_pictures": found.changed,
        "sign_test_p": found.sign_p,
        "outcome": found.outcome,
    }
