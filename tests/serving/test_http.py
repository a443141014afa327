"""The server through OpenAI's own client and through none: answers, streams, refusals."""

from __future__ import annotations

import json
import socket
import threading

import openai
import pytest

from tests.serving.patience import PATIENCE_S
from tests.serving.served import (
    echo,
    png,
    serving,
    shown,
    user,
    wait_until,
    words,
)
from vlforge.inference.scripted import ScriptedSpeaker
from vlforge.serving.http import streams
from vlforge.serving.http.door import read_off
from vlforge.serving.http.limits import Limits
from vlforge.types import ModelError, Refusal


@pytest.fixture(autouse=True)
def _reads_off_slow_clients(monkeypatch):
    """A client that is slow to send all of what is refused is not cut off here."""
    monkeypatch.setattr(read_off, "__defaults__", (PATIENCE_S,))


def test_openais_client_gets_an_answer():
    with serving(echo()) as place:
        said = place.client().chat.completions.create(
            model="m", messages=[user([shown(png()), words("what is it?")])], max_tokens=9
        )
    assert said.choices[0].message.content == "1 pictures '<image>\\nwhat is it?'"
    assert said.choices[0].finish_reason == "stop"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (1, 5)
    assert said.usage.total_tokens == 6
    assert said._request_id == said.id


