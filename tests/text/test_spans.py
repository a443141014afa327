"""Label masks by span: what the template supervises, for any tokenizer."""

from __future__ import annotations

import pytest

from vlforge.text.encode import encode_turns
from vlforge.text.render import lead_with_images, render
from vlforge.text.templates import TEMPLATES, find_template
from vlforge.text.tokenizers import adapt, load_tokenizer
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, DataError, RecipeError, Turn

ASK = Turn("user", "<image>\nWhat is it?")
TELL = Turn("assistant", "A cat.")
ROUNDS = [ASK, TELL, Turn("user", "Sure?"), Turn("assistant", "Yes.")]


def supervised_text(encoded, tokenizer) -> str:
    return tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", "A cat.\n"),
        ("v1", " A cat.</s>"),
        ("vicuna", "A cat.</s>"),
    ],
)
def test_only_the_answer_is_supervised(name, said, bytes_tokenizer):
    encoded = encode_turns(TEMPLATES[name], bytes_tokenizer, [ASK, TELL], max_length=None)
    assert supervised_text(encoded, bytes_tokenizer) == said
    assert encoded.images == 1
    assert encoded.ids[0] == bytes_tokenizer.bos_token_id


@pytest.mark.parametrize(("name", "said"), [("v1", " A cat.</s> Yes.</s>"), ("vicuna", None)])
def test_every_answer_of_a_conversation_is_supervised(name, said, bytes_tokenizer):
    encoded = encode_turns(TEMPLATES[name], bytes_tokenizer, ROUNDS, max_length=None)
    assert supervised_text(encoded, bytes_tokenizer) == (said or "A cat.</s>Yes.</s>")


def test_xtuners_vicuna_begins_each_round_anew(bytes_tokenizer):
    encoded = encode_turns(TEMPLATES["vicuna"], bytes_tokenizer, ROUNDS, max_length=None)
    assert encoded.ids.count(bytes_tokenizer.bos_token_id) == 2


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_prompt_is_the_beginning_of_the_training_row(name, bytes_tokenizer):
    template = TEMPLATES[name]
    turns = ROUNDS if template.words_from_user else [ASK, TELL]
    row = encode_turns(template, bytes_tokenizer, turns, max_length=None)
    asked = turns[:-1]
    prompt = encode_turns(template, bytes_tokenizer, asked, max_length=None, generation=True)
    rest = row.labels[len(prompt.ids) :]
    assert prompt.ids == row.ids[: len(prompt.ids)]
    assert prompt.supervised == 0
    assert rest[0] != IGNORE_INDEX
    said = supervised_text(row, bytes_tokenizer)
    assert [answer.text in said for answer in turns[1::2]] == [True] * len(turns[1::2])
    assert "What is it" not in said
    assert "Sure" not in said


def test_a_row_that_counting_masks_whole_keeps_its_labels_by_span(sentencepiece_folders):
    tokenizer = load_tokenizer(sentencepiece_folders[False])
    turns = [Turn("user", "What is it?"), Turn("assistant", "USER: hi ASSISTANT: bye")]
    counted = encode_turns(TEMPLATES["v1"], tokenizer, turns, max_length=64, compat="llava")
    spanned = encode_turns(TEMPLATES["v1"], tokenizer, turns, max_length=64)
    assert counted.supervised == 0
    assert "tokenization mismatch" in (counted.loss_problem or "")
    assert spanned.supervised > 0
    assert spanned.ids == counted.ids


def test_masks_without_offsets_equal_masks_with_them(bytes_tokenizer):
    class Blind:
        """The same tokenizer, character positions withheld."""

        def __init__(self, inner):
            self.__dict__.update(vars(inner))
            self.ids = inner.ids

        def ids_and_offsets(self, text):
            return None

    for name in ("plain", "v1", "vicuna"):
        turns = ROUNDS if name != "plain" else [ASK, TELL]
        seen = encode_turns(TEMPLATES[name], bytes_tokenizer, turns, max_length=None)
        blind = encode_turns(TEMPLATES[name], Blind(adapt(bytes_tokenizer)), turns, max_length=None)
        assert (blind.ids, blind.labels) == (seen.ids, seen.labels), name


def test_no_image_is_lost_when_they_move_to_the_head():
    assert lead_with_images("Compare <image> with <image>.") == "<image>\n<image>\nCompare  with ."
    assert lead_with_images(" no picture ") == " no picture "


def test_a_literal_tag_in_a_row_without_images_is_text(bytes_tokenizer):
    encoded = encode_turns(TEMPLATES["v1"], bytes_tokenizer, [ASK, TELL], max_length=None, images=0)
    assert IMAGE_INDEX not in encoded.ids
    assert "<image>" in bytes_tokenizer.decode(encoded.ids)


@pytest.mark.parametrize("images", [2, 3])
def test_another_number_of_tags_than_images_is_an_error(images, bytes_tokenizer):
    with pytest.raises(DataError, match=f"1 <image> and the sample has {images}"):
        encode_turns(TEMPLATES["v1"], bytes_tokenizer, [ASK, TELL], max_length=None, images=images)


def test_truncation_that_takes_every_label_is_reported(bytes_tokenizer):
    encoded = encode_turns(TEMPLATES["v1"], bytes_tokenizer, [ASK, TELL], max_length=40)
    assert len(encoded.ids) == 40
    assert encoded.loss_problem == f"all labels lost: {encoded.length} tokens cut to 40"


def test_a_prompt_that_does_not_fit_is_refused(bytes_tokenizer):
    with pytest.raises(DataError, match="40 fit"):
        encode_turns(TEMPLATES["v1"], bytes_tokenizer, [ASK], max_length=40, generation=True)


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "no turn from the user"),
        ([TELL], "no turn from the user"),
        ([ASK, ASK], "turn 2 is the user's"),
        ([ASK, Turn("system", "Be brief.")], "turn 2 is the system's"),
    ],
)
def test_turns_out_of_order_are_refused(turns, words):
    with pytest.raises(DataError, match=words):
        render(TEMPLATES["v1"], turns)


def test_a_caption_needs_its_image():
    with pytest.raises(DataError, match="describes an image"):
        render(TEMPLATES["plain"], [Turn("user", "Describe."), TELL])


def test_a_system_turn_replaces_the_templates_own():
    text = render(TEMPLATES["v1"], [Turn("system", "Be brief."), Turn("user", "Hi")]).text
    assert text == "Be brief. USER: Hi "


def test_an_unknown_template_names_the_known_ones():
    with pytest.raises(RecipeError, match=r"known: .*plain"):
        find_template("vicuna_v9")


def test_a_template_without_that_compat_says_which_it_has(bytes_tokenizer):
    with pytest.raises(RecipeError, match="it has: xtuner"):
        encode_turns(
            TEMPLATES["vicuna"], bytes_tokenizer, [ASK, TELL], max_length=None, compat="llava"
        )
