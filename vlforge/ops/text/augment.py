"""New texts made from old ones by small random changes, through nlpaug and nlpcda.

Both libraries draw from Python's and numpy's global generators. Here these are
seeded by the run's seed and the row's uid for each row, and put back afterwards,
so that a row's new texts depend on nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

from vlforge.ops.base import Grown, RowMapper, replaced
from vlforge.ops.batch import Batch, Item
from vlforge.types import Drop, RecipeError, Row

Vary = Callable[[str], list[str]]
"""Variants of a text."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(RowMapper):
    """What augmenting mappers have in common: the rows, the seeds, the special tokens."""

    sequential: bool = False
    aug_num: int = 1
    keep_original_sample: bool = True

    op: ClassVar[str] = ""
    library: ClassVar[str] = ""
    methods: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.aug_num < 1:
            raise RecipeError(f"{self.op}.aug_num is {self.aug_num}, not a number of at least 1")
        if not self.chosen and not self.keep_original_sample:
            raise RecipeError(
                f"{self.op} changes nothing and keeps no original, so no row would stay: "
                f"switch on one of {', '.join(self.methods)}"
            )
        if find_spec(self.library) is None:
            raise RecipeError(f"{self.op} needs {self.library}: pip install 'vlforge[augment]'")

    @property
    def chosen(self) -> list[str]:
        """The methods that are switched on, in the order in which they are applied."""
        return [name for name in self.methods if getattr(self, name)]

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        if not self.chosen:
            return [item.row for item in batch.items]
        context = batch.context
        tokens = [token for token in (context.image_token, context.eoc_token) if token]
        marks = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
        if self.compat == "data_juicer":
            marks = re.compile(r"(?!)")
        texts = batch.texts(self.text_key)
        with _global_generators() as seed:
            self._vary  # noqa: B018  loading the library draws, too
            out: list[Grown | Row | Drop] = []
            for item, text in zip(batch.items, texts, strict=True):
                seed(f"{context.seed}\0{self.op}\0{item.uid}")
                out.append(self._grown(item, text, marks))
        return out

    def _grown(self, item: Item, text: str, marks: re.Pattern[str]) -> Grown | Drop:
        try:
            texts = between(text, marks, self._vary)
        except Exception as error:  # whatever the library stumbles over costs this row only
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            return Drop("", "text cannot be augmented", None, said)
        if not texts and not self.keep_original_sample:
            return Drop("", "no augmented text")
        rows = tuple(replaced(item.row, self.text_key, new) for new in texts)
        return Grown(self.keep_original_sample, rows)

    @functools.cached_property
    def _vary(self) -> Vary:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class NlpaugEnMapper(Augmentation):
    """Add rows whose English text has words or characters deleted, swapped, split or misspelt.

    Each method that is switched on makes `aug_num` new texts; with `sequential`
    all methods together make `aug_num`. The other fields are copied;
    `keep_original_sample: false` leaves out the row itself. One to three methods
    are enough: more change the meaning. Made by nlpaug (extra `augment`).

    Different: the texts depend on the run's seed and the row alone, where
    Data-Juicer draws anew each time; image tokens and ends of chunks stay as they
    are, unless `compat: data_juicer`.
    """

    delete_random_word: bool = False
    swap_random_word: bool = False
    spelling_error_word: bool = False
    split_random_word: bool = False
    keyboard_error_char: bool = False
    ocr_error_char: bool = False
    delete_random_char: bool = False
    swap_random_char: bool = False
    insert_random_char: bool = False

    op: ClassVar[str] = "nlpaug_en_mapper"
    library: ClassVar[str] = "nlpaug"
    methods: ClassVar[tuple[str, ...]] = (
        "delete_random_word",
        "swap_random_word",
        "spelling_error_word",
        "split_random_word",
        "keyboard_error_char",
        "ocr_error_char",
        "delete_random_char",
        "swap_random_char",
        "insert_random_char",
    )

    @functools.cached_property
    def _vary(self) -> Vary:
        import nlpaug.flow

        steps = [_english_method(name) for name in self.chosen]
        if self.sequential:
            return _listed(nlpaug.flow.Sequential(steps), self.aug_num)
        varied = [_listed(step, self.aug_num) for step in steps]
        return lambda text: [new for vary in varied for new in vary(text)]


def _english_method(name: str) -> Any:
    import nlpaug.augmenter.char as char
    import nlpaug.augmenter.word as word

    makers: dict[str, Callable[[], Any]] = {
        "delete_random_word": lambda: word.RandomWordAug(action="delete"),
        "swap_random_word": lambda: word.RandomWordAug(action="swap"),
        "spelling_error_word": word.SpellingAug,
        "split_random_word": word.SplitAug,
        "keyboard_error_char": char.KeyboardAug,
        "ocr_error_char": char.OcrAug,
        "delete_random_char": lambda: char.RandomCharAug(action="delete"),
        "swap_random_char": lambda: char.RandomCharAug(action="swap"),
        "insert_random_char": lambda: char.RandomCharAug(action="insert"),
    }
    method = makers[name]()
    if name == "spelling_error_word":
        # Read through a set of strings, so in another order in each Python process.
        for spellings in method.model.dict.values():
            spellings.sort()
    return method


