"""Cutting texts by tokenizers of the user: Hugging Face's and sentencepiece's files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from vlforge.ops.downloads import hub_folder, models_folder
from vlforge.ops.text.classes import special_characters
from vlforge.types import RecipeError

PYTHIA = "EleutherAI/pythia-6.9b-deduped"
"""The tokenizer that Data-Juicer counts with."""
CountTokens = Callable[[Sequence[str]], list[int]]
"""Tokens per text, nothing added."""
Cut = Callable[[str], list[str]]
"""The pieces of a text."""


def tokenizer_file(name: str, key: str) -> Path:
    """The tokenizer that the key `key` names: a file, a folder, or the hub's name of a cached one.

    Raises:
        RecipeError: there is no such file; says how to get one.
    """
    given = Path(name).expanduser()
    found = given if given.exists() else hub_folder(name)
    if found is None:
        raise RecipeError(
            f"{key} is {name!r}, which is neither a folder or file nor in the hub's cache: "
            f"`hf download {name} --local-dir FOLDER` once, then set it to FOLDER"
        )
    if found.is_dir() and (found / "tokenizer.json").is_file():
        found = found / "tokenizer.json"
    library = _library_of(found)
    if find_spec(library) is None:
        raise RecipeError(f"{key} needs {library}: pip install {library}")
    return found


def _library_of(path: Path) -> str:
    if path.is_dir():
        return "transformers"
    return "sentencepiece" if path.suffix == ".model" else "tokenizers"


@functools.cache
def token_counter(path: Path, key: str) -> CountTokens:
    """Counts tokens as the tokenizer at `path` makes them."""
    library = _library_of(path)
    if library == "sentencepiece":
        cut = piece_cutter(path, key)
        return lambda texts: [len(cut(text)) for text in texts]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are the parallel ones
    if library == "transformers":
        return _of_folder(path, key)
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise _unreadable(path, key, error) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        found = tokenizer.encode_batch_fast(list(map(sound, texts)), add_special_tokens=False)
        return [len(one.ids) for one in found]

    return count


def _of_folder(path: Path, key: str) -> CountTokens:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unreadable(path, key, error) from None

    def count(texts: Sequence[str]) -> list[int]:
        found = tokenizer(list(map(sound, texts)), add_special_tokens=False, verbose=False)
        return [len(ids) for ids in found["input_ids"]] if texts else []

    return count


def sentencepiece_file(given: str, lang: str, op: str) -> Path:
    """The sentencepiece model of an operator: its `sp_model`, or Data-Juicer's of the language.

    Raises:
        RecipeError: there is none.
    """
    path = Path(given).expanduser() if given else models_folder() / f"{lang}.sp.model"
    if not path.is_file():
        said = f"sp_model {given!r} is no file" if given else f"there is no {path}"
        raise RecipeError(
            f"{op}.tokenization needs a sentencepiece model of {lang!r}, but {said}: "
            "set sp_model to its file, or tokenization: false"
        )
    if find_spec("sentencepiece") is None:
        raise RecipeError(f"{op}.tokenization needs sentencepiece: pip install sentencepiece")
    return path


@functools.cache
def piece_cutter(path: Path, key: str) -> Cut:
    """Cuts texts as the sentencepiece model at `path` does."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, key, error) from None
    return lambda text: list(model.encode_as_pieces(sound(text)))


def refined_pieces(given: str, lang: str, op: str, lower: bool = True) -> Cut:
    """Cuts texts by an operator's sentencepiece model, as its words are cut.

    Pieces lose special characters at both ends, and case if `lower`; empty ones
    are left out.
    """
    cut = piece_cutter(sentencepiece_file(given, lang, op), f"{op}.sp_model")
    special = special_characters()

    def refined(text: str) -> list[str]:
        pieces = [piece.lower() for piece in cut(text)] if lower else cut(text)
        return [word for piece in pieces if (word := piece.strip(special))]

    return refined


def sound(text: str) -> str:
    """The text without halves of characters, which the libraries refuse."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _unreadable(path: Path, key: str, error: Exception) -> RecipeError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RecipeError(f"{key}: {path} is no tokenizer that can be read: {said}")
