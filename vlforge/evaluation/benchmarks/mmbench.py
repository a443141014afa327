"""MMBench and CCBench: multiple choice, right only when every rotation of the options is.

Source: open-compass/VLMEvalKit@e8e78f0 (mcq_circular_eval), LLaVA model_vqa_mmbench.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from vlforge.evaluation.benchmarks import UNJUDGED, Judging, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.judge import judged_choice
from vlforge.evaluation.metrics.choices import EXTRACTORS, vlmevalkit
from vlforge.evaluation.question_files import LETTER_ANSWER
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import part_of
from vlforge.evaluation.sheets import write_xlsx
from vlforge.evaluation.tables import read_table
from vlforge.types import DataError, RecipeError

ROTATION = 1_000_000
"""Rotation r of question i has index i + r * 1e6."""
ASK = LETTER_ANSWER
ASK_ZH = "请直接回答选项字母。"
_LMMS_EVAL_ZH = "请直接使用所提供的选项字母作为答案回答。"
PROMPTS = ("auto", "llava", "mgm", "xtuner", "vlmevalkit", "lmms-eval")
SHORT = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
PROTOCOLS = tuple(EXTRACTORS)
MODES = ("circular", "vanilla")
NOT_UPLOADED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION_AT = 6
_CHINESE = re.compile("[\u4e00-\u9fff]")
_REFERENCE_LENGTH = 64
_LARGEST_IMAGE = 64 << 20


def read(spec: BenchmarkSpec) -> list[Question]:
    """The table's rows as questions, in LLaVA's words unless `prompt` names another system's.

    Raises:
        RecipeError: a prompt that is none of `PROMPTS`.
        DataError: no table, a missing column, an index that is none or stands twice,
            a broken picture; names file and index.
    """
    if spec.prompt not in PROMPTS:
        raise RecipeError(f"mmbench has no prompt {spec.prompt!r}; known: {', '.join(PROMPTS)}")
    path = Path(spec.questions)
    rows = read_table(path, ("index", "question", "A"))
    if not rows:
        raise DataError(f"{path}: holds no question")
    pictures = _Pictures({row["index"]: row for row in rows}, path)
    found: dict[str, Question] = {}
    for row in rows:
        question = _question(row, pictures, path, spec.prompt)
        if question.id in found:
            raise DataError(f"{path}: index {question.id} stands twice")
        found[question.id] = question
    return list(found.values())


def options_of(
    row: Mapping[str, str], *, compat: Literal["llava", "xtuner"] | None = None
) -> dict[str, str]:
    """Every letter A to Z that has a text; a gap ends nothing, "None" and "nan" are texts.

    `compat="llava"`: A to D up to the first that is empty, "nan" or "none". "xtuner":
    without the texts that its table library takes for no value.
    """
    if compat == "llava":
        texts = {letter: row.get(letter, "") for letter in "ABCD"}
        return dict(takewhile(lambda option: not _is_none(option[1]), texts.items()))
    letters = map(chr, range(ord("A"), ord("Z") + 1))
    found = {letter: row[letter] for letter in letters if row.get(letter)}
    if compat == "xtuner":
        return {letter: text for letter, text in found.items() if text not in _READ_AS_MISSING}
    return found


_READ_AS_MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a"
    "|nan|null".split("|")
)
"""What pandas reads as an empty cell unless it is told not to."""


def _is_none(text: str) -> bool:
    return text.lower() in ("", "nan", "none")


def prompt_of(
    row: Mapping[str, str],
    *,
    language: Literal["auto", "en", "zh"] = "auto",
    style: str = "auto",
    otherwise: tuple[str, str] | None = None,
) -> str:
    """What the model is asked: hint, question, lettered options, and the request for a letter.

    Args:
        language: of the request; auto is Chinese where the question holds Chinese.
        style: whose words, of `PROMPTS`. "auto" is LLaVA's with every option that the row
            has; "llava" and "mgm" stop where LLaVA does.
        otherwise: the request of a row without options, in English and Chinese.

    Sources: LLaVA model_vqa_mmbench, xtuner tools/mmbench, VLMEvalKit image_mcq,
    lmms-eval tasks/mmbench (which words its Chinese sets' options in English too).
    """
    rule: Any = "llava" if style in ("llava", "mgm") else "xtuner" if style == "xtuner" else None
    options = options_of(row, compat=rule)
    hint = row.get("hint", "")
    if (rule == "llava" and _is_none(hint)) or (rule == "xtuner" and hint in _READ_AS_MISSING):
        hint = ""
    lettered = [f"{letter}. {text}" for letter, text in options.items()]
    if language == "auto":
        whole = "\n".join([hint, row["question"], *lettered])
        language = "zh" if _CHINESE.search(whole) else "en"
    if style == "vlmevalkit":
        return _vlmevalkit_prompt(hint, row["question"], lettered)
    if style == "lmms-eval":
        return _lmms_eval_prompt(hint, row["question"], options, language)
    asks = (ASK, ASK_ZH) if options or otherwise is None else otherwise
    lines = [*filter(None, [hint]), row["question"], *lettered, asks[language == "zh"]]
    return "\n".join(lines)


def _vlmevalkit_prompt(hint: str, question: str, lettered: Sequence[str]) -> str:
    lines = [f"Hint: {hint}"] if hint else []
    lines.append(f"Question: {question}")
    if lettered:
        request = "Please select the correct answer from the options above. "
        lines += ["Options:", *lettered, request]
    return "\n".join(lines) + "\n"


def _lmms_eval_prompt(hint: str, question: str, options: Mapping[str, str], language: str) -> str:
    lines = ["There are several options:"]
    lines += [f"{c}. {text}" for c, text in options.items() if c in "ABCDE" and text != "nan"]
    words = " ".join(filter(None, ["" if hint == "nan" else hint, question, "\n".join(lines)]))
    return f"{words}\n\n{_LMMS_EVAL_ZH if language == 'zh' else ASK}"


def rotations(
    row: Mapping[str, str], *, compat: Literal["llava"] | None = None
) -> list[dict[str, str]]:
    """The row with its options in every cyclic order, their old letters under `letters`.

    Round r lists option r first; round 0 is the row itself. LLaVA's `--all-rounds`.
    """
    options = options_of(row, compat=compat)
    letters, texts = list(options), list(options.values())
    rounds = []
    for first in range(len(letters)):
        turned = texts[first:] + texts[:first]
        order = letters[first:] + letters[:first]
        options_now = dict(zip(letters, turned, strict=True))
        rounds.append({**row, **options_now, "letters": "".join(order)})
    return rounds


def knows(rule: str) -> bool:
    """Whether `rule` names a protocol of this benchmark."""
    mode, _, extractor = _split(rule)
    return (mode or "circular") in MODES and (extractor or "vlforge") in PROTOCOLS


def protocol_name(questions: Sequence[Question], rule: str) -> str:
    """`mmbench@circular/vlforge`; vanilla where no question has a second rotation.

    `+prompt=NAME` where the words are not ours.
    """
    mode, extractor = _rule(rule, questions)
    style = questions[0].facts["prompt"] if questions else "auto"
    return f"mmbench@{mode}/{extractor}{'' if style == 'auto' else f'+prompt={style}'}"


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Circular, with vanilla (first rotation) and all rows beside it.

    A group's credit is 1 when the letter read from each of its rows is the
    answer. Groups whose first rotation is absent are left out, as VLMEvalKit
    does; groups that lack rotations count as `incomplete`: they are easier,
    and strict scoring refuses them.
    """
    mode, extractor = _rule(rule, questions)
    extract = EXTRACTORS[extractor]
    letters = {q.id: extract(said[q.id], q.options) if q.id in said else None for q in questions}
    for key, verdict in verdicts.items():
        if key in letters and letters[key] is None:
            letters[key] = verdict.get("letter")
    judges = {str(verdict.get("judge", "?")) for verdict in verdicts.values()}
    judged = f"/judge={','.join(sorted(judges))}" if judges else ""
    hits = {q.id: letters[q.id] is not None and letters[q.id] == q.answers[0] for q in questions}
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    groups = {name: rows for name, rows in groups.items() if any(q.id == name for q in rows)}
    first = {name: next(q for q in rows if q.id == name) for name, rows in groups.items()}
    circular = {name: float(all(hits[q.id] for q in rows)) for name, rows in groups.items()}
    vanilla = {name: float(hits[question.id]) for name, question in first.items()}
    credits = circular if mode == "circular" else vanilla
    short = [n for n, rows in groups.items() if mode == "circular" and not _is_whole(rows)]
    fields: dict[str, object] = {
        "score": None,
        "n": len(groups),
        "missing": sum(q.id not in said for q in questions),
        "unparsed": sum(q.id in said and letters[q.id] is None for q in questions),
        "protocol": protocol_name(questions, rule) + judged,
        "interval": None,
        "rows": len(questions),
        "incomplete": len(short),
    }
    if not all(question.answers[0] for question in questions):
        return Score(fields, {}, letters)
    fields |= {
        **part_of(list(first.values()), credits),
        "circular": _mean(circular.values()),
        "vanilla": _mean(vanilla.values()),
        "vanilla_all": _mean(float(hit) for hit in hits.values()),
        "groups": _by_label(first, credits),
        "splits": report(first, credits),
    }
    problem = f"{len(short)} questions lack rotations, first {short[0]}" if short else None
    return Score(fields, credits, letters, problem)


def matcher(questions: Sequence[Question]) -> Callable[[Mapping[str, Any]], str | None]:
    """Finds the rotation that a row of LLaVA's `--all-rounds` answers, by its options."""
    by_group: dict[str, dict[tuple[str, ...], str]] = {}
    for question in questions:
        shown = tuple(question.options.values())
        by_group.setdefault(question.group, {})[shown] = question.id

    def find(row: Mapping[str, Any]) -> str | None:
        options = row.get("options")
        if not row.get("round_id") or not isinstance(options, list):
            return None
        group = str(row.get("question_id"))
        shown = tuple(map(str, options))
        return by_group.get(group, {}).get(shown, f"{group} round {row['round_id']}")

    return find


def judging(question: Question, answer: str, rule: str) -> Judging | None:
    """Asks which option an answer means that exact matching cannot read."""
    if vlmevalkit(answer, question.options) is not None:
        return None
    return judged_choice(question.asked, question.options, answer)


def upload(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """The sheet that MMBench's server takes, as LLaVA writes it.

    Raises:
        VLForgeError: openpyxl is not installed.
        DataError: an answer that a cell cannot hold.
    """
    rows = [question.facts["row"] for question in questions]
    write_xlsx(target, *upload_cells(rows, said))


def upload_cells(
    rows: Sequence[Mapping[str, str]], said: Mapping[str, str]
) -> tuple[list[str], list[list[Any]]]:
    """The upload's columns and rows, `prediction` seventh, filled by index.

    Columns that the reference drops and this table lacks are passed over; a
    missing option or prediction is None.

    Source: LLaVA scripts/convert_mmbench_for_submission.py.
    """
    columns = [c for c in (rows[0] if rows else {}) if c not in NOT_UPLOADED]
    columns.insert(min(_PREDICTION_AT, len(columns)), "prediction")
    filled = []
    for row in rows:
        cells: dict[str, Any] = {k: v or None for k, v in row.items()}
        cells["index"] = int(row["index"])
        cells["prediction"] = said.get(row["index"])
        filled.append([cells.get(column) for column in columns])
    return columns, filled


def xtuner_sheet(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """`mmbench_result.xlsx` with XTuner's columns, which keep the categories.

    Source: InternLM/xtuner@v0.1.23 (tools/mmbench.py), whose `split` stays empty.

    Raises:
        VLForgeError: openpyxl is not installed.
        DataError: an answer that a cell cannot hold.
    """
    rows = [question.facts["row"] for question in questions]
    letters = sorted({key for row in rows for key in row if re.fullmatch("[A-Z]", key)})
    kinds = [key for key in ("category", "l2-category") if any(row.get(key) for row in rows)]
    columns = ["question", *letters, "prediction", *kinds, "index", "split", "answer"]
    filled = []
    for row in rows:
        own = {"prediction": said.get(row["index"]), "index": int(row["index"])}
        filled.append([own.get(key, row.get(key) or None) for key in columns])
    write_xlsx(target, columns, filled)


EXPORTS = {"upload": upload, "xtuner": xtuner_sheet}


def _is_whole(rows: Sequence[Question]) -> bool:
    """Whether every option that moves has stood in every place.

    MMBench keeps a last option such as "all of the above" in its place.
    """
    if len(rows) == 1:
        return len(rows[0].options) < 2
    letters = rows[0].options
    moving = [c for c in letters if len({row.options.get(c) for row in rows}) > 1]
    return len(rows) >= len(moving)


def report(
    first: Mapping[str, Question], credits: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """VLMEvalKit's table: per split the overall mean, then l2-categories, then categories."""
    splits: dict[str, dict[str, list[float]]] = {}
    for name, question in first.items():
        row = splits.setdefault((*question.labels_of("split"), "none")[0], {"Overall": []})
        row["Overall"].append(credits[name])
        for kind in ("l2-category", "category"):
            for label in question.labels_of(kind):
                row.setdefault(SHORT.get(label, label), []).append(credits[name])
    return {split: {k: _mean(v) for k, v in row.items()} for split, row in splits.items()}


def _by_label(
    first: Mapping[str, Question], credits: Mapping[str, float]
) -> dict[str, dict[str, object]]:
    found: dict[str, list[str]] = {}
    for name, question in first.items():
        for kind in ("l2-category", "category"):
            for label in question.labels_of(kind):
                found.setdefault(label, []).append(name)
    return {
        label: part_of([first[name] for name in names], credits) for label, names in found.items()
    }


def _question(
    row: Mapping[str, str], pictures: _Pictures, path: Path, style: str = "auto"
) -> Question:
    index = row["index"]
    if not index.isdigit():
        raise DataError(f"{path}: index {index!r} is no number")
    group = row.get("g_index") or str(int(index) % ROTATION)
    return Question(
        id=index,
        text=prompt_of(row, style=style),
        images=pictures.of(row),
        answers=(row.get("answer", ""),),
        options=options_of(row),
        group=group,
        labels={key: row.get(key, "") for key in ("l2-category", "category", "split")},
        asked=row["question"],
        facts={"row": {k: v for k, v in row.items() if k != "image"}, "prompt": style},
    )


class _Pictures:
    """The table's pictures, each decoded once however many rows show it."""

    def __init__(self, by_index: Mapping[str, Mapping[str, str]], path: Path):
        self.by_index = by_index
        self.path = path
        self.decoded: dict[str, bytes] = {}

    def of(self, row: Mapping[str, str]) -> tuple[bytes, ...]:
        """The row's picture, if any: base64 in its cell, or in that of the row that it names."""
        index = row["index"]
        text = row.get("image", "")
        passed = {index}
        while len(text) <= _REFERENCE_LENGTH and text.isdigit():
            index = text
            text = self.by_index.get(index, {}).get("image", "")
            if not text or index in passed:
                raise DataError(
                    f"{self.path}: index {row['index']} takes its picture from row {index}, "
                    "which has none"
                )
            passed.add(index)
        if not text:
            return ()
        if index not in self.decoded:
            self.decoded[index] = self._decode(text, index)
        return (self.decoded[index],)

    def _decode(self, text: str, index: str) -> bytes:
        if len(text) > _LARGEST_IMAGE * 4 // 3:
            limit = _LARGEST_IMAGE >> 20
            raise DataError(f"{self.path}: index {index}: its picture is larger than {limit} MB")
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise DataError(f"{self.path}: index {index}: its picture is no base64") from None


def _split(rule: str) -> tuple[str | None, str, str | None]:
    """Mode, separator and extractor of `mmbench@circular/vlforge`, each part optional."""
    bare = rule.removeprefix("mmbench@").partition("+prompt=")[0]
    if bare == "auto":
        return None, "", None
    if bare in MODES:
        return bare, "", None
    mode, slash, extractor = bare.partition("/")
    return (mode, slash, extractor) if slash else (None, "", bare)


def _rule(rule: str, questions: Sequence[Question]) -> tuple[str, str]:
    if not knows(rule):
        known = f"[{' | '.join(MODES)}]/[{' | '.join(PROTOCOLS)}]"
        raise RecipeError(f"mmbench has no protocol {rule!r}; known: {known}")
    mode, _, extractor = _split(rule)
    if mode is None:
        turned = any(question.id != question.group for question in questions)
        mode = "circular" if turned else "vanilla"
    return mode, extractor or "vlforge"


def _mean(values: object) -> float:
    listed = list(values)  # type: ignore[call-overload]
    return float(sum(listed) / len(listed)) if listed else 0.0
