"""Asks an endpoint: at once, within rates and a budget, again where that may help."""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from pathlib import Path
from typing import Any

from vlforge.inference.endpoint.cache import ReplyCache
from vlforge.inference.endpoint.config import (
    ChatRequest,
    Reply,
    Usage,
    money,
    text_of_content,
)
from vlforge.inference.endpoint.line import Line, Lost
from vlforge.inference.endpoint.threads import Threads
from vlforge.types import DataError, EndpointSpec, RecipeError, VLForgeError

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""Answers that may be other ones a moment later."""
_FOR_ALL = frozenset({401, 403, 404, 405})
"""Answers that every further request would get too."""
_LONGEST_WAIT_S = 60.0
_LONGEST_ASKED_WAIT_S = 600.0
_CHARACTERS_A_TOKEN = 4
_PICTURE_TOKENS = 800
"""What a picture is taken to cost where a server does not say."""
_FIRST = 4
"""The least number of requests, of the first, that a server may leave without any answer."""
_EMPTY_TRIES = 2
"""How often an empty answer is asked for again."""
_OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")
"""Parameters that some models do not take; those are asked without (`max_tokens` by its newer
name), once the server has said so."""
_NOT_TAKEN = re.compile(r"unsupported|not support|unrecognized|unknown|not permitted|extra inputs")


class EndpointError(VLForgeError):
    """An endpoint did not give a reply; `is_for_all` where it would give none to any request.

    `is_of_data`: it was not asked, because the request could not be made (a bad picture).
    """

    def __init__(self, text: str, *, is_for_all: bool = False, is_of_data: bool = False):
        super().__init__(text)
        self.is_for_all, self.is_of_data = is_for_all, is_of_data


class Endpoint:
    """A client of one model behind one address; threads may share it.

    The budget is for all replies of the model that the cache holds, whichever run or
    process paid them: a run that goes on after a kill does not begin it anew.

    Args:
        cache: replies to requests made before, or the file that holds them.
        patience: so many requests in a row without a reply end the asking; 0: none do.
        sleep: waits so many seconds; another one in tests, and so `clock`.

    Raises:
        RecipeError: an address that is none, or a budget without prices.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        cache: Path | ReplyCache | None = None,
        *,
        patience: int = 0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.spec = spec
        self.usage = Usage()
        self.cache = cache if isinstance(cache, ReplyCache) else ReplyCache(cache)
        self.patience = patience
        self.left_out: frozenset[str] = frozenset()
        self._sleep, self._clock = sleep, clock
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads = Threads(spec.concurrency)
        self._stopped = threading.Event()
        self._asking: dict[str, threading.Event] = {}
        self._free_at = self._quiet_until = 0.0
        self._failed_in_row = 0
        self._cause = ""
        if spec.max_cost and not (spec.price_in or spec.price_out):
            raise RecipeError(
                f"{spec.model}: max_cost {spec.max_cost:g} needs price_in and price_out, those of "
                "a million tokens"
            )
        Line(spec.url, "", spec.timeout_s)  # an address that is none is told at once

    def ask(self, request: ChatRequest) -> Reply:
        """The reply, from the cache where it was asked before.

        Raises:
            EndpointError: no reply after all tries, a request that is refused, or the
                budget is spent; never holds the key.
        """
        key = request.key(self.spec.model)
        while True:
            if cached := self._kept(key, request):
                return cached
            with self._lock:
                other = self._asking.get(key)
                if other is None:
                    mine = self._asking[key] = threading.Event()
                    break
            other.wait()  # the same is being asked: its reply is ours
        try:
            # Another may have been done between the look and the note.
            return self._kept(key, request) or self._asked(key, request)
        finally:
            with self._lock:
                del self._asking[key]
            mine.set()

    def _kept(self, key: str, request: ChatRequest) -> Reply | None:
        found = self.cache.get(key)
        if found is None or (request.needs_words and not found.text.strip()):
            return None
        with self._lock:
            self.usage.cached += 1
            self._failed_in_row = 0
        return found

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
        try:
            for place, outcome in self._outcomes(requests):
                found[place] = outcome
                done(place, outcome)
        except BaseException:
            self._stopped.set()
            raise
        return [one for one in found if one is not None]

    def _outcomes(
        self, requests: Sequence[ChatRequest]
    ) -> Iterator[tuple[int, Reply | EndpointError]]:
        """Places and outcomes as they come."""
        waiting: dict[Future[Reply], int] = {}
        left = iter(range(len(requests)))
        self._fill(waiting, left, requests)
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(ready, key=waiting.__getitem__):
                yield waiting.pop(future), _outcome(future)
            self._fill(waiting, left, requests)

    def told(self) -> str:
        """One line: what asking took so far, and what the model was asked without."""
        return f"{self.spec.model}: {self.usage.line()}"

    def stop(self) -> None:
        """Begin no further request; what is under way may still come."""
        self._stopped.set()

    def _fill(
        self,
        waiting: dict[Future[Reply], int],
        left: Iterator[int],
        requests: Sequence[ChatRequest],
    ) -> None:
        """Keep twice as many requests under way as run at once."""
        while len(waiting) < 2 * max(1, self.spec.concurrency):
            place = next(left, None)
            if place is None:
                return
            waiting[self._threads.submit(partial(self._ask_one, requests, place))] = place

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

    def _asked(self, key: str, request: ChatRequest) -> Reply:
        problem, attempt, empty = "", 0, 0
        while attempt <= self.spec.retries:
            self._check_budget()
            body = self._body(request)
            self._wait_for_turn(body)
            found = self._tried(body)
            if isinstance(found, Reply):
                self._count(key, found)
                if found.text.strip() or not request.needs_words:
                    return found
                problem, pause, empty = _empty(found, request), None, empty + 1
                if found.finish == "length" or empty > _EMPTY_TRIES:
                    raise self._failed(f"{self.spec.url}: {problem}", is_refused=True)
            elif found is None:
                continue  # without what the server does not take
            else:
                problem, pause = found
            if attempt < self.spec.retries:
                self._pause(attempt, pause)
            attempt += 1
        raise self._failed(
            f"{self.spec.url}: no reply after {self.spec.retries + 1} tries, the last: {problem}"
        )

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        """The request's JSON, without what this server has refused."""
        body = request.body(self.spec.model)
        for name in self.left_out & body.keys():
            value = body.pop(name)
            if name == "max_tokens":
                body["max_completion_tokens"] = value
        return body

    def _tried(self, body: Mapping[str, Any]) -> Reply | tuple[str, float | None] | None:
        """A reply; or what went wrong, and how long the server wants to be left alone.

        None: the same is to be asked without a parameter that the model does not take.
        """
        try:
            status, headers, data = self._line().post("/chat/completions", body)
        except Lost as error:
            return str(error), None
        if status == 200:
            return _reply(data, body) or (f"no chat completion: {_shown(data)}", None)
        if status in _PASSING and not _is_spent(data):
            return f"{status} {_told(data)}", _asked_wait(headers)
        if name := _not_taken(status, data, body):
            with self._lock:
                self.left_out |= {name}
                # The other name of max_tokens means the same, and is not told.
                self.usage.without = self.left_out - {"max_tokens"}
            return None
        hint = f"; set {self.spec.key_env}" if status in (401, 403) else ""
        hint = hint or (f"; is the model called {self.spec.model!r}?" if status == 404 else "")
        text = f"{self.spec.url}: {status} {_told(data)}{hint}"
        is_for_all = status in _FOR_ALL or _is_spent(data)
        raise self._failed(text, is_refused=True, is_for_all=is_for_all)

    def _failed(
        self, text: str, *, is_refused: bool = False, is_for_all: bool = False
    ) -> EndpointError:
        """What to raise for a request without a reply.

        Many in a row are the server's fault, or the recipe's; those that it refuses for
        what they hold only where it has answered none.
        """
        with self._lock:
            self.usage.failed += 1
            is_known = self.usage.requests + self.usage.cached > 0
            self._failed_in_row += not (is_refused and is_known)
            patience = self.patience
            if not (is_known or is_refused):  # nobody is there, it seems
                patience = min(patience, max(_FIRST, self.spec.concurrency))
            if not is_for_all and patience and self._failed_in_row >= patience:
                text = (
                    f"{self._failed_in_row} requests in a row got no reply, the last: {text}; see "
                    "to the server and give the same command again, it goes on from the replies "
                    "that came"
                )
                is_for_all = True
            return self._ended(text) if is_for_all else EndpointError(text)

    def _end(self, text: str) -> EndpointError:
        """What to raise where no request would get a reply."""
        with self._lock:
            return self._ended(text)

    def _ended(self, text: str) -> EndpointError:
        """The error of `_end`; the lock is held.

        All who ask on are told the first cause: which of them is heard is chance.
        """
        self._cause = self._cause or text
        return EndpointError(self._cause, is_for_all=True)

    def _count(self, key: str, reply: Reply) -> None:
        """Keep a reply and what it cost."""
        with self._lock:  # whoever compares what is kept with what we paid sees both or neither
            self.cache.add(key, reply, self.spec.model)
            self._failed_in_row = 0
            self.usage += Usage(
                requests=1,
                tokens_in=reply.tokens_in,
                tokens_out=reply.tokens_out,
                cost=self._cost(reply.tokens_in, reply.tokens_out),
            )

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.spec.price_in + tokens_out * self.spec.price_out) / 1e6

    def _check_budget(self) -> None:
        if self._stopped.is_set():
            raise EndpointError(self._cause or "stopped", is_for_all=True)
        limit = self.spec.max_cost
        if not limit:
            return
        with self._lock:
            spent = self._cost(*self.cache.spent(self.spec.model))
            before = spent - self.usage.cost
        if spent < limit:
            return
        earlier = f" ({money(before)} of it before)" if before > spent / 1e6 else ""
        raise self._end(
            f"{self.spec.model}: the budget is spent: {money(spent)} of max_cost {limit:g}"
            f"{earlier}; give the same command with a larger max_cost, it goes on from the "
            "replies that came"
        )

    def _wait_for_turn(self, body: Mapping[str, Any]) -> None:
        """Requests start no closer to each other than the rates allow, and not before the
        server wants to hear of us again."""
        spec = self.spec
        gap = 60 / spec.requests_per_minute if spec.requests_per_minute > 0 else 0.0
        if spec.tokens_per_minute > 0:
            tokens = _guessed_tokens(body) + _asked_tokens(body)
            gap = max(gap, 60 * tokens / spec.tokens_per_minute)
        with self._lock:
            now = self._clock()
            start = max(now, self._quiet_until)
            if gap:
                start = max(start, self._free_at)
                self._free_at = start + gap
        if start > now:
            self._sleep(start - now)

    def _pause(self, attempt: int, asked: float | None) -> None:
        with self._lock:
            self.usage.retried += 1
        pause = min(_LONGEST_WAIT_S, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)
        if asked is None:
            self._sleep(pause)
            return
        pause = min(max(asked, pause), _LONGEST_ASKED_WAIT_S)
        with self._lock:  # all requests wait, not this one alone
            self._quiet_until = max(self._quiet_until, self._clock() + pause)

    def _line(self) -> Line:
        line: Line | None = getattr(self._local, "line", None)
        if line is None:
            self._local.line = line = Line(
                self.spec.url, os.environ.get(self.spec.key_env, "").strip(), self.spec.timeout_s
            )
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
        return EndpointError(str(error), is_of_data=True)


