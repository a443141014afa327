"""What is wrong with a text that a model wrote, told by rules: no second model is asked."""

from __future__ import annotations

import re
from typing import Literal

from vlforge.ops.synthesis.replies import UnfitError

Lang = Literal["en", "zh"]
REFUSED, FOREIGN = "model refuses", "reply in another language"
NEW_FACTS = "reply adds facts"
"""Reasons of rows whose replies broke such a rule in all tries."""

_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial|(?:large )?language model|(?:text|image)[- ]based)\b"
    r"|\bi(?:['’]m| am) (?:just |only )?an? (?:ai|artificial|(?:large )?language model)\b"
    r"|\bi(?:['’]m| am) (?:very |so )?sorry\b|\bi apologi[sz]e\b|\bmy apologies\b"
    r"|\bi (?:can ?not|can['’]t|am unable to|am not able to|do not have the ability to)"
    r" (?:see|view|assist|help|provide|answer|identify|describe|access|comply)\b"
    r"|\bi['’]m (?:unable|not able) to\b"
    r"|作为(?:一个|一款|一名)?(?:ai|人工智能|语言模型|大模型|大语言模型)"
    r"|我(?:只)?是(?:一个|一款|一名)?(?:ai|人工智能|语言模型|大语言模型)"
    r"|^(?:很|非常|十分)?(?:抱歉|对不起)|我(?:无法|不能)(?:查看|看到|看见|回答|提供|识别|描述|协助)",
    re.IGNORECASE,
)
PIECE = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]")
"""Words, single Chinese signs, punctuation marks: what a text is counted in without tokenizer."""
_CHINESE = re.compile("[\u4e00-\u9fff]")
_LATIN = re.compile("[A-Za-zÀ-ÿ]+")
_ZH_LEAST, _EN_MOST = 0.3, 0.5
"""Share of Chinese signs, two Latin letters counted as one: a text may quote the other
language, as descriptions of signs do."""
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NAME = re.compile(r"(?<![\w'’-])[A-ZÀ-Þ][\w'’-]*")
_WORD = re.compile(r"[^\W_]+")
_BEGINS_AFTER = '.!?:;"“”(\n。！？：；'
_SPELT = {
    **{word: str(n) for n, word in enumerate("zero one two three four five six seven".split())},
    **{word: str(n) for n, word in enumerate("eight nine ten eleven twelve".split(), 8)},
}
_COUNTS = frozenset(_SPELT) - {"zero", "one"}
_MEANT = {"pair": "2", "couple": "2", "both": "2", "twin": "2", "twins": "2", "dozen": "12"}
_SPELT_ZH = {sign: str(n) for n, sign in enumerate("零一二三四五六七八九十")} | {"两": "2"}


def is_refusal(text: str) -> bool:
    """Whether a model speaks of itself, or says that it cannot."""
    return _REFUSAL.search(text.strip()) is not None


def is_in(text: str, lang: Lang) -> bool:
    """Whether the words are mostly in the language; a text without letters is in both."""
    chinese, latin = len(_CHINESE.findall(text)), sum(map(len, _LATIN.findall(text))) / 2
    if not chinese + latin:
        return True
    share = chinese / (chinese + latin)
    return share >= _ZH_LEAST if lang == "zh" else share <= _EN_MOST


def written(text: str, lang: Lang, longest: int = 0) -> str:
    """A written text, without outer space and quotation marks around all of it.

    Args:
        longest: in characters; 0 is any.

    Raises:
        UnfitError: empty, a refusal, in another language, too long.
    """
    text = text.strip()
    if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”")) and text.count('"') < 3:
        text = text[1:-1].strip()
    if not text:
        raise UnfitError("the reply is empty")
    if is_refusal(text):
        raise UnfitError("the reply speaks of its writer or refuses", REFUSED)
    if not is_in(text, lang):
        wanted = "Chinese" if lang == "zh" else "English"
        raise UnfitError(f"the reply is not in {wanted}", FOREIGN)
    if longest and len(text) > longest:
        raise UnfitError(f"the reply has {len(text)} characters, at most {longest} are wanted")
    return text


def numbers(text: str) -> set[str]:
    """The numbers in a text as digits, small ones that are spelt out too."""
    found = {number.replace(",", "") for number in _NUMBER.findall(text)}
    words = [word.lower() for word in _LATIN.findall(text)]
    found |= {_SPELT[word] for word in words if word in _SPELT}
    found |= {_MEANT[word] for word in words if word in _MEANT}
    return found | {digits for sign, digits in _SPELT_ZH.items() if sign in text}


def names(text: str) -> list[str]:
    """Words in capitals that no sentence begins with, in order; "I" is none."""
    found = []
    for match in _NAME.finditer(text):
        before = text[: match.start()].rstrip(" \t")
        if before and before[-1] not in _BEGINS_AFTER:
            found.append(match.group())
    return [name for name in dict.fromkeys(found) if name not in ("I", "A", "The", "An")]


def check_no_new_facts(text: str, *sources: str) -> None:
    """Refuse numbers and names that none of the sources has.

    Names are words in capitals, so in Chinese only numbers are seen, and those in digits; in
    English also those from two to twelve in words.

    Raises:
        UnfitError: tells the first few.
    """
    have = set().union(*map(numbers, sources))
    new = sorted(digits(text) - have)
    spelt = [word for word in map(str.lower, _LATIN.findall(text)) if word in _COUNTS]
    new += [word for word in dict.fromkeys(spelt) if _SPELT[word] not in have]
    words = {word.lower() for source in sources for word in _WORD.findall(source)}
    new += [name for name in names(text) if not _known(name, words)]
    if new:
        told = ", ".join(new[:4])
        raise UnfitError(f"the reply says {told}, which the given texts do not", NEW_FACTS)


def digits(text: str) -> set[str]:
    """The numbers that are written in digits."""
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


def _known(name: str, words: set[str]) -> bool:
    parts = [part.lower() for part in _WORD.findall(name)]
    return all(part in words or part == "s" or f"{part}s" in words for part in parts)


def overlap(one: str, other: str) -> float:
    """How far two texts agree in words: the harmonic mean of both shares, from 0 to 1.

    Words are compared in small letters without articles; Chinese by single signs.
    """
    mine, theirs = compared(one), compared(other)
    if not mine or not theirs:
        return float(mine == theirs)
    left = list(theirs)
    shared = 0
    for word in mine:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(mine) + len(theirs))


def compared(text: str) -> list[str]:
    """The words of a text as answers are compared: small letters, digits, no articles."""
    spaced = _CHINESE.sub(lambda sign: f" {sign.group()} ", text.lower())
    words = [_SPELT.get(word, word) for word in _WORD.findall(spaced)]
    return [word for word in words if word not in ("a", "an", "the")]
