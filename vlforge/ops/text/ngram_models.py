"""N-gram language models: KenLM's own files by its library, ARPA files also without it."""

from __future__ import annotations

import functools
import gzip
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from vlforge.types import RecipeError

UNKNOWN = "<unk>"
BEGIN, END = "<s>", "</s>"
MISSING_UNKNOWN = -100.0
"""log10 probability of an unknown word where the file has none for `<unk>`, as in KenLM."""
_BINARY = b"mmap lm http://kheafield.com/code"
"""How the files begin that KenLM's build_binary writes."""
_GZIP = b"\x1f\x8b"
Score = Callable[[str], float]
"""log10 probability of a line of words with its end, behind the begin of a sentence."""
_Gram = tuple[float, float]
"""log10 probability, and weight of backing off from it as a context."""


def scorer_of(path: Path, key: str) -> Score:
    """Scores lines by the model at `path`; opened once per process.

    Raises:
        RecipeError: no such file, a damaged one, or a binary one without the library.
    """
    return _opened(path.resolve(), key)


def check_model(path: Path, key: str) -> None:
    """Refuse a file that cannot be a model, or only by a library that is missing; reads its head.

    Raises:
        RecipeError: says what it is instead.
    """
    if not path.is_file():
        raise RecipeError(f"{key} is {str(path)!r}, which is no file")
    if not _is_binary(path):
        return
    if find_spec("kenlm") is None:
        raise RecipeError(
            f"{key}: {path} is KenLM's binary format, which needs its library: pip install kenlm "
            "(or give the ARPA file, which needs nothing)"
        )


@functools.cache
def _opened(path: Path, key: str) -> Score:
    check_model(path, key)
    if find_spec("kenlm") is None:
        return ArpaModel.read(path, key).score
    import kenlm

    quiet = kenlm.Config()
    quiet.show_progress = False
    quiet.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        model = kenlm.Model(str(path), quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"{key}: {path}: {_first_line(error)}") from None
    return lambda line: float(model.score(line))


class ArpaModel:
    """A back-off model of an ARPA file, scored as KenLM scores it.

    A word that the file does not know counts as `<unk>`. Of the words before, as many
    count as the file has n-grams for; for each one that is left out, the weight of the
    context that was too long is added.
    """

    def __init__(self, grams: dict[tuple[str, ...], _Gram], order: int):
        self.grams = grams
        self.order = order

    @classmethod
    def read(cls, path: Path, key: str) -> ArpaModel:
        """From a file, packed by gzip or not.

        Raises:
            RecipeError: it is no ARPA file, or does not hold what it says.
        """
        grams: dict[tuple[str, ...], _Gram] = {}
        try:
            with _text_of(path) as file:
                order = _read_grams(file, grams)
        except (ValueError, OSError, EOFError) as error:
            raise RecipeError(f"{key}: {path} is no ARPA file: {_first_line(error)}") from None
        grams.setdefault((UNKNOWN,), (MISSING_UNKNOWN, 0.0))
        return cls(grams, order)

    def score(self, line: str) -> float:
        """log10 probability of the words between `<s>` and `</s>`."""
        known = [word if (word,) in self.grams else UNKNOWN for word in words_of(line)]
        sentence = (BEGIN, *known, END)
        return math.fsum(
            self.weigh(sentence[max(0, at - self.order + 1) : at + 1])
            for at in range(1, len(sentence))
        )

    def weigh(self, gram: tuple[str, ...]) -> float:
        """log10 probability of the last word behind those before it."""
        weight = 0.0
        while gram not in self.grams and len(gram) > 1:
            weight += self.grams.get(gram[:-1], (0.0, 0.0))[1]
            gram = gram[1:]
        return weight + self.grams.get(gram, self.grams[UNKNOWN,])[0]


def words_of(line: str) -> list[str]:
    """What blanks, tabs and ends of lines part, as KenLM sees it: nothing beyond ASCII."""
    if line.isascii():
        return line.encode().decode().split()
    return [word.decode("utf-8", "replace") for word in line.encode("utf-8", "replace").split()]


def _read_grams(file: IO[str], grams: dict[tuple[str, ...], _Gram]) -> int:
    """Fill `grams`; the longest length."""
    counts: dict[int, int] = {}
    lines = (line.strip() for line in file)
    for line in lines:
        if line == "\\data\\":
            break
    else:
        raise ValueError("it has no \\data\\")
    for line in lines:
        if line.startswith("ngram "):
            length, _, count = line[6:].partition("=")
            counts[int(length)] = int(count)
        elif line:
            break
    else:
        raise ValueError("it ends within \\data\\")
    if not counts:
        raise ValueError("\\data\\ tells of no n-grams")
    for size in sorted(counts):
        if line != f"\\{size}-grams:":
            raise ValueError(f"\\{size}-grams: is missing")
        found = 0
        for line in lines:
            if line.startswith("\\"):
                break
            if line:
                found += 1
                _take(line, size, grams)
        if found != counts[size]:
            raise ValueError(f"{found} {size}-grams, but it says {counts[size]}")
    if line != "\\end\\":
        raise ValueError("it has no \\end\\")
    return max(counts)


def _take(line: str, length: int, grams: dict[tuple[str, ...], _Gram]) -> None:
    parts = line.split()
    if len(parts) not in (length + 1, length + 2):
        raise ValueError(f"no {length}-gram: {line[:80]!r}")
    weight = float(parts[length + 1]) if len(parts) == length + 2 else 0.0
    grams[tuple(parts[1 : length + 1])] = (float(parts[0]), weight)


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BINARY)) == _BINARY


def _text_of(path: Path) -> IO[str]:
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
    if is_packed:
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
