"""What generative models answered about the rows of a block, kept until the block is safe.

A run that is killed in the middle of a block finds here what was answered already, and
asks only for the rest. Each block has a file of its own, which goes when the block is
committed, so neither memory nor disk grow with the rows. An answer is found by all that it
depends on: the model's name, the words, the pictures, how it is drawn, and its key.
Endpoints are not covered: what they answer is kept by their own file of replies.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from vlforge.engine.outputs import cannot_write
from vlforge.types import (
    Caption,
    Captioner,
    Drawing,
    EndpointSpec,
    ModelSource,
    Painter,
    Refusal,
    Sample,
    Writer,
)

if TYPE_CHECKING:
    from PIL.Image import Image

PORTION = 64
"""Texts that a model is asked for before the answers are put down."""
PICTURES_AT_ONCE = 8
"""The same for pictures."""
_HEAD_BYTES = 8
_KEPT_MODES = ("L", "RGB", "RGBA")


class AnswerFolder:
    """The hidden folder of the files, named after the work that they belong to."""

    def __init__(self, out: Path, key: str):
        self.out = out
        self.path = out / f".answers-{key[:16]}"

    def clear_others(self) -> None:
        """Forget answers of other work."""
        for stale in self.out.glob(".answers-*"):
            if stale != self.path:
                shutil.rmtree(stale, ignore_errors=True)

    def file(self, name: str) -> Path:
        """Where the answers about a block lie."""
        return self.path / name

    def forget(self, names: Sequence[str]) -> None:
        """Blocks that are safe, by the beginnings of their names."""
        for name in names:
            for file in self.path.glob(f"{name}-*"):
                file.unlink(missing_ok=True)

    def remove(self) -> None:
        """All of it: the work is done."""
        shutil.rmtree(self.path, ignore_errors=True)


class AnswerLog:
    """The answers about one block: those found in its file, and those added to it.

    A record that a kill cut off, and what is behind it, is cut away.
    """

    def __init__(self, path: Path):
        self.path = path
        self._found: dict[bytes, Any] = {}
        self._file: IO[bytes] | None = None
        if path.is_file():
            data = path.read_bytes()
            whole = self._read(data)
            if whole < len(data):
                os.truncate(path, whole)

    def _read(self, data: bytes) -> int:
        """Take the whole records; gives where they end."""
        at = 0
        while at + _HEAD_BYTES <= len(data):
            size, check = (int.from_bytes(data[at + n : at + n + 4], "big") for n in (0, 4))
            body = data[at + _HEAD_BYTES : at + _HEAD_BYTES + size]
            if len(body) < size or zlib.crc32(body) != check:
                break
            key, answer = msgspec.msgpack.decode(body)
            self._found[key] = answer
            at += _HEAD_BYTES + size
        return at

    def get(self, key: bytes) -> Any:
        """The answer to a question that was answered before a kill; None: not there."""
        return self._found.get(key)

    def add(self, answers: Mapping[bytes, Any]) -> None:
        """Put answers down; they outlive this process when this returns."""
        records = b"".join(_record(key, answer) for key, answer in answers.items())
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            self._file.write(records)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """No more answers come."""
        if self._file is not None:
            self._file.close()


def _record(key: bytes, answer: Any) -> bytes:
    try:
        body = msgspec.msgpack.encode([key, answer])
    except UnicodeEncodeError:  # half a character: asked for again, should it come to that
        return b""
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


class RememberingModels:
    """The models of `models`; what captioners, writers and painters answer is put down.

    `asked` counts the answers that models gave, `remembered` those that were found.
    """

    def __init__(self, models: ModelSource, endpoints: Mapping[str, EndpointSpec]):
        self.models = models
        self.endpoints = endpoints
        self.asked = self.remembered = 0
        self._log: AnswerLog | None = None
        self._opening = threading.Lock()

    @contextmanager
    def block(self, path: Path) -> Iterator[None]:
        """Answers meanwhile are about one block, whose file is `path`."""
        self._log = log = AnswerLog(path)
        try:
            yield
        finally:
            self._log = None
            log.close()

    def captioner(self, path: str) -> Captioner:
        """The captioner called `path`, remembering."""
        with self._opening:
            found = self.models.captioner(path)
        return found if path in self.endpoints else _Captioner(found, self, path)

    def writer(self, path: str | EndpointSpec) -> Writer:
        """The writer called `path`, remembering where it is no endpoint."""
        with self._opening:
            found = self.models.writer(path)
        if isinstance(path, EndpointSpec) or path in self.endpoints:
            return found
        return _Writer(found, self, path)

    def painter(self, path: str) -> Painter:
        """The painter called `path`, remembering."""
        return _Painter(self.models.painter(path), self, path)

    def __getattr__(self, name: str) -> Any:
        """What only judges is asked as it is: a judgement is quickly made again."""
        return getattr(self.models, name)

    def through(
        self,
        keys: Sequence[bytes],
        ask: Callable[[list[int]], Sequence[Any]],
        portion: int,
        told: Callable[[Any], Any],
        untold: Callable[[Any], Any],
    ) -> list[Any]:
        """Answers by `keys`, those that are not there from `ask`, which takes their places.

        `told` makes plain values of an answer (None: not to be kept), `untold` the answer.
        """
        log = self._log
        kept = [None if log is None else log.get(key) for key in keys]
        found = [None if one is None else untold(one) for one in kept]
        missing = [at for at, one in enumerate(kept) if one is None]
        self.remembered += len(keys) - len(missing)
        for begin in range(0, len(missing), portion):
            some = missing[begin : begin + portion]
            answers = ask(some)
            self.asked += len(some)
            plain = {keys[at]: told(one) for at, one in zip(some, answers, strict=True)}
            if log is not None:
                log.add({key: one for key, one in plain.items() if one is not None})
            for at, one in zip(some, answers, strict=True):
                found[at] = one
        return found


class _Remembering:
    """A model and where its answers are put down; what else it can do is its own."""

    def __init__(self, model: Any, models: RememberingModels, name: str):
        self._model, self._models, self._name = model, models, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Ready:
    """A picture as its captioner has prepared it, and what it is known by."""

    def __init__(self, it: Any, seen: tuple[Any, ...]):
        self.it, self.seen = it, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.it, name)


def _ready_file(prepare: Callable[[bytes], Any], content: bytes) -> _Ready | None:
    made = prepare(content)
    return None if made is None else _Ready(made, (_digest(content),))


class _Captioner(_Remembering):
    def caption(
        self,
        images: Sequence[Image],
        prompts: Sequence[str | None],
        count: int,
        keys: Sequence[int],
        all_drawn: bool = False,
    ) -> list[list[Caption] | Refusal]:
        """As the captioner's own."""
        how = {"all_drawn": True} if all_drawn else {}
        told = (count, all_drawn)
        asked = zip(images, prompts, keys, strict=True)
        names = [_name("caption", self._name, _seen(i), p, told, k) for i, p, k in asked]

        def ask(at: list[int]) -> list[list[Caption] | Refusal]:
            some = [one.it if isinstance(one, _Ready) else one for one in _at(images, at)]
            found = self._model.caption(some, _at(prompts, at), count, _at(keys, at), **how)
            return list(found)

        return self._models.through(names, ask, PORTION, _told_captions, _captions)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name == "prepare":
            return lambda image: _Ready(found(image), _seen(image))
        if name == "prepare_file":
            return partial(_ready_file, found)
        return found


