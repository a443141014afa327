"""Speakers: many answered in one batch, piece by piece, each as it would be alone."""

from __future__ import annotations

import threading

import pytest
import torch

from tests import families
from tests.endpoint_server import endpoint
from tests.inference.test_native import tiny_blip2, tiny_llava_hf
from tests.inference.test_writers import CHAT, WORDS, tiny_t5, tiny_text
from tests.inference.tiny import tiny_folder
from vlforge.inference import generate, native_stream, speaking
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.speaking import LocalSpeaker, open_speaker
from vlforge.inference.writers import LocalWriter
from vlforge.types import Drawing, EndpointSpec, ModelError, Refusal, Sample, Turn

DRAWINGS = {
    "greedy": Drawing(9),
    "sampled": Drawing(9, 1.0, 0.9),
    "stopped": Drawing(9, 1.0, stop=("cat", "is")),
    "beams": Drawing(5, beams=2),
}


def spoken(speaker, samples, drawing, keys):
    """The text and the last piece of every answer."""
    texts, last = [""] * len(samples), [None] * len(samples)
    for piece in speaker.stream_many(samples, drawing, keys):
        assert last[piece.place] is None, "a piece after the last"
        texts[piece.place] += piece.text
        if piece.ended:
            last[piece.place] = piece
    return texts, last


def held(loaded, samples, drawing, sizes=(1, 3)):
    """Hold a speaker's answers against the writer's, in batches of these sizes."""
    keys = [7 + 3 * n for n in range(len(samples))]
    wanted = LocalWriter(loaded, 4).write(samples, drawing, keys)
    wanted = [str(one) if isinstance(one, Refusal) else one[0].text for one in wanted]
    for size in sizes:
        texts, last = spoken(LocalSpeaker(loaded, size), samples, drawing, keys)
        assert texts == wanted
        assert {piece.ended for piece in last} <= {"stop", "length"}
        assert all(0 < piece.tokens_out <= drawing.max_new_tokens for piece in last)
    return wanted, last


@pytest.mark.parametrize("way", DRAWINGS)
@pytest.mark.parametrize("name", [*families.FAMILIES, *families.NATIVE])
def test_a_speakers_answers_are_the_writers_in_any_batch(name, way):
    loaded = families.loaded(name)
    texts, last = held(loaded, families.samples()[:5], DRAWINGS[way])
    assert len(set(texts)) > 1
    assert all(piece.tokens_in > 1 for piece in last)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_greedy_answer_is_the_chats(name):
    loaded = families.loaded(name)
    said = LocalChat(loaded).answer(families.samples(), 6)
    texts, _ = spoken(LocalSpeaker(loaded), families.samples(), Drawing(6), range(7))
    assert texts == [answer.text for answer in said]


OTHERS = {
    "blip2": tiny_blip2,
    "llava_hf": tiny_llava_hf,
    "llama": tiny_text,
    "llama_own": lambda out: tiny_text(out, template=CHAT),
    "gemma3_text": lambda out: tiny_text(out, "gemma3_text"),
    "t5": tiny_t5,
}


@pytest.mark.parametrize("way", DRAWINGS)
@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_transformers_speak_in_batches_too(tmp_path, kind, way):
    loaded = load_model(OTHERS[kind](tmp_path / "model"), "cpu")
    samples = families.samples()
    if loaded.kind == "language":
        samples = [Sample(str(n), (), (Turn("user", " ".join(WORDS[: n + 2])),)) for n in range(4)]
    elif kind == "blip2":
        samples = [sample for sample in samples if len(sample.images) == 1][:3]
    held(loaded, samples, DRAWINGS[way])


def test_words_come_while_others_are_drawn():
    speaker = LocalSpeaker(families.loaded("llava"))
    order = [p.place for p in speaker.stream_many(families.samples()[:3], Drawing(9), [0, 0, 0])]
    assert len(order) > 6
    assert order != sorted(order), "one answer after the other"


