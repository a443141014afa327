"""A word tokenizer trained on the run's own texts.

Whole words are tokens, a space before one is its leading "▁". A word written in
capitals is spelled letter by letter and its letters never carry the space: a
printed CAT is read as C A T wherever it stands, so that words never seen in
training can still be spelled. Digits come one by one, a line end is a token.
Decoding gives back the text, unknown words apart.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vlforge.data.detect import read_samples
from vlforge.training.config import TokenizerConfig
from vlforge.types import LLAVA_IMAGE_TOKEN, DataError, LogFn, no_log

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
SPACE = "▁"


def train_tokenizer(config: TokenizerConfig, out: Path, *, log: LogFn = no_log) -> dict[str, int]:
    """Train a tokenizer on `config.data` and write its files into `out`.

    Returns:
        `{"texts", "words", "vocabulary", "left_out"}`; `left_out` words did not
        fit into `max_vocab`.

    Raises:
        DataError: the data hold no text.
    """
    counts: Counter[str] = Counter()
    splitter = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    splitter.normalizer, splitter.pre_tokenizer = _pipeline(config.extra_words)
    texts = 0
    for path in config.data:
        for text in read_texts(Path(path)):
            texts += 1
            normal = splitter.normalizer.normalize_str(text)
            counts.update(piece for piece, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    if not counts:
        raise DataError(f"{', '.join(config.data)}: no text to train a tokenizer on")
    vocabulary = choose_vocabulary(counts, config.max_vocab, config.extra_words)
    tokenizer = build_tokenizer(vocabulary, config.extra_words)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    known = set(vocabulary)
    facts = {
        "texts": texts,
        "words": len(counts),
        "vocabulary": len(vocabulary),
        "left_out": sum(piece not in known for piece in counts),
    }
    log({"event": "tokenizer", **facts})
    return facts


def read_texts(path: Path, format_name: str = "auto") -> Iterator[str]:
    """Texts of a plain text file (lines), of `{"text"}` lines, or of a dataset's turns.

    Args:
        path: the file, or a dataset of any format.
        format_name: the dataset's format, where its content does not say it.

    Raises:
        DataError: the file is missing or in no known form.
    """
    if not path.exists():
        raise DataError(f"{path}: no such text file")
    is_dataset = path.is_dir() or format_name != "auto"
    if path.suffix == ".txt" and not is_dataset:
        yield from (line for _, line in _lines(path))
    elif path.suffix == ".jsonl" and not is_dataset and _holds_plain_text(path):
        yield from (_text_of(path, number, line) for number, line in _lines(path))
    else:
        for sample in read_samples(path, format_name=format_name):
            yield from (turn.text.replace(LLAVA_IMAGE_TOKEN, "") for turn in sample.turns)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of every line that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def _holds_plain_text(path: Path) -> bool:
    """Whether the first line is `{"text"}` without pictures."""
    try:
        fields = json.loads(next((line for _, line in _lines(path)), ""))
    except ValueError:
        return False
    return isinstance(fields, dict) and "text" in fields and not fields.get("images")


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} line {number}: not a JSON object with a text") from None
    if not isinstance(text, str):
        raise DataError(f"{path} line {number}: its text is not a string")
    return text


def choose_vocabulary(
    counts: Counter[str], max_vocab: int, extra_words: tuple[str, ...]
) -> list[str]:
    """Specials, the characters that are always there, then words by frequency.

    A word comes with and without its space: one seen only inside of sentences
    may begin a question.

    Raises:
        DataError: `max_vocab` does not even hold what is always there.
    """
    always = [*SPECIALS, SPACE, "\n", *string.ascii_uppercase, *string.digits]
    always += [f"{SPACE}{digit}" for digit in string.digits]
    always += [form for word in extra_words for form in (word, SPACE + word)]
    always = list(dict.fromkeys(always))
    if len(always) > max_vocab:
        raise DataError(f"max_vocab {max_vocab} is below the {len(always)} tokens always kept")
    words: Counter[str] = Counter()
    for piece, count in counts.items():
        words[piece.removeprefix(SPACE)] += count
    taken, vocabulary = set(always), always
    for word in sorted(words, key=lambda word: (-words[word], word)):
        forms = [form for form in (SPACE + word, word) if form not in taken]
        if len(vocabulary) + len(forms) > max_vocab:
            break
        vocabulary += forms
    return vocabulary


def build_tokenizer(vocabulary: list[str], extra_words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are positions in `vocabulary`; texts begin with `<s>`."""
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _pipeline(extra_words)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _pipeline(extra_words: tuple[str, ...]) -> tuple:
    """Spaces become "▁"; the text splits into words, capitals, digits and marks."""
    extra = "|".join(re.escape(word) for word in sorted(extra_words, key=len, reverse=True))
    patterns = [rf"{SPACE}?(?:{extra})(?![A-Za-z])"] if extra else []
    patterns += [
        rf"{SPACE}(?=[A-Z]+(?![A-Za-z]))",
        r"[A-Z](?=[A-Z]*(?![A-Za-z]))",
        rf"{SPACE}?[A-Za-z]+",
        rf"{SPACE}?[^{SPACE}\n]",
        SPACE,
        r"\n",
    ]
    split = pre_tokenizers.Split(Regex("|".join(patterns)), behavior="isolated")
    return normalizers.Replace(" ", SPACE), split
