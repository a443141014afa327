"""One address: what is asked, what is refused, and within which limits."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.download_site import Site, picture, running_site
from vlforge.data.download import addresses
from vlforge.data.download.addresses import Refused, is_public, names_private, parse
from vlforge.data.download.client import Client
from vlforge.data.download.config import DownloadConfig


@pytest.fixture
def site(monkeypatch):
    """A running site."""
    with running_site(monkeypatch) as server:
        yield server


def client(**options) -> Client:
    """A client that may ask this machine, and waits longer than this machine is ever busy."""
    given = {"allow_private": True, "thread_count": 4, "timeout": 60, "total_timeout": 600}
    return Client(DownloadConfig(**{**given, **options}))


def late(address: str, **limits) -> Refused:
    """Why there is no answer within limits, none of which is spent on looking up a name."""
    one = client(**limits)
    target = addresses.parse(address)
    one.lookup.places(target.host, target.port, 60)
    with pytest.raises(Refused) as caught:
        one.get(address)
    return caught.value


def refusal(address: str, **options) -> Refused:
    """Why there is no answer."""
    with pytest.raises(Refused) as caught:
        client(**options).get(address)
    return caught.value


def test_a_picture_comes_as_it_is_also_over_redirections(site):
    assert client().get(f"{site.url}/a.jpg") == picture()
    assert client().get(f"{site.url}/to/{site.url}/a.jpg") == picture()
    assert client(max_redirects=2).get(f"{site.url}/to//to//a.jpg") == picture()
    assert str(refusal(f"{site.url}/to//to//x", max_redirects=1)) == "more than 1 redirects"


@pytest.mark.parametrize(
    ("path", "reason", "is_final"),
    [
        ("/404", "HTTP Error 404: Not Found", True),
        ("/410", "HTTP Error 410: Gone", True),
        ("/500", "HTTP Error 500: Internal Server Error", False),
        ("/502", "HTTP Error 502: Bad Gateway", False),
        ("/429", "HTTP Error 429: Too Many Requests", False),
        ("/cut", "connection dropped", False),
        ("/reset", "empty answer", False),
        ("/to/ftp://example.org/a.jpg", "not http or https", True),
        ("/to/file:///etc/hostname", "not http or https", True),
        ("/to/http://[", "not an address", True),
        ("/deeper/0", "more than 10 redirects", True),
    ],
)
def test_a_fault_has_a_short_reason_and_says_whether_to_ask_again(site, path, reason, is_final):
    error = refusal(site.url + path)
    assert (str(error), error.is_final) == (reason, is_final)


def test_redirections_in_a_circle_end(site):
    site.RequestHandlerClass = _Circle
    assert str(refusal(f"{site.url}/to/")) == "redirects in a circle"
    assert sum(site.asked.values()) < 12


class _Circle(Site):
    def answer(self, name, rest, times):
        self.say(301, b"", Location="/b" if self.path == "/to/" else "/to/")


def test_ten_billion_zeros_are_cut_off(site):
    assert str(refusal(f"{site.url}/zeros/told", max_bytes=200_000)) == "more than 200000 bytes"
    assert str(refusal(f"{site.url}/zeros", max_bytes=200_000)) == "more than 200000 bytes"
    assert site.sent < 100_000_000


@pytest.mark.parametrize(
    ("path", "limits"),
    [
        ("/hang", {"read_timeout": 0.2}),
        ("/hang", {"total_timeout": 0.2}),
        ("/drip", {"total_timeout": 0.4}),
    ],
)
def test_nothing_is_waited_for_longer_than_allowed(site, path, limits):
    error = late(site.url + path, **limits)
    assert str(error) == "timed out"
    assert not error.is_final


def test_a_server_that_takes_no_connection_times_out(monkeypatch):
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    assert str(late(f"http://127.0.0.1:{port}/", connect_timeout=0.2)) == "timed out"
    for one in (*waiting, full):
        one.close()


def test_a_name_lookup_that_hangs_times_out(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *a, **k: release.wait(600) and [])
    try:
        error = refusal("http://slow.example/a.jpg", timeout=0.1)
    finally:
        release.set()
    assert str(error) == "timed out looking up the name"
    assert not error.is_final


def test_a_name_is_looked_up_once_for_many_pictures(site, monkeypatch):
    asked = []
    real = socket.getaddrinfo

    def counted(host, *rest, **more):
        asked.append(host)
        return real("127.0.0.1", *rest, **more)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", counted)
    one = client()
    for _ in range(3):
        assert one.get(f"http://pictures.example:{site.server_port}/a.jpg") == picture()
    assert asked == ["pictures.example"]


PRIVATE = "a private address: allow_private would reach it"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "2130706433", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]"],
)
def test_this_machine_is_refused_however_it_is_written(site, host):
    address = f"http://{host}:{site.server_port}/a.jpg"
    assert str(refusal(address, allow_private=False)) == PRIVATE
    assert not site.asked


def test_a_name_that_stands_for_a_private_address_is_refused(site, monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", site.server_port))]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *a, **k: found)
    address = f"http://innocent.example:{site.server_port}/a.jpg"
    assert str(refusal(address, allow_private=False)) == PRIVATE
    assert not site.asked
    assert client().get(address) == picture()


def test_redirections_to_private_addresses_are_refused(site, monkeypatch):
    real_check = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1" or real_check(ip))
    for inner in ("10.0.0.1", "169.254.169.254", "[fd00::1]", "192.168.1.1"):
        error = refusal(f"{site.url}/to/http://{inner}/latest", allow_private=False)
        assert str(error) == PRIVATE


def test_the_connection_goes_to_the_address_that_was_checked(site, monkeypatch):
    answers = iter(["127.0.0.1", "10.9.9.9"])

    def changing(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", changing)
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1")
    address = f"http://rebinding.example:{site.server_port}/a.jpg"
    assert client(allow_private=False).get(address) == picture()
    assert next(answers) == "10.9.9.9"


@pytest.mark.parametrize(
    "ip",
    ["10.1.2.3", "172.16.0.1", "192.168.0.1", "127.9.9.9", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "fe80::1%eth0", "fc00::1", "fec0::1",
     "ff02::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::"],
)  # fmt: skip
def test_private_addresses_are_known(ip):
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_known(ip):
    assert is_public(ip)


@pytest.mark.parametrize(
    ("host", "known"),
    [("127.1", True), ("0x7f000001", True), ("localhost.", True), ("db.internal", True),
     ("example.org", False), ("1.1.1.1", False)],
)  # fmt: skip
def test_behind_a_proxy_names_alone_are_judged(host, known):
    assert names_private(host) is known


def test_a_proxy_of_the_environment_is_asked_in_our_place(site, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)
    assert client(allow_private=False).get("http://pictures.example/a.jpg") == picture()
    assert list(site.asked) == ["http://pictures.example/a.jpg"]
    assert str(refusal("http://127.0.0.1/a.jpg", allow_private=False)) == PRIVATE


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("HTTP://Example.ORG/ä b?q=ü|1#part", "http://example.org/%C3%A4%20b?q=%C3%BC|1"),
        ("https://bücher.example:443", "https://xn--bcher-kva.example/"),
        ("http://my_host.example:8080/%20a", "http://my_host.example:8080/%20a"),
        (" http://[2606:4700::1111]/x\n", "http://[2606:4700::1111]/x"),
    ],
)
def test_addresses_are_sent_as_the_web_writes_them(address, sent):
    assert parse(address).url == sent


@pytest.mark.parametrize(
    "address",
    ["", "a.jpg", "file:///etc/passwd", "ftp://x/y", "gopher://x", "http://", "http://u:p@x/",
     "http://a b/", "http://x:99999/", "http://[::1", "javascript:1", "data:image/png;base64,AA",
     "http://" + "a" * 70 + ".example/", "http://x/" + "a" * 20_000],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(Refused):
        client().get(address)


def test_no_address_adds_lines_to_the_request(site):
    client().get(f"{site.url}/a%0d%0aX-Evil:1\r\nX-Evil: 2")
    assert "X-Evil" not in site.headers


def test_pages_that_forbid_their_use_are_left_alone(site):
    words = "Use of image disallowed by X-Robots-Tag directive"
    assert str(refusal(f"{site.url}/robots/noai,_nofollow")) == words
    assert client().get(f"{site.url}/robots/nofollow") == picture()
    assert client().get(f"{site.url}/robots/otherbot:_noai") == picture()
    address = f"{site.url}/robots/ourbot:_noai"
    assert str(refusal(address, user_agent_token="OurBot")) == words
    assert client(disallowed_header_directives=()).get(f"{site.url}/robots/noai") == picture()


def test_the_user_agent_is_ours_or_as_told(site):
    client().get(f"{site.url}/a")
    assert "vlforge/" in site.headers["User-Agent"]
    client(user_agent="mine/1\r\nX: y", user_agent_token="Tok").get(f"{site.url}/a")
    assert site.headers["User-Agent"] == "mine/1X: y (compatible; tok)"


def test_how_long_a_server_wants_peace_is_heard(site):
    site.RequestHandlerClass = _Busy
    assert refusal(f"{site.url}/a").wait_s == 7


class _Busy(Site):
    def answer(self, name, rest, times):
        self.say(503, b"", **{"Retry-After": "7"})


def test_a_secure_connection_needs_a_trusted_certificate(site):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("made_certificate.pem"))
    site.socket = context.wrap_socket(site.socket, server_side=True)
    address = f"https://localhost:{site.server_port}/a.jpg"
    error = refusal(address)
    assert (str(error), error.is_final) == ("certificate not trusted", True)
    assert client(ignore_ssl_certificate=True).get(address) == picture()


def test_a_server_that_says_nothing_of_a_secure_connection_times_out(site):
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"https://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
    assert str(late(address, connect_timeout=0.2)) == "timed out"
    silent.close()


def test_a_proxy_is_asked_for_a_tunnel(site, monkeypatch):
    monkeypatch.setenv("https_proxy", site.url)
    error = refusal("https://pictures.example/a.jpg")
    assert (str(error), error.is_final) == ("proxy says 501", False)
