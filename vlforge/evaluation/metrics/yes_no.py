"""Does an answer mean yes or no? Four published rules and ours; and what is counted of them.

Sources: LLaVA@c121f04 (eval_pope), open-compass/VLMEvalKit@e8e78f0 (YOrN_Extraction),
MME's own evaluation, EvolvingLMMs-Lab/lmms-eval@75571cf.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from vlforge.evaluation.metrics.vqa import strip_marks_vlmevalkit

YES: str = "yes"
NO: str = "no"


def llava(text: str) -> str:
    """LLaVA's rule: "no" where the first sentence holds No, no or not as a word, else "yes".

    So "NO", "Nope" and an empty answer are a yes.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return NO if {"No", "not", "no"} & set(words) else YES


def vlmevalkit(text: str) -> str | None:
    """VLMEvalKit's exact matching: one of the words yes and no, and not the other."""
    words = strip_marks_vlmevalkit(text.lower()).split()
    if (YES in words) == (NO in words):
        return None
    return YES if YES in words else NO


def mme(text: str) -> str | None:
    """MME's own rule: the answer, or its first four characters, hold yes or no."""
    return _of_head(text.lower())


def _of_head(text: str) -> str | None:
    if text in (YES, NO):
        return text
    for word in (YES, NO):
        if word in text[:4]:
            return word
    return None


def lmms_eval(text: str) -> str | None:
    """lmms-eval's POPE: the whole answer is yes or no, case and outer spaces aside."""
    word = text.lower().strip()
    return word if word in (YES, NO) else None


def lmms_eval_mme(text: str) -> str | None:
    """lmms-eval's MME: as MME's own, dots gone, and y or n alone count."""
    head = text.lower().strip().replace(".", "")
    return {"y": YES, "n": NO}.get(head) or _of_head(head)


_WORDS = re.compile(r"[a-z']+")
_DENIAL = re.compile(r"不|否|没|無|无")
_ASSENT = re.compile(r"是|有|对|對")


def vlforge(text: str) -> str | None:
    """Ours: whole words, any case, full-width marks too; None where both or neither are said.

    An answer that begins with yes or no means that, whatever follows. Chinese answers
    are read by their first assent or denial (不是 and 没有 are denials).
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    words: list[str] = _WORDS.findall(plain)
    if words and words[0] in (YES, NO):
        return words[0]
    said = {word for word in words if word in (YES, NO)}
    if len(said) == 1:
        return said.pop()
    if said or words:
        return None
    denial, assent = _DENIAL.search(plain), _ASSENT.search(plain)
    if denial and (not assent or denial.start() < assent.start()):
        return NO
    return YES if assent else None


RULES: dict[str, Callable[[str], str | None]] = {
    "vlforge": vlforge,
    "llava": llava,
    "vlmevalkit": vlmevalkit,
    "lmms-eval": lmms_eval,
    "mme": mme,
}


@dataclass(frozen=True)
class Confusion:
    """Answers to yes-or-no questions, yes being the positive; ratios of nothing are 0."""

    tp: int
    fp: int
    tn: int
    fn: int
    other_yes: int = 0
    other_no: int = 0
    """Answers that were read as neither, by the right answer."""

    @property
    def n(self) -> int:
        """Questions."""
        return self.tp + self.fp + self.tn + self.fn + self.other_yes + self.other_no

    @property
    def accuracy(self) -> float:
        """Share of right answers; what is neither is wrong."""
        return _ratio(self.tp + self.tn, self.n)

    @property
    def precision(self) -> float:
        """Right ones among what was answered yes."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Found ones among what is yes; what is neither was not found."""
        return _ratio(self.tp, self.tp + self.fn + self.other_yes)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """Share of answers that are yes."""
        return _ratio(self.tp + self.fp, self.n)

    def fields(self) -> dict[str, float | int]:
        """All of it, as `metrics.json` has it."""
        return {
            "n": self.n,
            "tp": self.tp,
            "fp": self.fp,
            "tn": self.tn,
            "fn": self.fn,
            "neither": self.other_yes + self.other_no,
            "accuracy": self.accuracy,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "yes_ratio": self.yes_ratio,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
