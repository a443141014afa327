"""How much of which dataset a run sees, and in which order."""

import json
import random
from itertools import islice

import numpy as np
import pytest

from tests.tiny_model import write_data
from vlforge.data.mixing import DrawnMix, Order
from vlforge.training.config import Mixing, Mixture
from vlforge.training.mixture import (
    budget,
    check_mixing,
    draw_order,
    mixtures,
    samples_of,
    spelled_out,
)
from vlforge.types import DataError, RecipeError


def counts(parts, sizes, samples=None, **mixing) -> list[int]:
    """Rows of each dataset in the order of a run."""
    total = budget(parts, sizes, samples, None)
    order = draw_order(parts, sizes, total, 0, Mixing(**mixing))
    return np.bincount(np.searchsorted(np.cumsum(sizes), order, side="right")).tolist()


def test_a_path_with_a_number_says_rows_epochs_or_a_weight():
    assert mixtures("a.json") == (Mixture("a.json"),)
    assert mixtures(("a.json#1000", "b#2.5e", "c#0.7w", Mixture("d", 3.0))) == (
        Mixture("a.json", rows=1000),
        Mixture("b", epochs=2.5),
        Mixture("c", weight=0.7),
        Mixture("d", 3.0),
    )


def test_settings_are_spelled_out_so_that_paths_are_paths():
    assert spelled_out({"data": ["$a/b.json#10", "c.json"], "x": 1}) == {
        "data": [{"path": "$a/b.json", "rows": 10}, "c.json"],
        "x": 1,
    }
    assert spelled_out({"data": "a.json#2e"}) == {"data": [{"path": "a.json", "epochs": 2.0}]}
    assert spelled_out({"data": "a.json"}) == {"data": "a.json"}
    assert spelled_out({"objective": "tags"}) == {"objective": "tags"}


@pytest.mark.parametrize(
    ("data", "options", "wanted"),
    [
        (("a", "b"), {}, [10, 1000]),
        (("a", "b"), {"samples": 101}, [1, 100]),
        (("a#30", "b#0.5e"), {}, [30, 500]),
        (("a#30", "b#0.5e"), {"samples": 53}, [3, 50]),
        (("a#1w", "b#3w"), {"samples": 400}, [100, 300]),
        (("a", "b"), {"samples": 110, "temperature": 2.0}, [10, 100]),
    ],
)
def test_shares_are_met_to_the_row(data, options, wanted):
    assert counts(mixtures(data), [10, 1000], **options) == wanted


def test_epochs_of_a_stage_repeat_what_its_datasets_name():
    parts = mixtures(("a#30", "b"))
    assert budget(parts, [10, 20], None, 2.0) == 100
    assert budget(mixtures(("a", "b")), [10, 20], None, 1.5) == 45
    assert budget(parts, [10, 20], 7, None) == 7


@pytest.mark.parametrize(("draw", "batch"), [("per_sample", 1), ("per_batch", 4)])
def test_datasets_are_drawn_as_the_references_loader_does(draw, batch):
    parts, sizes = mixtures(("a#115w", "b#14w")), (50, 23)
    order = draw_order(parts, sizes, 400, 7, Mixing(draw=draw), batch=4)
    mix = DrawnMix(("a", "b"), sizes, (115.0, 14.0), 7, batch)
    assert order.tolist() == [(0, 50)[p.dataset] + p.row for p in islice(Order(mix), 400)]
    per_batch = order.reshape(100, 4) >= 50
    is_pure = (per_batch.all(1) | ~per_batch.any(1)).all()
    assert is_pure == (draw == "per_batch")


def test_drawn_datasets_without_weights_count_by_their_rows_and_temperature():
    parts, sizes = mixtures(("a", "b")), (100, 10_000)
    plain = draw_order(parts, sizes, 20_000, 0, Mixing("per_sample"))
    evened = draw_order(parts, sizes, 20_000, 0, Mixing("per_sample", temperature=2.0))
    assert 120 < (plain < 100).sum() < 280
    assert 1600 < (evened < 100).sum() < 2050


def test_captions_may_be_learned_as_blip_learns_them(tmp_path):
    path = write_data(tmp_path, rows=1)
    (plain,), (blip,) = (
        list(samples_of(Mixture(str(path), captions=how))) for how in ("as_is", "blip")
    )
    assert [turn.text for turn in plain.turns] == ["<image>\nWhat colour is it?", "It is red."]
    assert [turn.text for turn in blip.turns] == ["<image>\nWhat colour is it?", "it is red"]
    assert blip.images == plain.images


