import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vlforge.checkpoints.chat_template import chat_template
from vlforge.text.render import render
from vlforge.text.templates import TEMPLATES
from vlforge.types import LLAVA_IMAGE_TOKEN, Turn

TURNS = (
    Turn("user", '<image>\nWhat "stands" here?\nSay {it} briefly.'),
    Turn("assistant", "A red\nhorse's shadow."),
    Turn("user", "And  behind?  "),
    Turn("assistant", "Grass."),
    Turn("user", "<image>\n<image>\nBoth?"),
)
CONVERSATIONS = {
    "one question": (TURNS[:1], True),
    "three rounds": (TURNS, True),
    "without pictures": (TURNS[2:3], True),
    "a system turn": ((Turn("system", "Be brief."), *TURNS), True),
    "answered": (TURNS[:4], False),
}
WRITABLE = [name for name, one in TEMPLATES.items() if chat_template(one) is not None]


def messages(turns):
    made = []
    for turn in turns:
        words = turn.text.replace(LLAVA_IMAGE_TOKEN + "\n", "")
        pictures = [{"type": "image"}] * turn.text.count(LLAVA_IMAGE_TOKEN)
        made.append({"role": turn.role, "content": [*pictures, {"type": "text", "text": words}]})
    return made


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", WRITABLE)
def test_messages_are_rendered_as_in_training(name, conversation):
    template, (turns, generation) = TEMPLATES[name], CONVERSATIONS[conversation]
    wanted = render(template, turns, generation=generation, eos="<end>").text
    (found,), _ = render_jinja_template(
        conversations=[messages(turns)],
        chat_template=chat_template(template, "<end>"),
        add_generation_prompt=generation,
    )
    assert found == wanted


def test_plain_strings_are_taken_too():
    (found,), _ = render_jinja_template(
        conversations=[[{"role": "user", "content": "Hello"}]],
        chat_template=chat_template(TEMPLATES["v1_short"]),
        add_generation_prompt=True,
    )
    assert found == "USER: Hello ASSISTANT:"


def test_what_jinja_cannot_say_is_not_written():
    assert chat_template(TEMPLATES["plain"]) is None
    assert len(WRITABLE) > 20
