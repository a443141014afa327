"""Writes turns out in a template: pieces of text, each supervised or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vlforge.text.templates import Template, Voice
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, Turn


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text with one speaker.

    `ends_sequence`: the tokenizer's end-of-sequence token follows the text.
    `written`: (from, to) in characters, what somebody wrote; the rest is the template's.
    """

    text: str
    role: Literal["system", "user", "assistant"]
    supervised: bool = False
    ends_sequence: bool = False
    written: tuple[tuple[int, int], ...] = ()

    @property
    def segments(self) -> Iterator[tuple[str, bool]]:
        """The text in parts, each with whether somebody wrote it."""
        at = 0
        for start, end in self.written:
            yield self.text[at:start], False
            yield self.text[start:end], True
            at = end
        yield self.text[at:], False


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as pieces; `<image>` still stands for each image."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """Everything, as one string."""
        return "".join(piece.text for piece in self.pieces)


def lead_with_images(
    text: str, marks: tuple[str, str] = ("", ""), gaps: tuple[str, str] = ("\n", "\n")
) -> str:
    """The turn with its images at the head, one a line, and none of them lost.

    A turn without images comes back untouched.

    Args:
        marks: around each image.
        gaps: between images, and between the last one and the words.
    """
    count = text.count(LLAVA_IMAGE_TOKEN)
    if not count:
        return text
    words = text.replace(LLAVA_IMAGE_TOKEN, "").strip()
    images = gaps[0].join([marks[0] + LLAVA_IMAGE_TOKEN + marks[1]] * count)
    return (images + gaps[1] + words).strip()


def render(
    template: Template,
    turns: Sequence[Turn],
    *,
    generation: bool = False,
    with_images: bool = True,
    image_marks: tuple[str, str] = ("", ""),
    eos: str | None = None,
) -> Rendered:
    """The conversation in the template's words.

    Args:
        turns: an optional system turn, then user and assistant in turn. Answers before
            the first question are left out, as all known systems do.
        generation: leave the assistant's turn open for the model to fill.
        with_images: False where the sample has no image, so that a literal
            `<image>` is ordinary text.
        image_marks: text around each image, inside the template's own marks.
        eos: the tokenizer's end-of-sequence text, written where the template's stands.

    Raises:
        DataError: roles out of order, or nothing to render.
    """
    system, spoken = _split_system(turns)
    _check_order(template, spoken, generation)
    head, inside = _system_text(template, system), Piece("", "system")
    if template.system_inside:
        head, inside = inside, head
    head = _joined("system", head, template.opening)
    pieces: list[Piece] = []
    shown = rounds = 0
    for turn in spoken:
        words = _words(template, turn, image_marks, shown) if with_images else turn.text
        shown += turn.text.count(LLAVA_IMAGE_TOKEN)
        if turn.role == "user":
            rounds += 1
            asked = _question(template, inside.text + words, rounds)
            pieces.append(_joined("user", head, asked))
            head, inside = Piece(template.between, "system"), Piece("", "system")
        else:
            pieces.extend(_answer(template, words, eos))
    if generation and template.assistant.open:
        pieces.append(Piece(template.assistant.open, "assistant"))
    return Rendered(tuple(piece for piece in pieces if piece.text or piece.ends_sequence))


def _split_system(turns: Sequence[Turn]) -> tuple[str | None, list[Turn]]:
    """The system turn's text, and the turns from the first question on."""
    system, spoken = None, list(turns)
    if spoken and spoken[0].role == "system":
        system = spoken.pop(0).text
    while spoken and spoken[0].role == "assistant":
        spoken.pop(0)
    return system, spoken


def _check_order(template: Template, spoken: Sequence[Turn], generation: bool) -> None:
    if not spoken:
        raise DataError("the conversation has no turn from the user; give at least one")
    for place, turn in enumerate(spoken):
        wanted = "user" if place % 2 == 0 else "assistant"
        if turn.role != wanted:
            raise DataError(
                f"turn {place + 1} is the {turn.role}'s where the {wanted}'s is due; "
                "user and assistant speak in turn, user first"
            )
    if generation and spoken[-1].role != "user":
        raise DataError("nothing to answer: the last turn is not the user's")
    if template.words_from_user:
        return
    if len(spoken) > 2:
        raise DataError(
            f"template {template.name!r} takes an image and its caption, not {len(spoken)} turns"
        )
    if LLAVA_IMAGE_TOKEN not in spoken[0].text:
        raise DataError(f"template {template.name!r} describes an image and the turn has none")


def _said(voice: Voice, words: str, role: Literal["system", "user"]) -> Piece:
    before = voice.open + voice.lead
    span = (len(before), len(before) + len(words))
    return Piece(before + words + voice.end, role, written=(span,))


def _joined(role: Literal["system", "user"], *parts: Piece | str) -> Piece:
    """Parts one after the other, as one piece."""
    text, written = "", []
    for part in parts:
        piece = Piece(part, role) if isinstance(part, str) else part
        written += [(len(text) + start, len(text) + end) for start, end in piece.written]
        text += piece.text
    return Piece(text, role, written=tuple(written))


def _system_text(template: Template, system: str | None) -> Piece:
    words = template.system if system is None else system
    return _said(template.system_voice, words, "system") if words else Piece("", "system")


def numbered_images(template: Template, text: str, shown: int = 0) -> str:
    """The text with a label before each image's mark and a line feed after it.

    Args:
        shown: images that earlier turns have shown.
    """
    marked = template.image_marks[0] + LLAVA_IMAGE_TOKEN + template.image_marks[1]
    is_marked = marked in text
    own = re.escape(template.image_label.strip()).replace(re.escape("{}"), r"\d+")
    found = re.escape(marked if is_marked else LLAVA_IMAGE_TOKEN)
    number = shown

    def write(match: re.Match[str]) -> str:
        nonlocal number
        number += 1
        label = match.group("label") or template.image_label.replace("{}", str(number))
        return label + marked + "\n"

    return re.sub(rf"(?P<label>{own}[ \t]*)?{found}\n?", write, text)


def _words(template: Template, turn: Turn, image_marks: tuple[str, str], shown: int) -> str:
    if template.image_label:
        return numbered_images(template, turn.text, shown)
    before = template.image_marks[0] + image_marks[0]
    after = image_marks[1] + template.image_marks[1]
    if turn.role == "user" and not template.words_from_user:
        return (before + LLAVA_IMAGE_TOKEN + after) * turn.text.count(LLAVA_IMAGE_TOKEN)
    marked = before + LLAVA_IMAGE_TOKEN + after
    if turn.text.count(marked) == turn.text.count(LLAVA_IMAGE_TOKEN) and before + after:
        return turn.text
    if template.images_first:
        return lead_with_images(turn.text, (before, after), template.image_gaps)
    return turn.text.replace(LLAVA_IMAGE_TOKEN, marked)


def _question(template: Template, words: str, number: int) -> Piece:
    voice = template.asking(number) if template.words_from_user else Voice()
    return _said(voice, words, "user")


def _answer(template: Template, words: str, eos: str | None) -> list[Piece]:
    voice = template.assistant
    end = voice.end.replace(template.eos, eos) if template.eos and eos else voice.end
    spoken = voice.lead + words + end
    ends = template.eos_after_answer
    span = ((len(voice.lead), len(voice.lead) + len(words)),)
    return [
        Piece(voice.open, "assistant"),
        Piece(spoken, "assistant", supervised=True, ends_sequence=ends, written=span),
        Piece(template.after, "assistant"),
    ]
