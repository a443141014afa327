"""MME: 14 tasks of yes or no, two questions a picture; perception of 2000, cognition of 800.

`annotation` is MME's release folder (a folder per task with `questions_answers_YN` or with
the texts beside the pictures), or a folder of its result files (`TASK.txt` of picture,
question and answer); `questions` is LLaVA's `llava_mme.jsonl` where its prompts and order
are wanted. `--answers` may be a jsonl, as everywhere.

Sources: BradyFU/Awesome-Multimodal-Large-Language-Models (MME's calculation), LLaVA@c121f04
(convert_answer_to_mme), EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.metrics import yes_no
from vlforge.evaluation.metrics.intervals import interval_of
from vlforge.evaluation.question_files import SHORT_ANSWER, question_lines, read_text
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.types import DataError

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)  # fmt: skip
COGNITION = (
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip
RULES: dict[str, Callable[[str], str | None]] = {
    "official": yes_no.mme,
    "vlforge": yes_no.vlforge,
    "vlmevalkit": yes_no.vlmevalkit,
    "lmms-eval": yes_no.lmms_eval_mme,
}
PROTOCOLS = tuple(RULES)
_KNOWN = Protocols("mme", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
_PLEASE = "Please answer yes or no."
_PICTURES = (".jpg", ".png", ".jpeg")


def results(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """A folder of MME's result files: picture, question, right answer and answer a line.

    Tabs and line ends within an answer become spaces; they would break the lines.
    """
    lines: dict[str, list[str]] = {}
    for question in questions:
        task = question.labels_of("task")[0]
        right = question.answers[0].capitalize() if question.answers else ""
        text = " ".join(said.get(question.id, "").split())
        name = str(question.facts.get("file", ""))
        lines.setdefault(task, []).append(f"{name}\t{question.asked}\t{right}\t{text}\n")
    target.mkdir(parents=True, exist_ok=True)
    for task, rows in lines.items():
        write_text(target / f"{task}.txt", "".join(rows))


EXPORTS = {"results": results}


def matcher(questions: Sequence[Question]) -> Callable[[Mapping[str, Any]], str | None]:
    """Finds the question of one of LLaVA's answers: a picture's two share their id."""
    ids = {(question.facts.get("theirs"), question.asked): question.id for question in questions}
    return lambda row: ids.get((str(row.get("question_id")), _bare(str(row.get("prompt", "")))))


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions with their answers where an annotation is given.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    annotated = list(_annotated(Path(spec.annotation))) if spec.annotation else None
    if spec.questions:
        return _of_llava(spec, annotated)
    if annotated is None:
        raise DataError("mme: give questions, annotation or both")
    folder = Path(spec.images or spec.annotation or "")
    places: dict[tuple[str, str], int] = {}
    found = []
    for task, file, asked, answer in annotated:
        number = places[task, file] = places.get((task, file), 0) + 1
        inner = folder / task / "images"
        path = (inner if inner.is_dir() else folder / task) / file
        found.append(
            _question(f"{task}/{file}#{number}", asked, task, file, answer, str(path), None)
        )
    return found


def _of_llava(
    spec: BenchmarkSpec, annotated: Sequence[tuple[str, str, str, str]] | None
) -> list[Question]:
    path = Path(spec.questions)
    folder = Path(spec.images) if spec.images else path.parent
    right = {(task, file, asked): answer for task, file, asked, answer in annotated or ()}
    found = []
    for number, row in question_lines(path):
        theirs, text = str(row["question_id"]), str(row["text"])
        task, file, asked = theirs.split("/")[0], Path(theirs).name, _bare(text)
        answer = right.get((task, file, asked), "")
        if annotated is not None and not answer:
            raise DataError(f"{path}:{number}: {theirs}: {asked!r} is not in {spec.annotation}")
        image = str(folder / str(row.get("image", theirs)))
        key = f"{theirs}#{number}"
        found.append(_question(key, text, task, file, answer, image, theirs))
    return found


def _question(
    key: str, text: str, task: str, file: str, answer: str, image: str, theirs: str | None
) -> Question:
    asked = _bare(text)
    if theirs is None:
        text = f"{asked.removesuffix(_PLEASE).rstrip()}\n{SHORT_ANSWER}"
    return Question(
        id=key,
        text=text,
        images=(image,),
        answers=(answer,) if answer else (),
        group=f"{task}/{file}",
        labels={"task": task},
        asked=asked,
        facts={"file": file, "theirs": theirs or f"{task}/{file}"},
    )


def _bare(text: str) -> str:
    """The question as MME words it: LLaVA's suffix gone, MME's own request back."""
    text = text.replace(SHORT_ANSWER, "").strip()
    return text if _PLEASE in text else f"{text} {_PLEASE}"


def _annotated(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Task, picture's name, question and answer."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give MME's release or its result files")
    found = False
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            rows = list(_of_task(entry))
        elif entry.suffix == ".txt":
            rows = list(_of_results(entry))
        else:
            continue
        found = found or bool(rows)
        yield from rows
    if not found:
        raise DataError(f"{folder}: holds no questions of MME")


def _of_task(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    texts = folder / "questions_answers_YN"
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    names = {p.stem: p.name for p in sorted(pictures.iterdir()) if p.suffix.lower() in _PICTURES}
    for file in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
        for number, line in enumerate(read_text(file).splitlines(), 1):
            asked, tab, answer = line.strip().partition("\t")
            if tab:
                yield (
                    folder.name,
                    names.get(file.stem, f"{file.stem}.jpg"),
                    *_pair(asked, answer, file, number),
                )


def _of_results(file: Path) -> Iterator[tuple[str, str, str, str]]:
    for number, line in enumerate(read_text(file).splitlines(), 1):
        cells = line.split("\t")
        if line.strip() and len(cells) < 3:
            raise DataError(
                f"{file}:{number}: {len(cells)} cells; picture, question, answer belong"
            )
        if line.strip():
            yield file.stem, cells[0], *_pair(cells[1], cells[2], file, number)


def _pair(asked: str, answer: str, file: Path, number: int) -> tuple[str, str]:
    word = answer.strip().lower()
    if word not in (yes_no.YES, yes_no.NO):
        raise DataError(f"{file}:{number}: the answer {answer!r} is neither yes nor no")
    return _bare(asked), word


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """Points: of each task 100 x accuracy + 100 x share of pictures with both answers right.

    `score` is perception and cognition together (of 2800), `perception` and `cognition`
    their sums over the tasks that are there; each picture's two rows belong together.
    """
    name = protocol_name(questions, rule)
    reads = RULES[name.partition("@")[2]]
    extracted = {q.id: reads(said[q.id]) for q in questions if q.id in said}
    if not all(question.answers for question in questions):
        return result(name, questions, said, extracted, None)
    credits = {q.id: float(extracted.get(q.id) == q.answers[0]) for q in questions}
    tasks: dict[str, dict[str, list[float]]] = {}
    for question in questions:
        pictures = tasks.setdefault(question.labels_of("task")[0], {})
        pictures.setdefault(question.group, []).append(credits[question.id])
    points = {task: _points(list(pictures.values())) for task, pictures in tasks.items()}
    perception = sum(points[task]["score"] for task in PERCEPTION if task in points)
    cognition = sum(points[task]["score"] for task in COGNITION if task in points)
    lone = [group for some in tasks.values() for group, rows in some.items() if len(rows) != 2]
    problem = f"{len(lone)} pictures have not two questions, first {lone[0]}" if lone else None
    fields = {
        "score": perception + cognition,
        "interval": list(_interval(questions, credits, list(tasks))),
        "perception": perception,
        "cognition": cognition,
        "scale": 200 * len(tasks),
        "groups": points,
    }
    return result(name, questions, said, extracted, credits, fields=fields, problem=problem)


def _points(pictures: Sequence[Sequence[float]]) -> dict[str, Any]:
    answers = [credit for rows in pictures for credit in rows]
    accuracy = sum(answers) / len(answers)
    both = sum(len(rows) > 1 and all(rows) for rows in pictures) / len(pictures)
    return {
        "score": 100 * accuracy + 100 * both,
        "n": len(answers),
        "interval": None,
        "accuracy": accuracy,
        "accuracy_plus": both,
    }


def _interval(
    questions: Sequence[Question], credits: Mapping[str, float], tasks: Sequence[str]
) -> tuple[float, float]:
    """Of the sum of points, pictures drawn anew: per task [answers, right, pictures, both]."""
    members: dict[str, list[Question]] = {}
    for question in questions:
        members.setdefault(question.group, []).append(question)
    rows = []
    for group in members.values():
        row = [0.0] * (4 * len(tasks))
        at = 4 * tasks.index(group[0].labels_of("task")[0])
        right = sum(credits[question.id] for question in group)
        row[at : at + 4] = [len(group), right, 1.0, float(right == len(group) > 1)]
        rows.append(row)

    def points(sums: Any) -> Any:
        parts = sums.reshape(len(sums), -1, 4)
        accuracy = parts[..., 1] / parts[..., 0].clip(min=1)
        return 100 * (accuracy + parts[..., 3] / parts[..., 2].clip(min=1)).sum(axis=1)

    return interval_of(points, rows, list(members))
