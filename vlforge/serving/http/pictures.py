"""Pictures that requests bring or name: bounded before anything of them is decoded."""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

from vlforge.data.headers import begins_as_picture
from vlforge.data.images import ImageError, ImageFile
from vlforge.serving.http.limits import Fault, Limits

KNOWN = "JPEG, PNG, WebP, GIF and BMP pictures are taken"
_STARTS = {
    b"<svg": "an SVG drawing", b"<?xml": "XML, perhaps an SVG drawing", b"<": "a web page or XML",
    b"PK\x03\x04": "a zip archive", b"%PDF": "a PDF document", b"II*\x00": "a TIFF picture",
    b"MM\x00*": "a TIFF picture",
}  # fmt: skip


class Fetcher:
    """Fetches pictures from the web within bounds; many threads may ask.

    Args:
        limits: bytes of a picture are bounded as a request's body is.
        allow_private: also from this machine and from private networks.
        time_s: the longest that one picture may take.
    """

    def __init__(self, limits: Limits, *, allow_private: bool = False, time_s: float = 20.0):
        from vlforge.data.download.client import picture_client

        self._client = picture_client(
            allow_private=allow_private, most_bytes=limits.body, time_s=time_s, threads=8
        )

    def __call__(self, address: str) -> bytes:
        """What lies at the address.

        Raises:
            Fault: nothing that may be fetched, or nobody answers.
        """
        from vlforge.data.download.addresses import PRIVATE, Refused

        try:
            return self._client.get(address)
        except Refused as error:
            why = str(error)
            if why == PRIVATE:
                why = "a private address, which this server does not ask (--allow-private)"
            raise Fault(400, f"the picture cannot be fetched: {why}", code="bad_picture") from None

    def close(self) -> None:
        """Let go of the threads that look up names."""
        self._client.close()


class Gallery:
    """Takes one request's pictures, in order; all of them share the request's bounds."""

    def __init__(self, limits: Limits, fetch: Callable[[str], bytes] | None, claim: Any):
        self.limits, self.fetch, self.claim = limits, fetch, claim
        self.found: list[bytes] = []
        self._pixels = self._bytes = 0

    def take(self, url: str, where: str) -> None:
        """One more picture.

        Raises:
            Fault: it is none, or over a bound; names the place in the request.
        """
        if len(self.found) >= self.limits.pictures:
            raise Fault(400, f"more than {self.limits.pictures} pictures", param=where)
        try:
            content = self._content(url)
            self._check(content)
        except Fault as fault:
            raise Fault(fault.status, f"{where}: {fault}", param=where, code=fault.code,
                        wait_s=fault.wait_s) from None  # fmt: skip
        self.found.append(content)

    def _content(self, url: str) -> bytes:
        scheme = url[:8].partition(":")[0].lower()
        if scheme == "data":
            return _inline(url)
        if scheme not in ("http", "https"):
            raise _bad("give a data: or http(s) address")
        if self.fetch is None:
            raise _bad("this server fetches no pictures; send them as data: addresses")
        content = self.fetch(url)
        self._bytes += len(content)
        if self._bytes > self.limits.body:
            raise Fault(413, f"fetched pictures of more than {self.limits.body} bytes together")
        self.claim(len(content))
        return content

    def _check(self, content: bytes) -> None:
        if not begins_as_picture(content):
            raise _bad(f"not a picture but {_guess(content)}; {KNOWN}")
        try:
            width, height = ImageFile("picture", content).size()
        except ImageError as error:
            raise _bad(f"{error.reason}; {KNOWN}") from None
        self._pixels += width * height
        if self._pixels > self.limits.pixels:
            raise Fault(
                400,
                f"{width} x {height} pixels; the pictures of a request may have "
                f"{self.limits.pixels:,} together: send smaller ones",
                code="picture_too_large",
            )


def _inline(url: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _bad("a data: address needs its bytes in base64, as data:image/png;base64,…")
    try:
        content = binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(f"invalid base64: {str(error).lower()}") from None
    if not content:
        raise _bad("no bytes behind base64,")
    return content


def _guess(content: bytes) -> str:
    head = content[:256].lstrip().lstrip(b"\xef\xbb\xbf")
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), "other bytes")


def _bad(text: str) -> Fault:
    return Fault(400, text, code="bad_picture")