def test_openais_client_reads_a_stream_and_its_usage():
    with serving(echo()) as place:
        how = {"model": "m", "messages": [user("a b c")], "stream": True}
        chunks = list(place.client().chat.completions.create(**how))
        told = list(
            place.client().chat.completions.create(**how, stream_options={"include_usage": True})
        )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert [text for text in texts if text] == ["0", " pictures", " 'a", " b", " c'"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert (told[-1].choices, told[-1].usage.completion_tokens) == ([], 5)
    assert len({chunk.id for chunk in told}) == 1


def test_an_answer_cut_short_says_length():
    with serving(echo()) as place:
        client = place.client()
        said = client.chat.completions.create(model="m", messages=[user("a b c")], max_tokens=2)
        whole = client.chat.completions.create(model="m", messages=[user("a b c")], n=2)
    assert (said.choices[0].finish_reason, said.usage.completion_tokens) == ("length", 2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert len({choice.message.content for choice in whole.choices}) == 1
    assert whole.usage.completion_tokens == 10


def test_choices_are_drawn_with_keys_of_their_own():
    speaker = ScriptedSpeaker(lambda sample, drawing, key: f"key {key}")
    with serving(speaker) as place:
        how = {"model": "m", "messages": [user("hi")], "temperature": 1, "seed": 11, "n": 3}
        first = place.client().chat.completions.create(**how)
        again = list(place.client().chat.completions.create(**how, stream=True))
    texts = [choice.message.content for choice in first.choices]
    assert texts[0] == "key 11"
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in again:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_models_are_listed_and_found():
    with serving(echo(), ScriptedSpeaker(lambda *_: "other")) as place:
        client = place.client()
        assert [model.id for model in client.models.list()] == ["m", "m2"]
        assert client.models.retrieve("m2").owned_by == "vlforge"
        said = client.chat.completions.create(model="m2", messages=[user("hi")])
        assert said.choices[0].message.content == "other"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' here; there are: m, m2"):
            client.chat.completions.create(model="gpt-4", messages=[user("hi")])
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt/4")


def test_faults_are_the_errors_that_openais_client_knows():
    def reply(sample, drawing, key):
        if "long" in sample.turns[-1].text:
            return Refusal("conversation too long", "99 tokens, and the model takes 64")
        raise ModelError("logits that are not finite")

    with serving(ScriptedSpeaker(reply)) as place:
        chat = place.client().chat.completions
        with pytest.raises(openai.BadRequestError, match="last message") as caught:
            chat.create(model="m", messages=[user("a"), {"role": "assistant", "content": "b"}])
        assert caught.value.param == "messages"
        with pytest.raises(openai.BadRequestError, match="99 tokens") as caught:
            chat.create(model="m", messages=[user("long")])
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="99 tokens"):
            list(chat.create(model="m", messages=[user("long")], stream=True))
        with pytest.raises(openai.InternalServerError, match="not finite"):
            chat.create(model="m", messages=[user("break")])
        with pytest.raises(openai.BadRequestError, match="logprobs"):
            chat.create(model="m", messages=[user("hi")], logprobs=True)
        status, body, _ = place.ask("/v1/completions", {"prompt": "x"})
        assert status == 404
        assert "/v1/chat/completions" in body["error"]["message"]
        assert place.ask("/v1/chat/completions")[0] == 405


def test_what_breaks_in_mid_stream_is_the_last_event():
    class Breaking(ScriptedSpeaker):
        def stream_many(self, samples, drawing, keys):
            pieces = super().stream_many(samples, drawing, keys)
            yield next(pieces)
            raise ModelError("no memory left")

    with serving(Breaking(lambda *_: "one two three")) as place:
        stream = place.client().chat.completions.create(
            model="m", messages=[user("hi")], stream=True
        )
        got = []
        with pytest.raises(openai.APIError, match="no memory left"):
            got.extend(chunk.choices[0].delta.content for chunk in stream)
        assert place.complete(user("hi"))[0] == 500


def test_a_key_is_asked_for_everywhere_but_at_health():
    with serving(echo(), key="sk-secret") as place:
        messages = [user("hi")]
        assert place.client("sk-secret").chat.completions.create(model="m", messages=messages)
        for wrong in ("sk-secre", "sk-secret2", "other", "SK-SECRET"):
            with pytest.raises(openai.AuthenticationError, match="not the server's key"):
                place.client(wrong).chat.completions.create(model="m", messages=messages)
        assert place.ask("/v1/models")[0] == 401
        assert place.ask("/metrics")[0] == 401
        assert place.ask("/health")[:2] == (200, {"status": "ok", "models": 1})
        headers = {"Authorization": "Basic sk-secret"}
        status, body, told = place.ask("/v1/models", headers=headers)
        assert (status, told["www-authenticate"]) == (401, "Bearer")
        assert "secret" not in json.dumps(body)
        key = {"Authorization": "Bearer sk-secret"}
        assert (
            'vlforge_requests_total{model="",status="401"} 7'
            in place.ask("/metrics", headers=key)[1]
        )


def test_a_wrong_key_with_a_large_upload_reads_its_answer():
    with serving(echo(), key="sk-secret") as place, pytest.raises(openai.AuthenticationError):
        place.client("no").chat.completions.create(model="m", messages=[user("x" * 9_000_000)])


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_refused_where_no_key_is_asked_for(headers):
    with serving(echo()) as place:
        assert place.ask("/v1/models", headers=headers)[0] == 403
        assert place.ask("/v1/models", headers={"Origin": "http://localhost:3000"})[0] == 200
        status, body, _ = place.ask(
            "/v1/chat/completions", b"{}", {"Content-Type": "text/plain;charset=UTF-8"}
        )
    assert status == 415
    assert "application/json" in body["error"]["message"]


def test_a_full_line_says_when_to_come_again():
    goes = threading.Semaphore(0)
    speaker = echo(goes=goes.acquire)
    with serving(speaker, batch=1, waiting=1) as place:
        threads = [threading.Thread(target=place.complete, args=(user("a"),)) for _ in range(2)]
        threads[0].start()
        wait_until(lambda: speaker.asked)
        threads[1].start()
        wait_until(lambda: place.house.talkers["m"].in_line == 2)
        status, body, headers = place.complete(user("b"))
        assert status == 429
        assert body["error"]["type"] == "rate_limit_error"
        assert int(headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            place.client().chat.completions.create(model="m", messages=[user("b")])
        goes.release(20)
        for thread in threads:
            thread.join(PATIENCE_S)
        # OpenAI's client comes again by itself.
        assert place.client(max_retries=2).chat.completions.create(model="m", messages=[user("c")])


def test_who_hangs_up_in_mid_stream_is_not_answered_on():
    goes = threading.Semaphore(0)
    speaker = ScriptedSpeaker(lambda *_: " ".join(map(str, range(1000))), goes=goes.acquire)
    with serving(speaker) as place:
        goes.release(3)
        stream = place.client().chat.completions.create(
            model="m", messages=[user("count")], stream=True
        )
        for chunk in stream:
            if chunk.choices[0].delta.content == " 2":
                break
        stream.close()
        wait_until(lambda: 'status="499"' in place.ask("/metrics")[1])
        goes.release()
        wait_until(lambda: speaker.closed)
        assert goes._value == 0, "it drew no further step"
        assert place.house.talkers["m"].answered == 0
        assert place.house.room.held == 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_who_hangs_up_while_waiting_is_not_answered(is_streamed):
    goes = threading.Semaphore(0)
    speaker = echo(goes=goes.acquire)
    with serving(speaker, batch=1) as place:
        first = threading.Thread(target=place.complete, args=(user("first"),))
        first.start()
        wait_until(lambda: speaker.asked)
        line = socket.create_connection(("127.0.0.1", place.port))
        body = json.dumps({"model": "m", "messages": [user("gone")], "stream": is_streamed})
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        line.sendall((head + body).encode())
        wait_until(lambda: place.house.talkers["m"].in_line == 2)
        line.close()
        wait_until(lambda: 'status="499"' in place.ask("/metrics")[1])
        goes.release(9)
        first.join(PATIENCE_S)
        assert place.complete(user("next"))[0] == 200
        assert [sample.turns[-1].text for sample, _, _ in speaker.asked] == ["first", "next"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_takes_too_long_is_ended(is_streamed, monkeypatch):
    # The clock jumps: only the event that tells of it is to come, however late.
    monkeypatch.setattr(streams, "_GRACE_S", 1e6)
    goes = threading.Semaphore(1)
    speaker = echo(goes=goes.acquire)
    with serving(speaker, limits=Limits(time_s=1000)) as place:
        line = place.line()
        body = {"model": "m", "messages": [user("a b c d")], "stream": is_streamed}
        told = {"Content-Type": "application/json"}
        line.request("POST", "/v1/chat/completions", json.dumps(body), told)
        answer = line.getresponse() if is_streamed else None
        wait_until(lambda: speaker.asked)
        place.pass_time(1001)
        answer = answer or line.getresponse()
        found = answer.read().decode()
        assert speaker.closed == 0, "the model still draws"
        if is_streamed:
            last = json.loads(found.strip().split("\n\n")[-1].removeprefix("data: "))
            assert (answer.status, last["error"]["code"]) == (200, "timeout")
        else:
            assert (answer.status, json.loads(found)["error"]["code"]) == (504, "timeout")
            assert answer.headers["x-should-retry"] == "false"
        line.close()
        goes.release(9)


def test_a_body_over_the_bound_is_refused_and_the_client_hears_it():
    with serving(echo(), limits=Limits(body=1 << 20)) as place:
        with pytest.raises(openai.APIStatusError, match="more than 1,048,576 bytes") as caught:
            place.client().chat.completions.create(model="m", messages=[user("x" * 2_000_000)])
        assert caught.value.status_code == 413
        line = place.line()
        line.putrequest("POST", "/v1/chat/completions")
        for name, value in (("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")):
            line.putheader(name, value)
        line.endheaders()
        block = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
        for _ in range(20):
            line.send(block)
        line.send(b"0\r\n\r\n")
        assert line.getresponse().status == 413
        assert place.house.room.held == 0


def test_20_megabytes_of_text_never_reach_the_model():
    speaker = echo()
    with serving(speaker) as place:
        with pytest.raises(openai.BadRequestError, match="400,000 characters") as caught:
            place.client().chat.completions.create(model="m", messages=[user("x " * 10_000_000)])
        assert caught.value.code == "context_length_exceeded"
        assert not speaker.asked


def test_100_uploads_at_once_are_all_answered():
    pictures = [png(300 + n, 200, (n, 2 * n, 3)) for n in range(100)]
    found, goes = {}, threading.Semaphore(0)
    with serving(echo(goes=goes.acquire), batch=16, waiting=100) as place:

        def upload(n):
            found[n] = place.complete(user([shown(pictures[n]), words(f"number {n}")]))

        threads = [threading.Thread(target=upload, args=(n,)) for n in range(100)]
        for thread in threads:
            thread.start()
        wait_until(lambda: place.house.talkers["m"].in_line == 100)
        goes.release(1000)
        for thread in threads:
            thread.join(PATIENCE_S)
        texts = {n: body["choices"][0]["message"]["content"] for n, (_, body, _) in found.items()}
        assert texts == {n: f"1 pictures '<image>\\nnumber {n}'" for n in range(100)}
        assert place.house.room.held == 0
        assert place.house.talkers["m"].batches <= 8, "the first few, then 16 at a time"


def test_uploads_beyond_the_room_are_put_off_and_the_room_is_given_back():
    goes = threading.Semaphore(0)
    speaker = echo(goes=goes.acquire)
    with serving(speaker, limits=Limits(held=1_000_000)) as place:
        first = threading.Thread(target=place.complete, args=(user("x" * 300_000),))
        first.start()
        wait_until(lambda: speaker.asked)
        status, body, headers = place.complete(user("y" * 800_000))
        assert (status, headers["retry-after"]) == (429, "2")
        assert "uploads" in body["error"]["message"]
        goes.release(9)
        first.join(PATIENCE_S)
        assert place.house.room.held == 0


def test_metrics_count_requests_tokens_and_seconds():
    with serving(echo()) as place:
        for _ in range(3):
            place.complete(user("a b"))
        place.complete(user("a b"), model="none")
        place.complete(model="m")
        lines = place.ask("/metrics")[1].splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert told['vlforge_requests_total{model="m",status="200"}'] == "3"
    assert told['vlforge_requests_total{model="",status="404"}'] == "1"
    assert told['vlforge_requests_total{model="",status="400"}'] == "1"
    assert told['vlforge_tokens_total{model="m",direction="out"}'] == "12"
    assert told['vlforge_request_seconds_count{model="m"}'] == "3"
    assert told['vlforge_request_seconds_bucket{model="m",le="+Inf"}'] == "3"
    assert told['vlforge_first_token_seconds_count{model="m"}'] == "3"
    assert told['vlforge_in_line{model="m"}'] == "0"
    assert told['vlforge_answers{model="m"}'] == "3"
    assert told["vlforge_held_bytes"] == "0"
