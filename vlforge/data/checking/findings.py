"""Kinds of findings, how often each was seen, and where first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
EXAMPLES = 20
"""Examples of a kind that are kept."""
_LONGEST_VALUE = 300
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Controls, among them those of a terminal and of the writing direction, and lone surrogates."""


@dataclass(frozen=True)
class Kind:
    """One thing that can be wrong: how bad it is, in words, and what to do."""

    name: str
    level: Level
    title: str
    remedy: str


_TABLE: tuple[tuple[str, Level, str, str], ...] = (
    # What costs the row, or teaches something wrong.
    ("bad_row", "error", "rows cannot be read", "mend or remove these lines; "
     "wrong encodings: vlforge repair"),
    ("no_rows", "error", "the dataset holds no usable row", "name another file or --from"),
    ("empty_row", "error", "rows hold neither text nor picture", "remove them"),
    ("missing_image", "error", "pictures are missing", "fetch them or correct the paths; "
     "where only the extension is wrong, vlforge repair mends it"),
    ("broken_image", "error", "pictures cannot be read", "fetch them again or remove the rows"),
    ("marks", "error", "image marks and pictures differ in number",
     "one <image> for each picture; of repeated marks vlforge repair keeps the first"),
    ("role_order", "error", "questions and answers do not alternate",
     "merge or remove the turns; a late system turn vlforge repair moves to the front"),
    ("no_answer", "error", "conversations hold no answer", "remove them: they teach nothing"),
    ("empty_answer", "error", "answers are empty", "remove them: they teach the end at once; "
     "at a conversation's end vlforge repair does"),
    ("labels_lost", "error", "rows lose every label to truncation",
     "raise max_length or split the conversations"),
    ("refused", "error", "rows are longer than a stage takes, and it refuses to begin",
     "raise max_length, split the conversations, or set on_too_long to cut or drop"),
    ("not_encoded", "error", "the template cannot hold these conversations",
     "mend their roles, or choose another template"),
    ("over_budget", "error", "more rows than the budget allows",
     "draw a part: vlforge split or a selector of a recipe"),
    ("leaked_sample", "error", "rows have picture and question of the other set",
     "remove them from one of the two"),
    ("leaked_image", "error", "pictures are also in the other set",
     "remove them from one of the two"),
    # What is probably meant otherwise.
    ("leaked_look", "warning", "pictures look like some of the other set",
     "look at them; remove those that are copies"),
    ("leaked_question", "warning", "texts without picture are also in the other set",
     "remove them from one of the two where the answer gives something away"),
    ("answer_first", "warning", "conversations begin with an answer",
     "training drops it, as vlforge repair does"),
    ("open_question", "warning", "last questions have no answer",
     "remove them or add answers"),
    ("empty_question", "warning", "questions are empty",
     "add the question or merge the answers"),
    ("mark_in_answer", "warning", "image marks stand in answers",
     "move them to the question; extra ones vlforge repair removes"),
    ("special_token", "warning", "special tokens stand in texts",
     "remove them: a tokenizer reads them as control tokens"),
    ("labels_cut", "warning", "rows lose a part of their labels to truncation",
     "raise max_length or split the conversations"),
    ("left_out", "warning", "rows are left out: longer than max_length",
     "raise max_length or split the conversations"),
    ("image_cut", "warning", "rows lose a picture to truncation and are left out",
     "raise max_length"),
    ("linked_image", "warning", "pictures are links", "vlforge download fetches them"),
    ("repeated_row", "warning", "rows repeat an earlier one", "remove them: "
     "document_deduplicator in a recipe"),
    ("broken_text", "warning", "texts hold replacement or control characters",
     "read the source again in its own encoding"),
    ("mojibake", "warning", "texts were decoded wrongly", "vlforge repair --mojibake"),
    # What is worth knowing.
    ("shared_question", "note", "questions are also in the other set, on other pictures",
     "none needed where they are common questions"),
    ("no_mark", "note", "conversations have pictures but no image mark",
     "training puts it before the first question"),
    ("turned_image", "note", "pictures lie on their side and EXIF turns them",
     "repair --images copy bakes it in for programs that ignore EXIF"),
    ("odd_mode", "note", "pictures are not RGB or grey",
     "repair --images copy makes them RGB"),
    ("repeated_image", "note", "picture files have the content of an earlier one",
     "image_deduplicator in a recipe removes their rows"),
    ("alike_image", "note", "pictures look like an earlier one",
     "image_deduplicator in a recipe removes their rows"),
    ("repeated_id", "note", "ids stand more than once",
     "number them anew if a program needs it"),
    ("role_words", "note", "answers hold another speaker's mark",
     "look at them: such conversations were often split wrongly"),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {row[0]: Kind(*row) for row in _TABLE}
"""By name; errors cost the row or teach something wrong, warnings are probably not meant."""


@dataclass(frozen=True)
class Example:
    """Where a kind of finding was seen: place, the row's id, and what stands there.

    `image` is the file of a picture that shows it, where there is one.
    """

    line: int
    id: Any
    value: str
    image: str = ""


@dataclass
class Found:
    """One kind of finding in a dataset."""

    kind: Kind
    count: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Findings:
    """All findings of a dataset, by kind; memory does not grow with their number."""

    found: dict[str, Found] = field(default_factory=dict)

    def add(self, name: str, line: int, id: Any, value: str, image: str = "") -> None:
        """Count one finding and keep it while it is one of the first."""
        found = self.found.get(name)
        if found is None:
            found = self.found[name] = Found(KINDS[name])
        found.count += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(Example(line, id, shortened(value), image))

    def of(self, level: Level) -> list[Found]:
        """The findings of one level, the most frequent first."""
        found = [one for one in self.found.values() if one.kind.level == level]
        return sorted(found, key=lambda one: -one.count)

    def ordered(self) -> list[Found]:
        """Errors first, then warnings, then notes."""
        return [one for level in LEVELS for one in self.of(level)]

    def count(self, level: Level) -> int:
        """How many kinds of this level were seen."""
        return len(self.of(level))

    @property
    def has_errors(self) -> bool:
        """Whether anything is wrong that has to be mended."""
        return bool(self.of("error"))


def shortened(text: str, most: int = _LONGEST_VALUE) -> str:
    """`text` on one line that any terminal can show, cut where it is long."""
    line = _UNFIT.sub("\ufffd", " ".join(text[: most * 4].split()))
    return line if len(line) <= most else line[: most - 1] + "…"
