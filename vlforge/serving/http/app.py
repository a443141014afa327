"""The server: models behind one address, as OpenAI's clients ask them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any

from vlforge.serving.http.door import Door, read_off
from vlforge.serving.http.limits import Claim, Fault, Limits, Room
from vlforge.serving.http.messages import Asked, read_request
from vlforge.serving.http.metrics import Metrics
from vlforge.serving.http.replies import ClientLeft, Told, fault_of, pieces
from vlforge.serving.talking import Full, Request, Talker
from vlforge.serving.viewer.guard import App
from vlforge.types import Piece

READERS = 16
"""Requests whose pictures are unpacked and fetched at a time."""
ROUTES = "/v1/chat/completions, /v1/models, /health and /metrics"


class House:
    """Models by name, what requests may cost, and what was counted.

    Args:
        talkers: each model's line.
        fetch: gets pictures that lie on the web; None: none are fetched.
        say: told of faults of ours, a line each.
    """

    def __init__(
        self,
        talkers: Sequence[Talker],
        limits: Limits = Limits(),
        fetch: Callable[[str], bytes] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.talkers: Mapping[str, Talker] = {talker.name: talker for talker in talkers}
        self.limits, self.fetch, self.say = limits, fetch, say
        self.room, self.metrics = Room(limits.held), Metrics()
        self.made = int(time.time())
        self.is_ending = False

    def talker(self, name: str) -> Talker:
        """The model of that name.

        Raises:
            Fault: there is none.
        """
        if name not in self.talkers:
            known = ", ".join(self.talkers)
            text = f"no model {name[:200]!r} here; there are: {known}"
            raise Fault(404, text, param="model", code="model_not_found")
        return self.talkers[name]

    def ask(self, asked: Asked) -> list[Request]:
        """Stand in the model's line, once for each choice.

        Raises:
            Fault: the line is full, or the server ends.
        """
        talker = self.talker(asked.model)
        requests: list[Request] = []
        try:
            for key in asked.keys:
                requests.append(talker.ask(asked.sample, asked.drawing, key))
        except Full as error:
            for request in requests:
                request.leave()
            if self.is_ending:
                raise Fault(503, "the server is ending", code="closing", wait_s=5) from None
            wait_s = self.metrics.mean_s(asked.model) * talker.in_line / talker.batch
            raise Fault(429, str(error), code="busy", wait_s=min(60.0, max(1.0, wait_s))) from None
        return requests

    def models(self) -> list[dict[str, Any]]:
        """All models as `/v1/models` lists them."""
        return [self.model(name) for name in self.talkers]

    def model(self, name: str) -> dict[str, Any]:
        """One of them; `Fault` where there is none."""
        self.talker(name)
        return {"id": name, "object": "model", "created": self.made, "owned_by": "vlforge"}

    def told_metrics(self) -> str:
        """Counts, and how busy it is now."""
        gauges: list[tuple[str, str, str, float]] = [
            ("held_bytes", "Bytes of uploads that are held.", "", self.room.held)
        ]
        for name, talker in self.talkers.items():
            waits = "Requests that wait or are being answered."
            gauges.append(("in_line", waits, name, talker.in_line))
            gauges.append(("batches", "Batches drawn since the start.", name, talker.batches))
            gauges.append(("answers", "Answers drawn since the start.", name, talker.answered))
        return self.metrics.text(gauges)

    def close(self, wait_s: float = 30.0) -> None:
        """Take nothing more; answer what waits, for so many seconds at most."""
        self.is_ending = True
        until = time.monotonic() + wait_s
        for talker in self.talkers.values():
            talker.close(max(0.1, until - time.monotonic()))
        if self.fetch is not None and hasattr(self.fetch, "close"):
            self.fetch.close()


def build_app(house: House, *, key: str = "", is_local: bool = True) -> App:
    """The server as an ASGI application.

    Args:
        key: what clients have to send; "": nothing.
        is_local: only this machine reaches it.
    """
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.routing import BaseRoute, Route

    desk = Desk(house)

    def refuse(fault: Fault) -> Any:
        return JSONResponse(fault.body(), fault.status, fault.headers())

    async def models(request: Any) -> Any:
        return JSONResponse({"object": "list", "data": house.models()})

    async def model(request: Any) -> Any:
        try:
            return JSONResponse(house.model(request.path_params["name"]))
        except Fault as fault:
            return refuse(fault)

    async def health(request: Any) -> Any:
        return JSONResponse({"status": "ok", "models": len(house.talkers)})

    async def metrics(request: Any) -> Any:
        return PlainTextResponse(house.told_metrics(), media_type="text/plain; version=0.0.4")

    async def missing(request: Any, error: Any) -> Any:
        text = f"no {request.method} {request.url.path[:200]} here; there are: {ROUTES}"
        return refuse(Fault(error.status_code, text, code="no_such_route"))

    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", desk.complete, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    app = FastAPI(
        routes=routes,
        exception_handlers={404: missing, 405: missing},
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    return Door(
        app,
        key=key,
        is_local=is_local,
        drain=house.limits.body,
        refused=lambda status: house.metrics.asked("", status),
    )


class Desk:
    """Takes chat requests, one after the other or side by side."""

    def __init__(self, house: House):
        self.house = house
        self._readers = ThreadPoolExecutor(READERS, "read request")

    async def complete(self, request: Any) -> Any:
        """The answer to one request, as a response."""
        from fastapi.responses import JSONResponse, Response

        visit = Visit(self.house, asyncio.get_running_loop().time())
        try:
            return await self._answer(request, visit)
        except ClientLeft:
            visit.close(499)
            return Response(status_code=499)
        except Exception as error:
            fault = visit.fault(error)
            visit.close(fault.status)
            return JSONResponse(fault.body(), fault.status, fault.headers())
        except BaseException:
            visit.close(499)
            raise

    async def _answer(self, request: Any, visit: Visit) -> Any:
        from fastapi.responses import JSONResponse

        body = await self._body(request, visit)
        asked = await self._read(body, visit)
        del body
        visit.model = self.house.talker(asked.model).name
        visit.begin(asked)
        coming = visit.pieces(self.house.ask(asked), request.receive)
        if asked.streams:
            # The head waits for the first piece: until then a status can tell what is wrong.
            from vlforge.serving.http.streams import Stream

            return Stream(visit, await anext(coming), coming)
        async with aclosing(coming):
            async for _ in coming:  # each is taken note of on its way
                pass
        visit.close(200)
        return JSONResponse(visit.told.whole(), headers={"x-request-id": visit.told.id})

    async def _body(self, request: Any, visit: Visit) -> bytes:
        """The request's body, bounded; room is claimed for it before it is read."""
        from starlette.requests import ClientDisconnect

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            await read_off(request.receive, self.house.limits.body)
            raise Fault(415, "send JSON, with Content-Type: application/json")
        most = self.house.limits.body
        told = request.headers.get("content-length", "")
        claimed = min(int(told), most) if told.isdecimal() and len(told) < 16 else 0
        try:
            visit.claim.add(claimed)
            async with asyncio.timeout_at(visit.until):
                return await _within(request, most, visit.claim)
        except Fault:
            await read_off(request.receive, most)
            raise
        except ClientDisconnect:
            raise ClientLeft from None
        except TimeoutError:
            raise Fault(408, "the request did not arrive in time", code="timeout") from None

    async def _read(self, body: bytes, visit: Visit) -> Asked:
        """The request as models take it; in a thread, since pictures take time."""
        house, loop = self.house, asyncio.get_running_loop()
        job = partial(read_request, body, house.limits, house.fetch, visit.claim.add)
        try:
            async with asyncio.timeout_at(visit.until):
                return await loop.run_in_executor(self._readers, job)
        except TimeoutError:
            raise Fault(408, "the pictures did not arrive in time", code="timeout") from None


