"""Pictures of requests: bounded before they are decoded, fetched from where that is allowed."""

from __future__ import annotations

import base64
import io
import zipfile

import pytest
from PIL import Image, ImageFile

from tests.download_site import running_site
from tests.serving.served import bomb, png
from vlforge.serving.http.limits import Fault, Limits, Room
from vlforge.serving.http.pictures import Fetcher, Gallery


def data(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def taken(*urls, limits=Limits(), fetch=None):
    gallery = Gallery(limits, fetch, lambda size: None)
    for number, url in enumerate(urls):
        gallery.take(url, f"part[{number}]")
    return gallery.found


def refused(*urls, **how) -> Fault:
    with pytest.raises(Fault) as caught:
        taken(*urls, **how)
    return caught.value


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a.jpg", b"x")
    return out.getvalue()


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (5, 4)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_is_taken_whatever_its_name_says(kind):
    content = encoded(kind)
    assert taken(data(content), data(content, "text/plain")) == [content, content]


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (data(SVG, "image/svg+xml"), "XML, perhaps an SVG"),
        (data(b"  <svg/>"), "an SVG drawing"),
        (data(zipped()), "a zip archive"),
        (data(b"%PDF-1.7"), "a PDF"),
        (data(encoded("TIFF")), "a TIFF picture"),
        (data(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "other bytes"),
        (data(b"\x89PNG\r\n\x1a\nrest"), "part[0]: "),
        (data(b"RIFF1234WAVE"), "part[0]: "),
        ("data:image/png;base64,@@@@", "invalid base64"),
        ("data:image/png;base64,abc", "invalid base64"),
        ("data:image/png;base64,", "no bytes"),
        ("data:image/png,abc", "base64"),
        ("data:", "base64"),
        ("file:///etc/passwd", "data: or http(s)"),
        ("/etc/passwd", "data: or http(s)"),
        ("ftp://x/y", "data: or http(s)"),
        ("http://example.org/x.png", "fetches no pictures"),
    ],
)
def test_what_is_no_picture_is_refused_and_named(url, why):
    fault = refused(url)
    assert fault.status == 400
    assert fault.param == "part[0]"
    assert why in fault.message
    assert len(fault.message) < 300


def test_200_megapixels_are_refused_undecoded(monkeypatch):
    content, decoded = bomb(), []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda file: decoded.append(file.size))
    fault = refused(data(content))
    assert decoded == []
    assert "20000 x 10000 pixels" in fault.message
    assert fault.code == "picture_too_large"


def test_pixels_are_of_all_pictures_together():
    small = data(png(10, 10))
    limits = Limits(pixels=250)
    assert len(taken(small, small, limits=limits)) == 2
    assert refused(small, small, small, limits=limits).param == "part[2]"


def test_more_pictures_than_allowed_are_refused():
    assert refused(data(png()), data(png()), limits=Limits(pictures=1)).param == "part[1]"


def test_pictures_on_the_web_are_fetched_where_that_is_allowed(monkeypatch):
    with running_site(monkeypatch) as site:
        limits = Limits(body=100_000)
        fetch = Fetcher(limits, allow_private=True, time_s=600)
        (content,) = taken(f"{site.url}/a.jpg", fetch=fetch)
        assert Image.open(io.BytesIO(content)).size == (40, 30)
        reasons = {
            "404": "HTTP Error 404",
            "deeper/0": "more than 3 redirects",
            "zeros": "more than 100000 bytes",
            "zeros/told": "more than 100000 bytes",
            "html.jpg": "a web page",
            "to/file:///etc/passwd": "not http",
        }
        for path, why in reasons.items():
            assert why in refused(f"{site.url}/{path}", fetch=fetch).message
        fetch.close()
        hasty = Fetcher(limits, allow_private=True, time_s=1)
        for path in ("drip", "hang"):
            assert "timed out" in refused(f"{site.url}/{path}", fetch=hasty).message
        hasty.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.1.2.3", "0.0.0.0", "2130706433"],
)
def test_private_addresses_are_not_asked(host):
    fetch = Fetcher(Limits(), time_s=600)
    fault = refused(f"http://{host}:1/x.png", fetch=fetch)
    assert "--allow-private" in fault.message
    fetch.close()


def test_room_is_bounded_and_given_back():
    room = Room(100)
    room.claim(60)
    with pytest.raises(Fault) as caught:
        room.claim(41)
    assert caught.value.status == 429
    assert caught.value.headers()["retry-after"] == "2"
    room.release(60)
    room.claim(100)
