"""Asks and scores benchmarks in four steps with files between them.

prompts -> predictions (append-only while asking) -> extracted -> metrics. Each
step reads the file before it, so scoring again needs no model. An answer counts
only for the model, the settings and the prompt that it was given to.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlforge import __version__
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.metrics.intervals import interval
from vlforge.evaluation.questions import Question, Score
from vlforge.types import (
    Chat,
    DataError,
    LogFn,
    ProgressFn,
    RecipeError,
    Sample,
    Turn,
    no_log,
    no_progress,
)

_HEADS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
EXAMPLES = 40
"""Questions per benchmark that `examples.jsonl` shows."""
_TIMES = frozenset({"done.json", "timing.json"})
"""Files beside a model that differ from run to run."""
_SLICE = 1 << 16


def evaluate(
    config: EvalConfig,
    out: Path,
    *,
    chat: Chat,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Ask every question that has no prediction yet, then score; give what `metrics.json` holds.

    Raises:
        DataError: a benchmark file that cannot be used, a picture that is not there,
            answers of another model in `out`; with `strict`, missing predictions.
        RecipeError: two benchmarks under one name, or a protocol nobody knows.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_specs(config.benchmarks)
    sets = [(spec.key, _module(spec).read(spec)) for spec in config.benchmarks]
    settings = _settings(config)
    _guard_answers(out, [key for key, _ in sets], settings)
    images = {key: _place_pictures(questions, out) for key, questions in sets}
    _write_json(out / "settings.json", settings)
    asking = _Asking(chat, config, out, progress, sum(len(questions) for _, questions in sets))
    for key, questions in sets:
        _write_lines(out / f"prompts.{key}.jsonl", _prompt_rows(questions, images[key]))
        new = asking.ask(key, questions, images[key])
        log({"event": "asked", "benchmark": key, "questions": len(questions), "new": new})
    return score_folder(out, strict=config.strict)


def score_folder(
    out: Path,
    *,
    protocol: str = "auto",
    benchmarks: Sequence[BenchmarkSpec] | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Extract and score the predictions that lie in `out`.

    Args:
        protocol: overrules the protocol of every benchmark that knows it.
        benchmarks: the files to score against; else as the folder's settings say.
        strict: refuse missing answers and incomplete rotations.

    Raises:
        DataError: nothing to score, or what `strict` refuses.
        RecipeError: a protocol that no benchmark here knows.
    """
    settings = _read_json(out / "settings.json")
    specs = benchmarks or [BenchmarkSpec(**spec) for spec in settings["benchmarks"]]
    _check_specs(specs, protocol)
    metrics: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
    for spec in specs:
        module = _module(spec)
        questions = module.read(spec)
        said = _said(out / f"predictions.{spec.key}.jsonl", questions)
        rule = protocol if protocol != "auto" and module.knows(protocol) else spec.protocol
        score = module.score(questions, said, rule)
        if strict:
            _refuse(spec, questions, said, score)
        rows = ({"id": q.id, "extracted": score.extracted.get(q.id)} for q in questions)
        _write_lines(out / f"extracted.{spec.key}.jsonl", rows)
        metrics[spec.key] = _fields(spec, questions, score, settings)
        examples += _examples(spec.key, questions, said, score)
    _write_lines(out / "examples.jsonl", examples)
    _write_json(out / "metrics.json", metrics)
    return metrics


def _module(spec: BenchmarkSpec) -> Any:
    return importlib.import_module(f"vlforge.evaluation.benchmarks.{spec.name}")


def _check_specs(specs: Sequence[BenchmarkSpec], protocol: str = "auto") -> None:
    keys = [spec.key for spec in specs]
    for key in keys:
        if keys.count(key) > 1:
            raise RecipeError(f"two benchmarks are called {key!r}; give one of them a label")
    for spec in specs:
        if not _module(spec).knows(spec.protocol):
            _module(spec).protocol_name([], spec.protocol)
    if protocol != "auto" and not any(_module(spec).knows(protocol) for spec in specs):
        _module(specs[0]).protocol_name([], protocol)


