"""Asks an endpoint: at once, within rates and a budget, again where that may help."""

from __future__ import annotations

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vlforge.inference.endpoint.cache import ReplyCache
from vlforge.inference.endpoint.config import (
    ChatRequest,
    Reply,
    Usage,
    text_of_content,
)
from vlforge.inference.endpoint.line import Line, Lost
from vlforge.types import DataError, EndpointSpec, VLForgeError

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Answers that may be other ones a moment later."""
_FOR_ALL = frozenset({401, 403, 404, 405})
"""Answers that every further request would get too."""
_LONGEST_WAIT_S = 60.0
_LONGEST_ASKED_WAIT_S = 600.0
_CHARACTERS_A_TOKEN = 4


class EndpointError(VLForgeError):
    """An endpoint did not give a reply; `is_for_all` where it would give none to any request."""

    def __init__(self, text: str, *, is_for_all: bool = False):
        super().__init__(text)
        self.is_for_all = is_for_all


class Endpoint:
    """A client of one model behind one address; threads may share it.

    Args:
        cache: file of replies to requests made before.
        sleep: waits so many seconds; another one in tests.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        cache: Path | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.spec = spec
        self.usage = Usage()
        self.cache = ReplyCache(cache)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._local = threading.local()
        self._stopped = threading.Event()
        self._free_at = 0.0
        Line(spec.url, "", spec.timeout_s)  # an address that is none is told at once

    def ask(self, request: ChatRequest) -> Reply:
        """The reply, from the cache where it was asked before.

        Raises:
            EndpointError: no reply after all tries, a request that is refused, or the
                budget is spent; never holds the key.
        """
        key = request.key(self.spec.model)
        cached = self.cache.get(key)
        if cached is not None:
            with self._lock:
                self.usage.cached += 1
            return cached
        reply = self._asked(request)
        self.cache.add(key, reply)
        return reply

    def ask_all(
        self,
        requests: Sequence[ChatRequest],
        done: Callable[[int, Reply | EndpointError], None] = lambda place, reply: None,
    ) -> list[Reply | EndpointError]:
        """Replies in order; a request that fails gives its error, the others go on.

        Args:
            done: told of every one as it comes, in the calling thread.

        Raises:
            EndpointError: one that no further request would escape (a wrong key, a model
                that is not there, the budget).
        """
        found: list[Reply | EndpointError | None] = [None] * len(requests)
        with ThreadPoolExecutor(max(1, self.spec.concurrency)) as pool:
            try:
                for place, outcome in self._outcomes(pool, requests):
                    found[place] = outcome
                    done(place, outcome)
            except BaseException:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [one for one in found if one is not None]

    def _outcomes(
        self, pool: ThreadPoolExecutor, requests: Sequence[ChatRequest]
    ) -> Iterator[tuple[int, Reply | EndpointError]]:
        """Places and outcomes as they come."""
        waiting: dict[Future[Reply], int] = {}
        left = iter(range(len(requests)))
        self._fill(pool, waiting, left, requests)
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(ready, key=waiting.__getitem__):
                yield waiting.pop(future), _outcome(future)
            self._fill(pool, waiting, left, requests)

    def stop(self) -> None:
        """Begin no further request; what is under way may still come."""
        self._stopped.set()

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        waiting: dict[Future[Reply], int],
        left: Iterator[int],
        requests: Sequence[ChatRequest],
    ) -> None:
        """Keep twice as many requests under way as run at once."""
        while len(waiting) < 2 * max(1, self.spec.concurrency):
            place = next(left, None)
            if place is None:
                return
            waiting[pool.submit(self._ask_one, requests, place)] = place

    def _ask_one(self, requests: Sequence[ChatRequest], place: int) -> Reply:
        # Read in the thread: a sequence may make its requests, pictures and all, when asked.
        return self.ask(requests[place])

    def stream(self, request: ChatRequest) -> Iterator[str]:
        """Pieces of the reply as they come; not cached, not tried again.

        Raises:
            EndpointError: the server does not answer, or breaks off.
        """
        body = request.body(self.spec.model) | {"stream": True}
        try:
            for event in self._line().stream("/chat/completions", body):
                yield from _pieces(event)
        except Lost as error:
            raise EndpointError(f"{self.spec.url}: {error}") from None

    def _asked(self, request: ChatRequest) -> Reply:
        body = request.body(self.spec.model)
        problem = ""
        for attempt in range(self.spec.retries + 1):
            self._check_budget()
            self._wait_for_turn(body)
            found = self._tried(body)
            if isinstance(found, Reply):
                return self._counted(found)
            problem, pause = found
            if attempt < self.spec.retries:
                self._pause(attempt, pause)
        with self._lock:
            self.usage.failed += 1
        raise EndpointError(
            f"{self.spec.url}: no reply after {self.spec.retries + 1} tries, the last: {problem}"
        )

    def _tried(self, body: Mapping[str, Any]) -> Reply | tuple[str, float | None]:
        """A reply; or what went wrong, and how long the server wants to be left alone."""
        try:
            status, headers, data = self._line().post("/chat/completions", body)
        except Lost as error:
            return str(error), None
        if status == 200:
            return _reply(data) or (f"no chat completion: {_shown(data)}", None)
        if status in _PASSING:
            return f"{status} {_told(data)}", _asked_wait(headers)
        raise self._refused(status, data)

    def _refused(self, status: int, data: bytes) -> EndpointError:
        with self._lock:
            self.usage.failed += 1
        hint = f"; set {self.spec.key_env}" if status in (401, 403) else ""
        hint = hint or (f"; is the model called {self.spec.model!r}?" if status == 404 else "")
        text = f"{self.spec.url}: {status} {_told(data)}{hint}"
        return EndpointError(text, is_for_all=status in _FOR_ALL)

    def _counted(self, reply: Reply) -> Reply:
        with self._lock:
            usage, spec = self.usage, self.spec
            usage.requests += 1
            usage.tokens_in += reply.tokens_in
            usage.tokens_out += reply.tokens_out
            usage.cost += reply.tokens_in * spec.price_in / 1e6
            usage.cost += reply.tokens_out * spec.price_out / 1e6
        return reply

    def _check_budget(self) -> None:
        if self._stopped.is_set():
            raise EndpointError("stopped", is_for_all=True)
        limit = self.spec.max_cost
        if limit and self.usage.cost >= limit:
            raise EndpointError(
                f"the budget is spent: {self.usage.cost:.2f} of max_cost {limit:g}; raise it and "
                "give the same command again, what was answered is kept",
                is_for_all=True,
            )

    def _wait_for_turn(self, body: Mapping[str, Any]) -> None:
        """Requests start no closer to each other than the rates allow."""
        spec = self.spec
        gap = 60 / spec.requests_per_minute if spec.requests_per_minute > 0 else 0.0
        if spec.tokens_per_minute > 0:
            gap = max(gap, 60 * _guessed_tokens(body) / spec.tokens_per_minute)
        if not gap:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + gap
        if start > now:
            self._sleep(start - now)

    def _pause(self, attempt: int, asked: float | None) -> None:
        with self._lock:
            self.usage.retried += 1
        pause = min(_LONGEST_WAIT_S, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)
        self._sleep(pause if asked is None else min(max(asked, pause), _LONGEST_ASKED_WAIT_S))

    def _line(self) -> Line:
        line: Line | None = getattr(self._local, "line", None)
        if line is None:
            key = os.environ.get(self.spec.key_env, "").strip()
            line = self._local.line = Line(self.spec.url, key, self.spec.timeout_s)
        return line


