import io
import json
from collections.abc import Iterator, Sequence

import pytest
from PIL import Image

from tests.download_site import picture as served
from tests.download_site import running_site
from vlforge.serving import conversation
from vlforge.serving.terminal import Asking, chat, printable
from vlforge.types import DataError, Drawing, Piece, Sample, VLForgeError


class EchoSpeaker:
    """Answers with the words of the last turn, and with how they were asked for."""

    def __init__(self, stop_after: int | None = None, sees: bool = True) -> None:
        self.asked: list[Sample] = []
        self.drawn: list[tuple[Drawing, int]] = []
        self.stop_after, self.sees = stop_after, sees
        self.closed = 0

    def stream_many(
        self, samples: Sequence[Sample], drawing: Drawing, keys: Sequence[int]
    ) -> Iterator[Piece]:
        (sample,), (key,) = samples, keys
        self.asked.append(sample)
        self.drawn.append((drawing, key))
        if "too long" in sample.turns[-1].text:
            yield Piece(0, "the conversation is too long; /reset", "refused")
            return
        said = ["heard", " ", sample.turns[-1].text.split("\n")[-1]]
        if drawing.temperature:
            said.append(f" {key}")
        try:
            for place, word in enumerate(said):
                if place == self.stop_after:
                    raise KeyboardInterrupt
                yield Piece(0, word)
            ended = "length" if drawing.max_new_tokens == 3 else "stop"
            yield Piece(0, "", ended, 5, 3)
        finally:
            self.closed += 1


def talk(
    lines: list[str],
    model: EchoSpeaker | None = None,
    images: Sequence[str] = (),
    asking: Asking | None = None,
) -> str:
    """What the terminal shows after `lines` were typed."""
    speaker, asking = model or EchoSpeaker(), asking or Asking()
    output = io.StringIO()
    source = io.StringIO("".join(line + "\n" for line in lines))
    how = {"source": source, "output": output, "asking": asking}
    chat("folder", images, open_speaker=lambda: (speaker, asking), **how)
    return output.getvalue()


def last_turns(model: EchoSpeaker) -> list[str]:
    """The texts of what was asked last."""
    return [turn.text for turn in model.asked[-1].turns]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    Image.new("L", (5, 4)).save(path)
    return str(path)


def test_one_question_prints_the_answer_then_the_seconds(picture):
    model, output = EchoSpeaker(), io.StringIO()
    chat(
        "folder",
        [picture],
        "Which animal?",
        open_speaker=lambda: (model, Asking(seed=4)),
        output=output,
    )
    answer, seconds = output.getvalue().splitlines()
    assert answer == "heard Which animal?"
    assert seconds.endswith("s)")
    assert model.asked[0].images == (picture,)
    assert model.asked[0].turns[0].text == "<image>\nWhich animal?"
    assert model.drawn == [(Drawing(), 4)]


def test_a_conversation_remembers_its_turns_and_shows_the_picture_once(picture):
    model = EchoSpeaker()
    shown = talk(["first", "second"], model, [picture])
    assert "heard first" in shown
    assert "heard second" in shown
    assert [turn.text for turn in model.asked[1].turns] == [
        "<image>\nfirst",
        "heard first",
        "second",
    ]


def test_reset_forgets_the_turns_and_keeps_the_picture(picture):
    model = EchoSpeaker()
    talk(["first", "/reset", "second"], model, [picture])
    assert [turn.text for turn in model.asked[1].turns] == ["<image>\nsecond"]


def test_image_starts_again_with_the_new_picture(picture):
    model = EchoSpeaker()
    talk(["first", f"/image {picture}", "second"], model)
    assert model.asked[0].images == ()
    assert model.asked[1].images == (picture,)
    assert [turn.text for turn in model.asked[1].turns] == ["<image>\nsecond"]