class _Writer(_Remembering):
    def write(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> list[list[Caption] | Refusal]:
        """As the writer's own."""
        how, asked = astuple(drawing), zip(samples, keys, strict=True)
        names = [_name("write", self._name, *_said(s), how, k) for s, k in asked]

        def ask(at: list[int]) -> list[list[Caption] | Refusal]:
            return list(self._model.write(_at(samples, at), drawing, _at(keys, at)))

        return self._models.through(names, ask, PORTION, _told_captions, _captions)


class _Painter(_Remembering):
    def paint(
        self, images: Sequence[Image], prompts: Sequence[str], keys: Sequence[int], **how: Any
    ) -> list[Image | Refusal]:
        """As the painter's own."""
        told = sorted(how.items())
        asked = zip(images, prompts, keys, strict=True)
        names = [_name("paint", self._name, _seen(i), p, told, k) for i, p, k in asked]

        def ask(at: list[int]) -> list[Image | Refusal]:
            return list(self._model.paint(_at(images, at), _at(prompts, at), _at(keys, at), **how))

        return self._models.through(names, ask, PICTURES_AT_ONCE, _told_picture, _painted)


def _name(*told: Any) -> bytes:
    """16 bytes that name a question."""
    text = repr(told).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _at(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[at] for at in places]


def _seen(image: Any) -> tuple[Any, ...]:
    """What tells a picture from others: its pixels."""
    if isinstance(image, _Ready):
        return image.seen
    return image.mode, image.size, _digest(image.tobytes())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _said(sample: Sample) -> tuple[Any, ...]:
    """What tells a request from others; a file is known by its name, length and time."""
    turns = [(turn.role, turn.text) for turn in sample.turns]
    return sample.id, turns, [_file_known(image) for image in sample.images]


def _file_known(image: Any) -> Any:
    if not isinstance(image, str):
        return _digest(bytes(image))
    try:
        found = os.stat(image)
    except (OSError, ValueError):
        return image, None
    return image, found.st_size, found.st_mtime_ns


def _told_captions(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        return [answer.reason, answer.detail]
    return [[one.text, one.confidence] for one in answer]


def _captions(told: Any) -> Any:
    if told and isinstance(told[0], str):
        return Refusal(*told)
    return [Caption(text, confidence) for text, confidence in told]


def _told_picture(answer: Any) -> Any:
    """PNG, which loses nothing."""
    if isinstance(answer, Refusal):
        return [answer.reason, answer.detail]
    if answer.mode not in _KEPT_MODES:
        return None
    file = io.BytesIO()
    answer.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _painted(told: Any) -> Any:
    from PIL import Image

    if isinstance(told, list):
        return Refusal(*told)
    image = Image.open(io.BytesIO(told))
    image.load()
    return image.copy()
