"""Captions against references: CIDEr-D, BLEU, ROUGE-L; METEOR and SPICE where Java has them.

`annotation` is COCO's captions json, or a json / jsonl of `{image id: [captions]}` or of
objects with `image_id` (or `id`, `image`) and `caption` (or `captions`, `references`).
PaddleMIX's `val.json` (`conversations: [[question, caption]]`, `image` in base64) is read as
it is, and `prompt: auto` asks each row's own question.
The protocol is the tokeniser: `ptb` as pycocoevalcap for English, `char` for Chinese.
`metric` chooses the headline (`cider`, `cider_plain`, `bleu1` to `bleu4`, `rouge_l`,
`meteor`, `spice`).

Sources: salaniz/pycocoevalcap 1.2; open-compass/VLMEvalKit@e8e78f0 (no tokeniser at all).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlforge.evaluation.benchmarks import UNJUDGED, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.files import write_text
from vlforge.evaluation.metrics import captions as metrics
from vlforge.evaluation.metrics import java
from vlforge.evaluation.metrics.caption_tokens import TOKENISERS, tokenised
from vlforge.evaluation.metrics.intervals import interval_of
from vlforge.evaluation.question_files import read_text
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.types import DataError, RecipeError, VLForgeError

PROTOCOLS = tuple(TOKENISERS)
_KNOWN = Protocols("captions", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
HEADLINES = (
    "cider", "cider_plain", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "meteor", "spice",
)  # fmt: skip
PROMPTS = {
    "auto": "Provide a one-sentence caption for the provided image.",
    "lmms-eval": "Provide a one-sentence caption for the provided image.",
    "vlmevalkit": (
        "Please describe this image in general. Directly provide the description, do not include "
        'prefix like "This image depicts". '
    ),
    "zh": "请描述图片内容。",
}
MAX_NEW_TOKENS = 64
_KEYS = ("image_id", "id", "image", "question_id")
_TEXTS = ("caption", "captions", "references", "refs", "answers")


def results(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """COCO's result file: `[{"image_id", "caption"}]`."""
    rows = [
        {"image_id": int(q.id) if q.id.isdigit() else q.id, "caption": said[q.id]}
        for q in questions
        if q.id in said
    ]
    write_text(target, json.dumps(rows, ensure_ascii=False))


EXPORTS = {"results": results}


def read(spec: BenchmarkSpec) -> list[Question]:
    """One question per picture, with its reference captions.

    Raises:
        DataError: a file that cannot be read, or a picture without caption.
        RecipeError: a prompt or a headline nobody knows.
    """
    if spec.prompt not in PROMPTS:
        raise RecipeError(f"captions has no prompt {spec.prompt!r}; known: {', '.join(PROMPTS)}")
    if spec.metric not in ("auto", *HEADLINES):
        known = ", ".join(HEADLINES)
        raise RecipeError(f"captions has no metric {spec.metric!r}; known: {known}")
    path = Path(spec.annotation or spec.questions)
    folder = Path(spec.images) if spec.images else path.parent
    pictures: dict[str, str | bytes] = {}
    asked: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for one in _references(path):
        if not one.texts:
            raise DataError(f"{one.place}: picture {one.key!r} has no caption")
        found.setdefault(one.key, []).extend(one.texts)
        name = one.picture
        pictures.setdefault(one.key, str(folder / name) if isinstance(name, str) and name else name)
        asked.setdefault(one.key, one.question if spec.prompt == "auto" else "")
    if not found:
        raise DataError(f"{path}: holds no captions")
    return [
        Question(
            id=key,
            text=asked[key] or PROMPTS[spec.prompt],
            images=(pictures[key],) if pictures[key] else (),
            answers=tuple(texts),
            facts={"metric": spec.metric},
        )
        for key, texts in found.items()
    ]


class _Reference(NamedTuple):
    """Captions of a picture and where they stand; the picture is its file's name or its bytes."""

    place: str
    key: str
    texts: list[str]
    picture: str | bytes = ""
    question: str = ""


