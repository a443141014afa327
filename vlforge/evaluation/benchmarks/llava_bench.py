"""LLaVA-Bench (in the wild): free answers, graded beside GPT-4's from the picture's caption.

`questions` is questions.jsonl, `annotation` the folder with `context.jsonl` and
`answers_gpt4.jsonl`; `images` the pictures. `eval judge` asks for reviews; LLaVA's own
review files are read as answers with their verdicts, and need no annotation.

Source: LLaVA@c121f04 (eval_gpt_review_bench, summarize_gpt_review).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.benchmarks import UNJUDGED, Judging, Protocols, Verdicts
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics.intervals import interval_of
from vlforge.evaluation.question_files import question_lines
from vlforge.evaluation.questions import Question, Score
from vlforge.evaluation.results import result
from vlforge.inference.endpoint.config import ChatRequest
from vlforge.types import DataError

PROTOCOLS = ("vlforge", "llava")
_KNOWN = Protocols("llava_bench", PROTOCOLS)
knows, protocol_name = _KNOWN.knows, _KNOWN.name
MAX_NEW_TOKENS = 1024
_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_RATE = (
    "We would like to request your feedback on the performance of two AI assistants in response "
    "to the user question displayed above. The user asks the question on observing an image. For "
    "your reference, the visual content in the image is represented with a few sentences "
    "describing the image. \nPlease rate the helpfulness, relevance, accuracy, level of details "
    "of their responses. Each assistant receives an overall score on a scale of 1 to 10, where a "
    "higher score indicates better overall performance.\nPlease first output a single line "
    "containing only two values indicating the scores for Assistant 1 and 2, respectively. The "
    "two scores are separated by a space.\nIn the subsequent line, please provide a "
    "comprehensive explanation of your evaluation, avoiding any potential bias and ensuring that "
    "the order in which the responses were presented does not affect your judgment."
)
"""LLaVA's own words: scores depend on them."""
_FAILED = -1.0


def verdict_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The two scores of one of LLaVA's review rows."""
    pair = row.get("tuple")
    return (
        {"theirs": pair[0], "ours": pair[1]} if isinstance(pair, list) and len(pair) == 2 else None
    )


def read(spec: BenchmarkSpec) -> list[Question]:
    """The questions; with the annotation also captions and GPT-4's answers.

    A file of reviews may stand for the questions where only its scores are summed up.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    path = Path(spec.questions)
    folder = Path(spec.images) if spec.images else path.parent / "images"
    captions, answers = _annotated(Path(spec.annotation)) if spec.annotation else ({}, {})
    found: dict[str, Question] = {}
    for number, row in question_lines(path, ("question_id", "category")):
        key, image = str(row["question_id"]), row.get("image")
        category = str(row["category"])
        if key in found:
            raise DataError(f"{path}:{number}: question {key!r} stands twice")
        if answers and (key not in answers or str(image) not in captions):
            raise DataError(f"{path}:{number}: question {key!r} is not in {spec.annotation}")
        found[key] = Question(
            id=key,
            text=str(row.get("text", "")),
            images=(str(folder / str(image)),) if image else (),
            answers=(answers[key],) if key in answers else (),
            labels={"category": category.removeprefix("llava_bench_")},
            asked=str(row.get("text", "")),
            facts={"caption": captions.get(str(image), "")},
        )
    return list(found.values())


def _annotated(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Captions by picture, and GPT-4's answers by question id."""
    captions: dict[str, str] = {}
    for _, row in question_lines(folder / "context.jsonl", ("image", "caption")):
        told = row["caption"]
        captions[str(row["image"])] = "\n".join(told) if isinstance(told, list) else str(told)
    rows = question_lines(folder / "answers_gpt4.jsonl")
    return captions, {str(row["question_id"]): str(row["text"]) for _, row in rows}


def judging(question: Question, answer: str, rule: str) -> Judging | None:
    """Asks for two scores of 1 to 10.

    Raises:
        DataError: GPT-4's answer or the caption is not known.
    """
    if not question.answers:
        raise DataError("llava_bench: a judge needs annotation, the folder of context.jsonl")
    return _reviewed(question, answer)


def _reviewed(question: Question, answer: str) -> Judging:
    text = (
        f"[Context]\n{question.facts['caption']}\n\n[Question]\n{question.asked}\n\n"
        f"[Assistant 1]\n{question.answers[0]}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n{_RATE}\n\n"
    )
    reply = yield ChatRequest.of_text(text, _SYSTEM, max_tokens=1024, temperature=0.2)
    theirs, ours = scores_of(reply)
    return {"theirs": theirs, "ours": ours, "review": reply}


def scores_of(review: str) -> tuple[float, float]:
    """The two numbers of a review's first line; (-1, -1) for any other line."""
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, words)
    except ValueError:
        return _FAILED, _FAILED
    return first, second


def score(
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    verdicts: Verdicts = UNJUDGED,
) -> Score:
    """The model's mean over GPT-4's, as a share; 10 times both means beside it.

    A review that gives no two numbers is left out and counted as unparsed; `llava` lets
    its -1 into the means and rounds these to three decimals, as the original does.
    """
    name = protocol_name(questions, rule)
    keeps_failed = name.endswith("@llava")
    pairs = {
        q.id: (float(verdicts[q.id]["theirs"]), float(verdicts[q.id]["ours"]))
        for q in questions
        if q.id in verdicts
    }
    read_as = {key: f"{ours:g}" if ours >= 0 else None for key, (_, ours) in pairs.items()}
    extracted = dict.fromkeys(said) | read_as
    used = {key: pair for key, pair in pairs.items() if keeps_failed or min(pair) >= 0}
    if not used:
        return result(name, questions, said, extracted, None)
    kinds: dict[str, list[str]] = {}
    for question in questions:
        if question.id in used:
            kinds.setdefault(question.labels_of("category")[0], []).append(question.id)
    whole = _summary(list(used.values()), keeps_failed)
    pictures = {question.id: question.picture_key() for question in questions}
    rows = [list(pair) for pair in used.values()]
    low, high = interval_of(
        lambda sums: sums[:, 1] / sums[:, 0].clip(min=1e-9), rows, [pictures[key] for key in used]
    )
    fields = {
        **whole,
        "interval": [low, high],
        "groups": {
            kind: _summary([used[key] for key in keys], keeps_failed)
            for kind, keys in kinds.items()
        },
    }
    credits = {key: max(0.0, ours) / 10 for key, (_, ours) in used.items()}
    return result(name, questions, said, extracted, credits, fields=fields)


def _summary(pairs: Sequence[tuple[float, float]], is_rounded: bool) -> dict[str, Any]:
    theirs = sum(pair[0] for pair in pairs) / len(pairs)
    ours = sum(pair[1] for pair in pairs) / len(pairs)
    if is_rounded:
        theirs, ours = round(theirs, 3), round(ours, 3)
    return {
        "score": ours / theirs if theirs else 0.0,
        "n": len(pairs),
        "interval": None,
        "gpt4_points": 10 * theirs,
        "model_points": 10 * ours,
    }
