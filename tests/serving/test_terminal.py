import io
import json
from collections.abc import Iterator, Sequence

import pytest
from PIL import Image

from vlforge.serving.terminal import chat, printable
from vlforge.types import Caption, DataError, ModelError, Sample


class EchoChat:
    """Answers with the number of pictures and the words of the last turn."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[Sample] = []
        self.stop_after = stop_after

    def answer(self, samples: Sequence[Sample], max_new_tokens: int) -> list[Caption]:
        return [Caption("".join(self.stream(s, max_new_tokens)), 0.0) for s in samples]

    def stream(self, sample: Sample, max_new_tokens: int) -> Iterator[str]:
        self.asked.append(sample)
        if "too long" in sample.turns[-1].text:
            raise ModelError("the conversation is too long; /reset")
        for place, word in enumerate(["heard", " ", sample.turns[-1].text.split("\n")[-1]]):
            if place == self.stop_after:
                raise KeyboardInterrupt
            yield word


def talk(lines: list[str], model: EchoChat | None = None, images: Sequence[str] = ()) -> str:
    """What the terminal shows after `lines` were typed."""
    model = model or EchoChat()
    output = io.StringIO()
    source = io.StringIO("".join(line + "\n" for line in lines))
    chat("folder", images, open_chat=lambda: model, source=source, output=output)
    return output.getvalue()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    Image.new("L", (5, 4)).save(path)
    return str(path)


def test_one_question_prints_the_answer_then_the_seconds(picture):
    model, output = EchoChat(), io.StringIO()
    chat("folder", [picture], "Which animal?", open_chat=lambda: model, output=output)
    answer, seconds = output.getvalue().splitlines()
    assert answer == "heard Which animal?"
    assert seconds.endswith("s)")
    assert model.asked[0].images == (picture,)
    assert model.asked[0].turns[0].text == "<image>\nWhich animal?"


def test_a_conversation_remembers_its_turns_and_shows_the_picture_once(picture):
    model = EchoChat()
    shown = talk(["first", "second"], model, [picture])
    assert "heard first" in shown
    assert "heard second" in shown
    assert [turn.text for turn in model.asked[1].turns] == [
        "<image>\nfirst",
        "heard first",
        "second",
    ]


def test_reset_forgets_the_turns_and_keeps_the_picture(picture):
    model = EchoChat()
    talk(["first", "/reset", "second"], model, [picture])
    assert [turn.text for turn in model.asked[1].turns] == ["<image>\nsecond"]


def test_image_starts_again_with_the_new_picture(picture):
    model = EchoChat()
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
    model = EchoChat()
    shown = talk(["too long", "again"], model)
    assert "the conversation is too long; /reset" in shown
    assert [turn.text for turn in model.asked[1].turns] == ["again"]


def test_stopping_an_answer_keeps_what_was_said():
    model = EchoChat(stop_after=1)
    shown = talk(["first", "second"], model)
    assert "stopped after" in shown
    assert [turn.text for turn in model.asked[1].turns] == ["first", "heard", "second"]


def test_stopping_before_the_first_word_forgets_the_question():
    model = EchoChat(stop_after=0)
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
    model = EchoChat()
    assert talk(["/quit", "never heard"], model).endswith("bye\n")
    assert talk([], model).endswith("bye\n")
    assert model.asked == []


def test_an_unknown_command_is_not_sent_to_the_model():
    model = EchoChat()
    assert "/imagine is no command; /help lists them" in talk(["/imagine x", "/help"], model)
    assert model.asked == []


def test_a_backslash_at_the_end_of_a_line_joins_the_next():
    model = EchoChat()
    talk(["one\\", "two"], model)
    assert model.asked[0].turns[0].text == "one\ntwo"


def test_control_characters_of_a_model_do_not_reach_the_terminal():
    assert printable("a\x1b[31mred\x07\n\tb\x9b") == "a[31mred\n\tb"
