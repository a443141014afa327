"""Asks a judge about answers that no rule can read; keeps what it said, guesses nothing.

A benchmark's `judging` gives a generator per answer that yields requests and is sent the
replies; here many of them run side by side. Verdicts go to `judged.KEY.jsonl` as they
come, so a stopped run goes on. A verdict counts only for the answer it was given to.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlforge.evaluation.files import read_lines, write_lines
from vlforge.evaluation.questions import Question
from vlforge.inference.endpoint.config import ChatRequest, Reply
from vlforge.types import DataError, EndpointSpec, ProgressFn, VLForgeError, no_progress


class Judge(Protocol):
    """What answers requests: `vlforge.inference.endpoint.client.Endpoint`, or a script."""

    spec: EndpointSpec

    def ask(self, request: ChatRequest) -> Reply:
        """The reply; raises where there is none."""
        ...


@dataclass(frozen=True)
class Judged:
    """How an asking went: verdicts there now, of these new, and answers without one."""

    verdicts: int
    new: int
    failed: int
    first_failure: str = ""


def request_of(asked: str | ChatRequest) -> ChatRequest:
    """A benchmark's request; plain words are one user turn, greedy."""
    return asked if isinstance(asked, ChatRequest) else ChatRequest.of_text(asked)


def answer_hash(text: str) -> str:
    """Names an answer that a verdict is about."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_judge(
    module: Any, questions: Sequence[Question], said: Mapping[str, str], rule: str
) -> dict[str, Any]:
    """Generators by question id, of those answers that a judge is needed for.

    Raises:
        DataError: a benchmark that no judge scores.
    """
    judging = getattr(module, "judging", None)
    if judging is None:
        name = module.__name__.rpartition(".")[2]
        raise DataError(f"{name}: its answers are read by rules alone, no judge is asked")
    rule = module.protocol_name(questions, rule).partition("@")[2]
    asked = {q.id: judging(q, said[q.id], rule) for q in questions if q.id in said}
    return {key: one for key, one in asked.items() if one is not None}


def judge_answers(
    module: Any,
    questions: Sequence[Question],
    said: Mapping[str, str],
    rule: str,
    judge: Judge,
    path: Path,
    *,
    progress: ProgressFn = no_progress,
) -> Judged:
    """Ask about every answer that needs it and has no verdict in `path` yet.

    An answer whose judge fails gets no verdict and is counted; the next call asks again.

    Raises:
        VLForgeError: what would fail for every answer (a wrong key, the budget).
    """
    asked = to_judge(module, questions, said, rule)
    rows = {row["id"]: row for row in read_lines(path, mend=True)} if path.is_file() else {}
    kept = {
        key: row
        for key, row in rows.items()
        if key in asked and row["answer"] == answer_hash(said[key]) and _same(row, judge)
    }
    left = {key: one for key, one in asked.items() if key not in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, kept.values())
    failures = _ask(left, said, judge, path, kept, lambda: progress(len(kept), len(asked), "judge"))
    write_lines(path, (kept[q.id] for q in questions if q.id in kept))
    first = next(iter(failures.values()), "")
    return Judged(len(kept), len(left) - len(failures), len(failures), first)


def _same(row: Mapping[str, Any], judge: Judge) -> bool:
    return bool(row.get("judge") == judge.spec.model)


def _ask(
    left: Mapping[str, Any],
    said: Mapping[str, str],
    judge: Judge,
    path: Path,
    kept: dict[str, dict[str, Any]],
    shown: Callable[[], None],
) -> dict[str, str]:
    """Run the generators; append each verdict. Gives what went wrong by question id."""
    failures: dict[str, str] = {}
    stopped = threading.Event()
    with (
        ThreadPoolExecutor(max(1, judge.spec.concurrency)) as pool,
        path.open("a", encoding="utf-8") as file,
    ):
        futures = {pool.submit(_drive, one, judge, stopped): key for key, one in left.items()}
        try:
            for key, found in _as_they_come(futures, failures):
                row = {"id": key, "answer": answer_hash(said[key]), "judge": judge.spec.model}
                kept[key] = row | found
                file.write(json.dumps(kept[key], ensure_ascii=False) + "\n")
                file.flush()
                shown()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _as_they_come(
    futures: Mapping[Future[dict[str, Any]], str], failures: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Verdicts by question id; raises a failure that every answer would share."""
    for future in as_completed(futures):
        try:
            verdict = future.result()
        except VLForgeError as error:
            if getattr(error, "is_for_all", False):
                raise
            failures[futures[future]] = str(error)
            continue
        yield futures[future], verdict


def _drive(asked: Any, judge: Judge, stopped: threading.Event) -> dict[str, Any]:
    """One answer's verdict, with a hash of what was asked."""
    digest = hashlib.sha256()
    try:
        wanted = next(asked)
        while not stopped.is_set():
            request = request_of(wanted)
            digest.update(request.key("").encode())
            wanted = asked.send(judge.ask(request).text)
    except StopIteration as done:
        return {"prompts": digest.hexdigest()[:16], **done.value}
    raise VLForgeError("stopped")


def verdicts_for(path: Path | None, said: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Verdicts about the present answers, by question id; nothing where no judge was asked."""
    if path is None or not path.is_file():
        return {}
    rows = {row["id"]: row for row in read_lines(path)}
    return {
        key: row
        for key, row in rows.items()
        if key in said and row.get("answer") == answer_hash(said[key])
    }


def judge_fields(verdicts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `metrics.json` says of the judge: its model, how many verdicts, what it was asked."""
    models = sorted({str(row["judge"]) for row in verdicts.values() if "judge" in row})
    if not models:
        return {}
    prompts = "".join(str(row.get("prompts", "")) for _, row in sorted(verdicts.items()))
    told = {"model": ", ".join(models), "verdicts": len(verdicts)}
    return {"judge": told | {"prompt_hash": hashlib.sha256(prompts.encode()).hexdigest()[:16]}}


@dataclass(frozen=True)
class Outlook:
    """What asking would take: answers, tokens of their first requests, what replies may take."""

    answers: int
    tokens_in: int
    tokens_out: int
    cost: float

    def line(self) -> str:
        """For people."""
        tokens = f"about {self.tokens_in:,} + at most {self.tokens_out:,} tokens"
        cost = f", at most {self.cost:.2f}" if self.cost else ""
        return f"{self.answers:,} answers would be judged: {tokens}{cost}"


def outlook(asked: Mapping[str, Any], spec: EndpointSpec) -> Outlook:
    """Look at the first request of every answer; asks nobody."""
    requests = [request_of(next(one)) for one in asked.values()]
    texts = (str(message["content"]) for one in requests for message in one.messages)
    tokens_in = sum(map(len, texts)) // 4
    tokens_out = sum(one.max_tokens for one in requests)
    cost = (tokens_in * spec.price_in + tokens_out * spec.price_out) / 1e6
    return Outlook(len(requests), tokens_in, tokens_out, cost)
