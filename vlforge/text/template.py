"""What a conversation template is: who opens a turn with what, and what ends it.

A round of two turns is written as

    user.open user.lead QUESTION user.end  assistant.open assistant.lead ANSWER assistant.end  after

From `assistant.lead` to `assistant.end` a token is supervised; all else is context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

MaskRule = Literal[
    "plain",
    "vicuna",
    "llama-2",
    "llama-3",
    "gemma",
    "chatml",
    "chatml-older",
    "chatml-begun",
    "headed",
    "xtuner",
    "xtuner-images",
    "minigpt4",
    "qwen-vl",
    "paddle-qwen-vl",
    "paddle-mgen-vl",
]
"""How a reference implementation finds the labels; see `compat`."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How one speaker's turn is written.

    An open turn, waiting for its words, is `open` alone.
    """

    open: str = ""
    lead: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """One conversation format.

    opening: stands before the first question, after the system text.
    between: stands before every question but the first.
    after: stands after every answer, unsupervised.
    system_inside: the system text stands inside the first question, not before it.
    joined: the whole conversation is tokenised as one text, cut only at images;
        otherwise prompt, answer and `after` are tokenised each on its own.
    eos: the text inside `assistant.end` that stands for the tokenizer's own end
        of sequence; "" where the end is ordinary text.
    eos_after_answer: a real end-of-sequence token follows each answer, and the
        next round starts with a new begin-of-sequence token.
    images_first: the images of a turn stand at its head, one a line.
    words_from_user: False writes only the images of a user turn, bare (captioning);
        `user` then says how a reference writes words it is given all the same.
    image_marks: text around every image, unless all of a turn have it already.
    image_gaps: between the images at the head of a turn, and between them and its words.
    new_tokens: tokens of its own that the tokenizer has to learn, if it has not.
    image_label: stands before each image's mark, `{}` being the image's number in the
        conversation; a line feed then ends the image. A label that the text has is kept.
    round_mark: the text inside `user.open` that stands for the number of the round.
    words_are_text: what people wrote is tokenised apart from the template's own text, and
        control tokens spelled out in it are ordinary text.
    stop_strings: end generation besides the end-of-sequence token.
    asked_as: the template that a model trained with this one is talked to in; "" is this.
    references: mask rule per `compat` name that knows this template.
    """

    name: str
    user: Voice
    assistant: Voice
    system: str = ""
    system_voice: Voice = Voice()
    opening: str = ""
    between: str = ""
    after: str = ""
    system_inside: bool = False
    joined: bool = True
    eos: str = ""
    eos_after_answer: bool = False
    images_first: bool = True
    words_from_user: bool = True
    image_marks: tuple[str, str] = ("", "")
    image_gaps: tuple[str, str] = ("\n", "\n")
    new_tokens: tuple[str, ...] = ()
    image_label: str = ""
    round_mark: str = ""
    words_are_text: bool = False
    stop_strings: tuple[str, ...] = ()
    asked_as: str = ""
    references: Mapping[str, MaskRule] = field(default_factory=dict)

    def asking(self, number: int) -> Voice:
        """How the question of round `number`, counted from 1, is written."""
        if not self.round_mark:
            return self.user
        return replace(self.user, open=self.user.open.replace(self.round_mark, str(number)))
