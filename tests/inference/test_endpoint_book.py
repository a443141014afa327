"""The book of replies, its budget, and what the client learns of a server's ways."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.endpoint_server import endpoint
from tests.inference.test_endpoint import KEY, client, pauses, said  # noqa: F401
from vlforge.inference.endpoint.cache import ReplyCache
from vlforge.inference.endpoint.client import EndpointError
from vlforge.inference.endpoint.config import ChatRequest, Reply, Usage
from vlforge.types import RecipeError, WriteError

APPEND = """
import sys
from pathlib import Path
from vlforge.inference.endpoint.cache import ReplyCache
from vlforge.inference.endpoint.config import Reply
cache = ReplyCache(Path(sys.argv[1]))
for n in range(120):
    cache.add(f"{sys.argv[2]}-{n}", Reply("é" * 3000, 1, 2), "m")
"""


def ask(text, **more):
    return ChatRequest.of_text(text, **more)


def test_processes_may_share_a_book(tmp_path):
    path = tmp_path / "replies.jsonl"
    watching = ReplyCache(path)
    command = [sys.executable, "-c", APPEND, str(path)]
    writing = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [one.wait() for one in writing] == [0, 0, 0]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["key"] for row in rows}) == 360
    assert watching.get("2-119") == Reply("é" * 3000, 1, 2, True)
    assert watching.spent("m") == (360, 720)
    assert watching.spent("other") == (0, 0)


def test_what_another_wrote_is_found_and_a_cut_line_is_mended(tmp_path):
    path = tmp_path / "replies.jsonl"
    mine, theirs = ReplyCache(path), ReplyCache(path)
    theirs.add("a", Reply("x"))
    assert mine.get("a").text == "x"
    with path.open("ab") as file:
        file.write(b'{"key": "cut' + b"!" * 200_000)
    assert mine.get("cut") is None
    theirs.add("b", Reply("y"))
    assert mine.get("b").text == "y"
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_a_file_of_an_older_version_is_read_and_junk_passed_over(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"key": "a", "text": "x", "in": 1, "out": 2}\nnonsense\n[]\n')
    cache = ReplyCache(path)
    assert cache.get("a") == Reply("x", 1, 2, True)
    path.unlink()
    cache.add("b", Reply("y"))
    assert cache.get("b").text == "y"


def test_a_place_where_nothing_can_be_kept_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecipeError, match=r"replies: .*folder cannot be read: Is a directory"):
        ReplyCache(tmp_path / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="r: a reply cannot be kept: "):
        ReplyCache(tmp_path / "file" / "r").add("a", Reply("x"))


def test_the_budget_outlives_a_run_and_a_larger_one_goes_on(pauses, tmp_path):  # noqa: F811
    path = tmp_path / "replies.jsonl"
    how = {"concurrency": 1, "price_in": 0, "price_out": 1e6}
    requests = [ask(str(number)) for number in range(6)]
    with endpoint(lambda body, times: "a b c d e") as server:
        for limit, asked in ((12, 3), (12, 3), (22, 5), (100, 6)):
            asking = client(server.url, pauses, path, max_cost=limit, **how)
            if limit < 100:
                with pytest.raises(EndpointError, match="the budget is spent") as error:
                    asking.ask_all(requests)
                assert error.value.is_for_all
            else:
                asking.ask_all(requests)
            assert len(server.asked) == asked
        assert asking.usage.cached == 5
    assert str(error.value) == (
        "judge: the budget is spent: 25.00 of max_cost 22 (15.00 of it before); give the same "
        "command with a larger max_cost, it goes on from the replies that came"
    )


def test_what_is_being_paid_was_not_paid_before(pauses):  # noqa: F811
    told: list[str] = []

    def look():
        with pytest.raises(EndpointError) as error:
            asking.ask(ask("2"))
        told.append(str(error.value))

    class Looked(ReplyCache):
        """Another thread looks what is spent as soon as a reply is kept."""

        def add(self, *reply):
            super().add(*reply)
            looking.start()
            looking.join(0.2)

    looking = threading.Thread(target=look, daemon=True)
    with endpoint(lambda body, times: "a b c d e") as server:
        asking = client(server.url, pauses, Looked(), price_out=1e6, max_cost=4)
        asking.ask(ask("1"))
        looking.join(60)
    assert "the budget is spent: 5.00 of max_cost 4; give" in told[0]


def test_a_server_that_counts_no_tokens_is_not_free(pauses):  # noqa: F811
    with endpoint(lambda body, times: "<untold>") as server:
        asking = client(server.url, pauses, price_in=1e6, price_out=1e6)
        asking.ask(ask("four" * 10))
        assert asking.usage.cost == pytest.approx(10 + 2)


def test_a_budget_without_prices_is_told(pauses):  # noqa: F811
    with pytest.raises(RecipeError, match="max_cost 3 needs price_in and price_out"):
        client("http://localhost/v1", pauses, max_cost=3)


def test_the_same_is_asked_once_at_a_time(pauses):  # noqa: F811
    with endpoint(lambda body, times: said(body), slow_s=0.1) as server:
        asking = client(server.url, pauses, concurrency=8)
        found = asking.ask_all([ask("same")] * 20)
        assert [one.text for one in found] == ["same"] * 20
        assert len(server.asked) == 1
    assert (asking.usage.requests, asking.usage.cached) == (1, 19)


def test_a_wait_that_the_server_asks_for_is_kept_by_all(pauses):  # noqa: F811
    def script(body, times):
        return (429, {"Retry-After": "30"}) if said(body) == "0" and not times else said(body)

    with endpoint(script) as server:
        asking = client(server.url, pauses, concurrency=1)
        asking.ask_all([ask(str(number)) for number in range(3)])
    assert len(pauses) == 3, "the clock stands still in this test, so all three wait"
    assert pauses == [30] * 3


def test_empty_answers_are_asked_again_where_words_are_needed(pauses, tmp_path):  # noqa: F811
    path = tmp_path / "replies.jsonl"
    with endpoint(lambda body, times: " " if times < 2 else "yes") as server:
        asking = client(server.url, pauses, path, price_out=1e6)
        assert asking.ask(ask("a")).text == " "
        assert asking.ask(ask("a", needs_words=True)).text == "yes"
        assert asking.ask(ask("a")).text == "yes"
        assert len(server.asked) == 3
    with endpoint(lambda body, times: "") as server:
        asking = client(server.url, pauses)
        with pytest.raises(EndpointError, match=r"an empty answer \(finish_reason stop\)"):
            asking.ask(ask("a", needs_words=True))
        assert len(server.asked) == 3
    with endpoint(lambda body, times: "<length>") as server:
        asking = client(server.url, pauses)
        with pytest.raises(EndpointError, match="all 9 tokens of max_tokens went before"):
            asking.ask(ask("a", max_tokens=9, needs_words=True))
        assert len(server.asked) == 1
        assert asking.usage.requests == 1, "it was paid"


def test_parameters_that_a_model_does_not_take_are_left_out(pauses, tmp_path):  # noqa: F811
    def script(body, times):
        if "max_tokens" in body:
            return 400, {}, "Unsupported parameter: 'max_tokens' is not supported with this model"
        if "temperature" in body:
            return 400, {}, "'temperature' does not support 0.0 with this model."
        return f"{sorted(body)}"

    with endpoint(script) as server:
        asking = client(server.url, pauses, tmp_path / "r", concurrency=1)
        found = asking.ask_all([ask(str(number)) for number in range(3)])
        assert [one.text for one in found] == ["['max_completion_tokens', 'messages', 'model']"] * 3
        assert len(server.asked) == 5
        assert asking.told().endswith("; it does not take temperature")
        assert asking.usage.failed == 0
    assert client(server.url, pauses, tmp_path / "r").ask(ask("1")).is_cached
    with (
        endpoint(lambda body, times: (400, {}, "max_tokens is too large")) as server,
        pytest.raises(EndpointError, match="max_tokens is too large"),
    ):
        client(server.url, pauses).ask(ask("1"))


def test_a_server_that_answers_nobody_is_given_up(pauses):  # noqa: F811
    with endpoint(lambda body, times: 500) as server:
        asking = client(server.url, pauses, concurrency=2, retries=1)
        asking.patience = 4
        with pytest.raises(EndpointError, match="4 requests in a row got no reply, the last:"):
            asking.ask_all([ask(str(number)) for number in range(100)])
        assert len(server.asked) <= 14


def test_all_who_ask_on_are_told_why_nobody_is_asked(pauses):  # noqa: F811
    with endpoint(lambda body, times: (401, {}, "who are you")) as server:
        asking = client(server.url, pauses)
        errors = []
        for number in range(2):
            with pytest.raises(EndpointError) as error:
                asking.ask_all([ask(f"{number}")])
            errors.append(error.value)
        assert len(server.asked) == 1
    assert str(errors[0]) == str(errors[1])
    assert all(error.is_for_all for error in errors)


def test_where_nobody_listens_the_first_requests_end_the_asking(pauses):  # noqa: F811
    with socket.socket() as silent:  # taken, so that nobody else comes to listen there
        silent.bind(("127.0.0.1", 0))
        asking = client(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", pauses, concurrency=5)
        asking.patience = 24
        with pytest.raises(EndpointError, match=r"5 requests in a row got no .* refused; see"):
            asking.ask_all([ask(str(number)) for number in range(100)])


def test_what_a_server_refuses_is_no_fault_of_the_server(pauses):  # noqa: F811
    with endpoint(lambda body, times: "yes" if said(body) == "0" else 400) as server:
        asking = client(server.url, pauses, concurrency=1)
        asking.patience = 4
        found = asking.ask_all([ask(str(number)) for number in range(30)])
    assert sum(isinstance(one, Reply) for one in found) == 1


def test_an_account_without_money_ends_the_asking(pauses):  # noqa: F811
    with endpoint(lambda body, times: (429, {}, "insufficient_quota: pay")) as server:
        with pytest.raises(EndpointError, match="insufficient_quota") as error:
            client(server.url, pauses).ask(ask("1"))
        assert error.value.is_for_all
        assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [401, 400, 500, 200])
def test_a_key_that_a_server_repeats_goes_nowhere(pauses, tmp_path, answer):  # noqa: F811
    path = tmp_path / "replies.jsonl"
    text = f"Incorrect API key provided: {KEY} (sk-...)"
    with endpoint(lambda body, times: text if answer == 200 else (answer, {}, text)) as server:
        asking = client(server.url, pauses, path, retries=1)
        if answer == 200:
            assert KEY not in asking.ask(ask("1")).text
            assert KEY.encode() not in path.read_bytes()
            return
        with pytest.raises(EndpointError, match=r"\*\*\*") as error:
            asking.ask(ask("1"))
    assert KEY not in str(error.value) + repr(error.value)
    assert KEY not in repr(vars(asking)) + asking.told()


def test_a_key_that_is_none_is_not_repeated(pauses, monkeypatch):  # noqa: F811
    monkeypatch.setenv("VLFORGE_TEST_KEY", f"{KEY}\nsecond")
    with pytest.raises(RecipeError, match="holds characters that no key has") as error:
        client("http://127.0.0.1:9/v1", pauses).ask(ask("1"))
    assert KEY not in str(error.value)


@pytest.mark.parametrize("url", ["http://me:sesame@host/v1", "https://host/v1?api-key=sesame"])
def test_an_address_with_a_secret_is_refused_without_it(pauses, url):  # noqa: F811
    with pytest.raises(RecipeError, match="the address of host holds") as error:
        client(url, pauses)
    assert "sesame" not in str(error.value)


def test_half_a_character_can_be_kept(pauses, tmp_path):  # noqa: F811
    with endpoint(lambda body, times: "half \ud83d") as server:
        asking = client(server.url, pauses, tmp_path / "r")
        assert asking.ask(ask("1")).text == "half ?"
        assert asking.ask(ask("1")).is_cached


def test_usages_add_up():
    total = Usage(1, 2, 3, 4, 5, 6, 0.5) + Usage(1, 1, 1, 1, 1, 1, 0.001)
    assert total == Usage(2, 3, 4, 5, 6, 7, 0.501)
    assert (total + Usage(without=frozenset("a"))).line().endswith("; it does not take a")
    assert Usage(1, cost=0.0012).line().endswith("cost 0.0012")


def test_replies_lie_where_they_are_told(tmp_path):
    path = tmp_path / "deep" / "er" / "r.jsonl"
    ReplyCache(path).add("a", Reply("x"))
    assert os.path.getsize(path) > 10
