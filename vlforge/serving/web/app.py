"""The chat page's server: what each address of it gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vlforge.serving.talking import Full
from vlforge.serving.viewer.guard import Guard, Receive, Scope, Send
from vlforge.serving.web.asking import (
    Ask,
    Talk,
    let_go,
    pictures_of,
    sample_of,
    saved,
    told,
)
from vlforge.serving.web.door import Door, Login
from vlforge.serving.web.hall import Hall
from vlforge.serving.web.pictures import look, plain_name
from vlforge.serving.web.rooms import Answer, Claim, Kept, Refused, Room
from vlforge.serving.web.votes import Vote

PAGES = Path(__file__).parent.parent / "pages" / "web"
KINDS = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}
STATIC = ("web.css", "web.js", "settings.js", "login.js")
FRESH = {"Cache-Control": "no-store"}
KEPT = {"Cache-Control": "private, max-age=3600, immutable"}
_MOST_BODY = 4 << 20
Asked = TypeVar("Asked")


def create_app(hall: Hall, *, is_open: bool = False, login: Login | None = None) -> Any:
    """The server as an ASGI application; `is_open` to other machines than this."""
    app = Starlette(
        routes=Desk(hall, login).routes(),
        exception_handlers={Refused: _refused, ClientDisconnect: _refused},
    )
    return Guard(Door(app, login), is_open=is_open)


class Desk:
    """Takes requests and gives answers."""

    def __init__(self, hall: Hall, login: Login | None = None):
        self.hall, self.login = hall, login

    def routes(self) -> list[Route]:
        """Addresses and what they lead to."""
        room = "/api/rooms/{room}"
        return [
            Route("/", self.page),
            Route("/login", self.login_page),
            Route("/static/{name}", self.static),
            Route("/api/login", self.enter, methods=["POST"]),
            Route("/api/about", self.about),
            Route("/api/rooms", self.open, methods=["POST"]),
            Route(room, self.seen),
            Route(f"{room}/leave", self.leave, methods=["POST"]),
            Route(f"{room}/pictures", self.upload, methods=["POST"]),
            Route(f"{room}/pictures/{{number:int}}", self.remove, methods=["DELETE"]),
            Route(f"{room}/examples/{{number:int}}", self.take_example, methods=["POST"]),
            Route(f"{room}/answers", self.answer, methods=["POST"]),
            Route(f"{room}/votes", self.vote, methods=["POST"]),
            Route(f"{room}/save", self.save, methods=["POST"]),
            Route("/picture/{room}/{number:int}", self.picture),
            Route("/example/{number:int}", self.example),
        ]

    def _room(self, http: Request) -> Room:
        return self.hall.rooms.find(http.path_params["room"])

    # ---- the page

    def page(self, _: Request) -> Response:
        """The chat."""
        return _file("index.html")

    def login_page(self, _: Request) -> Response:
        """Where name and password are asked for."""
        return _file("login.html")

    def static(self, http: Request) -> Response:
        """What the pages load."""
        name = http.path_params["name"]
        if name not in STATIC:
            raise Refused(404, "no such file")
        return _file(name)

    async def enter(self, http: Request) -> Response:
        """A cookie for who knows the password."""
        given = read(await body(http), dict[str, str])
        if self.login is None:
            return Response(status_code=204)
        address = http.client.host if http.client else ""
        token = self.login.enter(given.get("user", ""), given.get("password", ""), address)
        if token == "":
            raise Refused(429, "too many wrong passwords; try again in a minute")
        if token is None:
            raise Refused(401, "wrong name or password")
        return Response(None, 204, {**FRESH, "Set-Cookie": self.login.cookie(token)})

    def about(self, _: Request) -> Response:
        """What the page can do."""
        return _told(self.hall.about())

    # ---- rooms and pictures

    def open(self, _: Request) -> Response:
        """A new room."""
        return _told({"room": self.hall.rooms.open().key})

    def seen(self, http: Request) -> Response:
        """A room that a page comes back to."""
        return _told({"pictures": [_shown(kept) for kept in self._room(http).pictures.values()]})

    def leave(self, http: Request) -> Response:
        """A page was closed; with `at_once` its pictures go now, else some time later."""
        at_once = "at_once" in http.query_params
        self.hall.rooms.leave(http.path_params["room"], at_once=at_once)
        return Response(status_code=204)

    async def upload(self, http: Request) -> Response:
        """A picture is sent as the body; what the page may show of it."""
        hall, room = self.hall, self._room(http)
        name, number = plain_name(http.query_params.get("name", "")), next(room.numbers)
        path = room.folder / str(number)
        with hall.rooms.place(room) as claim:
            try:
                kept = await self._received(http, claim, path, number, name)
                hall.rooms.keep(room, kept, claim)
            except OSError as error:
                if room.is_closed:
                    raise Refused(404, "this conversation was closed") from None
                raise Refused(507, f"{name} cannot be kept: {error.strerror}") from None
            finally:
                if not claim.is_kept:
                    path.unlink(missing_ok=True)
        return _told(_shown(kept))

    async def _received(
        self, http: Request, claim: Claim, path: Path, number: int, name: str
    ) -> Kept:
        bounds = self.hall.bounds
        with path.open("wb") as file:
            async for chunk in _within(http, bounds.bytes, name):
                claim.add(len(chunk))
                file.write(chunk)
        async with self.hall.turn:
            return await asyncio.to_thread(look, path, number, name, bounds)

    def remove(self, http: Request) -> Response:
        """A picture is not wanted."""
        self.hall.rooms.remove(self._room(http), http.path_params["number"])
        return Response(status_code=204)

    def take_example(self, http: Request) -> Response:
        """An example's picture comes into a room."""
        return _told(_shown(self.hall.give_example(self._room(http), http.path_params["number"])))

    def picture(self, http: Request) -> Response:
        """A picture as it is shown."""
        return _picture(self._room(http).pictures.get(http.path_params["number"]))

    def example(self, http: Request) -> Response:
        """An example as it is shown."""
        examples, number = self.hall.examples, http.path_params["number"]
        return _picture(examples[number][0] if number < len(examples) else None)

    # ---- questions, votes, saving

    async def answer(self, http: Request) -> Response:
        """An answer, line by line; it stops being drawn when nobody reads on."""
        hall, room = self.hall, self._room(http)
        ask = read(await body(http), Ask)
        talker, drawing = hall.talker(ask.model), ask.settings.drawing(hall.bounds)
        last = ask.exchanges[-1]
        if not last.question.strip() or last.answer:
            raise Refused(422, "the last exchange needs a question and no answer")
        sample, pictures = sample_of(ask, room, hall.bounds), pictures_of(last, room)
        if len(room.asking) >= hall.bounds.asks:
            raise Refused(429, "several answers are being written for you; wait for one to end")
        try:
            request = talker.ask(sample, drawing, ask.settings.seed)
        except Full as error:
            raise Refused(503, str(error)) from None
        settings = msgspec.structs.asdict(ask.settings)
        answer = Answer(talker.name, last.question, pictures, settings, len(ask.exchanges))
        name = room.note(answer)
        room.asking.add(request)

        def end() -> None:
            let_go(request)
            room.asking.discard(request)
            answer.ended = answer.ended or "stopped"

        return _Answering(told(talker, request, answer, name, http.is_disconnected), end)

    async def vote(self, http: Request) -> Response:
        """A vote on two answers of a room."""
        room, votes = self._room(http), self.hall.votes
        vote = read(await body(http), Vote)
        if votes is None:
            raise Refused(404, "no votes are taken here")
        if vote.left not in room.answers or vote.right not in room.answers:
            raise Refused(404, "these answers are no longer known; ask again")
        left, right = room.answers[vote.left], room.answers[vote.right]
        await asyncio.to_thread(votes.add, vote, left, right)
        return _told({"count": votes.count})

    async def save(self, http: Request) -> Response:
        """A zip of one conversation, or one for each model."""
        hall, room = self.hall, self._room(http)
        talks = read(await body(http), list[Talk])
        names = [hall.talker(talk.model).name for talk in talks]
        if not 1 <= len(names) <= len(hall.talkers):
            raise Refused(422, "one conversation for each model can be saved")
        data = await asyncio.to_thread(saved, talks, room, names, hall.bounds)
        return Response(data, 200, FRESH, "application/zip")


