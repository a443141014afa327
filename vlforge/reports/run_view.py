"""What the run page shows besides data and training: scores, pipeline, answers, environment."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import charts, claims, numbers
from vlforge.reports.page import Anchors
from vlforge.reports.pictures import Thumbnail, Thumbnails
from vlforge.reports.run_files import Run, RunNode, number, read_lines, read_mapping, shorten
from vlforge.reports.scores import arms_of, main_scores, scored_arms


@dataclass(frozen=True)
class ScoreRow:
    """One arm's line in a score panel."""

    arm: str
    tone: int
    mean: float
    interval: list[float] | None
    chart: Markup


@dataclass(frozen=True)
class ScorePanel:
    """One score with all arms."""

    skill: str
    rule: str
    rows: tuple[ScoreRow, ...]
    over: str
    verdicts: tuple[claims.Verdict, ...]


@dataclass(frozen=True)
class DifferenceRow:
    """One arm minus the baseline on one score."""

    arm: str
    score: str
    mean: float
    interval: list[float] | None
    outcome: str
    per_seed: str
    chart: Markup


@dataclass(frozen=True)
class GroupTable:
    """A benchmark's groups: per group its questions and (score, interval) per arm."""

    score: str
    arms: tuple[str, ...]
    rows: tuple[tuple[str, int | None, tuple[tuple[float, list[float] | None] | None, ...]], ...]


@dataclass(frozen=True)
class StripItem:
    """One stage in the pipeline strip. `share` is its part of all seconds, 0 to 1."""

    stage: str
    kind: str
    count: str
    runs: int
    seconds: float
    share: float
    is_reused: bool
    is_done: bool


@dataclass(frozen=True)
class Answer:
    """What one arm answered."""

    arm: str
    text: str
    credit: float

    @property
    def is_right(self) -> bool:
        """Whether the rule gives it at least half a point."""
        return self.credit >= 0.5


@dataclass(frozen=True)
class AnswerCard:
    """One question on its picture, with every arm's answer."""

    anchor: str
    id: str
    question: str
    options: tuple[tuple[str, str], ...]
    truth: str
    thumbnail: Thumbnail
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class AnswerPart:
    """One benchmark's stored answers: how many the subject has right, and the first of each."""

    score: str
    count: int
    right_count: int
    right: tuple[AnswerCard, ...]
    wrong: tuple[AnswerCard, ...]


def arm_tones(arms: Sequence[str], subject: str | None, baseline: str | None) -> dict[Any, int]:
    """A colour number per arm: 0 the baseline, 1 the subject, then the others.

    None is the shared part of the graph and takes the subject's.
    """
    tones: dict[Any, int] = {None: 1, baseline: 0}
    tones[subject] = 1
    free = iter(range(2, 99))
    for arm in arms:
        if arm not in tones:
            tones[arm] = 2 + (next(free) - 2) % 4
    return tones


def view_scores(summary: Mapping[str, Any], tones: Mapping[Any, int]) -> list[ScorePanel]:
    """A panel per score that counts."""
    arms, verdicts = scored_arms(summary), claims.verdicts(summary)
    names = dict.fromkeys(n for arm in arms for n in main_scores(summary[arm]))
    panels = []
    for name in names:
        rows = []
        for arm in (a for a in arms if name in summary[a]["per_seed"]):
            mean, interval = summary[arm][name], summary[arm]["interval"][name]
            chart = charts.score_track(
                mean, interval, summary[arm]["per_seed"][name], tones.get(arm, 1), arm
            )
            rows.append(ScoreRow(arm, tones.get(arm, 1), mean, interval, chart))
        skill, rule = claims.score_words(name)
        over = {summary[a]["interval_over"].get(name) for a in arms} - {None}
        kind = over.pop() if len(over) == 1 else "seeds or questions"
        own = tuple(v for v in verdicts if v.score == name)
        panels.append(ScorePanel(skill, rule, tuple(rows), kind, own))
    return panels


