"""Which option did the model choose? Four published rules and ours.

Each takes the raw answer and the options by letter, and gives a letter, "Z" for a
refusal, or None where nothing can be read from the text.

Sources: open-compass/VLMEvalKit@e8e78f0 (can_infer), EvolvingLMMs-Lab/lmms-eval@75571cf
(MMBench_Evaluator and extract_mcq_answer), InternLM/xtuner@b934f46 (tools/mmbench).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

Options = Mapping[str, str]
"""Option text by letter."""

REFUSED = "Z"
_API_FAILURE = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def vlmevalkit(text: str, options: Options, *, verbose: bool = False) -> str | None:
    """VLMEvalKit's exact matching: a lone letter near the end, else a lone option text.

    After "answer is" any word beginning with a to d counts as that letter there.
    `verbose`: how it reads with VERBOSE set, where an "A" in a longer text ends the search.
    """
    return vlmevalkit_option(text, options, verbose=verbose) or vlmevalkit_text(text, options)


_VLMEVALKIT_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_VLMEVALKIT_DECLARED = re.compile(r"answer\s+is\s+\**([A-D])", re.IGNORECASE)
_NEAR_THE_END = 4


def vlmevalkit_option(text: str, options: Options, *, verbose: bool = False) -> str | None:
    """The letter step of `vlmevalkit`."""
    if _API_FAILURE in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_VLMEVALKIT_MARKS).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1:
        if verbose and "A" in words and len(words) > 3:
            return None
        if words.index(found[0]) >= len(words) - _NEAR_THE_END:
            return found[0]
    elif not found and REFUSED in words:
        return REFUSED
    declared = _VLMEVALKIT_DECLARED.search(text)
    letter = declared.group(1).upper() if declared else None
    return letter if letter in options else None


def vlmevalkit_text(text: str, options: Options) -> str | None:
    """The option-text step of `vlmevalkit`; long texts are not searched."""
    if len(text.lower()) > 2 * sum(map(len, options.values())):
        return None
    return _only(letter for letter, option in options.items() if option.lower() in text.lower())


def _only(letters: object) -> str | None:
    found = list(letters)  # type: ignore[call-overload]
    return found[0] if len(found) == 1 else None


_LMMS_EVAL_LETTERS = "ABCDE"
_LMMS_EVAL_AFFIXES = (
    *(("", end) for end in (".", ",", ":", ")", ").")),
    *(("(", end) for end in (")", ").")),
    *((":", end) for end in ("", ",", ".", ")", ").")),
)


def lmms_eval(text: str, options: Options) -> str | None:
    """lmms-eval's static MMBench rule: its letter and text steps, then its ranked search."""
    return lmms_eval_inferred(text, options) or lmms_eval_ranked(text, tuple(options))


def lmms_eval_inferred(text: str, options: Options) -> str | None:
    """The first step of `lmms_eval`: a letter word, a letter with marks, an option text."""
    if _API_FAILURE not in text:
        words = text.split()
        for before, after in (("", ""), *_LMMS_EVAL_AFFIXES):
            found = [c for c in _LMMS_EVAL_LETTERS if before + c + after in words]
            is_article = not before + after and "A" in words and len(words) > 3
            if len(found) == 1 and not is_article:
                return found[0]
    lowered = text.lower()
    return _only(letter for letter, option in options.items() if option.lower() in lowered)


