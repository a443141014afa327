"""Questions with answers, conversations and reasoning about pictures, made by a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlforge.ops.synthesis.picture_rows import Wanted
from vlforge.ops.synthesis.picture_writing import DialogueWriting


@dataclass(frozen=True, kw_only=True)
class ImageQuestionAnswerMapper(DialogueWriting):
    """Make questions about a row's pictures, each with a short answer that they show.

    `model` is a folder, or one of the recipe's `endpoints`. It is asked for `num` pairs and
    told what the row knows: its text, unless `use_text` is false, and the fields in
    `context_keys` (captions, boxes, tags; dotted keys are followed). Pairs that refuse,
    repeat a question, are empty or have an answer longer than `longest_answer` characters
    (0: any) are left out; with fewer than `min_num` left the model is asked again.

    The text of a new row is a dialogue, `[[human]]: <__dj__image>\\nquestion\\n[[gpt]]: answer`
    and so on, which training reads as it is and `vlforge convert --to llava` as
    conversations. `rows: each` makes a row of every pair. `keep_original_sample` keeps the
    old row before the new ones. `lang: zh` asks in Chinese and wants Chinese.
    """

    prompt_name: ClassVar[str] = "image_question_answer"


@dataclass(frozen=True, kw_only=True)
class ImageDialogueMapper(DialogueWriting):
    """Make a conversation of several turns about a row's pictures.

    `num` turns that go from what is plain to what takes a second look; fewer than `min_num`
    usable ones are asked for again. The model sees the pictures and is told what the row
    knows: its text, unless `use_text` is false, and the fields in `context_keys`, such as
    captions and boxes. The conversation is the text of a new row, as
    image_question_answer_mapper writes it. Data-Juicer 1.4 has this as the mode
    `conversation` of image_captioning_from_gpt4v_mapper, with the reply as it came.
    """

    num: int = 4
    min_num: int = 2

    prompt_name: ClassVar[str] = "image_dialogue"


@dataclass(frozen=True, kw_only=True)
class ImageReasoningMapper(DialogueWriting):
    """Make questions about a row's pictures that take thought, with answers that show it.

    As image_dialogue_mapper, but each answer goes step by step from what can be seen to its
    conclusion. An answer shorter than `shortest_answer` characters is none.
    """

    num: int = 1
    shortest_answer: int = 80

    prompt_name: ClassVar[str] = "image_reasoning"

    def wanted(self) -> Wanted:
        """Answers of some length too."""
        return super().wanted()._replace(shortest_answer=self.shortest_answer)