def view_differences(summary: Mapping[str, Any], tones: Mapping[Any, int]) -> list[DifferenceRow]:
    """Every arm minus the baseline, on every score that counts."""
    found = []
    for arm in scored_arms(summary):
        table = summary[arm].get("difference") or {}
        found += [(arm, n, d) for n, d in table.items() if n in main_scores(summary[arm])]
    reach = max([0.05, *(abs(v) for _, _, d in found for v in (d["mean"], *(d["interval"] or ())))])
    reach = min(reach, 1.0)
    return [
        DifferenceRow(
            arm=arm,
            score=claims.score_label(name),
            mean=d["mean"],
            interval=d["interval"],
            outcome=claims.outcome_of(d),
            per_seed=", ".join(f"{s}: {numbers.signed(v)}" for s, v in d["per_seed"].items()),
            chart=charts.difference_track(d["mean"], d["interval"], tones.get(arm, 1), reach),
        )
        for arm, name, d in found
    ]


def view_groups(summary: Mapping[str, Any]) -> list[GroupTable]:
    """Subsets that were scored apart, e.g. words seen and never seen in training."""
    arms = scored_arms(summary)
    tables = []
    names = dict.fromkeys(n for a in arms for n in summary[a]["groups"])
    for name in names:
        of_arm = {a: summary[a]["groups"].get(name, {}) for a in arms}
        rows = []
        for group in dict.fromkeys(g for table in of_arm.values() for g in table):
            entries = [of_arm[a].get(group) for a in arms]
            count = next((e["n"] for e in entries if e), None)
            cells = tuple((e["score"], e["interval"]) if e else None for e in entries)
            rows.append((str(group), count, cells))
        tables.append(GroupTable(claims.score_label(name), tuple(arms), tuple(rows)))
    return tables


def view_strip(run: Run) -> list[StripItem]:
    """The pipeline: one item per stage in order, with what it handled and how long it took."""
    nodes = [n for n in run.nodes if n.kind != "report"]
    total = sum(n.seconds for n in nodes) or 1.0
    items = []
    for stage in dict.fromkeys(n.stage for n in nodes):
        of_stage = [n for n in nodes if n.stage == stage]
        done = [n for n in of_stage if n.is_done]
        spent = sum(n.seconds for n in of_stage)
        items.append(
            StripItem(
                stage=stage,
                kind=of_stage[0].kind,
                count=stage_count(done[0]) if done else "",
                runs=len(of_stage),
                seconds=spent,
                share=spent / total,
                is_reused=bool(done) and all(n.is_reused for n in done),
                is_done=len(done) == len(of_stage),
            )
        )
    return items


def stage_count(node: RunNode) -> str:
    """What one node handled, in words: `5,000 → 4,100 rows`."""
    folder = node.folder
    if node.kind == "process":
        funnel = read_mapping(folder / "funnel.json")
        rows_in, rows_out = number(funnel.get("rows_in")), number(funnel.get("rows_out"))
        return f"{numbers.count(rows_in)} → {numbers.count(rows_out)} rows" if rows_in else ""
    if node.kind == "evaluate":
        metrics = read_mapping(folder / "metrics.json")
        asked = [number(m.get("n")) for m in metrics.values() if isinstance(m, Mapping)]
        return f"{numbers.count(sum(n for n in asked if n))} questions" if asked else ""
    if node.kind == "render":
        rows = sum(1 for _ in read_lines(folder / "seed.jsonl"))
        return f"{rows:,} seed rows" if rows else ""
    samples = number(read_mapping(folder / "summary.json").get("samples"))
    return f"{numbers.count(samples)} samples" if samples else ""


