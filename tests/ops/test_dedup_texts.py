"""Near-equal texts, equal texts and repeated lines."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict

import numpy as np
import pytest
import regex

from vlforge.ops.base import CorpusMapper, NearDedup
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.dedup import shingles
from vlforge.ops.dedup.minhash import bands_and_rows, permutations_of, signatures
from vlforge.ops.dedup.shingles import shingles_of
from vlforge.ops.dedup.simhash import fingerprints, simhash
from vlforge.types import RecipeError

PRIME = (1 << 61) - 1
WORDS = "a red blue dog cat runs over the house, Tree! sky 太阳 éclair İstanbul 😀 it's".split()
SHORT = ["dog", "a red bus", "two cats sleeping", "dog", "", "  a RED  bus\n", ""]


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def batch_of(texts: list[str]) -> Batch:
    return Batch([Item(str(n), n, {"text": text}) for n, text in enumerate(texts)], Context())


def kept(op, texts: list[str]) -> list[int]:
    """Rows that stay when all keys are seen."""
    assert isinstance(op, NearDedup)
    keys = op.keys(batch_of(texts))
    assert {len(key) for key in keys} <= {op.key_bytes}
    table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(texts), op.key_bytes)
    firsts = op.firsts(table).tolist()
    assert all(first <= row and firsts[first] == first for row, first in enumerate(firsts))
    return [row for row, first in enumerate(firsts) if first == row]


def made_texts(seed: int, count: int) -> list[str]:
    """Short, long, strange and empty texts, half of them changed copies of others."""
    pick = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and pick.random() < 0.5:
            words = pick.choice(texts).split(" ")
            words[pick.randrange(len(words))] = pick.choice(WORDS)
        else:
            words = pick.choices(WORDS, k=pick.choice([0, 1, 4, 6, 20, 40, 90]))
        texts.append(pick.choice([" ", " ", "  "]).join(words))
    return texts


def tokens_of(text: str, tokenization: str) -> tuple[list[str], str]:
    """Tokens by definition, and what joins them."""
    if tokenization == "space":
        return [word for word in text.split(" ") if word], " "
    if tokenization == "punctuation":
        return regex.split(r"\p{P}", text), " "
    return list(text), ""


def windows_of(text: str, tokenization: str, size: int) -> list[bytes]:
    tokens, joint = tokens_of(text, tokenization)
    runs = [joint.join(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
    return [run.encode("utf-8", "surrogatepass") for run in runs]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("tokenization", ["space", "punctuation", "character"])
def test_shingles_are_the_runs_of_tokens(tokenization, size):
    texts = [*made_texts(0, 30), "", " ", "a.b!c", "é\udc80x", "\n a\tb", "𝔘nïcode"]
    cut = shingles_of(texts, tokenization, size)
    wanted = [windows_of(text, tokenization, size) for text in texts]
    assert cut.counts.tolist() == list(map(len, wanted))
    assert [s for some in cut.slices() for s in some] == [s for row in wanted for s in row]


def signature_of(pieces: list[bytes], count: int) -> list[int]:
    """By definition, in whole numbers of any size."""
    factors, summands = (part.tolist() for part in permutations_of(count))
    hashes = [int.from_bytes(hashlib.sha1(p).digest()[:4], "little") for p in pieces]
    return [
        min(((a * h + b) % (1 << 64) % PRIME & 0xFFFFFFFF for h in hashes), default=0xFFFFFFFF)
        for a, b in zip(factors, summands, strict=True)
    ]


def test_signatures_are_the_least_permuted_hashes():
    texts = made_texts(1, 40)
    found = signatures(shingles_of(texts, "space", 2), 40)
    wanted = [signature_of(windows_of(text, "space", 2), 40) for text in texts]
    assert found.tolist() == wanted


def test_no_hash_needs_the_subtraction_that_signatures_leave_out():
    """(a h + b) mod 2^64 = 8 parts of 2^61: low 61 bits plus part must stay below the prime."""
    factors, summands = (part.tolist() for part in permutations_of(4096))
    edges = [part << 61 | PRIME - less for part in range(8) for less in range(part + 1)]
    for factor, summand in zip(factors, summands, strict=True):
        twos = (factor & -factor).bit_length() - 1
        inverse = pow(factor >> twos, -1, 1 << 64)
        for edge in edges:
            reached, rest = divmod((edge - summand) % (1 << 64), 1 << twos)
            assert rest or reached * inverse % (1 << (64 - twos)) >= 1 << 32


def test_the_first_band_is_data_juicers():
    """From a recorded run of document_minhash_deduplicator on its default keys."""
    text = "the quick brown fox jumps over the lazy dog near the river bank"
    found = signatures(shingles_of([text], "space", 5), 256)[0, :3].tolist()
    assert found == [0x0B24E302, 0x0385CF54, 0x0C164647]


@pytest.mark.parametrize(
    ("threshold", "permutations", "wanted"),
    [(0.7, 256, (25, 10)), (0.5, 256, (42, 6)), (0.7, 128, (14, 9)), (0.0, 64, (64, 1)),
     (1.0, 64, (1, 64)), (0.3, 100, (33, 3)), (0.95, 300, (6, 50)), (0.7, 1, (1, 1))],
)  # fmt: skip
def test_bands_and_rows_are_those_of_the_numeric_integral(threshold, permutations, wanted):
    assert bands_and_rows(threshold, permutations) == wanted


@pytest.mark.parametrize("params", [
    {}, {"window_size": 2, "jaccard_threshold": 0.4}, {"num_bands": 30, "num_rows_per_band": 3},
    {"tokenization": "character", "num_permutations": 64, "window_size": 7, "lowercase": False},
    {"tokenization": "punctuation", "window_size": 1}])  # fmt: skip
def test_minhash_keeps_the_first_of_each_chain_of_shared_bands(params):
    texts = made_texts(2, 150)
    op = op_of("document_minhash_deduplicator", compat="data_juicer", **params)
    bands, rows = op.bands
    first: dict[int, int] = {row: row for row in range(len(texts))}

    def root(row: int) -> int:
        return row if first[row] == row else root(first[row])

    seen: dict[tuple, int] = {}
    for row, text in enumerate(texts):
        text = text.lower() if op.lowercase else text
        signed = signature_of(windows_of(text, op.tokenization, op.window_size), bands * rows)
        for band in range(bands):
            other = seen.setdefault((band, *signed[band * rows : (band + 1) * rows]), row)
            low, high = sorted((root(row), root(other)))
            first[high] = low
    assert kept(op, texts) == [row for row in first if first[row] == row]


@pytest.mark.parametrize("name", ["document_minhash_deduplicator", "document_simhash_deduplicator"])
def test_short_texts_repeat_only_their_equals_unless_compat(name):
    assert kept(op_of(name), SHORT) == [0, 1, 2, 4]
    assert kept(op_of(name, compat="data_juicer"), SHORT) == [0]
    assert kept(op_of(name, window_size=1), [*SHORT, "dog "]) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("name", ["document_minhash_deduplicator", "document_simhash_deduplicator",
                                  "document_line_deduplicator"])  # fmt: skip
def test_keys_do_not_depend_on_the_neighbours(name, monkeypatch):
    texts = made_texts(3, 60)
    op = op_of(name)
    together = op.keys(batch_of(texts))
    assert together == [key for text in texts for key in op.keys(batch_of([text]))]
    monkeypatch.setattr(shingles, "_CHARACTERS_AT_ONCE", 300)
    monkeypatch.setattr(shingles, "_SLICES_AT_ONCE", 7)
    assert op.keys(batch_of(texts)) == together


def test_what_the_pattern_matches_does_not_count():
    texts = ["one two three four five six", "one, two! three four - five six", "six five four"]
    op = op_of("document_minhash_deduplicator", ignore_pattern=r"\p{P}", window_size=2)
    assert kept(op, texts) == [0, 2]
    assert kept(op_of("document_minhash_deduplicator", window_size=2), texts) == [0, 1, 2]


def test_sentencepiece_shingles_are_runs_of_pieces(tmp_path):
    trainer = pytest.importorskip("sentencepiece")
    texts = [t for t in made_texts(4, 200) if t]
    trainer.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "m"), vocab_size=80,
        hard_vocab_limit=False, minloglevel=2)  # fmt: skip
    model = str(tmp_path / "m.model")
    pieces = trainer.SentencePieceProcessor(model_file=model).encode(texts[0], out_type=str)
    cut = shingles_of(texts[:1], "sentencepiece", 3, model)
    wanted = ["".join(pieces[at : at + 3]).encode() for at in range(len(pieces) - 2)]
    assert [s for some in cut.slices() for s in some] == wanted
    op = op_of("document_minhash_deduplicator", tokenization="sentencepiece", tokenizer_model=model)
    assert kept(op, [texts[0], texts[0].upper(), ""]) == [0, 2]


@pytest.mark.parametrize(("name", "params", "said"), [
    ("document_minhash_deduplicator", {"window_size": 0}, "window_size is 0"),
    ("document_minhash_deduplicator", {"jaccard_threshold": 1.5}, "jaccard_threshold is 1.5"),
    ("document_minhash_deduplicator", {"num_bands": 9, "num_rows_per_band": 99}, "need 891"),
    ("document_minhash_deduplicator", {"ignore_pattern": "(["}, "is no pattern"),
    ("document_minhash_deduplicator", {"tokenization": "word"}, "tokenization is 'word'"),
    ("document_minhash_deduplicator", {"tokenization": "sentencepiece"}, "tokenizer_model"),
    ("document_minhash_deduplicator",
     {"tokenization": "sentencepiece", "tokenizer_model": "none.model"}, "'none.model' is no file"),
    ("document_simhash_deduplicator", {"hamming_distance": 6}, "num_blocks is 6"),
    ("document_simhash_deduplicator", {"num_blocks": 65}, "num_blocks is 65"),
    ("document_line_deduplicator", {"frequency_threshold": -1}, "frequency_threshold is -1"),
    ("ray_document_deduplicator", {"backend": "disk"}, "backend is 'disk'")])  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_load(name, params, said):
    with pytest.raises(RecipeError, match=said):
        op_of(name, **params)


def test_more_bands_than_permutations_make_all_texts_alike_as_in_data_juicer():
    many = {"num_permutations": 8, "num_bands": 5, "num_rows_per_band": 2}
    texts = ["one two three four five", "six seven eight nine ten"]
    op = op_of("document_minhash_deduplicator", compat="data_juicer", **many)
    assert kept(op, texts) == [0]


def test_fingerprints_are_the_majority_of_the_shingles_hashes():
    texts = made_texts(5, 60)
    found = fingerprints(shingles_of(texts, "space", 2)).tolist()
    assert found == [simhash(windows_of(text, "space", 2)) for text in texts]


def test_simhash_joins_chains_within_the_distance():
    op = op_of("document_simhash_deduplicator", hamming_distance=2, num_blocks=3)
    prints = np.array([0xFF, 0xFF00, 0xFC, 0xF0, 0xFF], np.uint64)
    keys = np.stack((prints, np.zeros(5, np.uint64)), axis=1).view(np.uint8)
    assert op.firsts(keys).tolist() == [0, 1, 0, 0, 0]


def lines_left(op, texts: list[str]) -> list[str]:
    assert isinstance(op, CorpusMapper)
    learned = op.learn(iter(op.keys(batch_of(texts))))
    return [row["text"] for row in op.apply(batch_of(texts), learned)]


def test_lines_of_more_texts_than_the_threshold_are_left_out():
    texts = ["Home | About\nfirst text", "Home | About\nsecond\nsecond", "third\n Home | About "]
    op = op_of("document_line_deduplicator", frequency_threshold=2)
    assert lines_left(op, texts) == ["first text", "second\nsecond", "third"]
    assert lines_left(op_of("document_line_deduplicator", frequency_threshold=3), texts) == texts
    assert lines_left(op_of("document_line_deduplicator", frequency_threshold=0), texts[:1]) == [
        texts[0]
    ]


@pytest.mark.parametrize(("line", "key"), [
    ("});", "skip_brackets"), ("## Title", "skip_markdown_headers"),
    ("\\begin{table}", "skip_latex_env"), (" </div> ", "skip_html_tags"), ("<br", "skip_html_tags")]
)  # fmt: skip
def test_lines_of_form_stay_unless_their_key_is_false(line, key):
    texts = [f"one\n{line}", f"two\n{line}"]
    stays = op_of("document_line_deduplicator", frequency_threshold=1)
    goes = op_of("document_line_deduplicator", frequency_threshold=1, **{key: False})
    assert lines_left(stays, texts) == texts
    assert lines_left(goes, texts) == ["one", "two"]


@pytest.mark.parametrize(("params", "left"), [
    ({}, ["Page 1", "page 2", "x"]), ({"lowercase": True}, ["Page 1", "page 2", "x"]),
    ({"ignore_special_character": True}, ["Page 1", "page 2", "x"]),
    ({"lowercase": True, "ignore_special_character": True}, ["", "", "x"]),
    ({"min_line_length": 9}, ["Page 1", "page 2", "x"])])  # fmt: skip
def test_lines_are_compared_as_the_keys_say(params, left):
    op = op_of("document_line_deduplicator", frequency_threshold=1, **params)
    assert lines_left(op, ["Page 1", "page 2", "x"]) == left


def test_rows_that_keep_all_lines_stay_the_same_objects():
    rows = [{"meta": {"t": "a line\nmine"}}, {"meta": {"t": "a line"}}, {"meta": {"t": 5}}, {}]
    batch = Batch([Item(str(n), n, row) for n, row in enumerate(rows)], Context())
    op = op_of("document_line_deduplicator", frequency_threshold=1, text_key="meta.t")
    found = op.apply(batch, op.learn(op.keys(batch)))
    assert [row["meta"]["t"] for row in found[:2]] == ["mine", ""]
    assert found[2] is rows[2]
    assert found[3] is rows[3]
    assert rows[0]["meta"]["t"] == "a line\nmine"


def texts_left(op, texts: list[str]) -> list[str]:
    seen = defaultdict(list)
    for key, text in zip(op.keys(batch_of(texts)), texts, strict=True):
        seen[key].append(text)
    return [same[0] for same in seen.values()]


def test_equal_texts_are_those_without_what_does_not_count():
    op = op_of("document_deduplicator", lowercase=True, ignore_non_character=True)
    texts = ["A cat.", "a  CAT 12", "a cat \U0001e4f3", "a\x1ccat", "a dog"]
    assert texts_left(op, texts) == ["A cat.", "a\x1ccat", "a dog"]
    assert texts_left(op_of("document_deduplicator"), [" x\n", "x", "X"]) == [" x\n", "X"]


def test_ray_names_give_the_same_and_take_their_own_keys():
    texts = made_texts(6, 60)
    near = {"window_size": 3, "jaccard_threshold": 0.5}
    ray = {"union_find_parallel_num": 4, "minhash_batch_size": "auto", "task_memory": 5}
    wanted = kept(op_of("document_minhash_deduplicator", **near), texts)
    assert kept(op_of("ray_bts_minhash_deduplicator", **near, **ray), texts) == wanted
    assert kept(op_of("ray_bts_minhash_cpp_deduplicator", **near), texts) == wanted
    op = op_of("ray_document_deduplicator", dedup_set_num=3, lowercase=True)
    assert texts_left(op, ["A", "a", "", " "]) == ["A", ""]
    theirs = op_of("ray_document_deduplicator", compat="data_juicer")
    assert texts_left(theirs, ["A", "", " ", ""]) == ["A", "", " "]
