"""The endpoint client: faults, rates, budget, cache; the key is nowhere but in the request."""

from __future__ import annotations

import base64
import json

import pytest
from PIL import Image

from tests.endpoint_server import endpoint
from vlforge.inference.endpoint.chat import EndpointChat, request_of
from vlforge.inference.endpoint.client import Endpoint, EndpointError
from vlforge.inference.endpoint.config import ChatRequest, Reply
from vlforge.types import DataError, EndpointSpec, RecipeError, Sample, Turn

KEY = "sk-not-to-be-seen"


def said(body: dict) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    monkeypatch.setenv("VLFORGE_TEST_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return []


def client(url: str, pauses: list[float], cache=None, **settings) -> Endpoint:
    """A client whose clock stands still: its pauses are noted and not made."""
    spec = EndpointSpec("judge", url, key_env="VLFORGE_TEST_KEY", **settings)
    return Endpoint(spec, cache, sleep=pauses.append, clock=lambda: 0.0)


@pytest.mark.parametrize(
    "fault", [429, 500, 503, "<drop>", "<nonsense>", "<empty>", (429, {"Retry-After": "7"})]
)
def test_what_passes_is_tried_again(pauses, fault):
    with endpoint(lambda body, times: fault if times < 2 else "yes") as server:
        asking = client(server.url, pauses)
        assert asking.ask(ChatRequest.of_text("Is it?")).text == "yes"
        assert asking.usage.retried == 2
        assert len(pauses) == 2
        if isinstance(fault, tuple):
            assert pauses == [7, 7]
        assert server.keys[0] == f"Bearer {KEY}"


def test_a_server_that_hangs_is_given_up_in_time(pauses):
    with endpoint(lambda body, times: "<hang>") as server:
        asking = client(server.url, pauses, retries=1, timeout_s=0.2)
        with pytest.raises(EndpointError, match="no reply after 2 tries, the last: timed out"):
            asking.ask(ChatRequest.of_text("Is it?"))
        assert asking.usage.failed == 1


def test_a_request_that_is_refused_costs_itself_alone(pauses):
    def script(body, times):
        return 400 if said(body) == "2" else said(body)

    with endpoint(script) as server:
        asking = client(server.url, pauses)
        found = asking.ask_all([ChatRequest.of_text(str(number)) for number in range(5)])
        assert [getattr(one, "text", None) for one in found] == ["0", "1", None, "3", "4"]
        assert "400 told to say 400" in str(found[2])
        assert pauses == []


@pytest.mark.parametrize(("status", "told"), [(401, "set VLFORGE_TEST_KEY"), (404, "'judge'")])
def test_what_would_refuse_all_ends_the_asking(pauses, status, told):
    with endpoint(lambda body, times: status) as server:
        asking = client(server.url, pauses, concurrency=2)
        with pytest.raises(EndpointError, match=told) as raised:
            asking.ask_all([ChatRequest.of_text(str(number)) for number in range(100)])
        assert len(server.asked) < 20
        assert KEY not in str(raised.value)


def test_nothing_is_asked_twice_and_the_cache_outlives_a_kill(pauses, tmp_path):
    path = tmp_path / "replies.jsonl"
    requests = [ChatRequest.of_text(str(number)) for number in range(4)]
    with endpoint(lambda body, times: said(body)) as server:
        client(server.url, pauses, path).ask_all(requests[:3])
        with path.open("a") as file:
            file.write('{"key": "cut')
        asking = client(server.url, pauses, path)
        found = asking.ask_all(requests)
        assert [reply.text for reply in found if isinstance(reply, Reply)] == list("0123")
        assert len(server.asked) == 4
        assert (asking.usage.cached, asking.usage.requests) == (3, 1)
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()].count("3") == 1
    assert KEY not in path.read_text()


def test_replies_are_in_order_and_no_more_at_once_than_allowed(pauses):
    with endpoint(lambda body, times: said(body), slow_s=0.02) as server:
        asking = client(server.url, pauses, concurrency=3)
        seen = []
        found = asking.ask_all(
            [ChatRequest.of_text(str(number)) for number in range(20)],
            lambda place, reply: seen.append(place),
        )
        assert [getattr(one, "text", "") for one in found] == [str(n) for n in range(20)]
        assert sorted(seen) == list(range(20))
        assert server.most_at_once <= 3


def test_asking_stops_when_the_budget_is_spent(pauses):
    with endpoint(lambda body, times: "a b c d e") as server:
        asking = client(server.url, pauses, concurrency=1, price_out=1e6, max_cost=12)
        with pytest.raises(
            EndpointError, match=r"the budget is spent: 15\.00 of max_cost 12; give"
        ):
            asking.ask_all([ChatRequest.of_text(str(number)) for number in range(50)])
        assert len(server.asked) == 3
        assert asking.usage.line().endswith("cost 15.00")


def test_rates_hold_requests_back(pauses):
    with endpoint(lambda body, times: "yes") as server:
        asking = client(server.url, pauses, concurrency=1, requests_per_minute=60)
        asking.ask_all([ChatRequest.of_text(str(number)) for number in range(4)])
    assert pauses == [1, 2, 3]


def test_an_address_that_is_none_is_told_at_once(pauses):
    with pytest.raises(RecipeError, match="give http"):
        client("localhost:8000", pauses)


def test_pictures_stand_where_their_marks_are(pauses, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    turns = (Turn("system", "Be brief."), Turn("user", "Left <image> right <image>\nWhich?"))
    sample = Sample("1", (str(path), path.read_bytes()), turns)
    body = request_of(sample, 8).body("m")
    parts = body["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text", "image_url", "text"]
    data = parts[1]["image_url"]["url"].partition("base64,")[2]
    assert base64.b64decode(data) == path.read_bytes()
    with pytest.raises(DataError, match="more <image> than pictures"):
        request_of(Sample("1", (str(path),), turns), 8)


def test_an_endpoint_answers_samples_as_a_model_does(pauses):
    sample = Sample("1", (), (Turn("user", "Say it"),))
    with endpoint(lambda body, times: " it is red ") as server:
        chat = EndpointChat(client(server.url, pauses))
        assert chat.answer([sample], 8)[0].text == "it is red"
        assert "".join(chat.stream(sample, 8)).split() == ["it", "is", "red"]


def test_half_a_surrogate_pair_is_asked_about_as_a_mark(monkeypatch):
    monkeypatch.setenv("VLFORGE_TEST_KEY", "k")
    with endpoint(lambda body, times: body["messages"][0]["content"]) as server:
        reply = client(server.url, []).ask(ChatRequest.of_text("half \ud83d here"))
    assert reply.text == "half ? here"
