"""The conversations of Qwen-VL-Chat and MGen-VL: ChatML with numbered pictures.

Sources: Qwen-VL-Chat's qwen_generation_utils.py and finetune.py, PaddlePaddle/PaddleMIX@6afaf05.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlforge.text.qwen_tokenizer import (
    END_OF_TEXT,
    IMAGE,
    IMAGE_END,
    LABEL,
    TAGS,
    TURN_END,
    TURN_START,
    QwenTokenizer,
)
from vlforge.text.template import Template, Voice
from vlforge.types import IMAGE_INDEX

SYSTEM = "You are a helpful assistant."
WINDOW = 6144
"""Tokens of system text and history that Qwen-VL-Chat keeps, pictures with their 258 ids each."""

QWEN_VL = Template(
    name="qwen_vl",
    system=SYSTEM,
    system_voice=Voice(TURN_START + "system\n", "", TURN_END + "\n"),
    user=Voice(TURN_START + "user\n", "", TURN_END + "\n"),
    assistant=Voice(TURN_START + "assistant\n", "", TURN_END),
    after="\n",
    images_first=False,
    image_label=LABEL,
    image_marks=(IMAGE, IMAGE_END),
    words_are_text=True,
    stop_strings=(TURN_END, TURN_START, END_OF_TEXT),
    references={"qwen-vl": "qwen-vl"},
)
"""Qwen-VL-Chat. A control token spelled out in a turn is ordinary text, in training too."""

MGEN_VL = replace(
    QWEN_VL,
    name="mgen_vl",
    image_label=LABEL.rstrip(" "),
    references={"paddlemix": "paddle-qwen-vl", "mgen-vl": "paddle-mgen-vl"},
)
"""MGen-VL and PaddleMIX's Qwen-VL: no space between a picture's label and the picture."""

QWEN_TEMPLATES = (QWEN_VL, MGEN_VL)


@dataclass(frozen=True, slots=True)
class ChatContext:
    """A prompt as Qwen-VL-Chat makes it: its text and its ids, pictures as spans of bytes."""

    text: str
    ids: list[int]


def chat_context(
    tokenizer: QwenTokenizer,
    query: str,
    history: Sequence[tuple[str, str]] = (),
    *,
    system: str = SYSTEM,
    window: int = WINDOW,
) -> ChatContext:
    """The prompt for a query after a history of (question, answer), as Qwen-VL-Chat makes it.

    The newest rounds are kept while system text and rounds stay below `window` ids; the
    query always fits. Of special tokens in texts only those of pictures and grounding
    are read.

    Raises:
        DataError: a picture's tag that is not closed, or a name that is too long.
    """
    line = tokenizer.ids("\n")

    def block(role: str, words: str) -> ChatContext:
        spoken = tokenizer.encode(words, allowed_special=TAGS)
        ids = [tokenizer.turn_start_id, *tokenizer.ids(role), *line, *spoken]
        return ChatContext(f"{TURN_START}{role}\n{words}{TURN_END}", [*ids, tokenizer.turn_end_id])

    head = block("system", system)
    kept = ChatContext("", [])
    for question, answer in reversed(history):
        asked, said = block("user", question), block("assistant", answer)
        more = [*line, *asked.ids, *line, *said.ids]
        if len(head.ids) + len(more) + len(kept.ids) >= window:
            break
        kept = ChatContext(f"\n{asked.text}\n{said.text}{kept.text}", more + kept.ids)
    last = block("user", query)
    opening = [*line, tokenizer.turn_start_id, *tokenizer.ids("assistant"), *line]
    return ChatContext(
        f"{head.text}{kept.text}\n{last.text}\n{TURN_START}assistant\n",
        [*head.ids, *kept.ids, *line, *last.ids, *opening],
    )


def spans_to_images(
    tokenizer: QwenTokenizer, ids: Sequence[int], labels: Sequence[int] | None = None
) -> tuple[list[int], list[int], list[str]]:
    """Ids and labels with -200 for each picture's 256 ids, and the pictures' names in order."""
    given = list(labels) if labels is not None else list(ids)
    new_ids: list[int] = []
    new_labels: list[int] = []
    names: list[str] = []
    at = 0
    for start, end, name in tokenizer.picture_spans(ids):
        new_ids += [*ids[at : start + 1], IMAGE_INDEX]
        new_labels += given[at : start + 2]
        names.append(name)
        at = end - 1
    return [*new_ids, *ids[at:]], [*new_labels, *given[at:]], names