class _Answering(StreamingResponse):
    """Lines of an answer; `end` is called even where not one was sent."""

    def __init__(self, lines: AsyncIterator[bytes], end: Callable[[], None]):
        # Proxies that gather an answer before they pass it on are asked not to.
        super().__init__(lines, 200, {**FRESH, "X-Accel-Buffering": "no"}, "application/x-ndjson")
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all there is."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


def _refused(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 400
    return JSONResponse({"detail": str(error)}, status, FRESH)


def _told(what: dict[str, Any]) -> Response:
    return JSONResponse(what, 200, FRESH)


def _file(name: str) -> Response:
    path = PAGES / name
    head = {"Cache-Control": "no-cache"}
    return Response(path.read_bytes(), 200, head, f"{KINDS[path.suffix]}; charset=utf-8")


def _picture(kept: Kept | None) -> Response:
    if kept is None:
        raise Refused(404, "no such picture")
    return Response(kept.shown.read_bytes(), 200, KEPT, kept.kind)


def _shown(kept: Kept) -> dict[str, Any]:
    """What a page may know of a picture."""
    side = {"width": kept.width, "height": kept.height}
    return {"number": kept.number, "name": kept.name, **side}


async def _within(http: Request, most: int, what: str) -> AsyncIterator[bytes]:
    """A request's body in pieces, as far as it may go."""
    too_large = Refused(413, f"{what} has more than {most >> 20} MB; send a smaller one")
    declared = http.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    size = 0
    async for chunk in http.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk


async def body(http: Request) -> bytes:
    """A request's body; `Refused` beyond some megabytes, or where it is no JSON."""
    if http.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "send JSON")
    return b"".join([chunk async for chunk in _within(http, _MOST_BODY, "the request")])


def read(data: bytes, kind: type[Asked]) -> Asked:
    """What was asked for.

    Raises:
        Refused: it does not say that; names the part.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(422, f"not understood: {error}") from None
