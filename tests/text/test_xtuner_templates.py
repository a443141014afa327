"""XTuner's templates: every name it has, rounds by number, gaps that belong to nobody."""

from __future__ import annotations

import pytest

from vlforge.text.encode import encode_turns
from vlforge.text.render import render
from vlforge.text.templates import TEMPLATES, find_template
from vlforge.types import DataError, Turn

NAMES = (
    "default zephyr internlm_chat internlm2_chat moss_sft llama2_chat code_llama_chat chatglm2 "
    "chatglm3 qwen_chat baichuan_chat baichuan2_chat wizardlm wizardcoder vicuna deepseek_coder "
    "deepseekcoder deepseek_moe deepseek_v2 mistral mixtral minicpm gemma cohere_chat llama3_chat "
    "phi3_chat"
).split()
TWO_ROUNDS = (
    Turn("user", "<image>\nwhat?"),
    Turn("assistant", "red"),
    Turn("user", "sure?"),
    Turn("assistant", "yes"),
)


def template_of(name: str):
    return find_template(f"xtuner_{name}" if f"xtuner_{name}" in TEMPLATES else name)


def learned(encoded, tokenizer) -> str:
    kept = [token for token in encoded.labels if token >= 0]
    return tokenizer.decode(kept)


def test_all_26_are_there():
    assert len(set(NAMES)) == 26
    assert all("xtuner" in template_of(name).references for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_spans_learn_what_the_reference_learns(name, bytes_tokenizer):
    template = template_of(name)
    how = {"max_length": None}
    ours = encode_turns(template, bytes_tokenizer, TWO_ROUNDS, **how)
    theirs = encode_turns(template, bytes_tokenizer, TWO_ROUNDS, compat="xtuner", **how)
    assert (ours.ids, ours.labels) == (theirs.ids, theirs.labels)
    end = template.assistant.end + ("</s>" if template.eos_after_answer else "")
    assert learned(ours, bytes_tokenizer) == f"red{end}yes{end}"


def test_chatglm2_numbers_its_rounds():
    text = render(template_of("chatglm2"), TWO_ROUNDS).text
    assert text == (
        "[Round 1]\n\n问：<image>\nwhat?\n\n答：red\n\n[Round 2]\n\n问：sure?\n\n答：yes\n\n"
    )


def test_a_question_with_two_pictures_is_refused_as_xtuner_fails_on_it(bytes_tokenizer):
    turns = (Turn("user", "<image>a"), Turn("user", "<image>b"), Turn("assistant", "c"))
    with pytest.raises(DataError, match="a question shows 2 images"):
        encode_turns(
            template_of("vicuna"), bytes_tokenizer, turns, max_length=None, compat="xtuner"
        )
