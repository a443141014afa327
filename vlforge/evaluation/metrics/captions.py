"""BLEU, ROUGE-L, CIDEr and CIDEr-D of tokenised captions, number for number as pycocoevalcap.

Captions are strings of tokens with single blanks between them; see `caption_tokens` for
how they come about: scores depend on that more than on anything else. A corpus is a list
of hypotheses and a list of each one's references.

Source: salaniz/pycocoevalcap 1.2 (tylin/coco-caption); ruotianluo/cider for plain CIDEr.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9
_BETA = 1.2
_SIGMA = 6.0

Ngram = tuple[str, ...]
Counts = Counter[Ngram]


@dataclass(frozen=True)
class Corpus:
    """One value for the corpus, and one for each caption."""

    whole: float
    each: tuple[float, ...]


def ngrams(caption: str) -> Counts:
    """How often each run of one to four tokens occurs."""
    words = caption.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[Corpus]:
    """BLEU-1 to BLEU-4.

    The length that a caption is measured against is that of the closest reference; in a
    corpus of one caption, the mean of the references'.
    """
    mean_length = len(hypotheses) == 1
    totals = [[0, 0] for _ in range(ORDERS)]
    lengths = [0.0, 0.0]
    each: list[list[float]] = [[] for _ in range(ORDERS)]
    for hypothesis, refs in zip(hypotheses, references, strict=True):
        found = ngrams(hypothesis)
        most: Counts = Counter()
        for ref in refs:
            most |= ngrams(ref)
        length = len(hypothesis.split())
        wanted = _reference_length(length, [len(ref.split()) for ref in refs], mean_length)
        counts = [[0, max(0, length - order)] for order in range(ORDERS)]
        for gram, times in found.items():
            counts[len(gram) - 1][0] += min(times, most[gram])
        for order, (right, guesses) in enumerate(counts):
            totals[order][0] += right
            totals[order][1] += guesses
        lengths = [lengths[0] + length, lengths[1] + wanted]
        for order, value in enumerate(_bleu_of(counts, length, wanted)):
            each[order].append(value)
    whole = _bleu_of(totals, *lengths)
    return [Corpus(value, tuple(some)) for value, some in zip(whole, each, strict=True)]


def _reference_length(length: int, lengths: Sequence[int], is_mean: bool) -> float:
    if is_mean:
        return sum(lengths) / len(lengths)
    return min((abs(one - length), one) for one in lengths)[1]


def _bleu_of(counts: Sequence[Sequence[int]], length: float, wanted: float) -> list[float]:
    """BLEU of orders 1 to n from right and all n-grams."""
    ratio = (length + _TINY) / (wanted + _SMALL)
    short = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, found = 1.0, []
    for order, (right, guesses) in enumerate(counts, 1):
        product *= (right + _TINY) / (guesses + _SMALL)
        found.append(product ** (1 / order) * short)
    return found


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """ROUGE-L: F of the longest common subsequence, best precision and best recall apart.

    Splits at every single blank, so that an empty caption is one empty token.
    """
    each = []
    for hypothesis, refs in zip(hypotheses, references, strict=True):
        words = hypothesis.split(" ")
        precision = recall = 0.0
        for ref in refs:
            theirs = ref.split(" ")
            common = _common(theirs, words)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(theirs))
        both = recall + _BETA**2 * precision
        is_found = precision and recall
        each.append((1 + _BETA**2) * precision * recall / both if is_found else 0.0)
    return Corpus(_mean(each), tuple(each))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for column, theirs in enumerate(other, 1):
            above = row[column]
            row[column] = diagonal + 1 if word == theirs else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def cider_d(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """CIDEr-D, which pycocoevalcap calls CIDEr: clipped, and falling with the lengths' distance.

    Rarity of an n-gram is that within this corpus: scores of a part of it differ, and a
    corpus of one caption has 0.
    """
    return _cider(hypotheses, references, is_d=True)


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """Plain CIDEr: neither clipped nor falling with lengths."""
    return _cider(hypotheses, references, is_d=False)


def _cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]], is_d: bool) -> Corpus:
    counted = [[ngrams(ref) for ref in refs] for refs in references]
    frequency: Counts = Counter(
        gram for refs in counted for gram in {gram for ref in refs for gram in ref}
    )
    pictures = math.log(len(references)) if references else 0.0
    each = []
    for hypothesis, refs in zip(hypotheses, counted, strict=True):
        ours = _Vector.of(ngrams(hypothesis), frequency, pictures)
        total = 0.0
        for ref in refs:
            total += _likeness(ours, _Vector.of(ref, frequency, pictures), is_d)
        each.append(10 * total / len(refs))
    return Corpus(_mean(each), tuple(each))


@dataclass(frozen=True)
class _Vector:
    """Weights of n-grams by order, their norms, and how many bigrams there are."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    bigrams: int

    @classmethod
    def of(cls, counts: Counts, frequency: Counts, pictures: float) -> _Vector:
        weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(ORDERS))
        squares, bigrams = [0.0] * ORDERS, 0
        for gram, times in counts.items():
            weight = times * (pictures - math.log(max(1, frequency[gram])))
            order = len(gram) - 1
            weights[order][gram] = weight
            squares[order] += weight**2
            bigrams += times if order == 1 else 0
        return cls(weights, tuple(map(math.sqrt, squares)), bigrams)


def _likeness(ours: _Vector, theirs: _Vector, is_d: bool) -> float:
    """Mean over orders of the (clipped) cosine."""
    penalty = 1.0
    if is_d:
        penalty = math.exp(-((ours.bigrams - theirs.bigrams) ** 2) / (2 * _SIGMA**2))
    total = 0.0
    for order in range(ORDERS):
        norm = ours.norms[order] * theirs.norms[order]
        if not norm:
            continue
        there = theirs.weights[order]
        product = 0.0
        for gram, weight in ours.weights[order].items():
            other = there.get(gram)
            if other is not None:
                product += (min(weight, other) if is_d else weight) * other
        total += product / norm * penalty
    return total / ORDERS


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
