"""MiniGPT-4's templates: rows as it trains on them, chats as its demo writes them, doubts."""

from __future__ import annotations

import pytest

from vlforge.text.encode import encode_turns
from vlforge.text.minigpt4_templates import (
    CHAT,
    CHAT_V1,
    PRETRAIN,
    TRAIN,
    TRAIN_V1,
    clean_answer,
    prompted,
    read_prompts,
    separator_doubt,
    vicuna_version,
)
from vlforge.text.render import render
from vlforge.text.tokenizers import load_tokenizer
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, DataError, Turn

ASK = Turn("user", "<Img><image></Img> Describe this image in detail.")
TELL = Turn("assistant", "A red bus.")
LLAMA = {"model_type": "llama"}


@pytest.fixture
def tokenizer(sentencepiece_folders):
    return load_tokenizer(sentencepiece_folders[True])


def test_prompt_and_caption_are_tokenised_apart(tokenizer):
    row = encode_turns(TRAIN, tokenizer, [ASK, TELL], max_length=160, compat="minigpt4")
    before = tokenizer.ids("###Human: <Img>")
    after = tokenizer.ids("</Img> Describe this image in detail. ###Assistant: ")
    said = tokenizer.ids("A red bus.###")
    assert row.ids == [tokenizer.bos_token_id, *before, IMAGE_INDEX, *after, *said]
    assert row.labels == [IGNORE_INDEX] * (2 + len(before) + len(after)) + said
    assert encode_turns(TRAIN, tokenizer, [ASK, TELL], max_length=None) == row


def test_a_question_as_llava_has_it_is_written_as_minigpt4_has_it(tokenizer):
    asked = Turn("user", "<image>\nDescribe this image in detail.")
    row = encode_turns(TRAIN, tokenizer, [asked, TELL], max_length=None)
    assert row == encode_turns(TRAIN, tokenizer, [ASK, TELL], max_length=160, compat="minigpt4")


def test_a_long_caption_loses_its_end_sign_in_compat_only(tokenizer):
    cut = encode_turns(TRAIN, tokenizer, [ASK, TELL], max_length=4, compat="minigpt4")
    whole = encode_turns(TRAIN, tokenizer, [ASK, TELL], max_length=None)
    said = tokenizer.ids("A red bus.###")
    assert [label for label in cut.labels if label != IGNORE_INDEX] == said[:4]
    assert cut.length == whole.length == len(whole.ids)


def test_a_real_end_of_sequence_is_never_learned_in_compat(tokenizer):
    turns = [ASK, Turn("assistant", "A bus.</s>More.")]
    row = encode_turns(TRAIN, tokenizer, turns, max_length=None, compat="minigpt4")
    assert tokenizer.eos_token_id in row.ids
    assert tokenizer.eos_token_id not in row.labels
    ours = encode_turns(TRAIN_V1, tokenizer, [ASK, TELL], max_length=None)
    assert ours.labels[-1] == tokenizer.eos_token_id


def test_the_first_stage_has_the_picture_and_the_caption_alone(tokenizer):
    turns = [Turn("user", "<image>\nIgnored."), TELL]
    said = tokenizer.ids("A red bus.\n")
    for compat in (None, "minigpt4"):
        row = encode_turns(PRETRAIN, tokenizer, turns, max_length=32, compat=compat)
        assert row.ids == [tokenizer.bos_token_id, IMAGE_INDEX, *said]
        assert row.labels == [IGNORE_INDEX, IGNORE_INDEX, *said]


@pytest.mark.parametrize(
    "turns",
    [
        [ASK, TELL, Turn("user", "Sure?"), Turn("assistant", "Yes.")],
        [Turn("user", "<image> and <image>"), TELL],
        [Turn("user", "no picture"), TELL],
    ],
    ids=["two rounds", "two pictures", "none"],
)
def test_compat_takes_one_picture_and_one_caption(turns, tokenizer):
    with pytest.raises(DataError, match="MiniGPT-4 takes"):
        encode_turns(TRAIN, tokenizer, turns, max_length=None, compat="minigpt4")


def test_further_rounds_have_one_separator_between_them():
    turns = [ASK, TELL, Turn("user", "Sure?"), Turn("assistant", "Yes.")]
    assert render(TRAIN, turns).text == (
        "###Human: <Img><image></Img> Describe this image in detail. ###Assistant: A red bus."
        "###Human: Sure? ###Assistant: Yes.###"
    )


