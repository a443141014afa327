"""English tokens as Stanford's PTB tokeniser makes them, without Java.

pycocoevalcap runs CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase` and then leaves
punctuation out. This finds the same tokens: at each place the longest of the patterns
below counts, the first of equally long ones. A test compares it with recorded tokens;
it was also compared with the program itself on made and mangled captions.

Source: behaviour of edu.stanford.nlp.process.PTBTokenizer 3.4.1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
"""What is left out. Brackets are lower-cased before, so that they stay."""

# With their full stop in any case; in capitals or with a capital; small or with a capital;
# and before a number.
_SHORT = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd "
    "brig bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr "
    "drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan "
    "jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr "
    "mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof profs pvt rd rep reps rev "
    "rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue "
    "tues univ va vs vt wed wis wisc wm wyo"
)
_CAPITAL = "ark az del ill la mass miss ore pa tex wash"
_NO_CAPITALS = "mfg mtg ppte ppty pte ptes pty ptys"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_STARTERS = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|"
    "Many|More|Mr\\.|Ms\\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|"
    "These|They|This|We|When|While|What|Yet|You"
)
"""Words before which a single letter's full stop ends the sentence."""

_NO_LETTERS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u218b\u2460-\u24ff\u2776-\u2793"
_L, _LD = rf"[^\W\d_{_NO_LETTERS}]", rf"[^\W_{_NO_LETTERS}]"
_APOS = "['\u2019\u0092\u02bc]"
_FANCY = "[\u2019\u0092\u02bc]"
_ENDINGS = "(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])"
_REDUCED = rf"(?:'{_ENDINGS}(?![A-Za-z])|{_FANCY}{_ENDINGS})"
_URL_END = r"[^ \t\n\f\r\"<>|.!?(){},\-]"
_ADDRESS = r"[^ \t\n\f\r\"<>|().\u00a0]"
_SMALL_FRACTIONS = {
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
_MONEY = {"\u00a2": "cents", "\u00a3": "#", "\u0080": "$", "\u20ac": "$", "\u00a4": "$"}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'"}


def _any(words: str, *, capital: bool = False) -> str:
    listed = [word.capitalize() for word in words.split()] if capital else words.split()
    if capital:
        listed += [word.upper() for word in words.split()]
    return "|".join(sorted(listed, key=len, reverse=True))


_NAMES = "|".join(
    (
        f"(?i:{_any(_SHORT)})",
        _any(_CAPITAL, capital=True),
        "|".join(f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in _NO_CAPITALS.split()),
    )
)
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"</?[A-Za-z!?][^>]*>",
        rf"https?://[^ \t\n\f\r\"<>|()]+{_URL_END}",
        rf"(?:www\.(?:[^ \t\n\f\r\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}"
        rf"|(?:[^ \t\n\f\r\"`'<>|.!?(){{}},\-_$/:;@#%&*+=~^\\\[\]]+\.)+(?:com|net|org|edu))"
        rf"(?:/[^ \t\n\f\r\"<>|()]+{_URL_END})?",
        rf"<?[a-zA-Z0-9][^ \t\n\f\r\"<>|()\u00a0]*@(?:{_ADDRESS}+\.)*{_ADDRESS}+>?",
        r"@[A-Za-z_][A-Za-z_0-9]*|#[A-Za-z_]+",
        rf"(?i:(can)(not)|(gon)(na)|(got)(ta)|(lem)(me)|(gim)(me)|(wan)(na))(?!{_LD})",
        rf"({_APOS}[tT])(?:[iI][sS]|[wW][aA][sS])(?!{_L})",
        rf"([A-Za-z]*[A-MO-Za-mo-z])[nN]{_APOS}[tT]",
        rf"[nN]{_APOS}[tT]",
        rf"({_L}{_LD}*(?:[.!?]{_L}{_LD}*)*|{_LD}+){_REDUCED}",
        rf"{_REDUCED}",
        rf"'[nN](?:{_APOS}|(?!{_LD}))|{_FANCY}[nN]{_APOS}?",
        rf"[lLdDjJ]{_APOS}|[Dd]unkin{_APOS}|[Ss]omethin{_APOS}|[Oo]l{_APOS}|[yY]{_APOS}",
        rf"{_APOS}[eE][mM]|{_APOS}[tT][iI][lL][lL]?(?!{_L})|{_APOS}[cC][aA][uU][sS][eE]",
        rf"{_APOS}\d\d(?!\S)",
        rf"{_APOS}[2-9]0s",
        rf"[A-HJ-XZn]{_APOS}{_L}{{2}}{_L}*",
        rf"{_L}+[aeiouyAEIOUY]{_APOS}[aeiouA-Z]{_L}*",
        rf"(?:{_NAMES})\.",
        rf"(?i:{_any(_BEFORE_NUMBERS)})\.(?=\s?\d)",
        r"[A-Za-z](?:\.[A-Za-z])+\.",
        rf"[A-Za-z]\.(?!\s+(?:{_STARTERS})(?:\s|$))",
        r"(?:Ed|Ph)\.D\.",
        rf"{_L}{_LD}*(?:[.!?]{_L}{_LD}*)*|{_LD}+",
        rf"((?:{_NAMES})\.)..",
        r"\d+\.x(?!\S)",
        rf"{_L}{_LD}*\.(?=:)",
        rf"(?:[dDoOlL]{_APOS}{_LD})?{_LD}+(?:[-_\u058a\u2010\u2011](?:[dDoOlL]{_APOS}{_LD})?{_LD}+)*",
        r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|[A-Za-z](?:\.[A-Za-z])*\.))+",
        r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}",
        r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])"
        r"\d{3,4}[- \u00a0]?\d{3,5}",
        r"(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}",
        r"[-+]?(?:\d*(?:[.:,\u00ad]\d+)+|\d+)",
        r"[A-Z]*\$|[\u00a2-\u00a5\u0080\u20a0\u20ac]",
        r"[\u00bc-\u00be\u2153\u2154]",
        r"&(?:amp|lt|gt|quot|apos|#\d+);",
        r"[<>]?[:;=]['\-o*]?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])",
        r"[\^x=~<>]\.[\^x=~<>]|[\-^x=~<>']_[\-^x=~<>']",
        r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026]",
        r"-{2,}|[\u2013-\u2015\u0096\u0097]",
        r"[?!]+|\*+|_+|#+|''|``",
        r"\S",
    )
)
_PLAIN = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
_ODD = frozenset("cannot gonna gotta lemme gimme wanna".split())
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_OPENING, _CLOSING = frozenset("\u201c\u00ab\u0093"), frozenset('\u201d\u00bb\u0094"')


