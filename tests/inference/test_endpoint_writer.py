"""Writers behind endpoints: seeds, candidates, refusals, names, what is told of them."""

from __future__ import annotations

import base64
import io
import pickle
import threading

import pytest
from PIL import Image

from tests.endpoint_server import endpoint
from tests.inference.test_endpoint import KEY, pauses, said  # noqa: F401
from vlforge.inference.endpoint.chat import data_address
from vlforge.inference.endpoint.client import EndpointError
from vlforge.inference.endpoint.writer import seed_of
from vlforge.inference.local import LocalModels
from vlforge.types import DataError, Drawing, EndpointSpec, ModelError, Refusal, Sample, Turn


def models(server, path="", **how):
    spec = EndpointSpec("judge", server.url, key_env="VLFORGE_TEST_KEY", retries=0, **how)
    return LocalModels(endpoints={"pen": spec}, replies=str(path))


def sample(text, *images):
    return Sample(text, images, (Turn("user", "<image>\n" * len(images) + text),))


def words(found):
    return [one if isinstance(one, Refusal) else [c.text for c in one] for one in found]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return str(path)


def test_greedy_requests_have_no_seed_and_sampled_ones_that_of_their_key(pauses):  # noqa: F811
    with endpoint(lambda body, times: f"{body.get('seed')}") as server:
        writer = models(server).writer("pen")
        asked = [sample("a"), sample("b")]
        assert words(writer.write(asked, Drawing(), [1, 2])) == [["None"], ["None"]]
        keys = [2**62 + 5, 7]
        drawing = Drawing(9, 0.5, 0.9, candidates=3, stop=("x",))
        drawn = words(writer.write(asked, drawing, keys))
        assert drawn == [[str(seed_of(key, k)) for k in range(3)] for key in keys]
        body = server.asked[-1]
        assert (body["max_tokens"], body["temperature"], body["top_p"]) == (9, 0.5, 0.9)
        assert body["stop"] == ["x"]
    seeds = {seed_of(key, k) for key in range(2**40, 2**40 + 50) for k in range(3)}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_run_that_is_repeated_asks_nothing(pauses, tmp_path):  # noqa: F811
    with endpoint(lambda body, times: f"{len(said(body))} {times}") as server:
        asked = [sample("a" * n) for n in range(1, 9)]
        drawing = Drawing(temperature=1.0, candidates=2)
        first = models(server, tmp_path / "r.jsonl").writer("pen").write(asked, drawing, range(8))
        source = models(server, tmp_path / "r.jsonl")
        assert source.writer("pen").write(asked, drawing, range(8)) == first
        assert len(server.asked) == 16
        assert source.usage() == ["judge: 16 replies (16 cached), 0 + 0 tokens"]
        assert source.spent()["judge"].cached == 16


def test_a_request_without_a_reply_costs_itself_alone(pauses, tmp_path, picture):  # noqa: F811
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    def script(body, times):
        text = body["messages"][0]["content"]
        return 400 if text == "bad" else "" if text == "mute" else "yes"

    asked = [sample("a"), sample("bad"), sample("see", picture), sample("mute"),
             sample("gone", str(tmp_path / "gone.png")), sample("cut", str(tmp_path / "cut.png")),
             Sample("two", (picture,) * 2, sample("x", picture).turns), sample("z")]  # fmt: skip
    with endpoint(script) as server:
        found = words(models(server).writer("pen").write(asked, Drawing(), range(8)))
    assert [found[n] for n in (0, 2, 7)] == [["yes"]] * 3
    refused = {asked[n].id: found[n] for n in (1, 3, 4, 5, 6)}
    assert {name: one.reason for name, one in refused.items()} == {
        "bad": "no reply",
        "mute": "no reply",
        "gone": "picture cannot be read",
        "cut": "picture cannot be read",
        "two": "model cannot take the request",
    }
    assert "400 told to say 400" in refused["bad"].detail
    assert "an empty answer" in refused["mute"].detail
    assert "gone.png" in refused["gone"].detail


