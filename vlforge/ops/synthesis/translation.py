"""Translating texts and rewriting them, with rules that a result has to keep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vlforge.data.images import ImageFile
from vlforge.ops.base import Grown, look_up, replaced
from vlforge.ops.batch import Context, Item
from vlforge.ops.index import name_of
from vlforge.ops.synthesis.likeness import check_length, check_numbers, rouge_l, words_of
from vlforge.ops.synthesis.marked_texts import rejoined, stretches
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.replies import UnfitError
from vlforge.ops.synthesis.text_writing import NO_TEXT, TextWriting, whole
from vlforge.ops.synthesis.writing import UNFIT, Asked, Asks, reference
from vlforge.ops.text.language import bundled_guesser
from vlforge.types import Caption, Drop, RecipeError, Row, Turn

LANGUAGES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fa": "Persian", "fr": "French", "he": "Hebrew",
    "hi": "Hindi", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "ms": "Malay", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip
"""Names of languages in prompts; others go by their code."""
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af\u1100-\u11ff]")
_LETTERS = re.compile(r"[^\W\d_]")
_LATIN = re.compile("[A-Za-zÀ-ÿ]+")
_SHARE = 0.3
"""Of Chinese signs among these and Latin words, from which on a text is Chinese."""
_LEAST_GUESSED, _SURE = 24, 0.6
"""Letters from which on a language is guessed at all, and the probability that is believed."""
BARE = "is bare"
"""Key of what is known of a stretch that was asked about without a prompt."""
_LANGUAGE = "another language than asked for"


def is_spoken(text: str, lang: str) -> bool:
    """Whether a text may be in a language: by its script, longer ones by fastText's guess.

    Texts without letters are in every language.
    """
    letters = len(_LETTERS.findall(text))
    if not letters:
        return True
    kana, hangul, han = (len(kind.findall(text)) for kind in (_KANA, _HANGUL, _HAN))
    share = (han + kana + hangul) / (han + kana + hangul + len(_LATIN.findall(text)) or 1)
    if share >= _SHARE:
        written = "ja" if kana else "ko" if hangul > han else "zh"
        return lang == written or (lang == "ja" and not hangul and letters < _LEAST_GUESSED)
    if lang in ("zh", "ja", "ko"):
        return False
    if letters < _LEAST_GUESSED:
        return True
    found, score = bundled_guesser()(text)
    return found == lang or score < _SURE


@dataclass(frozen=True, kw_only=True)
class _Stretched(TextWriting):
    """Asks about the words between the marks of a text, each stretch on its own."""

    model: str
    keys: tuple[str, ...] = ()
    keep_original_sample: bool = False
    keep_numbers: bool = True

    def model_name(self) -> str:
        """`model`."""
        return self.model

    def fields_of(self, words: str) -> dict[str, str] | None:
        """What the prompt shows of a stretch; None leaves it as it is."""
        raise NotImplementedError

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        parts = [part for key in self._keys() for part in self._words(item, key, context)]
        if not parts:
            return Drop("", NO_TEXT)
        asked = [(words, told) for words in parts if (told := self.fields_of(words)) is not None]
        prompt = self.prompt()
        return [
            Asked(Asked.of(prompt.fill(**told)).turns, about=(words, told)) for words, told in asked
        ] or None

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        row, left = item.row, iter(values)
        for key in self._keys():
            text = look_up(item.row, key)
            if not isinstance(text, str):
                continue
            parts = stretches(text, context)
            new = [
                words if self.fields_of(words) is None else next(left)
                for words in parts[::2]
                if words
            ]
            row = replaced(row, key, rejoined(parts, new))
        if row == item.row:
            return item.row
        return Grown(True, (row,)) if self.keep_original_sample else row

    def _keys(self) -> tuple[str, ...]:
        return self.keys or (self.text_key,)

    def _words(self, item: Item, key: str, context: Context) -> list[str]:
        text = look_up(item.row, key)
        return [w for w in stretches(text, context)[::2] if w] if isinstance(text, str) else []


@dataclass(frozen=True, kw_only=True)
class TextTranslationMapper(_Stretched):
    """Translate texts by a model, English to Chinese and back, or any pair of languages.

    `target_lang` is a code such as en, zh or fr; without one Chinese becomes English and
    anything else Chinese. `keys` are the fields to translate, by default the text. Marks of
    pictures, chunks and speakers stay where they are: the words between them are translated
    one stretch at a time. A stretch that is in the target language already stays.

    What a translation has to keep is checked by rules: its language (script, from 24 letters
    on fastText's guess too; `check_language`), its length beside the original's, a Chinese
    sign counting as 2.5 letters (`min_length_ratio`, `max_length_ratio`), numbers above 12
    and fractions (`keep_numbers`; 1.2 million is 120万). What fails is put to the model
    again with what is wrong, then the row is dropped with that reason. A model that
    translates and does nothing else (Marian, M2M100, NLLB) is given the bare words, once.
    """

    source_lang: str = "auto"
    target_lang: str = ""
    check_language: bool = True
    min_length_ratio: float = 0.4
    max_length_ratio: float = 2.5

    prompt_name: ClassVar = "text_translation"
    prompt_fields: ClassVar = ("text", "source", "target")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check_language:
            bundled_guesser()
        if self.target_lang and self.target_lang == self.source_lang:
            raise RecipeError(f"source_lang and target_lang are both {self.target_lang!r}")

    def fields_of(self, words: str) -> dict[str, str] | None:
        """The words and the names of both languages; None where they are in the target one."""
        is_chinese = is_spoken(words, "zh")
        target = self.target_lang or ("en" if is_chinese else "zh")
        if self.source_lang == "auto" and self.target_lang and _is_surely(words, target):
            return None
        source = "zh" if is_chinese and target != "ja" else ""
        source = source if self.source_lang == "auto" else self.source_lang
        named = LANGUAGES.get(source, source or "its language")
        return {"text": words, "source": named, "target": LANGUAGES.get(target, target)}

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """The stretches to translate, bare for a model that does nothing else."""
        found = super().asks(item, files, context)
        if not isinstance(found, list) or not self._is_translator(context):
            return found
        return [
            Asked((Turn("user", one.about[0]),), about=(one.about[0], {**one.about[1], BARE: ""}))
            for one in found
        ]

    def heard(self, item: Item, place: int, one: Any, reply: Caption, context: Context) -> Any:
        """The translation, where it keeps the rules; such a model is not told what is wrong."""
        try:
            return self._kept(one.about, reply)
        except UnfitError as error:
            if BARE not in one.about[1]:
                raise
            return Drop("", error.reason or UNFIT, None, str(error))

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row | Grown | Drop:
        """The row with its translations; a drop where one broke a rule."""
        drops = [value for value in values if isinstance(value, Drop)]
        return drops[0] if drops else super().made(item, values, context)

    def _is_translator(self, context: Context) -> bool:
        model = reference(self.model, self.server(), self.model_params, self.is_api())
        return bool(getattr(context.writer(model, name_of(type(self).__name__)), "translates", 0))

    def _kept(self, about: tuple[str, dict[str, str]], reply: Caption) -> str:
        words, told = about
        found = whole(reply.text)
        codes = {name: code for code, name in LANGUAGES.items()}
        target = codes.get(told["target"], told["target"])
        if self.check_language and not is_spoken(found, target):
            raise UnfitError(f"the reply is not in {told['target']}", _LANGUAGE)
        check_length(found, words, self.min_length_ratio, self.max_length_ratio)
        if self.keep_numbers:
            check_numbers(found, words)
        return found


def _is_surely(words: str, lang: str) -> bool:
    """Whether words need no translation: a short text in Latin letters may be anything."""
    if not is_spoken(words, lang):
        return False
    if lang in ("zh", "ja", "ko") or len(_LETTERS.findall(words)) >= _LEAST_GUESSED:
        return True
    return bundled_guesser()(words)[0] == lang


@dataclass(frozen=True, kw_only=True)
class TextRewritingMapper(_Stretched):
    """Have a model write texts anew: in other words, in a style, or as an instruction says.

    `mode: paraphrase` keeps facts and length; `style` needs the key `style` ("plain words for
    a child"), `instruction` the key `instruction` ("Turn the list into prose."). `keys` are
    the fields to rewrite, by default the text. Marks of pictures, chunks and speakers stay
    where they are: the words between them are rewritten one stretch at a time.

    Rules judge the result: numbers above 12 and fractions stay (`keep_numbers`), the length
    lies within the ratios (by default 0.5 to 2 for a paraphrase, 0.3 to 3 for a style, any
    for an instruction), and ROUGE-L with the old text is at most `max_likeness`, so that
    something was rewritten. What fails is put to the model again with what is wrong, then
    the row is dropped with that reason.
    """

    mode: Literal["paraphrase", "style", "instruction"] = "paraphrase"
    style: str = ""
    instruction: str = ""
    min_length_ratio: float | None = None
    max_length_ratio: float | None = None
    max_likeness: float = 0.95

    prompt_fields: ClassVar = ("text", "style", "instruction")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode != "paraphrase" and not getattr(self, self.mode):
            raise RecipeError(f"mode is {self.mode!r}; say which by the key {self.mode}")

    def prompt(self) -> Prompt:
        """The words of the mode."""
        found = read_prompt(f"text_rewriting_{self.mode}", self.prompt_file, self.prompt_fields)
        if self.input_template is not None:
            found = found._replace(user=self.turn("input_template", self.input_template, "text"))
        return found if self.system_prompt is None else found._replace(system=self.system_prompt)

    def fields_of(self, words: str) -> dict[str, str] | None:
        """The words, and how to rewrite them."""
        return {"text": words, "style": self.style, "instruction": self.instruction}

    def heard(self, item: Item, place: int, one: Any, reply: Caption, context: Context) -> str:
        """The new text, where it keeps the rules."""
        words, _ = one.about
        found = whole(reply.text)
        low, high = {"paraphrase": (0.5, 2.0), "style": (0.3, 3.0)}.get(self.mode, (0.0, 1e9))
        check_length(
            found,
            words,
            low if self.min_length_ratio is None else self.min_length_ratio,
            high if self.max_length_ratio is None else self.max_length_ratio,
        )
        if self.keep_numbers:
            check_numbers(found, words)
        if rouge_l(words_of(found), words_of(words)) > self.max_likeness:
            raise UnfitError("the reply says it in the same words", "nothing is rewritten")
        return found
