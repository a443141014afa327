"""Chat templates of native models in the shapes that are published: what is learned of them."""

from __future__ import annotations

import pytest
from PIL import Image
from torch import nn

from tests.models.tiny_native import idefics, onevision, qwen
from vlforge.models.native import NativeModel
from vlforge.models.parts.native_processor import open_processor
from vlforge.text.templates import find_template
from vlforge.types import Sample, Turn

LOOP = "{% for m in messages %}"
IMAGES = "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% endif %}{% endfor %}"
TEXTS = "{% for c in m['content'] %}{% if c['type'] == 'text' %}TEXT{% endif %}{% endfor %}"
MIXED = (
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}"
)
SHAPES = {
    # A system text of its own; every turn ends with a line feed.
    "qwen2.5-vl": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
        + LOOP
        + "<|im_start|>{{ m['role'] }}\n"
        + MIXED.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Pictures first; an answer is opened otherwise in training than for generation.
    "llava-onevision": (
        LOOP
        + "<|im_start|>{{ m['role'] + ' ' }}"
        + IMAGES.replace("IMAGE", "<image>")
        + TEXTS.replace("TEXT", "{{ '\n' + c['text'] }}")
        + "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # A blank or none behind the speaker's name; the answer begins with the blank.
    "idefics3": (
        "<|im_start|>"
        + LOOP
        + "{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}:{% else %}: "
        + "{% endif %}"
        + MIXED.replace("IMAGE", "<image>")
        + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
MAKERS = {"qwen2.5-vl": qwen, "llava-onevision": onevision, "idefics3": idefics}
LEARNED = {
    "qwen2.5-vl": "it is red.<|im_end|>what<|im_end|>",
    "llava-onevision": "it is red.<|im_end|>what<|im_end|>",
    "idefics3": " it is red.<end_of_utterance> what<end_of_utterance>",
}
TURNS = (
    Turn("user", "<image>\nwhat colour?"),
    Turn("assistant", "it is red."),
    Turn("user", "what?"),
    Turn("assistant", "what"),
)


@pytest.fixture(params=SHAPES, scope="module")
def named(request, tmp_path_factory):
    """A native model without weights, and which of the shapes its template has."""
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    native = NativeModel(nn.Identity(), open_processor(folder))
    native.processor.chat_template = SHAPES[request.param]
    return request.param, native


def learned(native, row) -> str:
    return native.tokenizer.decode([label for label in row.labels if label >= 0])


def test_answers_and_their_ends_are_learned_and_nothing_else(named):
    name, native = named
    row = native.encode(Sample("a", ("x",), TURNS), [Image.new("RGB", (60, 40))])
    assert learned(native, row) == LEARNED[name]
    assert [row.text[start:end] for start, end in row.said] == [
        f"{part}<{end}>"
        for part, end in zip(
            (" it is red.", " what") if name == "idefics3" else ("it is red.", "what"),
            ("end_of_utterance",) * 2 if name == "idefics3" else ("|im_end|",) * 2,
            strict=True,
        )
    ]
    first, end = row.image_spans[0]
    assert 0 < first < end < len(row.ids)
    assert all(label == -100 for label in row.labels[first:end])


def test_a_text_alone_is_learned_the_same_way(named):
    name, native = named
    turns = (Turn("user", "what colour?"), *TURNS[1:])
    row = native.encode(Sample("a", (), turns), [])
    assert learned(native, row) == LEARNED[name]


def test_an_empty_answer_puts_no_label_on_the_question(named):
    _, native = named
    row = native.encode(Sample("a", (), (Turn("user", "what?"), Turn("assistant", ""))), [])
    words = learned(native, row)
    assert words in ("", "<|im_end|>", " <end_of_utterance>", "<end_of_utterance>")


def test_our_templates_end_answers_with_the_models_own_end(named):
    _, native = named
    row = native.encode(Sample("a", (), TURNS[2:]), [], find_template("vicuna"))
    assert learned(native, row) == "what<|im_end|>"
