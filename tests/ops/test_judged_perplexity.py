"""N-gram models score as KenLM does, with its library and without it."""

from __future__ import annotations

import gzip
import math
import sys

import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.ngram_models import ArpaModel, words_of
from vlforge.types import RecipeError

ARPA = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.5\t<unk>\t-0.1
-99\t<s>\t-0.3
-1.0\t</s>
-0.8\tthe\t-0.4
-0.9\tcat\t-0.2
-1.1\tsat\t-0.25

\\2-grams:
-0.3\t<s> the\t-0.15
-0.4\tthe cat\t-0.05
-0.6\tcat sat\t-0.35
-0.2\tsat </s>
-0.7\tcat </s>

\\3-grams:
-0.11\t<s> the cat
-0.12\tcat sat </s>

\\end\\
"""


@pytest.fixture(autouse=True)
def no_downloads(tmp_path, monkeypatch):
    """Empty caches, whatever this machine has."""
    monkeypatch.setenv("DATA_JUICER_CACHE_HOME", str(tmp_path / "data_juicer"))


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "en.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def measured(texts, **params):
    (bound,) = bind([{"perplexity_filter": {"tokenizer": "words", **params}}])
    batch = Batch([Item(str(n), n, {"text": t}) for n, t in enumerate(texts)], Context())
    return bound.op.measure(batch)[0]


# By hand, and the same from kenlm 0.3.0.
@pytest.mark.parametrize(
    ("line", "score"),
    [
        ("the cat sat", -0.3 - 0.11 - (0.05 + 0.6) - 0.12),
        ("the cat", -0.3 - 0.11 - (0.05 + 0.7)),
        ("cat", -(0.3 + 0.9) - 0.7),
        ("", -(0.3 + 1.0)),
        ("dog", -(0.3 + 1.5) - (0.1 + 1.0)),
        ("the dog", -0.3 - (0.15 + 0.4 + 1.5) - (0.1 + 1.0)),
        ("sat the", -(0.3 + 1.1) - (0.25 + 0.8) - (0.4 + 1.0)),
        ("cat sat cat", -(0.3 + 0.9) - 0.6 - (0.35 + 0.25 + 0.9) - 0.7),
    ],
)
def test_words_before_count_as_far_as_the_file_knows_them(arpa, line, score):
    assert ArpaModel.read(arpa, "model").score(line) == pytest.approx(score, abs=1e-12)


def test_a_file_without_unknown_words_gives_them_what_kenlm_gives(tmp_path):
    text = ARPA.replace("-1.5\t<unk>\t-0.1\n", "").replace("ngram 1=6", "ngram 1=5")
    path = tmp_path / "no_unk.arpa"
    path.write_text(text)
    assert ArpaModel.read(path, "model").score("dog") == pytest.approx(-100.3 - 1.0)


def test_perplexity_counts_pieces_and_ends_of_lines(arpa):
    (one, none, two) = measured(["the cat\tsat", "", "a\u2028b"], model=str(arpa))
    assert one == pytest.approx(10 ** ((0.3 + 0.11 + 0.65 + 0.12) / 4))
    assert none == 0.0
    # A line for each side of the separator, as Data-Juicer cuts them.
    assert two == pytest.approx(10 ** (2 * (1.8 + 1.1) / 4))
    (rounded,) = measured(["the cat sat"], model=str(arpa), compat="data_juicer")
    assert rounded == round(one, 1)


def test_models_are_found_in_folders_and_in_data_juicers(arpa, tmp_path, monkeypatch):
    (direct,) = measured(["the cat"], model=str(arpa))
    assert measured(["the cat"], model=str(tmp_path)) == [direct]
    home = tmp_path / "data_juicer" / "models"
    home.mkdir(parents=True)
    (home / "zh.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    assert measured(["the cat"], lang="zh") == [direct]


def test_without_the_library_arpa_files_are_read_all_the_same(arpa, monkeypatch):
    (here,) = measured(["the cat sat"], model=str(arpa))
    monkeypatch.setitem(sys.modules, "kenlm", None)
    assert math.isclose(ArpaModel.read(arpa, "m").score("the cat sat"), -4 * math.log10(here),
                        abs_tol=1e-5)  # fmt: skip


def test_pieces_of_sentencepiece_are_what_n_grams_are_made_of(tmp_path):
    import io

    import sentencepiece

    made = io.BytesIO()
    sentences = iter(["the cat sat on the mat", "a cat and a hat", "the hat sat"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=made,
        vocab_size=17,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "en.sp.model").write_bytes(made.getvalue())
    cutter = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    pieces = cutter.encode_as_pieces("the cat")
    grams = "".join(f"-{n}.5\t{piece}\n" for n, piece in enumerate(dict.fromkeys(pieces), 1))
    count = len(dict.fromkeys(pieces)) + 3
    (tmp_path / "en.arpa").write_text(
        f"\\data\\\nngram 1={count}\nngram 2=1\n\n\\1-grams:\n-9\t<unk>\n0\t<s>\n-1\t</s>\n{grams}"
        "\\2-grams:\n-0.5\t<unk> <unk>\n\\end\\\n",
        encoding="utf-8",
    )
    (found,) = measured(["the cat"], model=str(tmp_path), tokenizer="")
    places = {piece: n + 0.5 for n, piece in enumerate(dict.fromkeys(pieces), 1)}
    total = sum(places[piece] for piece in pieces) + 1
    assert found == pytest.approx(10 ** (total / (len(pieces) + 1)), rel=1e-5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "which is no file"),
        (b"mmap lm http://kheafield.com/code format version 5\n", "pip install kenlm"),
        (b"no model", "has no .data."),
        (ARPA.replace("ngram 2=5", "ngram 2=6").encode(), "5 2-grams, but it says 6"),
        (ARPA.replace("\\end\\", "").encode(), "has no .end."),
        (ARPA.replace("\\2-grams:", "\\4-grams:").encode(), "2-grams: is missing"),
        (ARPA.replace("-0.3\t<s> the\t-0.15", "-0.3\t<s>").encode(), "no 2-gram: '-0.3.t<s>'"),
    ],
)
def test_files_that_are_no_models_are_named(tmp_path, monkeypatch, content, said):
    monkeypatch.setattr("vlforge.ops.text.ngram_models.find_spec", lambda name: None)
    path = tmp_path / "en.arpa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        measured(["x"], model=str(path))


def test_what_is_missing_is_told_when_the_recipe_is_read(arpa, tmp_path):
    with pytest.raises(RecipeError, match=r"has no fr\.arpa\.bin or fr\.arpa: set model"):
        measured(["x"], model=str(tmp_path), lang="fr")
    with pytest.raises(RecipeError, match=r"name the sentencepiece model .* or words"):
        measured(["x"], model=str(arpa), tokenizer="")


def test_words_are_parted_as_kenlm_parts_them():
    assert words_of("a\tb \u3000c\x0bd") == ["a", "b", "\u3000c", "d"]


def test_halves_of_characters_do_not_end_the_run(arpa):
    assert measured(["\ud83d"], model=str(arpa)) == [pytest.approx(10 ** ((1.8 + 1.1) / 2))]
