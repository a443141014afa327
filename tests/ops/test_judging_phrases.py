"""Noun phrases are NLTK's, and the recall of those that a detector finds is Data-Juicer's."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.text.noun_phrases import nltk_tagger, noun_phrases, perceptron_of, words_of
from vlforge.types import Box, Drop, RecipeError

# Trained by NLTK 3.10 on eighty made sentences and cut to two digits.
TAGGER = str(Path(__file__).parent / "tagger")
PICTURES = Path(__file__).parent / "pictures"
A, CUT = str(PICTURES / "photo_a.jpg"), str(PICTURES / "truncated.jpg")
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"
NAME = "phrase_grounding_recall_filter"


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("a man's dog doesn't like cats.", "a man 's dog does n't like cats ."),
        ('he said "hello there" to me!', "he said `` hello there '' to me !"),
        ("3,000-year-old, $5.99 & 10% off (used).",
         "3,000-year-old , $ 5.99 & 10 % off ( used ) ."),
        ("the 'best' cat -- of all 'em", "the ' best ' cat -- of all ' em"),
        ("a u.s. model at 12:30, e.g. this...", "a u.s. model at 12:30 , e.g. this ..."),
        ("the dogs' bowl can't cannot wanna", "the dogs ' bowl ca n't can not wan na"),
    ],
)  # fmt: skip
def test_words_part_as_nltks_do(sentence, words):
    assert words_of(sentence) == words.split()


@pytest.mark.parametrize(
    ("sentence", "tags"),
    [
        ("a red dog sits on the old table .", "DT JJ NN VBZ IN DT JJ NN ."),
        ("the zebra eats a big cake near a young woman .", "DT NN VBZ DT JJ NN IN DT JJ NN ."),
        ("old horse", "JJ NN"),
    ],
)
def test_tags_are_those_that_nltk_gives_with_the_same_weights(sentence, tags):
    assert perceptron_of(TAGGER).tags(sentence.split()) == tags.split()


def test_a_phrase_is_determiner_adjectives_nouns_each_once_without_marks():
    text = "The red dog sits on a table. A red ball near the red dog holds the cake."
    assert noun_phrases(text, nltk_tagger(TAGGER)) == [
        "the red dog", "a table", "a red ball", "the cake"]  # fmt: skip


def test_marks_go_and_what_is_left_of_nothing_goes_too():
    tagged = [("``", "NN"), ("x", "VB"), ("dog", "NN"), ("'s", "NNS"), ("(", "CC"), ("cats", "NNS")]
    assert noun_phrases("", lambda _: tagged) == ["dog s", "cats"]


class Finder:
    """Gives fixed boxes and notes what it is asked for."""

    def __init__(self, *boxes):
        self.boxes = list(boxes)
        self.asked = []

    def ground(self, images, phrases):
        self.asked += [list(row) for row in phrases]
        return [self.boxes if row else [] for row in phrases]


def measured(rows, finder, **params):
    (bound,) = bind([{NAME: {"hf_owlvit": "m", "tagger": TAGGER, **params}}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    batch = Batch(items, Context(models=ScriptedModels(others={"m": finder})))
    return bound.op.measure(batch)[0]


def row(text, *images):
    return {"text": text, "images": list(images)}


TEXT = f"{IMAGE} a red dog sits on a table near a ball"
LEFT, RIGHT = (0, 0, 60, 60), (100, 0, 180, 60)
WHOLE = (0, 0, 200, 150)


@pytest.mark.parametrize(
    ("boxes", "params", "recall"),
    [
        ([(LEFT, 0.9, 0), (RIGHT, 0.5, 1)], {}, 2 / 3),
        ([(LEFT, 0.9, 0), (RIGHT, 0.5, 0)], {}, 1 / 3),
        ([(LEFT, 0.9, 0), (LEFT, 0.5, 1)], {}, 1 / 3),
        ([(LEFT, 0.9, 0), (LEFT, 0.5, 1)], {"iou_thr": 1.0}, 2 / 3),
        ([(WHOLE, 0.9, 0), (RIGHT, 0.5, 1)], {}, 1 / 3),
        ([(WHOLE, 0.9, 0)], {"large_area_ratio_thr": 1.0}, 1 / 3),
        ([(LEFT, 0.9, 0), (RIGHT, 0.5, 1)], {"conf_thr": 0.5}, 1 / 3),
        ([(LEFT, 0.9, 0), (LEFT, 0.8, 0), (LEFT, 0.7, 0), (RIGHT, 0.6, 1)], {}, 1 / 3),
        ([], {}, 0.0),
    ],
)
def test_recall_is_the_share_of_phrases_with_a_box_of_their_own(boxes, params, recall):
    finder = Finder(*(Box(*place, score, phrase) for place, score, phrase in boxes))
    assert measured([row(TEXT, A)], finder, **params) == [[pytest.approx(recall)]]
    assert finder.asked == [["a red dog", "a table", "a ball"]]


def test_chunks_have_their_own_phrases_and_one_without_any_misses_nothing():
    finder = Finder(Box(*LEFT, 0.9, 0))
    rows = [
        row(f"{IMAGE} the dog runs {EOC} {IMAGE}{EOC} alone {EOC}{IMAGE} a cat a man", A, A, A),
        row("no picture"),
        row(TEXT, CUT),
    ]
    one, two, three = measured(rows, finder)
    assert one == [1.0, 1.0, 0.5]
    assert two == []
    assert isinstance(three, Drop)
    assert three.reason == "truncated image"


def test_without_a_tagger_the_recipe_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.delenv("NLTK_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RecipeError, match="needs a tagger of English: set tagger to"):
        bind([NAME])
    with pytest.raises(RecipeError, match="tagger is 'nowhere', which does not hold averaged"):
        bind([{NAME: {"tagger": "nowhere"}}])


def test_nltks_own_data_folder_is_found(monkeypatch, tmp_path):
    place = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    for file in Path(TAGGER).iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    assert bind([NAME])
    (place / "averaged_perceptron_tagger_eng.classes.json").unlink()
    with pytest.raises(RecipeError, match=r"classes.json cannot be read"):
        measured([row(TEXT, A)], Finder(), tagger=str(tmp_path))
