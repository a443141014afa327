"""Languages are told by fastText's table; verbs and nouns by a parser."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.syntax import TextEntityDependencyFilter, count_actions, count_edges
from vlforge.types import RecipeError

TEXTS = {
    "en": "A brown dog runs across the wet grass near an old fence.",
    "zh": "一只棕色的小狗在草地上奔跑，旁边是一道旧木栏。",
    "de": "Ein brauner Hund läuft über das nasse Gras\nneben einem alten Zaun.",
}


def batch_of(texts) -> Batch:
    return Batch([Item(str(n), n, {"text": t}) for n, t in enumerate(texts)], Context())


def kept(**params) -> list[str]:
    out = run_in_memory(
        bind([{"language_id_score_filter": params}]), batch_of(TEXTS.values()).items, Context()
    )
    return [lang for lang, text in TEXTS.items() if any(i.row["text"] == text for i in out.kept)]


def test_texts_of_the_wanted_languages_stay():
    assert kept() == ["en", "zh", "de"]
    assert kept(lang="en") == ["en"]
    assert kept(lang=["zh", "de"], min_score=0.5) == ["zh", "de"]
    assert kept(lang="de", min_score=1.1) == []
    assert kept(lang="de", min_score=1.1, reversed_range=True) == ["de"]


def test_case_and_odd_characters_do_not_matter():
    (bound,) = bind(["language_id_score_filter"])
    texts = [TEXTS["en"], TEXTS["en"].upper(), "", "half \ud800 a character in this sentence"]
    langs, scores = bound.op.measure(batch_of(texts))
    assert langs[0] == langs[1] == langs[3] == "en"
    assert scores[0] == scores[1]
    assert scores[2] < 0.2


def test_a_dropped_row_names_its_language_or_its_score():
    (bound,) = bind([{"language_id_score_filter": {"lang": ["en", "de"]}}])
    drop = bound.op.fault("f", ["zh", 0.99])
    assert (drop.stat, drop.value, drop.bound) == ("lang", "zh", "en or de")
    drop = bound.op.fault("f", ["en", 0.5])
    assert (drop.stat, drop.value, drop.bound) == ("lang_score", 0.5, ">= 0.8")


def test_the_table_of_data_juicer_is_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_JUICER_MODELS_CACHE", str(tmp_path))
    with pytest.raises(RecipeError, match=r"takes .*lid\.176\.bin, which is not there"):
        bind([{"language_id_score_filter": {"compat": "data_juicer"}}])
    with pytest.raises(RecipeError, match=r"model_path is 'no\.bin', which is no file"):
        bind([{"language_id_score_filter": {"model_path": "no.bin"}}])
    (tmp_path / "lid.176.bin").write_text("no table")
    (bound,) = bind([{"language_id_score_filter": {"compat": "data_juicer"}}])
    with pytest.raises(RecipeError, match=r"lid\.176\.bin"):
        bound.op.measure(batch_of(["a"]))


@dataclass(eq=False)
class Word:
    """A parsed word, as spaCy shows one."""

    i: int
    pos_: str
    tag_: str
    dep_: str
    head: Word = field(init=False)


def parsed(*words: tuple[str, str, str, int]) -> list[Word]:
    """Words as (universal tag, fine tag, relation, place of the head)."""
    found = [Word(i, pos, tag, dep) for i, (pos, tag, dep, _) in enumerate(words)]
    for word, (*_, head) in zip(found, words, strict=True):
        word.head = found[head]
    return found


CATS_LIKE_OLD_CARS = parsed(
    ("NOUN", "NNS", "nsubj", 1),
    ("VERB", "VBP", "ROOT", 1),
    ("ADJ", "JJ", "amod", 3),
    ("NOUN", "NNS", "obj", 1),
    ("PUNCT", ".", "punct", 3),
)
A_BUS = parsed(("NOUN", "NN", "ROOT", 0))


def test_actions_are_verbs_by_both_tags():
    assert count_actions(CATS_LIKE_OLD_CARS) == 1
    assert count_actions(parsed(("AUX", "VBZ", "ROOT", 0), ("VERB", "MD", "aux", 0))) == 0


def test_edges_of_nouns_lead_to_their_head_and_from_their_words():
    assert count_edges(CATS_LIKE_OLD_CARS) == [1, 2]
    assert count_edges(A_BUS) == [0]


def test_texts_without_nouns_or_with_lonely_ones_go():
    op = object.__new__(TextEntityDependencyFilter)
    for name, value in (("min_dependency_num", 2), ("any_or_all", "all"), ("compat", "")):
        object.__setattr__(op, name, value)
    assert not op.keep([])
    assert op.fault("f", [[]]).reason == "no entity"
    assert not op.keep([1, 2])
    object.__setattr__(op, "any_or_all", "any")
    assert op.keep([1, 2])


@pytest.mark.parametrize("name", ["text_action_filter", "text_entity_dependency_filter"])
def test_a_missing_parser_is_told_at_load(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_JUICER_MODELS_CACHE", str(tmp_path))
    with pytest.raises(RecipeError, match=r"spaCy|spacy_model"):
        bind([{name: {"spacy_model": str(tmp_path / "nowhere")}}])
    with pytest.raises(RecipeError, match=f"{name}.lang is 'de'"):
        bind([{name: {"lang": "de"}}])
