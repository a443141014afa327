"""Short answers: three published normalisers, soft accuracy, ANLS, relaxed accuracy.

The normalisers look alike and are not: the same predictions score differently
under each, so a score always names the one it used.

Sources: Singh et al. 2019 (TextVQA, M4C's answer processor in LLaVA@c121f04 and
MGM@769820c), GT-Vision-Lab/VQA@a013f00 (official VQA), open-compass/VLMEvalKit@e8e78f0.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from vlforge.types import DataError

ANSWERS = 10
"""Human answers per question that soft accuracy is defined for."""

_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've "
    "hasn't haven't he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've "
    "it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't "
    "'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll "
    "somebody's someone'd someone'd've someone'll someone's something'd something'd've "
    "something'll that's there'd there'd've there're there's they'd they'd've they'll they're "
    "they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'd've who'll who's who've why'll why're why's won't would've "
    "wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()
"""Words the references restore when one of their apostrophes is missing."""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = {bare: word for word in _CONTRACTED for bare in _without_one_apostrophe(word)}
# A slip of the original table, kept by everyone since: it takes this apostrophe away.
_CONTRACTIONS["somebody'd"] = "somebodyd"

_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = {"a", "an", "the"}
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_DOT_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_DOT_BETWEEN_NO_DIGITS = re.compile(r"(?<!\d)\.(?!\d)")
_DOTS_DELETED = 32
"""The references pass a flag where the count belongs, so only so many dots go."""


# Ten people who answer a question mostly say the same.
_remembered = functools.lru_cache(maxsize=1 << 16)


@_remembered
def normalise_m4c(answer: str) -> str:
    """The answer as M4C's processor (LLaVA, MGM, lmms-eval) compares it."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    return _simplify_words(_strip_marks(answer, _DOT_BEFORE_NO_DIGIT))


@_remembered
def normalise_vqa(answer: str) -> str:
    """The answer as the official VQA evaluation compares it."""
    return _simplify_words(_strip_marks(_one_line(answer), _DOT_BEFORE_NO_DIGIT))


@_remembered
def normalise_vlmevalkit(answer: str) -> str:
    """The answer as VLMEvalKit compares it: a dot after a digit stays."""
    return _simplify_words(_strip_marks(_one_line(answer), _DOT_BETWEEN_NO_DIGITS))


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _strip_marks(text: str, dot: re.Pattern[str]) -> str:
    """Marks beside a space go; between letters they become a space."""
    has_thousands = _DIGIT_COMMA_DIGIT.search(text) is not None
    out = text
    for mark in _MARKS:
        if mark in text:
            loose = has_thousands or mark + " " in text or " " + mark in text
            out = out.replace(mark, "" if loose else " ")
    return dot.sub("", out, count=_DOTS_DELETED)


def strip_marks_vlmevalkit(text: str) -> str:
    """The text without marks, as VLMEvalKit's normaliser leaves it before it looks at words."""
    return _strip_marks(text, _DOT_BETWEEN_NO_DIGITS)


def _simplify_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


NORMALISERS: dict[str, Callable[[str], str]] = {
    "m4c": normalise_m4c,
    "vqa-official": normalise_vqa,
    "vlmevalkit": normalise_vlmevalkit,
}


def soft_accuracy(prediction: str, answers: Sequence[str], protocol: str = "m4c") -> float:
    """Credit of a prediction against ten human answers, 0 to 1.

    The mean over the ten of min(1, agreeing answers among the nine others / 3):
    one agreement gives 0.3, two 0.6, three 0.9, four and more 1.

    Args:
        protocol: "m4c", "vlmevalkit" or "vqa-official"; the last normalises
            nothing where all ten answers are the same string.

    Raises:
        DataError: not ten answers.
    """
    if len(answers) != ANSWERS:
        raise DataError(f"soft accuracy needs {ANSWERS} answers and {len(answers)} are given")
    if protocol == "vqa-official":
        answers = [_one_line(answer) for answer in answers]
        prediction = _one_line(prediction)
        if len(set(answers)) == 1:
            return _agreement(prediction, answers)
    normalise = NORMALISERS[protocol]
    return _agreement(normalise(prediction), [normalise(answer) for answer in answers])


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    """The mean leave-one-out credit, from the number of equal answers alone."""
    equal = sum(answer == prediction for answer in answers)
    with_one_out = min(1.0, (equal - 1) / 3) if equal else 0.0
    with_none_out = min(1.0, equal / 3)
    return (equal * with_one_out + (len(answers) - equal) * with_none_out) / len(answers)


def membership(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals one of the answers under M4C's normaliser (ST-VQA)."""
    wanted = normalise_m4c(prediction)
    return float(any(normalise_m4c(answer) == wanted for answer in answers))


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance in code points."""
    if len(one) < len(other):
        one, other = other, one
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            cheapest = min(row[column] + 1, row[column - 1] + 1, diagonal + (letter != wanted))
            diagonal, row[column] = row[column], cheapest
    return row[-1]


def anls(prediction: str, answers: Sequence[str], protocol: str = "m4c") -> float:
    """Average normalised Levenshtein similarity to the nearest answer; below one half it is 0.

    "m4c" (ST-VQA) compares lower-cased, stripped texts; "vlmevalkit" also squeezes
    white space, yet divides by the lengths before that. Two empty texts are equal
    (M4C's code fails on them).
    """
    distance = min((_distance(prediction, answer, protocol) for answer in answers), default=1.0)
    return 1.0 - distance if distance <= 0.5 else 0.0


def _distance(prediction: str, answer: str, protocol: str) -> float:
    if protocol == "vlmevalkit":
        one, other = (" ".join(text.strip().lower().split()) for text in (prediction, answer))
        length = max(len(prediction.upper()), len(answer.upper()))
    else:
        one, other = (text.lower().strip() for text in (prediction, answer))
        length = max(len(one), len(other))
    return edit_distance(one, other) / length if length else 0.0


def anls_distance(prediction: str, answers: Sequence[str], protocol: str = "vlmevalkit") -> float:
    """The normalised distance to the nearest answer that `anls` is made from."""
    return min((_distance(prediction, answer, protocol) for answer in answers), default=1.0)


def relaxed_accuracy(prediction: str, answer: str, tolerance: float = 0.05) -> bool:
    """ChartQA's rule: numbers within `tolerance` of the answer, other texts equal.

    A percent sign divides by 100. An answer of zero compares as text.
    """
    given, wanted = _number(prediction), _number(answer)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= tolerance
    return prediction.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