def _references(path: Path) -> Iterator[_Reference]:
    text = read_text(path)
    try:
        value = json.loads(text)
    except ValueError:
        value = [_line(line, path, n) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        files = {str(one.get("id")): str(one.get("file_name", "")) for one in value["images"]}
        for number, row in enumerate(value["annotations"]):
            key = str(row.get("image_id"))
            place = f"{path}: annotation {number}"
            yield _Reference(place, key, _texts(row), files.get(key, ""))
    elif isinstance(value, dict):
        for key, texts in value.items():
            listed = [texts] if isinstance(texts, str) else texts
            yield _Reference(f"{path}: {key}", str(key), listed)
    else:
        for number, row in enumerate(value):
            keys = [str(row[name]) for name in _KEYS if row.get(name) is not None]
            if not keys:
                raise DataError(f"{path}: entry {number} names no picture")
            place, picture = f"{path}: entry {number}", row.get("image", "")
            if isinstance(row.get("conversations"), list):
                yield _label(place, keys[0], row["conversations"], picture)
            else:
                yield _Reference(place, keys[0], _texts(row), str(picture))


def _label(place: str, key: str, rounds: Any, picture: Any) -> _Reference:
    """A row of PaddleMIX's train.json or val.json.

    Raises:
        DataError: its one round is no question and caption, or its picture no base64.
    """
    try:
        ((question, caption),) = rounds
        content = base64.b64decode(str(picture), validate=True)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{place}: no [[question, caption]] with a picture in base64 ({error})"
        ) from None
    return _Reference(place, key, [str(caption)] if caption else [], content, str(question))


def _line(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: a broken line ({error})") from None


def _texts(row: Mapping[str, Any]) -> list[str]:
    given: Any = next((row[name] for name in _TEXTS if row.get(name)), [])
    return [given] if isinstance(given, str) else list(map(str, given))


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """All metrics of the corpus; the headline is CIDEr-D unless `metric` says otherwise.

    A picture without caption counts as an empty one, so that the rarity of words, which
    CIDEr takes from the whole corpus, does not depend on what was answered. Scores of
    another number of pictures do not compare.
    """
    name = protocol_name(questions, rule)
    how = name.partition("@")[2]
    hypotheses = tokenised(how, [said.get(q.id, "") for q in questions])
    flat = tokenised(how, [" ".join(text.split("\n")) for q in questions for text in q.answers])
    references, at = [], 0
    for question in questions:
        references.append(flat[at : at + len(question.answers)])
        at += len(question.answers)
    found = measured(hypotheses, references)
    wanted = str(questions[0].facts.get("metric", "auto")) if questions else "auto"
    headline = "cider" if wanted == "auto" else wanted
    if headline not in found:
        raise VLForgeError(f"captions: {headline} needs Java and its files; see docs/evaluation.md")
    each = found[headline].each
    extracted = {q.id: tokens or None for q, tokens in zip(questions, hypotheses, strict=True)}
    credits = {q.id: value for q, value in zip(questions, each, strict=True)}
    interval = interval_of(
        lambda sums: sums[:, 0] / sums[:, 1].clip(min=1), [[value, 1.0] for value in each],
        [question.picture_key() for question in questions],
    )  # fmt: skip
    fields: dict[str, Any] = {
        "score": found[headline].whole,
        "interval": list(interval),
        "headline": headline,
        **{metric: corpus.whole for metric, corpus in found.items()},
    }
    if headline.startswith("cider"):
        fields["scale"] = 10
    return result(name, questions, said, extracted, credits, fields=fields)


def measured(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, metrics.Corpus]:
    """Every metric that can be computed here, of tokenised captions."""
    found = {
        f"bleu{order}": corpus
        for order, corpus in enumerate(metrics.bleu(hypotheses, references), 1)
    }
    found["rouge_l"] = metrics.rouge_l(hypotheses, references)
    found["cider"] = metrics.cider_d(hypotheses, references)
    found["cider_plain"] = metrics.cider(hypotheses, references)
    programs: tuple[tuple[str, Path | None, Callable[..., metrics.Corpus]], ...] = (
        ("meteor", java.meteor_jar(), java.meteor),
        ("spice", java.spice_jar(), java.spice),
    )
    for name, jar, run in programs:
        if jar is not None:
            found[name] = run(hypotheses, references, jar)
    return found