def _pieces(event: Mapping[str, Any]) -> Iterator[str]:
    """New text of a streamed event."""
    for choice in event.get("choices") or ():
        piece = (choice.get("delta") or {}).get("content")
        if piece:
            yield str(piece)


def _outcome(future: Future[Reply]) -> Reply | EndpointError:
    try:
        return future.result()
    except EndpointError as error:
        if error.is_for_all:
            raise
        return error
    except DataError as error:
        return EndpointError(str(error))


def _reply(data: bytes) -> Reply | None:
    """The first choice of a chat completion; None for anything else."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        content = choice["message"]["content"]
        usage = value.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if content is None:
        return None
    return Reply(text_of_content(content), *tokens, finish=str(choice.get("finish_reason") or ""))


def _told(data: bytes) -> str:
    """The server's own message, in one line."""
    try:
        value = json.loads(data)
        error = value.get("error", value)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        return _shown(data)
    return " ".join(str(text).split())[:200]


def _shown(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split()) or "an empty answer"


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header: a number or a date."""
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max(0.0, when.timestamp() - time.time())


def _guessed_tokens(body: Mapping[str, Any]) -> float:
    texts = (text_of_content(message.get("content")) for message in body["messages"])
    return sum(map(len, texts)) / _CHARACTERS_A_TOKEN + float(body["max_tokens"])
