"""What a request may cost, and how one that asks for more is told so."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Bounds of every request; sizes in bytes, pixels of all pictures of a request together.

    `tokens` is how many an answer gets that says no number, `most_tokens` how many may be
    asked for. `time_s` counts from a request's first byte to the last of its answer. `held`
    bounds what all requests under way hold of uploads.
    """

    body: int = 32 << 20
    pictures: int = 16
    pixels: int = 64_000_000
    characters: int = 400_000
    messages: int = 1000
    choices: int = 8
    tokens: int = 512
    most_tokens: int = 32_768
    temperature: float = 0.0
    time_s: float = 300.0
    held: int = 512 << 20


_KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "timeout_error",
}  # fmt: skip


class Fault(Exception):
    """Why a request gets no answer: a status of HTTP and OpenAI's error object.

    `param` is the part of the request at fault, `wait_s` after how long to ask again.
    """

    def __init__(
        self, status: int, message: str, *, param: str = "", code: str = "", wait_s: float = 0
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.wait_s = wait_s

    def body(self) -> dict[str, Any]:
        """The error as clients read it."""
        kind = _KINDS.get(self.status, "invalid_request_error")
        told = {"message": self.message, "type": kind}
        return {"error": told | {"param": self.param or None, "code": self.code or None}}

    def headers(self) -> dict[str, str]:
        """Whether and when to ask again: OpenAI's clients read these two."""
        found = {"x-should-retry": "true" if self.status in (429, 503) else "false"}
        if self.wait_s:
            found["retry-after"] = str(max(1, round(self.wait_s)))
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


class Room:
    """Bytes of uploads that are held at a time."""

    def __init__(self, most: int):
        self.most, self.held = most, 0
        self._lock = threading.Lock()

    def claim(self, size: int) -> None:
        """Hold so many more.

        Raises:
            Fault: there is no room for them now.
        """
        with self._lock:
            if self.held + size > self.most:
                text = f"uploads of {self.held >> 20} MB are being answered; ask again later"
                raise Fault(429, text, code="busy", wait_s=2)
            self.held += size

    def release(self, size: int) -> None:
        """Hold so many less."""
        with self._lock:
            self.held -= size


class Claim:
    """What one request holds of the room; given back at its end. Threads may share it."""

    def __init__(self, room: Room):
        self.room, self.size = room, 0
        self._is_over = False
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Hold so many bytes more.

        Raises:
            Fault: there is no room for them, or the request is over.
        """
        with self._lock:
            if self._is_over:
                raise Fault(408, "the request is over", code="timeout")
            self.room.claim(size)
            self.size += size

    def close(self) -> None:
        """Give all of it back."""
        with self._lock:
            self._is_over = True
            self.room.release(self.size)
            self.size = 0