_DECLARING_PHRASES = (
    *("answer is", "correct option is", "best option is", "choice is"),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""Phrases of the ranked search; longer ones that end in these find the same places or later."""


def lmms_eval_ranked(text: str, letters: Sequence[str]) -> str | None:
    """lmms-eval's fallback: the best-ranked place of a letter, later places first."""
    text = text.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare = text.strip()
    padded = f" {text} "
    found: list[tuple[int, int, str]] = []
    shapes = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
    for rank, shape in shapes:
        places = ((padded.rfind(shape.format(letter)), letter) for letter in letters)
        found += [(rank, place, letter) for place, letter in places if place >= 0]
    found += _after_phrases(padded, letters)
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and (len(bare) == 1 or not bare[-2].isalpha()):
            found.append((9, len(padded) - 1, letter))
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    best = max(found, key=lambda entry: entry[:2], default=None)
    return best[2] if best else None


def _after_phrases(padded: str, letters: Sequence[str]) -> list[tuple[int, int, str]]:
    found = []
    lowered = padded.lower()
    for phrase in _DECLARING_PHRASES:
        at = lowered.find(phrase)
        if at >= 0:
            places = ((padded.find(letter, at + len(phrase)), letter) for letter in letters)
            found += [(7, place, letter) for place, letter in places if place >= 0]
    return found


_XTUNER_RUN = re.compile("[A-D]+")


def xtuner(text: str, options: Options) -> str | None:
    """XTuner's rule: the first run of letters A to D anywhere, which may be no letter at all."""
    run = _XTUNER_RUN.search(text)
    return run.group() if run else None


_MARKS = re.compile(r"[\s.,:;!?()\[\]{}<>*#_`'\"“”‘’「」『』《》、。/\\$=~|-]+")
_DECLARED = re.compile(
    r"(?:\b(?:answer|option|choice)\b\s*(?:(?:is|was|would\s+be|should\s+be)\b|[:=])"
    r"|\bi(?:'d|\s+would)?\s+(?:choose|select|pick)\b"
    r"|答案\s*(?:应该|应当|应)?\s*(?:是|为|选|選)?|(?:应|應|故|我)?(?:选择|選擇|选项|選項|选|選)|答\s*:)"
    r"\s*[:=]?\s*(?:\b(?:option|choice)\b|选项|選項)?\s*[(\[{*\"'“‘「_`$]*",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{\s*)?\(?([A-Za-z])\)?\s*\}")
_OTHER_CHOICE = re.compile(
    r"[\s*)\]}\"'”’」]*(?:,|/|&|or\b|and\b|或|和|还是|、)\s*[(*]*([A-Z])(?![A-Za-z])"
)
_CHINESE = re.compile("[\u3400-\u9fff]")


def vlforge(text: str, options: Options) -> str | None:
    """Our rule: VLMEvalKit's idea with word boundaries, full-width marks and Chinese forms.

    In this order, the first that reads something decides:

    1. a failed call gives None, a refusal "Z";
    2. the whole answer is one letter, of any case, marks aside, or "letter. option text";
    3. the last declared letter: "answer is B", "Answer: (b)", "I choose B", "答案：B", "选 B",
       `\\boxed{B}`. A declared word is no letter ("the answer is dog"), two letters
       at once ("B or C") are no choice;
    4. the whole answer is one option's text;
    5. exactly one letter stands alone as a word near the end, or first with a mark or
       line end after it. A leading "A" before a word is an article;
    6. exactly one option's text stands in the answer on word boundaries, an option
       within a longer one that is also there not counted.
    """
    if _API_FAILURE in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    text = unicodedata.normalize("NFKC", text).strip()
    bare = _MARKS.sub("", text)
    if len(bare) == 1 and bare.upper() in options:
        return bare.upper()
    if bare == REFUSED:
        return REFUSED
    labelled = _labelled_option(text, options)
    if labelled is not None:
        return labelled
    declared = _declared_letter(text, options)
    if declared is not None:
        return declared or None
    plain = _plain(text)
    whole = [letter for letter, option in options.items() if _plain(option) == plain]
    if len(whole) == 1:
        return whole[0]
    return _lone_letter(text, options) or _option_text(text, options)


def _plain(text: str) -> str:
    """Lower-case words one space apart, marks gone."""
    return _MARKS.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def _labelled_option(text: str, options: Options) -> str | None:
    """`B. black dog` where B is "black dog": the letter and its own text, nothing else."""
    match = re.fullmatch(r"[(\[*]*([A-Za-z])[*]*\s*[.):,\]]\s*[*]*\s*(.+)", text, re.DOTALL)
    if match is None:
        return None
    letter = match.group(1).upper()
    said = _plain(match.group(2))
    return letter if letter in options and said and said == _plain(options[letter]) else None


def _declared_letter(text: str, options: Options) -> str | None:
    """The last declared letter, "" for a declaration of two, None where none is declared."""
    found: str | None = None
    for boxed in _BOXED.finditer(text):
        if boxed.group(1).upper() in options:
            found = boxed.group(1).upper()
    if found is not None:
        return found
    for phrase in _DECLARED.finditer(text):
        rest = text[phrase.end() :]
        letter = rest[:1]
        if letter.upper() not in options or _is_word(rest):
            continue
        if letter.islower() and not re.match(r"[a-z]\s*(?:[^\w\s]|$)", rest):
            continue
        if letter == "A" and re.match(r"A\s+[a-z]", rest) and not re.match(r"A\s+because\b", rest):
            continue
        other = _OTHER_CHOICE.match(rest[1:])
        found = "" if other and other.group(1) in options else letter.upper()
    return found


def _is_word(rest: str) -> bool:
    """Whether the first letter is the start of a longer word."""
    following = rest[1:2]
    return (
        bool(following)
        and (following.isalnum() or following == "_")
        and not _CHINESE.match(following)
    )


def _lone_letter(text: str, options: Options) -> str | None:
    spaced = _CHINESE.sub(" ", text)
    words = [word for word in _MARKS.split(spaced) if word]
    found = [letter for letter in options if letter in words]
    if not found and REFUSED in words:
        return REFUSED
    if len(found) != 1:
        return None
    letter = found[0]
    at = words.index(letter)
    leads = at == 0 and re.match(rf"[(\[*\"']*{letter}[*]*(?:[.):,;\]]|\s*\n|\s*$)", text)
    if leads:
        return letter
    is_article = letter == "A" and any(
        word == "A" and place + 1 < len(words) and words[place + 1][:1].islower()
        for place, word in enumerate(words)
    )
    near_the_end = at >= len(words) - _NEAR_THE_END
    return letter if near_the_end and not is_article else None


def _option_text(text: str, options: Options) -> str | None:
    said = _plain(text)
    texts = {letter: _plain(option) for letter, option in options.items()}
    if len(said) > 2 * sum(map(len, texts.values())):
        return None
    there = {letter: option for letter, option in texts.items() if _stands_in(option, said)}
    for letter, option in sorted(there.items(), key=lambda entry: -len(entry[1])):
        rest = said.replace(option, " ")
        inner = [other for other, words in there.items() if other != letter]
        if all(not _stands_in(there[other], rest) for other in inner):
            return letter
        return None
    return None


def _stands_in(option: str, said: str) -> bool:
    """Whether the option's text occurs, not as part of a longer word."""
    if not option:
        return False
    if _CHINESE.search(option):
        return option in said
    return re.search(rf"(?<!\w){re.escape(option)}(?!\w)", said) is not None


def _verbose_vlmevalkit(text: str, options: Options) -> str | None:
    return vlmevalkit(text, options, verbose=True)


EXTRACTORS: dict[str, Callable[[str, Options], str | None]] = {
    "vlforge": vlforge,
    "vlmevalkit": vlmevalkit,
    "vlmevalkit-verbose": _verbose_vlmevalkit,
    "lmms-eval": lmms_eval,
    "xtuner": xtuner,
}