def test_a_missing_or_broken_picture_is_one_line_and_the_talk_goes_on(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    shown = talk(["/image nowhere.png", f"/image {broken}", "still here"])
    assert "no picture at nowhere.png; check the path" in shown
    said = [line for line in shown.splitlines() if not line.startswith(">")]
    assert sum("broken.jpg" in line for line in said) == 1
    assert "heard still here" in shown


def test_a_picture_given_at_the_start_must_open():
    with pytest.raises(DataError, match=r"no picture at nowhere\.png"):
        talk([], images=["nowhere.png"])


def test_an_error_of_the_model_is_shown_and_leaves_no_turn_behind():
    model = EchoSpeaker()
    shown = talk(["too long", "again"], model)
    assert "the conversation is too long; /reset" in shown
    assert [turn.text for turn in model.asked[1].turns] == ["again"]


def test_stopping_an_answer_keeps_what_was_said():
    model = EchoSpeaker(stop_after=1)
    shown = talk(["first", "second"], model)
    assert "stopped after" in shown
    assert [turn.text for turn in model.asked[1].turns] == ["first", "heard", "second"]


def test_stopping_before_the_first_word_forgets_the_question():
    model = EchoSpeaker(stop_after=0)
    talk(["first", "second"], model)
    assert [turn.text for turn in model.asked[1].turns] == ["second"]


def test_a_saved_conversation_is_a_llava_file(tmp_path, picture):
    file = tmp_path / "talk.json"
    shown = talk(["/save", "first", f"/save {file}", f"/save {file}"], images=[picture])
    assert "/save needs a file" in shown
    assert "exists; give another name" in shown
    (row,) = json.loads(file.read_text(encoding="utf-8"))
    assert row["image"] == picture
    assert row["conversations"] == [
        {"from": "human", "value": "<image>\nfirst"},
        {"from": "gpt", "value": "heard first"},
    ]


def test_quit_and_the_end_of_input_leave():
    model = EchoSpeaker()
    assert talk(["/quit", "never heard"], model).endswith("bye\n")
    assert talk([], model).endswith("bye\n")
    assert model.asked == []


def test_an_unknown_command_is_not_sent_to_the_model():
    model = EchoSpeaker()
    assert "/imagine is no command; /help lists them" in talk(["/imagine x", "/help"], model)
    assert model.asked == []


def test_a_backslash_at_the_end_of_a_line_joins_the_next():
    model = EchoSpeaker()
    talk(["one\\", "two"], model)
    assert model.asked[0].turns[0].text == "one\ntwo"


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    assert printable("a\x1b[31mred\x07\n\tb\x9b") == "a[31mred\n\tb"


def test_a_picture_added_goes_with_the_next_question(picture, tmp_path):
    other = tmp_path / "dog.png"
    Image.new("L", (3, 4)).save(other)
    model = EchoSpeaker()
    shown = talk(["first", f"/add {other}", "second", "third"], model, [picture])
    assert f"looking also at {other}" in shown
    assert model.asked[0].images == (picture,)
    assert model.asked[2].images == (picture, str(other))
    assert last_turns(model) == [
        "<image>\nfirst",
        "heard first",
        "<image>\nsecond",
        "heard second",
        "third",
    ]


def test_several_pictures_at_the_start_go_with_the_first_question(picture):
    model = EchoSpeaker()
    talk(["both"], model, [picture, picture])
    assert last_turns(model) == ["<image>\n<image>\nboth"]


def test_undo_forgets_the_last_question_and_keeps_its_picture(picture):
    model = EchoSpeaker()
    shown = talk(["first", f"/add {picture}", "second", "/undo", "third", "/undo", "/undo",
                  "/undo", "fourth"], model, [picture])  # fmt: skip
    assert "forgotten: second" in shown
    assert [turn.text for turn in model.asked[2].turns][2:] == ["<image>\nthird"]
    assert "nothing has been said yet" in shown
    assert last_turns(model) == ["<image>\n<image>\nfourth"]


def test_regenerate_asks_the_same_with_another_key(picture):
    model, asking = EchoSpeaker(), Asking(Drawing(temperature=1.0), seed=10)
    shown = talk(
        ["first", "second", "/regenerate", "/regenerate", "third"], model, [picture], asking
    )
    assert [key for _, key in model.drawn] == [10, 10, 11, 12, 10]
    assert model.asked[1:4] == [model.asked[1]] * 3
    assert last_turns(model)[-2:] == ["heard second 12", "third"]
    assert "not sampled" not in shown


def test_regenerate_of_what_is_not_sampled_says_so():
    shown = talk(["/regenerate", "first", "/regenerate"])
    assert "nothing has been said yet" in shown
    assert "answers are not sampled, so it will be the same" in shown


def test_an_answer_that_is_not_made_anew_stays():
    model = EchoSpeaker()
    source_lines = ["first", "/regenerate", "second"]
    model_stream = model.stream_many

    def once_broken(samples, drawing, keys):
        if len(model.asked) == 1:
            model.asked.append(samples[0])
            return iter([Piece(0, "no memory", "refused")])
        return model_stream(samples, drawing, keys)

    def closable(samples, drawing, keys):
        yield from once_broken(samples, drawing, keys)

    model.stream_many = closable
    assert "no memory" in talk(source_lines, model)
    assert last_turns(model) == ["first", "heard first", "second"]


def test_settings_are_changed_in_bounds_and_shown():
    model = EchoSpeaker()
    lines = ["/beams 4", "one", "/temperature 0.5", "two", "/top-p 0.9", "/max-tokens 3", "three"]
    lines += ["/beams none", "/temperature 9", "/max-tokens 0", "/settings"]
    shown = talk(lines, model)
    assert [drawing for drawing, _ in model.drawn] == [
        Drawing(beams=4),
        Drawing(temperature=0.5),
        Drawing(3, 0.5, 0.9),
    ]
    assert "beams search without sampling, so the other is off now" in shown
    assert "/beams none: give a number from 1 to 16" in shown
    assert "/temperature 9: give a number from 0 to 2" in shown
    assert "/max-tokens 0: give a number from 1 to" in shown
    assert "cut at 3 tokens (/max-tokens)" in shown
    assert "beams 1, temperature 0.5, top-p 0.9, max-tokens 3, seed 0\n" in shown


def test_the_system_text_stands_before_the_conversation_and_is_saved(tmp_path):
    model, file = EchoSpeaker(), tmp_path / "talk.json"
    talk(["one", "/system be brief", "two", f"/save {file}", "/system", "three"], model)
    assert [turn.role for turn in model.asked[0].turns] == ["user"]
    assert [turn.text for turn in model.asked[1].turns] == ["be brief", "one", "heard one", "two"]
    assert model.asked[1].turns[0].role == "system"
    assert model.asked[2].turns[0].role == "user"
    (row,) = json.loads(file.read_text(encoding="utf-8"))
    assert row["conversations"][0] == {"from": "system", "value": "be brief"}


def test_a_model_without_eyes_takes_no_picture(picture):
    shown = talk([f"/image {picture}", f"/add {picture}", "words"], EchoSpeaker(sees=False))
    assert shown.count("this model sees no pictures; give vlforge chat a model that does") == 2
    assert "heard words" in shown
    with pytest.raises(VLForgeError, match="folder sees no pictures"):
        talk(["words"], EchoSpeaker(sees=False), [picture])


def test_words_that_stand_for_a_picture_are_no_question(picture):
    model = EchoSpeaker()
    shown = talk(["what is <image>", "what"], model, [picture])
    assert "a question cannot hold <image>; /add PATH adds a picture" in shown
    assert last_turns(model) == ["<image>\nwhat"]


def test_an_answer_that_is_stopped_is_not_drawn_on():
    model = EchoSpeaker(stop_after=1)
    talk(["first"], model)
    assert model.closed == 1


def test_one_question_that_cannot_be_answered_is_an_error():
    with pytest.raises(VLForgeError, match="the conversation is too long"):
        chat("folder", (), "too long", open_speaker=lambda: (EchoSpeaker(), Asking()))


def test_pictures_come_from_the_web_within_bounds(monkeypatch, tmp_path):
    monkeypatch.setattr(conversation, "FETCH_S", 600.0)
    model, file = EchoSpeaker(), tmp_path / "talk.json"
    with running_site(monkeypatch) as site:
        lines = [f"/image {site.url}/a.jpg", "one", f"/save {file}", f"/add {site.url}/404",
                 "/add ftp://somewhere/a.jpg", "/add http://["]  # fmt: skip
        shown = talk(lines, model, asking=Asking(allow_private=True))
        private = talk([f"/image {site.url}/a.jpg"])
    assert model.asked[0].images == (served(),)
    assert json.loads(file.read_text(encoding="utf-8"))[0]["image"] == f"{site.url}/a.jpg"
    assert "HTTP Error 404: Not Found" in shown
    assert "no picture from ftp://somewhere/a.jpg: not http or https" in shown
    assert "no picture from http://[: not an address" in shown
    assert "a private address, which is only asked with --allow-private" in private