def ptb_tokens(caption: str, following: str = "") -> str:
    """The caption's tokens with a blank between each, punctuation left out.

    Args:
        following: the caption on the next line. The program looks that far: a single
            letter's full stop at the end of a caption goes where the next begins with "A".
    """
    return " ".join(token for token in tokens(caption, following) if token not in PUNCTUATION)


def tokens(caption: str, following: str = "") -> Iterator[str]:
    """All tokens, small."""
    text = caption.replace("\u00ad", "").replace("&nbsp;", " ").replace("\u200b", " ").strip()
    # A chunk without white space is cut up alone, unless a token may reach over a blank.
    if _REACHES_OVER.search(text):
        begins = following.split(maxsplit=1)[:1] if _LETTER_LAST.search(text) else []
        yield from _cut(text, f" {begins[0]} " if begins else "")
        return
    for chunk in text.split():
        if _PLAIN.fullmatch(chunk) and chunk.lower() not in _ODD:
            yield chunk.lower()
        else:
            yield from _cut(chunk, "")


_LETTER_LAST = re.compile(r"(?<![A-Za-z])[A-Za-z]\.$")
_REACHES_OVER = re.compile(
    r"(?<![A-Za-z])[A-Za-z]\.(?:\s|$)|[\d)]\s+[\d(]|\d\s+\d|<[A-Za-z/!?]|\.\s+\.|\.\s+\d"
)


@functools.lru_cache(maxsize=1 << 16)
def _cut(text: str, after: str) -> tuple[str, ...]:
    found = []
    at, end = 0, len(text)
    text += after
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        longest, stop = at, at + 1
        for pattern in _PATTERNS:
            match = pattern.match(text, at)
            if match is not None and match.end() > longest:
                # What a pattern only looks at counts for its length, not for the token.
                longest, stop = match.end(), match.end(_first_group(match))
        found.append(_written(text[at:stop]))
        at = stop
    return tuple(found)


def _first_group(match: re.Match[str]) -> int:
    groups = enumerate(match.groups(), 1)
    return next((place for place, text in groups if text is not None), 0)


def _written(token: str) -> str:
    """A token as the tokeniser writes it."""
    if token in _BRACKETS:
        return _BRACKETS[token]
    if token in _ENTITIES or token in _MONEY:
        return _ENTITIES.get(token) or _MONEY[token]
    if token in _OPENING:
        return "``"
    if token in _CLOSING:
        return "''"
    if token in ("\u2018", "\u0091"):
        return "`"
    if token in ("\u2019", "\u0092"):
        return "'"
    if token[0] in ".\u0085\u2026" and not token.strip(". \u00a0\u0085\u2026"):
        return "..." if len(token) > 1 or token != "." else "."
    if token[0] in "\u2013\u2014\u2015\u0096\u0097" or (len(token) > 1 and not token.strip("-")):
        return "--"
    if token in _SMALL_FRACTIONS:
        return _SMALL_FRACTIONS[token]
    if len(token) > 1:
        token = re.sub(r"[()]", lambda found: _BRACKETS[found.group()], token)
        if not re.fullmatch(rf"{_FANCY}[nN].?", token):
            token = re.sub(_FANCY, "'", token)
        token = token.replace(" ", "\u00a0")
    return token.lower()