def test_native_answers_are_streamed_side_by_side(tmp_path):
    speaker = LocalSpeaker(load_model(tiny_llava_hf(tmp_path / "model"), "cpu"))
    samples = families.samples()[:3]
    order = [p.place for p in speaker.stream_many(samples, Drawing(9, 1.0), [1, 2, 3])]
    assert order != sorted(order), "one answer after the other"


def test_a_request_that_cannot_be_answered_costs_itself_alone(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    loaded = families.loaded("llava")
    ask = (Turn("user", "<image>\nwhat is red"),)
    bad = [
        Sample("a", (str(tmp_path / "gone.png"),), ask),
        Sample("b", (str(tmp_path / "cut.png"),), ask),
        Sample("c", (), (Turn("user", " ".join(WORDS * 50)),)),
        Sample("d", (), (Turn("assistant", "what"),)),
        Sample("e", (families.picture_file(0),) * 2, ask),
    ]
    good = families.samples()[:3]
    mixed = [good[0], *bad[:3], good[1], *bad[3:], good[2]]
    texts, last = spoken(LocalSpeaker(loaded), mixed, Drawing(6), range(len(mixed)))
    refused = [text for text, piece in zip(texts, last, strict=True) if piece.ended == "refused"]
    assert any(
        text.startswith("picture cannot be read: ") and "gone.png" in text for text in refused
    )
    assert any("conversation too long: " in t and "the model takes 400" in t for t in refused)
    assert any("1 <image> and 2 pictures" in text for text in refused)
    assert len(refused) == 5
    assert all("\n" not in text for text in refused)
    alone, _ = spoken(LocalSpeaker(loaded), good, Drawing(6), range(3))
    assert [texts[0], texts[4], texts[7]] == alone


def test_pictures_for_a_model_without_eyes_are_refused(tmp_path):
    speaker = LocalSpeaker(load_model(tiny_text(tmp_path / "model"), "cpu"))
    assert not speaker.sees
    samples = [families.samples()[0], Sample("t", (), (Turn("user", "the cat"),))]
    texts, last = spoken(speaker, samples, Drawing(4), [0, 0])
    assert last[0].ended == "refused"
    assert "sees no pictures" in texts[0]
    assert last[1].ended in ("stop", "length")


@pytest.mark.parametrize("fails_at", [0, 4])
def test_a_batch_without_memory_is_halved_and_answers_go_on_where_they_were(monkeypatch, fails_at):
    loaded = families.loaded("llava")
    samples, drawing = families.samples()[:5], Drawing(9, 1.0)
    wanted, _ = spoken(LocalSpeaker(loaded), samples, drawing, range(5))
    draw = generate._draw

    def full(logits, batch, *more):
        if len(batch) > 2 and batch[0].drawn >= fails_at:
            raise torch.OutOfMemoryError
        return draw(logits, batch, *more)

    monkeypatch.setattr(generate, "_draw", full)
    speaker = LocalSpeaker(loaded)
    texts, last = spoken(speaker, samples, drawing, range(5))
    assert texts == wanted
    assert all(piece.ended in ("stop", "length") for piece in last)
    assert speaker.batch == 2


def test_a_request_that_fits_no_memory_is_told(monkeypatch):
    def full(*more):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(generate, "_draw", full)
    samples = families.samples()[:2]
    texts, last = spoken(LocalSpeaker(families.loaded("llava")), samples, Drawing(3), [0, 0])
    assert [piece.ended for piece in last] == ["refused"] * 2
    assert texts == [speaking.NO_ROOM] * 2


@pytest.mark.parametrize("kind", ["family", "native"])
def test_who_closes_ends_the_drawing(tmp_path, kind, monkeypatch):
    makers = {"family": lambda out: tiny_folder(out, "v1"), "native": tiny_llava_hf}
    loaded = load_model(makers[kind](tmp_path / "model"), "cpu")
    steps, runs = [], []
    forward, opened = loaded.language.forward, native_stream._Run

    def step(**how):
        steps.append(1)
        if runs and len(steps) == 20:  # who draws ahead in a thread is not done by then
            assert runs[0].is_stopped.wait(60)
        return forward(**how)

    monkeypatch.setattr(loaded.language, "forward", step)
    monkeypatch.setattr(native_stream, "_Run", lambda *how: runs.append(opened(*how)) or runs[0])
    stream = LocalSpeaker(loaded).stream_many(
        [Sample("a", (), (Turn("user", "the cat"),))], Drawing(40, 1.0), [3]
    )
    next(stream)
    stream.close()
    assert len(steps) <= 20
    assert len(runs) == (kind == "native")


def test_the_system_prompt_leads_conversations_without_one():
    loaded = families.loaded("llava")
    sample = Sample("a", (), (Turn("user", "what is the cat"),))
    told = Sample("a", (), (Turn("system", "red grass"), *sample.turns))
    texts, last = spoken(
        LocalSpeaker(loaded, system="red grass"), [sample, told], Drawing(9), [1, 1]
    )
    assert texts[0] == texts[1]
    assert last[0].tokens_in == last[1].tokens_in
    _, plain = spoken(LocalSpeaker(loaded), [sample], Drawing(9), [1])
    assert plain[0].tokens_in != last[0].tokens_in


def test_speakers_are_opened_by_folder():
    speaker = open_speaker(families.written("llava"), device="cpu", batch=2)
    assert speaker.batch == 2
    with pytest.raises(ModelError, match="no model at nowhere"):
        open_speaker("nowhere")
    with pytest.raises(ModelError, match="batch is 0"):
        LocalSpeaker(speaker.loaded, 0)
    with pytest.raises(ModelError, match="beams search without sampling"):
        list(speaker.stream_many(families.samples(), Drawing(4, 1.0, beams=2), range(7)))


def test_pictures_may_be_bytes():
    loaded = families.loaded("llava")
    file = families.samples()[0]
    with open(file.images[0], "rb") as opened:
        given = Sample("b", (opened.read(),), file.turns)
    texts, _ = spoken(LocalSpeaker(loaded), [file, given], Drawing(9), [1, 2])
    assert texts[0] == texts[1]


def asking(count=3):
    """Questions without pictures, for a server."""
    return [Sample(str(n), (), (Turn("user", f"what is {n}"),)) for n in range(count)]


def test_a_server_speaks_to_many_side_by_side():
    meeting = threading.Barrier(3)  # nobody is answered before all have asked

    def script(body, times):
        meeting.wait(60)
        return f"  {body['messages'][-1]['content']} said {body.get('seed')}  "

    with endpoint(script) as server:
        speaker = open_speaker(EndpointSpec("m", server.url), system="be brief")
        texts, last = spoken(speaker, asking(), Drawing(9, 0.7, 0.9, stop=("x",)), [4, 5, 6])
    assert texts == ["what is 0 said 4", "what is 1 said 5", "what is 2 said 6"]
    assert [piece.ended for piece in last] == ["stop"] * 3
    assert server.most_at_once == 3
    body = server.asked[0]
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["stop"]) == (
        9,
        0.7,
        0.9,
        ["x"],
    )


def test_a_server_that_does_not_answer_one_costs_that_one():
    with endpoint(
        lambda body, times: 500 if "1" in body["messages"][-1]["content"] else "yes"
    ) as server:
        speaker = open_speaker(EndpointSpec("m", server.url))
        texts, last = spoken(speaker, asking(), Drawing(9), [0, 0, 0])
        with pytest.raises(ModelError, match="searches no beams"):
            list(speaker.stream_many(asking(), Drawing(beams=2), [0, 0, 0]))
    assert [piece.ended for piece in last] == ["stop", "refused", "stop"]
    assert "500" in texts[1]
    assert texts[::2] == ["yes", "yes"]


def test_a_long_answer_is_whole(monkeypatch):
    monkeypatch.setattr(generate, "SHOWN_AT_ONCE", 2)
    held(families.loaded("llava"), families.samples()[:3], Drawing(20, 2.0))