def test_conversations_are_messages_and_a_lonely_mark_is_a_word(pauses, picture):  # noqa: F811
    turns = (Turn("system", "s"), Turn("user", "q"), Turn("assistant", "r"), Turn("user", "t"))
    with endpoint(lambda body, times: "yes") as server:
        writer = models(server).writer("pen")
        writer.write([Sample("1", (), turns), sample("say <image>")], Drawing(), [1, 2])
        bodies = sorted((body["messages"] for body in server.asked), key=len)
    assert bodies[0] == [{"role": "user", "content": "say <image>"}]
    assert [(m["role"], m["content"]) for m in bodies[1]] == [(t.role, t.text) for t in turns]


def test_a_picture_is_sent_as_it_is_to_be_seen(tmp_path, picture):
    with open(picture, "rb") as file:
        data = file.read()
    assert data_address(picture) == data_address(data)
    assert base64.b64decode(data_address(picture).partition(",")[2]) == data
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), "blue").save(buffer, "JPEG", exif=exif)
    turned = base64.b64decode(data_address(buffer.getvalue()).partition(",")[2])
    assert Image.open(io.BytesIO(turned)).size == (4, 8)
    with pytest.raises(DataError, match=r"truncated|cut off"):
        data_address(data[:-20])


@pytest.mark.parametrize(
    ("fault", "told"),
    [(401, "set VLFORGE_TEST_KEY"), (404, "is the model called 'judge'?")],
)
def test_what_every_request_would_get_ends_the_run(pauses, fault, told):  # noqa: F811
    with endpoint(lambda body, times: fault) as server:
        with pytest.raises(EndpointError) as error:
            models(server).writer("pen").write([sample("a")] * 3, Drawing(), [1, 2, 3])
        again = pickle.loads(pickle.dumps(error.value))
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert KEY not in repr(error.value)
    assert (str(again), again.is_for_all) == (str(error.value), True)


def test_a_server_that_answers_no_request_ends_the_run(pauses):  # noqa: F811
    with endpoint(lambda body, times: 400) as server:
        writer = models(server, concurrency=2).writer("pen")
        with pytest.raises(EndpointError, match="24 requests in a row got no reply"):
            writer.write([sample(str(n)) for n in range(100)], Drawing(), range(100))


def test_a_name_of_the_recipe_stands_before_what_an_operator_says(pauses, tmp_path):  # noqa: F811
    with endpoint(lambda body, times: body["model"]) as server:
        here = EndpointSpec("gpt", "http://elsewhere.invalid/v1")
        source = LocalModels(endpoints={"gpt": EndpointSpec("judge", server.url)})
        assert words(source.writer(here).write([sample("a")], Drawing(), [1])) == [["judge"]]
        told = EndpointSpec("other", server.url)
        assert words(source.writer(told).write([sample("a")], Drawing(), [1])) == [["other"]]
        assert [line.partition(":")[0] for line in source.usage()] == ["judge", "other"]
        assert source.writer("gpt").endpoint is source.writer(here).endpoint
    with pytest.raises(ModelError, match=r"'pen' is neither .* \(there are: gpt\)"):
        source.writer("pen")
    assert pickle.loads(pickle.dumps(source)) == source


def test_ways_of_drawing_that_servers_do_not_have_are_told(pauses):  # noqa: F811
    writer = LocalModels(endpoints={"pen": EndpointSpec("m", "http://host/v1")}).writer("pen")
    with pytest.raises(ModelError, match="an endpoint searches no beams"):
        writer.write([sample("a")], Drawing(beams=2), [1])
    with pytest.raises(ModelError, match="2 greedy candidates would be equal"):
        writer.write([sample("a")], Drawing(candidates=2), [1])


def test_all_threads_ask_at_once(pauses):  # noqa: F811
    meeting = threading.Barrier(7)  # nobody is answered before seven have asked
    with endpoint(lambda body, times: ("yes", meeting.wait(60))[0]) as server:
        writer = models(server, concurrency=7).writer("pen")
        for number in range(2):
            asked = [sample(f"{number} {n}") for n in range(28)]
            assert words(writer.write(asked, Drawing(), range(28))) == [["yes"]] * 28
        assert server.most_at_once == 7