def _reply(data: bytes, body: Mapping[str, Any]) -> Reply | None:
    """The first choice of a chat completion; None for anything else."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        content = choice["message"]["content"]
        usage = value.get("usage") or {}
        tokens_in = int(usage.get("prompt_tokens") or 0)
        tokens_out = int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    finish = str(choice.get("finish_reason") or "")
    if content is None and finish != "length":
        return None
    # Half a character is no text, and could not be kept.
    text = text_of_content(content).encode("utf-8", "replace").decode()
    if not usage:
        tokens_in, tokens_out = round(_guessed_tokens(body)), len(text) // _CHARACTERS_A_TOKEN
    return Reply(text, tokens_in, tokens_out, finish=finish)


def _empty(reply: Reply, request: ChatRequest) -> str:
    if reply.finish != "length":
        return f"an empty answer (finish_reason {reply.finish or 'none'})"
    return f"an empty answer: all {request.max_tokens} tokens of max_tokens went before its words"


def _is_spent(data: bytes) -> bool:
    """Whether the account is out of money, which some servers say with a 429."""
    return b"insufficient_quota" in data


def _not_taken(status: int, data: bytes, body: Mapping[str, Any]) -> str:
    """The parameter that the model does not take, as the server says; "" where it says no such."""
    told = _told(data).lower()
    if status not in (400, 422) or not _NOT_TAKEN.search(told):
        return ""
    named = (name for name in _OPTIONAL if name in body and re.search(rf"\b{name}\b", told))
    return next(named, "")


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
    """Tokens of the words and pictures asked."""
    contents = [message.get("content") for message in body["messages"]]
    pictures: int = sum(
        part.get("type") == "image_url"
        for content in contents
        if isinstance(content, list)
        for part in content
    )
    words = sum(map(len, map(text_of_content, contents))) / _CHARACTERS_A_TOKEN
    return words + _PICTURE_TOKENS * pictures


def _asked_tokens(body: Mapping[str, Any]) -> float:
    return float(str(body.get("max_tokens") or body.get("max_completion_tokens") or 0))