@pytest.mark.parametrize(
    ("parts", "mixing", "groups", "match"),
    [
        ((Mixture("a", 1.0, rows=3),), {}, False, "a: weight and rows are given"),
        (("a#1w", "b"), {}, False, "b has no weight while others do"),
        ((Mixture("a", rows=0),), {}, False, "a: rows is 0: take more than 0"),
        ((Mixture("a", -1.0), "b#1w"), {}, False, "a: weight is -1"),
        (("a", "b"), {"temperature": 0.0}, False, "temperature is 0"),
        (("a#1w", "b#1w"), {"temperature": 2.0}, False, "take one of the two"),
        (("a", "b"), {"draw": "per_batch"}, True, "group_by_length"),
    ],
)
def test_shares_that_contradict_each_other_are_refused(parts, mixing, groups, match):
    with pytest.raises(RecipeError, match=match):
        check_mixing(mixtures(parts), Mixing(**mixing), groups)


def test_a_dataset_that_would_come_to_nothing_is_named():
    with pytest.raises(DataError, match="a would get none of 3 rows"):
        draw_order(mixtures(("a#1w", "b#100w")), [5, 5], 3, 0)
    with pytest.raises(DataError, match="b has 3 rows, fewer than a batch of 4"):
        draw_order(mixtures(("a", "b")), [5, 3], 8, 0, Mixing("per_batch"), batch=4)


def lines_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def captions(count):
    return [
        {"id": str(n), "text": f"caption {n} <|__dj__eoc|>", "images": []} for n in range(count)
    ]


def test_a_dataset_is_cut_to_the_rows_that_the_contests_kit_draws(tmp_path):
    rows = captions(50)
    part = Mixture(lines_of(tmp_path / "data.jsonl", rows), at_most=12)
    random.seed(1024)
    wanted = {row["id"] for row in random.sample(rows, 12)}
    found = [sample.id for sample in samples_of(part)]
    assert set(found) == wanted
    assert found == sorted(found, key=int)
    whole = samples_of(Mixture(part.path, at_most=50))
    assert [sample.id for sample in whole] == [row["id"] for row in rows]


def test_rows_get_the_questions_of_the_file_they_were_made_from(tmp_path):
    rows = [
        {"id": str(n), "text": f"<__dj__image>\nnew {n} <|__dj__eoc|>", "images": ["a.png"]}
        for n in range(3)
    ]
    asked = [
        {
            "id": str(n),
            "image": "old.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is {n}?"},
                {"from": "gpt", "value": f"old {n}"},
            ],
        }
        for n in (2, 0)
    ]
    original = tmp_path / "stage_1.json"
    original.write_text(json.dumps(asked))
    data = lines_of(tmp_path / "data.jsonl", rows)
    part = Mixture(data, questions=str(original))
    bad = []
    found = list(samples_of(part, on_bad=lambda number, error: bad.append((number, str(error)))))
    assert [[turn.text for turn in sample.turns] for sample in found] == [
        ["<image>\nWhat is 0?", "new 0"],
        ["<image>\nWhat is 2?", "new 2"],
    ]
    assert [number for number, _ in bad] == [2]
    assert "row '1' is not in" in bad[0][1]
    with pytest.raises(DataError, match="which has the questions"):
        list(samples_of(part))


def test_rows_are_asked_with_the_prompts_of_a_file(tmp_path):
    prompts = tmp_path / "alignment.txt"
    prompts.write_text("<Img><ImageHere></Img> Describe it.\n<ImageHere> What is it?\nnothing\n")
    rows = [
        {"id": str(n), "text": f"<__dj__image>\nA caption {n}. <|__dj__eoc|>", "images": ["a.png"]}
        for n in range(20)
    ]
    part = Mixture(lines_of(tmp_path / "data.jsonl", rows), prompts=str(prompts))
    asked = [sample.turns[0].text for sample in samples_of(part)]
    assert set(asked) == {"<Img><image></Img> Describe it.", "<image> What is it?"}
    assert asked == [sample.turns[0].text for sample in samples_of(part)]
    assert [sample.turns[1].text for sample in samples_of(part)][3] == "A caption 3."
