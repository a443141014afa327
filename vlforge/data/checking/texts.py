"""What can be wrong with the words of a record: roles, emptiness, marks, tokens, encodings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from vlforge.data.records import MARK, Record

Tell = tuple[str, str]
"""A kind of finding and what was seen."""

_TOKENS = (
    "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>", "<eod>", "<mask>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>", "<start_of_turn>", "<end_of_turn>", "<im_start>", "<im_end>",
    "<im_patch>", "<__dj__image>", "<__dj__audio>", "<__dj__video>", "<ImageHere>", "<Img>",
    "</Img>", "<img>", "</img>", "<IMG_CONTEXT>", "<image_placeholder>",
    "<fake_token_around_image>", "<end_of_utterance>", "<video>", "<audio>",
    "[IMG]", "[gMASK]", "<sop>", "<eop>", "<eoa>",
)  # fmt: skip
SPECIAL = re.compile(
    r"<\|[A-Za-z_][\w/.:-]{0,40}\|>|<｜[^｜<>]{1,40}｜>|"
    + "|".join(re.escape(token) for token in sorted(_TOKENS, key=len, reverse=True))
)
"""Tokens that some tokenizer or template reads as control, and no text should hold."""
_ROLE_WORDS = re.compile(
    r"(?:^|\n)\s*(?:###\s*)?(?:USER|ASSISTANT|Human|Assistant|HUMAN|GPT)\s*:\s|\[\[(?:human|gpt)\]\]:"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ufeff]")
_MOJIBAKE = re.compile(
    "[\u00c3\u00c2][\u0080-\u00bf]|\u00e2(?:\u20ac|\u0080)[\u0080-\u00bf\u2018-\u2122\u0153\u009d]"
    "|[\u00e4-\u00e9][\u0080-\u00bf\u0152-\u0192\u2013-\u203a\u20ac\u2122]{2}|锟斤拷|烫烫烫"
)
"""UTF-8 that was read as cp1252, and two well-known remains of reading GBK wrongly."""


def check_texts(record: Record) -> Iterator[Tell]:
    """Everything about the words of one record that can be seen without other rows."""
    if not record.turns and not any(chunk.strip() for chunk in record.chunks):
        if not record.pictures:
            yield "empty_row", "neither text nor picture"
        return
    if not record.turns and not any(chunk.replace(MARK, "").strip() for chunk in record.chunks):
        yield "empty_answer", "no text beside the image marks"
    yield from _marks(record)
    yield from _roles(record)
    yield from _answers(record)
    for text in texts_of(record):
        yield from _characters(text)
    for turn in record.turns:
        found = _ROLE_WORDS.search(turn.text) if turn.role == "assistant" else None
        if found:
            yield "role_words", around(turn.text, found)


def texts_of(record: Record) -> list[str]:
    """All texts of a record, in order."""
    return [turn.text for turn in record.turns] if record.turns else list(record.chunks)


def _marks(record: Record) -> Iterator[Tell]:
    marks, pictures = record.marks, len(record.pictures)
    if marks == pictures:
        pass
    elif marks == 0:
        if record.turns:
            yield "no_mark", f"{_several(pictures, 'picture')} and no {MARK}"
    else:
        yield "marks", f"{_several(marks, 'image mark')} but {_several(pictures, 'picture')}"
    for turn in record.turns:
        if turn.role == "assistant" and MARK in turn.text:
            yield "mark_in_answer", around(turn.text, re.search(MARK, turn.text))


def _several(number: int, one: str) -> str:
    return f"{number} {one if number == 1 else one + 's'}"


def _roles(record: Record) -> Iterator[Tell]:
    turns = record.turns
    if not turns:
        return
    said = [turn.role for turn in turns]
    late = "system" in said[1:]
    if late:
        yield "role_order", f"turn {said.index('system', 1) + 1} is the system's"
    said = [role for role in said if role != "system"]
    if "assistant" not in said:
        yield "no_answer", " ".join(said) or "a system turn alone"
        return
    if said[0] == "assistant" and (len(said) > 1 or record.pictures):
        yield "answer_first", turns[0].text
    for at in range(1, len(said)):
        if said[at] == said[at - 1]:
            yield "role_order", f"{said[at]} speaks twice, in turns {at} and {at + 1}"
            break
    if said[-1] == "user":
        yield "open_question", turns[-1].text


def _answers(record: Record) -> Iterator[Tell]:
    for number, turn in enumerate(record.turns, 1):
        if turn.role == "system" or turn.text.strip():
            continue
        if turn.role == "assistant":
            yield "empty_answer", f"turn {number} is empty"
        else:
            yield "empty_question", f"turn {number} is empty"


def _characters(text: str) -> Iterator[Tell]:
    if "<" in text or "[" in text:
        found = SPECIAL.search(text)
        if found:
            yield "special_token", f"{found.group()} in: {around(text, found)}"
    found = _CONTROL.search(text)
    if found:
        yield "broken_text", f"U+{ord(found.group()):04X} in: {around(text, found)}"
    if not text.isascii():
        found = _MOJIBAKE.search(text)
        if found:
            yield "mojibake", around(text, found)


def around(text: str, found: re.Match[str] | None, width: int = 40) -> str:
    """What was found, with some of the text on both sides."""
    if found is None:
        return text[: 2 * width]
    start, end = max(0, found.start() - width), min(len(text), found.end() + width)
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


Guess = Callable[[str], tuple[str, float]]
"""The likeliest language of a text, and how likely."""


def words_to_guess(record: Record) -> str:
    """The text of a record whose language is asked for: answers where there are any."""
    answers = [turn.text for turn in record.turns if turn.role == "assistant"]
    return " ".join(answers or texts_of(record)).replace(MARK, " ").strip()[:2000]
