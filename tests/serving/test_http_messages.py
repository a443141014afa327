"""Requests become samples; what cannot be honoured is refused by name."""

from __future__ import annotations

import json

import pytest

from tests.serving.served import png, shown, user, words
from vlforge.inference.endpoint.chat import request_of
from vlforge.serving.http.limits import Fault, Limits
from vlforge.serving.http.messages import read_request
from vlforge.types import Drawing, Sample, Turn


def read(*messages, limits=Limits(), **how):
    body = {"model": "m", "messages": list(messages)} | how
    return read_request(json.dumps(body).encode(), limits, None)


def fault(*messages, **how) -> Fault:
    with pytest.raises(Fault) as caught:
        read(*messages, **how)
    assert caught.value.status == 400
    return caught.value


def test_a_conversation_with_pictures_becomes_a_sample():
    one, two = png(), png(colour=(1, 2, 3))
    asked = read(
        {"role": "system", "content": "be short"},
        user([words("what is"), shown(one), shown(two), words("here?")]),
        {"role": "assistant", "content": "a cat"},
        user("sure?"),
    )
    assert asked.sample.images == (one, two)
    assert asked.sample.turns == (
        Turn("system", "be short"),
        Turn("user", "what is\n<image>\n<image>\nhere?"),
        Turn("assistant", "a cat"),
        Turn("user", "sure?"),
    )
    assert (asked.drawing, asked.keys) == (Drawing(512), (0,))
    assert not asked.streams


@pytest.mark.parametrize(
    "text",
    ["<image>\nwhat is it", "what is it\n<image>", "<image>\n<image>\nboth", "is <image> a cat",
     "first <image> then <image> last", "no picture at all"],
)  # fmt: skip
def test_what_our_own_client_sends_is_read_as_it_was(text):
    pictures = tuple(png(colour=(n, 0, 0)) for n in range(text.count("<image>")))
    sample = Sample("s", pictures, (Turn("user", text),))
    body = json.dumps(request_of(sample, 7, temperature=0.5, seed=3).body("m")).encode()
    asked = read_request(body, Limits(), None)
    assert asked.sample.turns == sample.turns
    assert asked.sample.images == pictures
    assert (asked.drawing, asked.keys) == (Drawing(7, 0.5), (3,))


def test_settings_are_read():
    asked = read(
        user("hi"), max_completion_tokens=9, temperature=1, top_p=0.5, seed=4, stop=["a", "b"], n=3,
        stream=True, stream_options={"include_usage": True}, user="somebody", metadata=None,
    )  # fmt: skip
    assert asked.drawing == Drawing(9, 1.0, 0.5, stop=("a", "b"))
    assert asked.keys[0] == 4
    assert len(set(asked.keys)) == 3
    assert asked.streams
    assert asked.tells_usage
    assert read(user("hi"), stop="x").drawing.stop == ("x",)
    assert read(user("hi"), num_beams=4).drawing.beams == 4


def test_greedy_requests_are_alike_whatever_their_top_p():
    assert read(user("hi"), temperature=0, top_p=0.3).drawing == read(user("hi")).drawing


def test_without_a_seed_each_sampled_request_has_its_own_key():
    keys = [read(user("hi"), temperature=1).keys for _ in range(8)]
    assert len(set(keys)) == 8


def test_two_messages_of_one_speaker_are_one():
    turns = read(user("one"), user("two")).sample.turns
    assert turns == (Turn("user", "one\ntwo"),)
    told = read(
        {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, user("c")
    )
    assert told.sample.turns[0] == Turn("system", "a\nb")


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([user([])], "messages[0].content"),
        ([user(3)], "messages[0].content"),
        ([user([{"type": "input_audio"}])], "messages[0].content[0]"),
        ([user([{"type": "image_url"}])], "messages[0].content[0].image_url.url"),
        ([user("hi"), {"role": "assistant", "content": "a"}], "messages"),
        ([{"role": "assistant", "content": "a"}, user("b")], "messages[0].role"),
        ([user("a"), {"role": "system", "content": "s"}], "messages[1].role"),
        ([{"role": "system", "content": "s"}], "messages"),
        ([{"role": "system", "content": [shown(png())]}, user("b")], "messages[0].content[0]"),
        ([user("an <image> tag")], "messages[0].content"),
        ([user("x" * 400_001)], "messages"),
        ([user("a")] * 1001, "messages"),
    ],
)
def test_messages_that_no_model_takes_name_their_place(messages, where):
    assert fault(*messages).param == where


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True), ("tools", [{"type": "function"}]), ("min_p", 0.1),
        ("frequency_penalty", 0.5), ("logit_bias", {"3": 1}), ("top_k", 5), ("guided_json", {}),
        ("n", 0), ("n", 99), ("n", 1.5), ("max_tokens", 0), ("max_tokens", 40_000),
        ("max_tokens", "many"), ("max_tokens", True), ("temperature", 3), ("temperature", -1),
        ("top_p", 0), ("top_p", 2), ("stop", ""), ("stop", [1]), ("stop", ["x"] * 17),
        ("seed", "x"), ("seed", 1e300), ("stream", "yes"), ("stream_options", {"a": 1}),
        ("num_beams", 99), ("response_format", {"type": "json_object"}),
    ],
)  # fmt: skip
def test_fields_that_cannot_be_honoured_are_named(name, value):
    told = fault(user("hi"), **{name: value})
    assert told.param == name
    assert name in told.message


def test_fields_that_ask_for_nothing_are_taken():
    read(user("hi"), logprobs=False, frequency_penalty=0, tools=[], tool_choice="none", top_k=-1,
         response_format={"type": "text"}, logit_bias={}, presence_penalty=0.0)  # fmt: skip


def test_beams_do_not_sample():
    assert fault(user("hi"), num_beams=2, temperature=1).param == "num_beams"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"3", b'{"model": "\xff"}', b"[" * 100_000, b'{"model": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(Fault, match="the body is no JSON") as caught:
        read_request(body, Limits(), None)
    assert caught.value.status == 400


def test_a_request_names_its_model():
    with pytest.raises(Fault, match="model: "):
        read_request(b'{"messages": []}', Limits(), None)
