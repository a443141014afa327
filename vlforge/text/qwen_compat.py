"""Ids and labels exactly as Qwen-VL's finetune.py and PaddleMIX make them, faults included.

Both supervise `<|im_start|>`, `<|im_end|>` and the line feed of every turn, the user's
and the system's too, and read control tokens that somebody spelled out. PaddleMIX
tokenises all turns as one text and looks for their borders among the ids. For MGen-VL
it forgets the picture.

Sources: Qwen-VL's finetune.py (preprocess), PaddlePaddle/PaddleMIX@6afaf05
(qwen_vl_processing.train_preprocess) and MGen-VL's copy of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlforge.text.compat import ReferenceRow
from vlforge.text.encoded import EncodedText
from vlforge.text.qwen_tokenizer import TURN_END, TURN_START
from vlforge.text.render import numbered_images
from vlforge.text.tokenizers import TextTokenizer
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, LLAVA_IMAGE_TOKEN, DataError, Turn

RULES = ("qwen-vl", "paddle-qwen-vl", "paddle-mgen-vl")


def encode(row: ReferenceRow) -> EncodedText:
    """The row as the reference's rule has it.

    `<image>` in a turn becomes a labelled picture, -200 among the ids; a picture that the
    text names itself, `<img>PATH</img>`, becomes the 258 ids that the reference gives it.

    Raises:
        DataError: a row on which the reference fails.
    """
    turns = list(row.turns)
    system = row.template.system
    if turns and turns[0].role == "system":
        system = turns.pop(0).text
    if any(turn.role == "system" for turn in turns):
        raise DataError("a system turn stands first or not at all")
    turns = _with_images(row, turns)
    if row.rule == "qwen-vl":
        return _finetune(row, turns, system)
    return _paddle(row, turns, system)


def greedy_image_paths(text: str) -> list[str]:
    """The pictures that PaddleMIX finds in a text: two on one line become one bad path."""
    return re.findall(r"<img>(.*)</img>", text)


def chatml(turns: Sequence[Turn]) -> str:
    """Turns as PaddleMIX's chat_template.json writes them, without a system text."""
    return "".join(f"{TURN_START}{turn.role}\n{turn.text}{TURN_END}\n" for turn in turns)


def _with_images(row: ReferenceRow, turns: Sequence[Turn]) -> list[Turn]:
    if not row.has_image:
        return list(turns)
    shown, out = 0, []
    for turn in turns:
        if row.rule == "paddle-mgen-vl":
            text = re.sub(rf"{LLAVA_IMAGE_TOKEN}\n?", "", turn.text)
        else:
            text = numbered_images(row.template, turn.text, shown)
        shown += turn.text.count(LLAVA_IMAGE_TOKEN)
        out.append(Turn(turn.role, text))
    return out


def _ids(tokens: TextTokenizer, text: str, has_image: bool = True) -> list[int]:
    """Ids of a text, its pictures as -200 or, where it names them, as spans of bytes."""
    chunks = text.split(LLAVA_IMAGE_TOKEN) if has_image else [text]
    if len(chunks) == 1:
        encode = getattr(tokens, "encode", tokens.ids)
        return list(encode(text))
    ids = tokens.ids(chunks[0])
    for chunk in chunks[1:]:
        ids += [IMAGE_INDEX, *tokens.ids(chunk)]
    return ids


def _no_images(ids: Sequence[int]) -> list[int]:
    return [IGNORE_INDEX if token == IMAGE_INDEX else token for token in ids]


def _system(row: ReferenceRow, system: str) -> tuple[list[int], list[int]]:
    tokens = row.tokens
    start, end, line = tokens.ids(TURN_START), tokens.ids(TURN_END), tokens.ids("\n")
    inner = [*tokens.ids("system"), *line, *_ids(tokens, system, False)]
    ids = [*start, *inner, *end, *line]
    return ids, [*start, *[IGNORE_INDEX] * len(inner), *end, *line]


def _finetune(row: ReferenceRow, turns: list[Turn], system: str) -> EncodedText:
    if turns and turns[0].role == "assistant":
        turns = turns[1:]
    tokens = row.tokens
    start, end, line = tokens.ids(TURN_START), tokens.ids(TURN_END), tokens.ids("\n")
    ids, labels = _system(row, system)
    for turn in turns:
        header = [*tokens.ids(turn.role), *line]
        words = _ids(tokens, turn.text, row.has_image)
        is_learned = turn.role == "assistant"
        target = _no_images(words) if is_learned else [IGNORE_INDEX] * len(words)
        ids += [*start, *header, *words, *end, *line]
        labels += [*start, *[IGNORE_INDEX] * len(header), *target, *end, *line]
    return EncodedText.cut(ids, labels, row.max_length)


def _paddle(row: ReferenceRow, turns: list[Turn], system: str) -> EncodedText:
    """Borders are paired in order, question and answer in turn."""
    tokens = row.tokens
    start, end, line = tokens.ids(TURN_START), tokens.ids(TURN_END), tokens.ids("\n")
    text = _ids(tokens, chatml(turns), row.has_image)
    starts = [at for at, token in enumerate(text) if [token] == start]
    ends = [at for at, token in enumerate(text) if [token] == end]
    pairs = list(zip(starts, ends, strict=False))
    if len(pairs) % 2:
        raise DataError("a question has no answer, on which PaddleMIX fails")
    header = len(tokens.ids("assistant")) + 1
    ids, labels = _system(row, system)
    for number, (first, last) in enumerate(pairs):
        inner = max(last - first - 1, 0)
        learned = _no_images(text[first : last + 2][header + 1 : -2]) if number % 2 else []
        masked = header if number % 2 else inner
        labels += [*start, *[IGNORE_INDEX] * masked, *learned, *end, *line]
    ids += text
    if len(ids) != len(labels):
        raise DataError("a turn spells out a control token, on which PaddleMIX fails")
    return EncodedText.cut(ids, labels, row.max_length)