def view_answers(
    run: Run,
    stage: str,
    arms: Sequence[str],
    subject: str,
    anchors: Anchors,
    thumbnails: Thumbnails,
    each: int,
) -> list[AnswerPart]:
    """Per benchmark, the first `each` answers the subject got right and wrong, in file order.

    The first seed of every arm answers; the same question stands once with all arms.
    """
    nodes: dict[str, RunNode] = {}
    for node in run.of_kind("evaluate"):
        for arm in arms_of(node) if node.stage == stage else ():
            if arm in arms:
                nodes.setdefault(arm, node)
    tables = {arm: _examples(node) for arm, node in nodes.items()}
    parts = []
    own = tables.get(subject, {})
    for benchmark in dict.fromkeys(key[0] for key in own):
        keys = [k for k in own if k[0] == benchmark]
        right = [k for k in keys if _credit(own[k]) >= 0.5]
        wrong = [k for k in keys if _credit(own[k]) < 0.5]
        shown = [
            tuple(_answer_card(k, nodes[subject], tables, run, anchors, thumbnails) for k in some)
            for some in (right[:each], wrong[:each])
        ]
        name = "mmbench_circular" if benchmark == "mmbench" else benchmark
        parts.append(AnswerPart(claims.score_label(name), len(keys), len(right), *shown))
    return parts


def notes_of(run: Run, stage: str) -> tuple[str, bool]:
    """The evaluate stage's note and whether it says that answers were memorised.

    The page says that word itself, so a note that only opens with it loses it.
    """
    note = str(run.stage(stage).get("note") or "")
    return re.sub(r"^memori[sz]ed[.:,;]?\s*", "", note, flags=re.I), "memori" in note.lower()


def reproduce_command(run: Run) -> str:
    """The command that gives this run, from the environment's record where it has one."""
    for key in ("command", "argv"):
        given = run.env.get(key)
        if isinstance(given, str) and given:
            return given
        if isinstance(given, list) and given:
            return shlex.join(str(part) for part in given)
    return "vlforge run recipe.yaml"


def flat_facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs, long values cut."""
    facts: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            facts += flat_facts(value, f"{name}.")
        elif isinstance(value, list):
            facts.append((name, shorten(" ".join(str(v) for v in value), 300)))
        else:
            facts.append((name, shorten(str(value), 300)))
    return facts[:200]


def picture_roots(run: Run, node: RunNode) -> tuple[Path, ...]:
    """Folders that relative picture paths of `node` may start from."""
    given = [run.stage(n.stage).get("dataset_path") for n in (node, *run.ancestors(node))]
    named = [Path(str(g)).expanduser().parent for g in given if g and "$" not in str(g)]
    return (node.folder, *(n.folder for n in run.ancestors(node)), *named)


def _examples(node: RunNode) -> dict[tuple[str, str], dict[str, Any]]:
    lines = read_lines(node.folder / "examples.jsonl", 2000)
    return {(str(e.get("benchmark")), str(e.get("id"))): e for e in lines}


def _credit(entry: Mapping[str, Any]) -> float:
    return number(entry.get("credit")) or (1.0 if entry.get("credit") is True else 0.0)


def _answer_card(
    key: tuple[str, str],
    node: RunNode,
    tables: Mapping[str, Mapping[tuple[str, str], dict[str, Any]]],
    run: Run,
    anchors: Anchors,
    thumbnails: Thumbnails,
) -> AnswerCard:
    entry = next(table[key] for table in tables.values() if key in table)
    options = _options(entry.get("options"))
    answers = tuple(
        Answer(
            arm, _named_choice(str(table[key].get("prediction", "")), options), _credit(table[key])
        )
        for arm, table in tables.items()
        if key in table
    )
    image = entry.get("image")
    return AnswerCard(
        anchor=anchors.take("answer", *key),
        id=key[1],
        question=shorten(str(entry.get("question", "")), 240),
        options=options,
        truth=_named_choice(_truth(entry.get("answers")), options),
        thumbnail=thumbnails.make(str(image) if image else None, picture_roots(run, node)),
        answers=answers,
    )


def _options(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple((str(k), shorten(str(v), 80)) for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return tuple(("ABCDEFGHIJ"[k], shorten(str(v), 80)) for k, v in enumerate(value[:10]))
    return ()


def _truth(answers: Any) -> str:
    if isinstance(answers, list) and answers:
        return Counter(str(a) for a in answers).most_common(1)[0][0]
    return "" if answers is None else str(answers)


def _named_choice(answer: str, options: Sequence[tuple[str, str]]) -> str:
    """`A` as `A red`; anything else as it is."""
    named = dict(options).get(answer.strip())
    return shorten(f"{answer.strip()} {named}" if named else answer, 160)
