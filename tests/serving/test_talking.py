"""Many at one model: who is answered together, who waits, who has left."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from tests.serving.patience import PATIENCE_S
from vlforge.serving import talking
from vlforge.serving.talking import Full, Talker
from vlforge.types import Drawing, Piece, Sample, Turn, VLForgeError

GREEDY, WARM = Drawing(), Drawing(temperature=1.0)


def sample(text):
    return Sample(text, (), (Turn("user", text),))


class Speaker:
    """Says the question's words back; waits for `goes` before each step."""

    def __init__(self, waits=False):
        self.groups = []
        self.goes = threading.Semaphore(0) if waits else None
        self.began = threading.Event()
        self.closed = 0

    def stream_many(self, samples, drawing, keys):
        self.groups.append([s.id for s in samples])
        self.began.set()
        words = [s.turns[-1].text.split() for s in samples]
        try:
            for step in range(max(map(len, words))):
                if self.goes is not None:
                    self.goes.acquire()
                for place, said in enumerate(words):
                    if said[0] == "bad":
                        if step == 0:
                            yield Piece(place, "no picture", "refused")
                        continue
                    if step < len(said):
                        ended = "stop" if step == len(said) - 1 else ""
                        yield Piece(place, f"{said[step]} ", ended, 3, step + 1)
        finally:
            self.closed += 1


def test_an_answer_comes_in_pieces_and_says_how_it_ended():
    talker = Talker(Speaker(), "m")
    pieces = list(talker.ask(sample("a b c"), GREEDY))
    assert [piece.text for piece in pieces] == ["a ", "b ", "c "]
    assert pieces[-1] == Piece(0, "c ", "stop", 3, 3)
    assert talker.ask(sample("x y"), GREEDY).whole()[0] == "x y "
    talker.close()


def test_who_hears_the_end_is_counted_as_answered_already():
    speaker, told = Speaker(waits=True), []
    talker = Talker(speaker, "m")
    request = talker.ask(sample("a b"), GREEDY)
    request.pieces = SimpleNamespace(
        put=lambda piece: told.append((piece.ended, talker.in_line, talker.answered))
    )
    speaker.goes.release(2)
    talker.close(PATIENCE_S)
    assert told == [("", 1, 0), ("stop", 0, 1)]


def test_those_who_wait_are_answered_together_if_they_ask_alike():
    speaker = Speaker(waits=True)
    talker = Talker(speaker, "m", batch=3)
    first = talker.ask(sample("one"), GREEDY)
    assert speaker.began.wait(PATIENCE_S)
    rest = [talker.ask(sample(f"r{n} x"), WARM if n == 1 else GREEDY) for n in range(5)]
    assert talker.in_line == 6
    for _ in range(20):
        speaker.goes.release()
    assert first.whole()[0] == "one "
    assert [request.whole()[0] for request in rest] == [f"r{n} x " for n in range(5)]
    talker.close()
    assert speaker.groups == [["one"], ["r0 x", "r2 x", "r3 x"], ["r1 x"], ["r4 x"]]
    assert (talker.answered, talker.batches) == (6, 4)


def test_who_was_answered_together_may_ask_again_together(monkeypatch):
    # Longer than it takes to close the talker: who is answered at all was not lingered for.
    monkeypatch.setattr(talking, "LINGER_S", 600.0)
    speaker = Speaker(waits=True)
    talker = Talker(speaker, "m", batch=2)
    first = talker.ask(sample("one"), GREEDY)
    assert speaker.began.wait(PATIENCE_S)
    pair = [talker.ask(sample(name), GREEDY) for name in "ab"]
    speaker.goes.release(5)
    for request in (first, *pair):
        request.whole()
    c = talker.ask(sample("c"), GREEDY)
    time.sleep(0.1)  # time enough for an answer to `c` alone, if nobody lingered
    d = talker.ask(sample("d"), GREEDY)
    for request in (c, d):
        request.whole()
    alone = talker.ask(sample("alone"), GREEDY)
    talker.close(PATIENCE_S)
    assert alone.whole()[0] == "alone ", "at the end nobody lingers"
    assert speaker.groups == [["one"], ["a", "b"], ["c", "d"], ["alone"]]


def test_one_that_cannot_be_answered_costs_only_itself():
    speaker = Speaker(waits=True)
    talker = Talker(speaker, "m")
    first = talker.ask(sample("one"), GREEDY)
    assert speaker.began.wait(PATIENCE_S)
    bad, good = talker.ask(sample("bad"), GREEDY), talker.ask(sample("good one"), GREEDY)
    for _ in range(9):
        speaker.goes.release()
    first.whole()
    with pytest.raises(VLForgeError, match="no picture"):
        bad.whole()
    assert good.whole()[0] == "good one "
    talker.close()


def test_what_breaks_is_told_to_those_who_asked_and_the_next_are_answered():
    class Broken(Speaker):
        def stream_many(self, samples, drawing, keys):
            if samples[0].id == "break":
                raise VLForgeError("no memory left")
            yield from super().stream_many(samples, drawing, keys)

    talker = Talker(Broken(), "m")
    with pytest.raises(VLForgeError, match="no memory left"):
        talker.ask(sample("break"), GREEDY).whole()
    assert talker.ask(sample("a"), GREEDY).whole()[0] == "a "
    talker.close()


def test_who_leaves_is_not_answered_to_the_end():
    speaker = Speaker(waits=True)
    talker = Talker(speaker, "m")
    request = talker.ask(sample("one two three four"), GREEDY)
    assert speaker.began.wait(PATIENCE_S)
    gone = talker.ask(sample("never"), GREEDY)
    gone.leave()
    request.leave()
    speaker.goes.release()
    assert list(request)[-1].ended == "stopped"
    talker.close()
    assert speaker.closed == 1
    assert speaker.groups == [["one two three four"]]


def test_a_full_line_takes_no_more_and_a_closed_one_none():
    speaker = Speaker(waits=True)
    talker = Talker(speaker, "m", waiting=1)
    first = talker.ask(sample("one"), GREEDY)
    assert speaker.began.wait(PATIENCE_S)
    second = talker.ask(sample("two"), GREEDY)
    with pytest.raises(Full, match="1 requests wait for m"):
        talker.ask(sample("three"), GREEDY)
    closing = threading.Thread(target=talker.close)
    closing.start()
    for _ in range(2):
        speaker.goes.release()
    closing.join(PATIENCE_S)
    assert (first.whole()[0], second.whole()[0]) == ("one ", "two ")
    with pytest.raises(Full, match="being closed"):
        talker.ask(sample("four"), GREEDY)