def test_a_system_turn_keeps_the_separator_before_the_first_question():
    turns = [Turn("system", "Be brief."), Turn("user", "Hi."), TELL]
    assert render(TRAIN, turns).text == "Be brief.###Human: Hi. ###Assistant: A red bus.###"


def test_the_demo_writes_each_picture_as_a_turn_of_its_own():
    turns = [Turn("user", "<image><image>Which is red?"), Turn("assistant", "The first."),
             Turn("user", "And <image>\n this?")]  # fmt: skip
    text = render(CHAT, turns, generation=True).text
    assert text.removeprefix(CHAT.system) == (
        "###Human: <Img><image></Img>###Human: <Img><image></Img> Which is red?###Assistant: "
        "The first.###Human: <Img><image></Img> And \n this?###Assistant:"
    )


def test_newer_vicunas_have_their_own_words():
    turns = [Turn("user", "<image>\nWhich?"), Turn("assistant", "This."), Turn("user", "Sure?")]
    text = render(CHAT_V1, turns, generation=True).text
    assert text.removeprefix(CHAT.system) == (
        " USER: <Img><image></Img> Which? ASSISTANT: This.</s>USER: Sure? ASSISTANT:"
    )


def test_a_template_is_made_of_minigpt4s_two_settings():
    template = prompted("mine", "### Human: {} ### Assistant: ", "\n")
    text = render(template, [Turn("user", "<image>"), TELL]).text
    assert text == "### Human: <Img><image></Img> ### Assistant: A red bus.\n"
    with pytest.raises(DataError, match="for the prompt"):
        prompted("mine", "### Human: ### Assistant: ", "###")


def test_a_prompt_file_gives_its_lines_with_a_picture(tmp_path):
    file = tmp_path / "alignment.txt"
    lines = ["<Img><ImageHere></Img> Describe it.", "", "no picture here", "Say <ImageHere> what."]
    file.write_text("\n".join(lines))
    assert read_prompts(file) == ["<Img><image></Img> Describe it.", "Say <image> what."]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("nothing", "no line with <ImageHere>"),
        ("x\n<ImageHere><ImageHere>", "alignment.txt:2 has 2"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_prompts_is_told(tmp_path, content, line):
    file = tmp_path / "alignment.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=line):
        read_prompts(file)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A cat.###Human: more", "A cat."),
        ("Human: x Assistant: A cat. ", "A cat."),
        (" A cat.", "A cat."),
    ],
)
def test_an_answer_is_cut_as_the_demo_cuts_it(text, kept):
    assert clean_answer(text) == kept


@pytest.mark.parametrize(
    ("config", "name", "version"),
    [
        (LLAMA | {"vocab_size": 32001}, "weights", "v0"),
        (LLAMA | {"vocab_size": 32000}, "weights", "v1"),
        (LLAMA | {"vocab_size": 32000}, "vicuna-7b-v0", "v0"),
        (LLAMA | {"vocab_size": 32001}, "vicuna-13b-delta-v1.1", "v1"),
        (LLAMA | {"_name_or_path": "lmsys/vicuna-7b-v1.5"}, "x", "v1"),
        (LLAMA | {"vocab_size": 640}, "vicuna", None),
        ({"model_type": "qwen2", "vocab_size": 32000}, "x", None),
    ],
)
def test_a_vicunas_version_is_told_by_its_name_or_its_tokens(config, name, version):
    found = vicuna_version(config, name)
    assert (found and found[0]) == version


@pytest.mark.parametrize(
    ("template", "rows", "is_doubted"),
    [(TRAIN, 32001, False), (TRAIN, 32000, True), (CHAT, 32000, True),
     (TRAIN_V1, 32000, False), (TRAIN_V1, 32001, True), (PRETRAIN, 32000, False)],
)  # fmt: skip
def test_separators_that_a_vicuna_does_not_know_are_doubted(template, rows, is_doubted):
    doubt = separator_doubt(template, LLAMA | {"vocab_size": rows}, "weights")
    assert (doubt is not None) == is_doubted
    assert doubt is None or template.name in doubt
