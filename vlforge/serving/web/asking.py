"""A page's question as the model takes it, its answer as the page hears it, and what is saved."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec

from vlforge.serving.talking import Request, Talker
from vlforge.serving.web.pictures import saved_name
from vlforge.serving.web.rooms import Answer, Bounds, Kept, Refused, Room
from vlforge.types import LLAVA_IMAGE_TOKEN, Drawing, Piece, Sample, Turn, VLForgeError

LOOK_S = 0.25
"""How often a waiting page is told its place, and looked for."""
_logger = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an answer is drawn; greedy at temperature 0."""

    beams: Annotated[int, msgspec.Meta(ge=1)] = 1
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] = 256
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0

    def drawing(self, bounds: Bounds) -> Drawing:
        """What models are asked for.

        Raises:
            Refused: more than this server gives.
        """
        for name, value, most in (
            ("beams", self.beams, bounds.beams),
            ("max_tokens", self.max_tokens, bounds.tokens),
        ):
            if value > most:
                raise Refused(422, f"{name} is {value}; at most {most} here")
        return Drawing(self.max_tokens, self.temperature, self.top_p, self.beams)


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, the numbers of its pictures, and what was answered."""

    question: str
    pictures: list[int] = []
    answer: str = ""


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation whose last question is to be answered."""

    exchanges: Annotated[list[Exchange], msgspec.Meta(min_length=1)]
    model: int = 0
    system: str = ""
    settings: Settings = Settings()


class Talk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation to be saved."""

    exchanges: Annotated[list[Exchange], msgspec.Meta(min_length=1)]
    model: int = 0
    system: str = ""


def sample_of(talk: Ask | Talk, room: Room, bounds: Bounds) -> Sample:
    """The conversation as a sample; pictures stand before their question unless it places them.

    Raises:
        Refused: too much, a picture that is gone, marks that fit no picture.
    """
    if len(talk.exchanges) > bounds.exchanges:
        raise Refused(422, f"more than {bounds.exchanges} questions; begin a new conversation")
    size = len(talk.system) + sum(len(one.question) + len(one.answer) for one in talk.exchanges)
    if size > bounds.characters:
        raise Refused(413, f"{size} characters; at most {bounds.characters} in a conversation")
    turns = [Turn("system", talk.system)] if talk.system.strip() else []
    images: list[str] = []
    for exchange in talk.exchanges:
        pictures = pictures_of(exchange, room)
        images += [str(kept.path) for kept in pictures]
        turns.append(Turn("user", _marked(exchange.question, len(pictures))))
        if exchange is not talk.exchanges[-1] or exchange.answer:
            turns.append(Turn("assistant", exchange.answer.replace(LLAVA_IMAGE_TOKEN, "").strip()))
    return Sample("chat", tuple(images), tuple(turns))


def pictures_of(exchange: Exchange, room: Room) -> tuple[Kept, ...]:
    """Pictures of a question; `Refused` where one is gone."""
    try:
        return tuple(room.pictures[number] for number in exchange.pictures)
    except KeyError:
        raise Refused(404, "a picture of this conversation is gone; add it again") from None


def _marked(question: str, count: int) -> str:
    marks = question.count(LLAVA_IMAGE_TOKEN)
    if marks and marks != count:
        raise Refused(
            422, f"the question says {LLAVA_IMAGE_TOKEN} {marks} times and has {count} pictures"
        )
    return question if marks else f"{LLAVA_IMAGE_TOKEN}\n" * count + question


async def told(
    talker: Talker,
    request: Request,
    answer: Answer,
    name: str,
    is_gone: Callable[[], Awaitable[bool]],
) -> AsyncIterator[bytes]:
    """An answer as lines of JSON: place in line, text, and at last how it ended or why not.

    A page that goes away is noticed while it waits, too; nothing is drawn for it any more.
    """
    pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
    threading.Thread(
        target=_pump, args=(request, asyncio.get_running_loop(), pieces), daemon=True
    ).start()
    place = talker.place(request)
    yield _line(id=name, place=place)
    looked_at = time.monotonic()
    while not answer.ended:
        piece: Piece | Exception | None = None
        with contextlib.suppress(TimeoutError):
            piece = await asyncio.wait_for(pieces.get(), LOOK_S)
        if time.monotonic() - looked_at > LOOK_S:
            looked_at = time.monotonic()
            if await is_gone():
                return
        if piece is not None:
            yield _heard(piece, request, answer)
        elif place and talker.place(request) != place:
            place = talker.place(request)
            yield _line(place=place)


def _pump(
    request: Request, loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[Piece | Exception]
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
        try:
            for piece in request:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
        except Exception as error:  # whatever it is, the page is told
            loop.call_soon_threadsafe(pieces.put_nowait, error)


def let_go(request: Request) -> None:
    """Nobody reads on: neither the model nor the thread that listens to it has to."""
    request.leave()
    request.pieces.put(Piece(0, "", "stopped"))


def _heard(piece: Piece | Exception, request: Request, answer: Answer) -> bytes:
    if isinstance(piece, Exception):
        answer.ended = "failed"
        return _line(fault=_why(piece, answer.pictures))
    answer.text += piece.text
    answer.ended = piece.ended
    if not piece.ended:
        return _line(text=piece.text)
    now = time.monotonic()
    return _line(
        text=piece.text,
        ended=piece.ended,
        tokens=piece.tokens_out,
        tokens_in=piece.tokens_in,
        seconds=round(now - request.asked_at, 3),
        drawn_s=round(now - (request.first_at or now), 3),
    )


def _why(error: Exception, pictures: Sequence[Kept]) -> str:
    """What went wrong, without this machine's folders; a fault of ours is told to the terminal."""
    if not isinstance(error, VLForgeError):
        _logger.error("an answer failed", exc_info=error)
        return f"the model failed ({type(error).__name__}); its terminal says more"
    text = str(error)
    for kept in pictures:
        text = text.replace(str(kept.path), kept.name)
    return text


def _line(**told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def saved(talks: Sequence[Talk], room: Room, names: Sequence[str], bounds: Bounds) -> bytes:
    """Conversations as a LLaVA file, in a zip with their pictures: a data set to go on with."""
    used: dict[int, tuple[Kept, str]] = {}
    rows: list[dict[str, Any]] = []
    for talk, name in zip(talks, names, strict=True):
        sample = sample_of(talk, room, bounds)
        pictures = [kept for one in talk.exchanges for kept in pictures_of(one, room)]
        used |= {kept.number: (kept, saved_name(kept)) for kept in pictures}
        images = [f"images/{used[kept.number][1]}" for kept in pictures]
        row: dict[str, Any] = {"id": f"chat-{len(rows) + 1}", "model": name}
        if images:
            row["image"] = images[0] if len(images) == 1 else images
        speakers = {"user": "human", "assistant": "gpt", "system": "system"}
        row["conversations"] = [{"from": speakers[t.role], "value": t.text} for t in sample.turns]
        rows.append(row)
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("conversation.json", text.encode("utf-8", "replace"))
        for kept, file_name in used.values():
            archive.write(kept.path, f"images/{file_name}")
    return data.getvalue()
