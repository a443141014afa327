from __future__ import annotations

import random
import unicodedata
from itertools import pairwise

import pytest
import regex

from tests.tiny_qwen import WORDS, tokenizer
from vlforge.models.reading import read_tokenizer
from vlforge.text.qwen_tokenizer import FILE_NAME, QwenTokenizer
from vlforge.text.tokenizers import TextTokenizer, adapt, load_tokenizer
from vlforge.types import DataError, ModelError

PATTERN = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def plain_bpe(ranks: dict[bytes, int], text: str) -> list[int]:
    """tiktoken's rule: of all neighbours join the first pair whose union ranks lowest."""
    ids = []
    for piece in PATTERN.findall(text):
        whole = piece.encode()
        parts = [whole] if whole in ranks else [bytes([byte]) for byte in whole]
        while known := [ranks[a + b] for a, b in pairwise(parts) if a + b in ranks]:
            at = [ranks.get(a + b) for a, b in pairwise(parts)].index(min(known))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_ids_are_those_of_a_plain_restatement():
    made = tokenizer(b"aaaa", b"abab", b"ba", b"  ", b"    ", b"\xe7\xba")
    draw = random.Random(0)
    letters = ["a", "b", "th", "the", " ", "\n", "1", "红", "é", "'S", "!", "\t", "is", "red", "🙂"]
    for _ in range(3000):
        text = "".join(draw.choices(letters, k=draw.randint(0, 14)))
        assert made.ids(text) == plain_bpe(made.ranks, unicodedata.normalize("NFC", text))


def test_text_comes_back_and_is_composed_first():
    made = tokenizer()
    assert made.decode(made.encode("the red 红\n\n🙂 is")) == "the red 红\n\n🙂 is"
    assert made.ids("e\u0301") == made.ids("é")
    assert made.ids_and_offsets("e\u0301") is None


def test_a_pictures_name_is_its_bytes_and_padding():
    made = tokenizer()
    start = made.image_start_id
    ids = made.encode("a<img>é.png</img>b")
    name = list("é.png".encode())
    assert ids[1 : 3 + len(name)] == [start, *name, start + 2]
    assert len(ids) == 1 + 258 + 1
    assert ids[-2] == start + 1
    assert made.decode(ids) == "a<img>é.png</img>b"
    assert made.picture_spans(ids) == [(1, 259, "é.png")]
    assert made.picture_spans(ids[:200]) == []


@pytest.mark.parametrize(("length", "pads"), [(255, 1), (256, 0)])
def test_names_of_up_to_256_bytes_fit(length, pads):
    made = tokenizer()
    ids = made.encode(f"<img>{'x' * length}</img>")
    assert ids.count(made.image_start_id + 2) == pads
    assert made.decode(ids) == f"<img>{'x' * length}</img>"


def test_a_longer_name_is_refused_or_as_in_mgen_lost():
    text = f"<img>{'x' * 257}</img>"
    with pytest.raises(DataError, match=r"too long: 257 bytes, and 256 fit"):
        tokenizer().encode(text)
    mgen = QwenTokenizer(tokenizer().ranks, long_names="pads")
    start = mgen.image_start_id
    assert mgen.encode(text) == [start, *[start + 2] * 256, start + 1]


@pytest.mark.parametrize("text", ["<img>a", "<box>(1,2)", "x<img></ img>"])
def test_a_tag_without_end_is_refused(text):
    with pytest.raises(DataError, match="Unclosed image token"):
        tokenizer().to_list_format(text)


def test_special_tokens_are_read_only_where_asked_for():
    made = tokenizer()
    end = made.turn_end_id
    assert made.encode("a<|im_end|>")[1:] == [end]
    assert end not in made.encode("a<|im_end|>", allowed_special=("<img>",))
    assert made.plain_ids("<ref>")[0] == made.special["<ref>"]
    assert made.special["<img>"] not in made.plain_ids("<img><|im_end|>")
    with pytest.raises(DataError, match=r"'<\|im_end\|>', which has no place"):
        made.encode("a<|im_end|>", allowed_special=(), disallowed_special="all")
    assert made.decode([*made.ids("red"), end, 10**6], skip_special_tokens=True) == "red"


def test_lists_and_texts_turn_into_each_other():
    made = tokenizer()
    items = [{"image": "a.png"}, {"text": "the "}, {"ref": "red", "box": [[1.0, 2, 3, 4.9]]}]
    text = made.from_list_format(items)
    assert text == "Picture 1: <img>a.png</img>\nthe <ref>red</ref><box>(1,2),(3,4)</box>"
    assert made.from_list_format(items[:1], label="Picture {}:") == "Picture 1:<img>a.png</img>\n"
    assert made.to_list_format(text)[1:] == [
        {"image": "a.png"},
        {"text": "\nthe "},
        {"ref": "red"},
        {"box": "(1,2),(3,4)"},
    ]
    with pytest.raises(DataError, match="give text, image or box"):
        made.from_list_format([{"ref": "red"}])


def test_it_is_a_tokenizer_for_everyone_who_asks(tmp_path):
    made = tokenizer()
    made.save_pretrained(tmp_path)
    for read in (read_tokenizer(tmp_path), load_tokenizer(tmp_path)):
        assert isinstance(read, TextTokenizer)
        assert adapt(read) is read
        assert read.ranks == made.ranks
    assert len(made) == len(made.ranks) + 217
    assert made.convert_tokens_to_ids(["<img>", "the"]) == [made.image_start_id, made.ranks[b"the"]]
    assert made.convert_ids_to_tokens([made.ranks["红".encode()]]) == ["红"]
    assert len(made.get_vocab()) == len(made)
    assert made(["is", "the"])["attention_mask"] == [[1], [1]]
    assert made.batch_decode([made.ids("is")]) == ["is"]
    ids, offsets = made.ids_and_offsets("red<ref> is")
    assert (ids, offsets) == (made.ids("red<ref> is"), [(0, 3), (3, 8), (8, 11)])
    assert {WORDS[0], b"the"} <= set(made.ranks)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not base64 at all\n", "is damaged"),
        (b"AA== x\n", "is damaged"),
        (b"AA== 0\n", "holds 1 ranks that are not"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        QwenTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer at .*none"):
        QwenTokenizer.from_pretrained(tmp_path / "none")
