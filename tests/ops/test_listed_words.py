"""Words are looked up in lists and counted by tokenizers that the user brings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.classes import special_characters
from vlforge.types import RecipeError

TEXTS = ["The cat is on the mat.", "a STUPID, stupid cat", "", "... 12", "the\tthe\nend"]


@pytest.fixture(autouse=True)
def no_downloads(tmp_path, monkeypatch):
    """Empty caches, whatever this machine has."""
    monkeypatch.setenv("DATA_JUICER_CACHE_HOME", str(tmp_path / "data_juicer"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def measured(name: str, texts=TEXTS, **params):
    (bound,) = bind([{name: params}])
    batch = Batch([Item(str(n), n, {"text": t}) for n, t in enumerate(texts)], Context())
    return bound.op.measure(batch)[0]


def written(folder: Path, name: str, lists: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(lists), encoding="utf-8")
    return str(folder)


def test_the_share_of_listed_words_is_measured(tmp_path):
    written(tmp_path, "a_stopwords.json", {"en": ["the", "is"], "fr": ["la"]})
    folder = written(tmp_path, "stopwords_b.json", {"en": ["on"], "zh": ["的"]})
    written(tmp_path, "other.json", {"en": ["cat"]})
    shares = measured("stopwords_filter", stopwords_dir=folder)
    assert shares == [4 / 6, 0.0, 0.0, 0.0, 2 / 3]
    assert measured("stopwords_filter", ["la on"], lang="all", stopwords_dir=folder) == [1.0]


def test_runs_of_words_find_listed_phrases(tmp_path):
    folder = written(tmp_path, "flagged_words.json", {"en": ["stupid cat", "stupid"]})
    plain = {"flagged_words_dir": folder}
    phrases = {**plain, "use_words_aug": True, "words_aug_join_char": " "}
    assert measured("flagged_words_filter", TEXTS[1:2], **plain) == [2 / 4]
    assert measured("flagged_words_filter", TEXTS[1:2], **phrases) == [3 / 7]
    sizes = {**phrases, "words_aug_group_sizes": [2, 4]}
    assert measured("flagged_words_filter", TEXTS[1:2], **sizes) == [3 / 8]


def test_the_lists_that_data_juicer_downloaded_are_the_default(tmp_path):
    written(tmp_path / "data_juicer/assets", "flagged_words.json", {"en": ["cat"]})
    assert measured("flagged_words_filter", ["cat dog"]) == [0.5]


def test_our_stop_words_are_taken_on_demand_only():
    texts = ["the house of my friend", "das Haus und der Garten", "这 是 猫"]
    for lang, text, share in zip(("en", "de", "zh"), texts, (3 / 5, 3 / 5, 2 / 3), strict=True):
        assert measured("stopwords_filter", [text], stopwords_dir="builtin", lang=lang) == [share]
    with pytest.raises(RecipeError, match="stopwords_dir: builtin"):
        bind(["stopwords_filter"])


@pytest.mark.parametrize(
    ("lists", "params", "said"),
    [
        (None, {}, r"a folder without \*flagged_words\*\.json"),
        ({"en": ["x"]}, {"lang": "fr"}, "lang is 'fr', of which there is no list: choose all, en"),
        ({"en": "x"}, {}, "is not of the form"),
        ({"en": ["x"]}, {"words_aug_group_sizes": [0]}, "sizes start at 1"),
        ({"en": ["x"]}, {"tokenization": True}, "needs a sentencepiece model of 'en'"),
    ],
)
def test_mistakes_with_lists_are_named(tmp_path, lists, params, said):
    folder = str(tmp_path)
    if lists is not None:
        written(tmp_path, "flagged_words.json", lists)
    with pytest.raises(RecipeError, match=said):
        bind([{"flagged_words_filter": {"flagged_words_dir": folder, **params}}])


@cache
def sentencepiece_model() -> bytes:
    """A model that knows a few words."""
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat the cat"] * 9),
        model_writer=out,
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


def test_pieces_of_a_sentencepiece_model_are_words(tmp_path):
    import sentencepiece

    path = tmp_path / "data_juicer/models/en.sp.model"
    path.parent.mkdir(parents=True)
    path.write_bytes(sentencepiece_model())
    text = "the cat The 7 cat"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode_as_pieces(text)
    words = [word for piece in pieces if (word := piece.strip(special_characters()))]
    assert len(words) < len(pieces)
    assert measured("words_num_filter", [text, ""], tokenization=True) == [len(words), 0]
    given = {"tokenization": True, "sp_model": str(path), "lang": "fr"}
    assert measured("words_num_filter", [text], **given) == [len(words)]
    lower = [word.lower() for word in words]
    repeated = sum(lower.count(word) > 1 for word in lower) / len(lower)
    found = measured("word_repetition_filter", [text], tokenization=True, rep_len=1)
    assert found == [repeated]


def tokenizer_in(folder: Path) -> Path:
    """A `tokenizer.json` of two words that adds a special token, cuts off and fills up."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({"[X]": 0, "the": 1, "cat": 2}, unk_token="[X]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[X] $A", special_tokens=[("[X]", 0)])
    words.enable_truncation(3)
    words.enable_padding()
    folder.mkdir(parents=True, exist_ok=True)
    words.save(str(folder / "tokenizer.json"))
    return folder


def test_tokens_are_counted_without_special_ones_and_whole(tmp_path):
    folder = tokenizer_in(tmp_path / "tokenizer")
    texts = ["the cat the cat the", "", "cat\ud800 cat"]
    assert measured("token_num_filter", texts, hf_tokenizer=str(folder)) == [5, 0, 3]
    file = str(folder / "tokenizer.json")
    assert measured("token_num_filter", texts, hf_tokenizer=file) == [5, 0, 3]
    (bound,) = bind([{"alphanumeric_filter": {"tokenization": True, "hf_tokenizer": file}}])
    assert bound.op.stats == ("alpha_token_ratio",)
    shares = measured(
        "alphanumeric_filter", ["the cat 7", ""], tokenization=True, hf_tokenizer=file
    )
    assert shares == [2.0, 0.0]


def test_a_tokenizer_in_the_hubs_cache_is_found_by_its_name(tmp_path):
    cached = tmp_path / "hub/models--EleutherAI--pythia-6.9b-deduped"
    tokenizer_in(cached / "snapshots/abc")
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    assert measured("token_num_filter", ["the cat"]) == [2]


def test_a_tokenizer_that_is_not_here_is_told_with_the_remedy(tmp_path):
    with pytest.raises(RecipeError, match=r"`hf download EleutherAI/pythia-6\.9b-deduped"):
        bind(["token_num_filter"])
    bad = tmp_path / "tokenizer.json"
    bad.write_text("{}")
    with pytest.raises(RecipeError, match="no tokenizer that can be read"):
        measured("token_num_filter", ["a"], hf_tokenizer=str(bad))