def _listed(method: Any, count: int) -> Vary:
    def vary(text: str) -> list[str]:
        found = method.augment(text, n=count)
        return found if isinstance(found, list) else [found]

    return vary


@dataclass(frozen=True, kw_only=True)
class NlpcdaZhMapper(Augmentation):
    """Add rows whose Chinese text has words or characters replaced, deleted or swapped.

    Each method that is switched on makes up to `aug_num` new texts, fewer where a
    text has nothing to change; with `sequential` all methods together. The other
    fields are copied; `keep_original_sample: false` leaves out the row itself.
    nlpcda (extra `augment`), which makes them, takes line feeds and outer blanks
    out of the new texts.

    Different: the texts depend on the run's seed and the row alone, where
    Data-Juicer draws anew each time; unless `compat: data_juicer`, image tokens
    and ends of chunks stay as they are, and with `sequential` a text that lost
    nothing but white space makes no new row.
    """

    replace_similar_word: bool = False
    replace_homophone_char: bool = False
    delete_random_char: bool = False
    swap_random_char: bool = False
    replace_equivalent_num: bool = False

    op: ClassVar[str] = "nlpcda_zh_mapper"
    library: ClassVar[str] = "nlpcda"
    methods: ClassVar[tuple[str, ...]] = (
        "replace_similar_word",
        "replace_homophone_char",
        "delete_random_char",
        "swap_random_char",
        "replace_equivalent_num",
    )

    @functools.cached_property
    def _vary(self) -> Vary:
        # The first of the texts that nlpcda makes is the one that it was given.
        counts = [self.aug_num + 1] * len(self.chosen)
        if self.sequential:
            counts[1:] = [2] * (len(counts) - 1)
        steps = [
            _chinese_method(name, count, self.replace_similar_word)
            for name, count in zip(self.chosen, counts, strict=True)
        ]
        if not self.sequential:
            return _side_by_side(steps)
        return _one_after_another(steps, keeps_bare=self.compat == "data_juicer")


@functools.cache
def _chinese_method(name: str, count: int, with_synonyms: bool) -> Any:
    method = _loaded(name, count)
    # Its own words would be jieba's global ones, to which other operators add some.
    method.jieba = _chinese_words(with_synonyms)
    return method


def _loaded(name: str, count: int) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it loads
        import jieba
        import nlpcda

        jieba.setLogLevel("WARNING")
        makers: dict[str, Callable[[], Any]] = {
            "replace_similar_word": lambda: nlpcda.Similarword(create_num=count),
            "replace_homophone_char": lambda: nlpcda.Homophone(create_num=count),
            "delete_random_char": lambda: nlpcda.RandomDeleteChar(create_num=count),
            "swap_random_char": lambda: nlpcda.CharPositionExchange(create_num=count, char_gram=1),
            "replace_equivalent_num": lambda: nlpcda.EquivalentChar(create_num=count),
        }
        return makers[name]()


@functools.cache
def _chinese_words(with_synonyms: bool) -> Any:
    """Cuts text into words of jieba and nlpcda, and of its synonyms where these are replaced."""
    import jieba
    import nlpcda.config

    words = jieba.Tokenizer()
    words.load_userdict(nlpcda.config.company_path)
    if with_synonyms:
        for word in _loaded("replace_similar_word", 1).base_file_mapobj:
            if len(word) > 1:
                words.add_word(word)
    return words


def _side_by_side(steps: Sequence[Any]) -> Vary:
    return lambda text: [new for step in steps for new in step.replace(text)[1:]]


def _one_after_another(steps: Sequence[Any], keeps_bare: bool) -> Vary:
    def vary(text: str) -> list[str]:
        texts = [text]
        for step in steps:
            made = [step.replace(one) for one in texts]
            texts = [new for found in made for new in (found[1:] or found)]
        bare = text if keeps_bare else text.replace("\n", "").strip()
        return [] if len(texts) == 1 and texts[0] in (text, bare) else texts

    return vary


def between(text: str, marks: re.Pattern[str], vary: Vary) -> list[str]:
    """Variants of the text, made of variants of what stands between the marks.

    White space around the marks stays. A part that has fewer variants than
    another stays as it is in the rest.
    """
    if not marks.search(text):
        return vary(text)
    kept, parts, at = [], [], 0
    for mark in (*marks.finditer(text), None):
        part = text[at : mark.start() if mark else len(text)]
        bare = part.strip()
        begin = part.find(bare) if bare else len(part)
        kept.append((part[:begin], part[begin + len(bare) :] + (mark.group() if mark else "")))
        parts.append(bare)
        at = mark.end() if mark else at
    made = [vary(part) if part else [] for part in parts]
    return [
        "".join(
            before + (found[k] if k < len(found) else part) + after
            for (before, after), part, found in zip(kept, parts, made, strict=True)
        )
        for k in range(max(map(len, made)))
    ]


@contextlib.contextmanager
def _global_generators() -> Iterator[Callable[[str], None]]:
    """Lends the global generators, to be seeded by texts, and puts them back."""
    import numpy as np

    python, numbers = random.getstate(), np.random.get_state()

    def seed(text: str) -> None:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        number = int.from_bytes(digest, "big")
        random.seed(number)
        np.random.seed(number)

    try:
        yield seed
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