async def _within(request: Any, most: int, claim: Claim) -> bytes:
    """The body; what its head said nothing of is claimed as it comes."""
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) > most:
            raise Fault(413, f"a body of more than {most:,} bytes; send less")
        if len(held) > claim.size:
            claim.add(len(held) - claim.size)
    return bytes(held)


class Visit:
    """One request from its arrival to its end: what it holds, and what it came to."""

    def __init__(self, house: House, now: float):
        self.house = house
        self.until = now + house.limits.time_s
        self.claim = Claim(house.room)
        self.arrived = time.monotonic()
        self.model = ""
        self.tells_usage = False
        self.told = Told("", 0)
        self._is_over = False

    def begin(self, asked: Asked) -> None:
        """Take note of what is asked."""
        self.told = Told(asked.model, len(asked.keys))
        self.tells_usage = asked.tells_usage

    async def pieces(
        self, requests: Sequence[Request], receive: Any
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        """The answer's pieces, taken note of."""
        async with aclosing(pieces(requests, receive, self.until)) as coming:
            async for number, piece in coming:
                self.told.add(number, piece)
                yield number, piece

    def fault(self, error: Exception) -> Fault:
        """What the client is told; faults of ours are told here too."""
        fault = fault_of(error)
        if fault.status == 500:
            self.house.say(f"{self.model}: {type(error).__name__}: {error}")
        return fault

    def close(self, status: int) -> None:
        """Count the request, and let go of what it holds; once."""
        if self._is_over:
            return
        self._is_over = True
        self.claim.close()
        self.house.metrics.asked(self.model, status)
        if status == 200:
            told, now = self.told, time.monotonic()
            first_s = (told.first_at or now) - self.arrived
            whole_s = now - self.arrived
            self.house.metrics.answered(
                self.model, told.tokens_in, told.tokens_out, first_s, whole_s
            )