def _said(path: Path, questions: Sequence[Question]) -> dict[str, str]:
    """Answer by question id; an answer to another prompt under the same id is none."""
    asked = {question.id: question.fingerprint() for question in questions}
    rows = _read_lines(path)
    return {row["id"]: row["text"] for row in rows if _fits(row, asked)}


def _fits(row: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    return row["id"] in asked and row.get("asked", asked[row["id"]]) == asked[row["id"]]


def _refuse(
    spec: BenchmarkSpec, questions: Sequence[Question], said: Mapping[str, str], score: Score
) -> None:
    missing = [question.id for question in questions if question.id not in said]
    if missing:
        raise DataError(
            f"{spec.key}: {len(missing)} questions have no answer, first {missing[0]}; "
            "ask them, or score without strict"
        )
    if score.problem:
        raise DataError(f"{spec.key}: {spec.questions}: {score.problem}; score without strict")


def _place_pictures(questions: Sequence[Question], out: Path) -> dict[str, str | None]:
    """Question id -> path of its picture; bytes are written under `images/`, each once.

    Raises:
        DataError: pictures that are not there, or bytes that are none.
    """
    places: dict[str, str | None] = {}
    lost = [q.image for q in questions if isinstance(q.image, str) and not Path(q.image).is_file()]
    if lost:
        raise DataError(f"{lost[0]}: no such picture ({len(lost)} missing); name their folder")
    for question in questions:
        if isinstance(question.image, bytes):
            path = out / _picture_name(question, question.image)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                temporary = path.with_suffix(".tmp")
                temporary.write_bytes(question.image)
                os.replace(temporary, path)
            places[question.id] = str(path)
        else:
            places[question.id] = question.image
    return places


def _picture_name(question: Question, image: bytes) -> str:
    """Where the picture lies in the folder.

    Raises:
        DataError: the bytes begin like no picture.
    """
    for head, ending in _HEADS.items():
        if image.startswith(head):
            return f"images/{question.picture_key()}.{ending}"
    raise DataError(f"question {question.id}: its picture is no PNG, JPEG, GIF, WebP or BMP")


def _prompt_rows(
    questions: Iterable[Question], images: Mapping[str, str | None]
) -> Iterable[dict[str, Any]]:
    for question in questions:
        image = images[question.id]
        name = Path(image).name if image else None
        # In LLaVA's TextVQA files a picture's questions share their id.
        theirs = int(question.id) if question.options else question.group
        yield {"id": question.id, "question_id": theirs, "prompt": question.text, "image": name}


@dataclass
class _Asking:
    """Asks benchmark after benchmark and says how far it is."""

    chat: Chat
    config: EvalConfig
    out: Path
    progress: ProgressFn
    total: int
    done: int = 0

    def ask(self, key: str, questions: Sequence[Question], images: Mapping[str, str | None]) -> int:
        """Append a line per answer that is not there yet; give how many those were.

        At the end the file is put in the questions' order, so that a stopped and
        continued run leaves the same bytes.
        """
        path = self.out / f"predictions.{key}.jsonl"
        asked = {question.id: question.fingerprint() for question in questions}
        lines = _read_lines(path, mend=True) if path.exists() else []
        rows = {row["id"]: row for row in lines if _fits(row, asked)}
        left = [question for question in questions if question.id not in rows]
        self.progress(self.done + len(rows), self.total, key)
        size = self.config.batch
        with path.open("a", encoding="utf-8") as file:
            for start in range(0, len(left), size):
                batch = left[start : start + size]
                samples = [_sample(question, images[question.id]) for question in batch]
                answers = self.chat.answer(samples, self.config.max_new_tokens)
                for question, answer in zip(batch, answers, strict=True):
                    row = {
                        "id": question.id,
                        "text": answer.text,
                        "confidence": round(answer.confidence, 4),
                        "asked": asked[question.id],
                    }
                    rows[question.id] = row
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                self.progress(self.done + len(rows), self.total, key)
        _write_lines(path, [rows[question.id] for question in questions])
        self.done += len(questions)
        return len(left)


def _sample(question: Question, image: str | None) -> Sample:
    text = f"<image>\n{question.text}" if image else question.text
    return Sample(question.id, (image,) if image else (), (Turn("user", text),))


def _guard_answers(out: Path, keys: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Answers of another model or with other settings are neither kept as ours nor lost."""
    path = out / "settings.json"
    if not path.is_file() or not any((out / f"predictions.{key}.jsonl").is_file() for key in keys):
        return
    before = _read_json(path)
    for part in ("model", "generation"):
        if before.get(part) != settings[part]:
            raise DataError(
                f"{out}: holds answers made with another {part}; give another folder, "
                "or delete its predictions to ask again"
            )


def _model_identity(folder: Path) -> str:
    """Equal for equal model folders wherever they lie; the given name where there is none.

    Small files count whole, large ones by size and three slices; records of how
    long the training took do not count.
    """
    if not folder.is_dir():
        return str(folder)
    digest = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in _TIMES)
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}\n".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, size - _SLICE) if size > 3 * _SLICE else (0,):
                file.seek(start)
                digest.update(file.read(_SLICE if size > 3 * _SLICE else size))
    return digest.hexdigest()[:16]


def _settings(config: EvalConfig) -> dict[str, Any]:
    """What predictions were made with."""
    return {
        "model": _model_identity(Path(config.model)),
        "benchmarks": [asdict(spec) for spec in config.benchmarks],
        "generation": {
            "template": config.template,
            "max_new_tokens": config.max_new_tokens,
            "sampling": "greedy",
            "precision": config.precision,
        }
        | ({} if config.quantise == "none" else {"quantise": config.quantise}),
        "note": config.note,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"vlforge": __version__}
    for name in ("torch", "transformers", "pillow"):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _fields(
    spec: BenchmarkSpec, questions: Sequence[Question], score: Score, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A benchmark's part of `metrics.json`."""
    prompts = "\0".join(question.text for question in questions)
    return {
        **score.fields,
        "groups": {**score.fields.get("groups", {}), **_groups(spec, questions, score)},
        "model": settings["model"],
        "prompt_hash": hashlib.sha256(prompts.encode()).hexdigest()[:16],
        "data_hash": _digest(spec.questions, spec.annotation),
        "generation": settings["generation"],
        "note": settings.get("note", ""),
        "versions": settings["versions"],
    }


def _groups(
    spec: BenchmarkSpec, questions: Sequence[Question], score: Score
) -> dict[str, dict[str, Any]]:
    """Scores of the subsets that the `groups` file names, of those ids that were scored."""
    if not spec.groups:
        return {}
    pictures = {q.id: q.picture_key() for q in questions}
    found = {}
    for name, ids in _read_json(Path(spec.groups)).items():
        scored = [i for i in map(str, ids) if i in score.credits and i in pictures]
        credits = [score.credits[i] for i in scored]
        if score.credits and ids and not credits:
            raise DataError(f"{spec.groups}: group {name!r} names no question of {spec.key}")
        if credits:
            low, high = interval(credits, [pictures[i] for i in scored])
            mean = sum(credits) / len(credits)
            found[name] = {"score": mean, "n": len(credits), "interval": [low, high]}
    return found


def _examples(
    key: str, questions: Sequence[Question], said: Mapping[str, str], score: Score
) -> list[dict[str, Any]]:
    """The first questions that were scored, with their answers, for the report."""
    rows = []
    for question in [q for q in questions if q.id in score.credits][:EXAMPLES]:
        image = question.image
        if isinstance(image, bytes):
            image = _picture_name(question, image)
        row = {
            "benchmark": key,
            "id": question.id,
            "question": question.asked or question.text,
            "answers": sorted(set(question.answers)),
            "prediction": said.get(question.id),
            "credit": score.credits[question.id],
            "image": image,
        }
        rows.append({**row, "options": dict(question.options)} if question.options else row)
    return rows


def _digest(*paths: str | None) -> str:
    digest = hashlib.sha256()
    for path in filter(None, paths):
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _read_lines(path: Path, *, mend: bool = False) -> list[dict[str, Any]]:
    """The file's rows; `mend` cuts off a last line that a kill left unfinished."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; ask first with `vlforge eval run`") from None
    whole = data[: data.rfind(b"\n") + 1]
    if mend and len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: a broken line ({error}); delete the file and ask again") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; was it made by `vlforge eval run`?") from None
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error})") from None


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
