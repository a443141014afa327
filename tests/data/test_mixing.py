"""Mixing: exact counts, orders that depend on the seed alone, and going on where one stopped."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vlforge.cli.mix import mix as mix_verb
from vlforge.data.formats.index import find
from vlforge.data.mixed import Mixed, Part
from vlforge.data.mixing import (
    DrawnMix,
    ExactMix,
    Order,
    Share,
    apportion,
    parse_share,
    shuffled,
    wanted_rows,
)
from vlforge.data.records import Fault, Picture, Record
from vlforge.types import DataError


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a.json", Share("a.json")),
        ("a.json#1000", Share("a.json", count=1000)),
        ("a.json#1,000", Share("a.json", count=1000)),
        ("a#b.json#7", Share("a#b.json", count=7)),
        ("a.json#2.0e", Share("a.json", epochs=2.0)),
        ("a.json#0.25w", Share("a.json", weight=0.25)),
        ("a#b.json", Share("a#b.json")),
        ("s/{00000..00012}.tar#5", Share("s/{00000..00012}.tar", count=5)),
    ],
)
def test_a_share_is_written_behind_the_path(text, share):
    assert parse_share(text) == share


def test_a_file_whose_name_ends_like_a_share_is_that_file(tmp_path):
    path = tmp_path / "a#5"
    path.write_text("")
    assert parse_share(str(path)) == Share(str(path))


@pytest.mark.parametrize("text", ["a#0", "a#0.0e", "a#0w", "a#1.5"])
def test_a_share_of_nothing_is_refused(text):
    with pytest.raises(DataError, match="a"):
        parse_share(text)


def test_counts_epochs_and_whole_datasets_are_met_to_the_row():
    shares = [Share("a", count=1000), Share("b", epochs=2.5), Share("c")]
    assert wanted_rows(shares, [10, 7, 3]) == [1000, 18, 3]


def test_temperature_evens_out_by_its_root():
    shares = [Share("a"), Share("b")]
    assert wanted_rows(shares, [9000, 1000], 400, temperature=2) == [300, 100]
    assert wanted_rows(shares, [9000, 1000], 400, temperature=1) == [360, 40]
    assert wanted_rows(shares, [9000, 1000], temperature=1e9) == [5000, 5000]


def test_weights_share_out_the_total():
    shares = [Share("a", weight=115), Share("b", weight=14)]
    assert wanted_rows(shares, [5, 5], 1290) == [1150, 140]


@pytest.mark.parametrize(
    ("shares", "rows", "more", "said"),
    [
        ([Share("a"), Share("b")], [4, 0], {}, "b has no rows"),
        ([], [], {}, "no datasets"),
        ([Share("a"), Share("b")], [10**6, 1], {"total": 10}, "b would get none of 10"),
        ([Share("a", epochs=0.1)], [3], {}, "none"),
        ([Share("a", weight=1), Share("b")], [4, 4], {}, "b has no weight"),
        ([Share("a", weight=1)], [4], {"temperature": 2}, "take one"),
        ([Share("a")], [4], {"temperature": 0}, "above 0"),
    ],
)
def test_what_cannot_be_mixed_is_said_in_one_line(shares, rows, more, said):
    with pytest.raises(DataError, match=said) as caught:
        wanted_rows(shares, rows, **more)
    assert "\n" not in str(caught.value)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9),
    st.integers(min_value=0, max_value=10**6),
)
def test_apportioning_meets_the_total_within_one_of_each_portion(portions, total):
    counts = apportion(portions, total)
    assert sum(counts) == total
    whole = sum(portions)
    assert all(abs(n - total * p / whole) < 1 + 1e-6 for n, p in zip(counts, portions, strict=True))


SIZES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 40)), min_size=1, max_size=5)


def exact(sizes, seed) -> ExactMix:
    rows, wanted = zip(*sizes, strict=True)
    return ExactMix(tuple(f"d{i}" for i in range(len(rows))), rows, wanted, seed)


@settings(deadline=None, derandomize=True)
@given(SIZES, st.integers(0, 99))
def test_an_exact_mix_shows_each_row_as_often_as_any_other_of_its_dataset(sizes, seed):
    mix = exact(sizes, seed)
    seen = Counter(mix.picks())
    assert sum(seen.values()) == len(mix)
    for dataset, (rows, wanted) in enumerate(sizes):
        counts = [seen[dataset, row] for row in range(rows)]
        assert sum(counts) == wanted
        assert max(counts) - min(counts) <= 1


@settings(deadline=None, derandomize=True)
@given(SIZES, st.integers(0, 99))
def test_a_row_comes_again_only_when_its_dataset_was_shown_whole(sizes, seed):
    shown: list[list[int]] = [[] for _ in sizes]
    for dataset, row in exact(sizes, seed).picks():
        shown[dataset].append(row)
    for order, (rows, _) in zip(shown, sizes, strict=True):
        for start in range(0, len(order), rows):
            one = order[start : start + rows]
            assert len(set(one)) == len(one)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SIZES, st.integers(0, 99))
def test_an_exact_order_goes_on_from_every_step(sizes, seed):
    whole = list(Order(exact(sizes, seed)))
    order = Order(exact(sizes, seed))
    for step in range(len(whole) + 1):
        assert list(Order.from_json(order.to_json())) == whole[step:]
        assert next(order, None) == (whole[step] if step < len(whole) else None)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(0, 99), st.booleans())
def test_a_drawn_order_goes_on_from_every_step(batch, seed, weighed):
    weights = (3.0, 1.0, 0.5) if weighed else None
    mix = DrawnMix(("a", "b", "c"), (5, 7, 16), weights, seed, batch)
    whole = list(islice(Order(mix), 60))
    order = Order(mix)
    for step in range(50):
        again = Order.from_json(order.to_json(), rows=[5, 7, 16])
        assert list(islice(again, 60 - step)) == whole[step:]
        assert next(order) == whole[step]


def test_a_batch_is_of_one_dataset_and_holds_no_row_twice():
    picks = list(islice(DrawnMix(("a", "b"), (10, 5), (2, 1), 3, 4).picks(), 4000))
    batches = [picks[at : at + 4] for at in range(0, 4000, 4)]
    assert all(len({p.dataset for p in b}) == 1 and len(set(b)) == 4 for b in batches)
    assert set(picks) == {(0, i) for i in range(10)} | {(1, i) for i in range(5)}
    share = sum(b[0].dataset == 0 for b in batches) / len(batches)
    assert share == pytest.approx(2 / 3, abs=0.05)


def test_one_draw_a_step_is_taken_even_of_a_single_dataset():
    generator = random.Random(5)
    wanted = [generator.choices([0, 1], [0.75, 0.25])[0] for _ in range(50)]
    assert list(islice(DrawnMix(("a", "b"), (1, 1), (3, 1), 5).draws(), 50)) == wanted
    assert list(islice(DrawnMix(("a",), (1,), None, 5).draws(), 50)) == [0] * 50


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": (0, 9)}, "a has no rows"),
        ({"rows": (3, 9), "batch": 4}, "a has 3 rows, fewer than a batch of 4"),
        ({"weights": (0.0, 0.0)}, "all weights are 0"),
        ({"weights": (-1.0, 2.0)}, "a: weight -1.0"),
        ({"batch": 0}, "batch of 0"),
    ],
)
def test_a_mix_that_would_run_dry_is_refused_at_once(change, said):
    with pytest.raises(DataError, match=said):
        DrawnMix(**{"names": ("a", "b"), "rows": (9, 9), **change})


def test_a_saved_order_of_other_data_is_refused():
    state = Order(ExactMix(("a", "b"), (4, 5), (4, 5))).to_json()
    with pytest.raises(DataError, match="b had 5 rows and has 6 now"):
        Order.from_json(state, rows=[4, 6])
    with pytest.raises(DataError, match="mixes 2 datasets"):
        Order.from_json(state, rows=[4])
    for broken in ("", "[]", "{}", '{"kind": "other", "step": 1}', '{"kind": "exact", "step": 1}'):
        with pytest.raises(DataError, match="no saved order"):
            Order.from_json(broken)


def test_orders_are_those_of_every_machine_and_version():
    assert list(shuffled(8, "0/1/2")) == EIGHT
    assert list(ExactMix(("a", "b"), (3, 2), (3, 4), 1).picks()) == SEVEN


EIGHT = [4, 1, 2, 3, 5, 6, 0, 7]
SEVEN = [(1, 0), (1, 1), (0, 2), (0, 1), (0, 0), (1, 1), (1, 0)]


def dataset(path, name, rows):
    lines = [json.dumps({"id": f"{name}{i}", "text": f"{name} says {i}"}) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def run(*words: object):
    import typer

    app = typer.Typer()
    app.command()(mix_verb)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_verb_writes_exact_amounts_and_the_same_file_for_a_seed(tmp_path):
    a = dataset(tmp_path / "a.jsonl", "a", 20)
    b = dataset(tmp_path / "b.jsonl", "b", 3)
    c = dataset(tmp_path / "c.jsonl", "c", 5)
    files = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        out = tmp_path / f"{name}.jsonl"
        said = run(f"{a}#11", f"{b}#2.0e", c, "-o", out, "--seed", seed)
        assert "Written 22 of 22 rows" in said.output
        files.append(out.read_bytes())
    assert files[0] == files[1] != files[2]
    got = Counter(row["id"] for row in rows_of(tmp_path / "one.jsonl"))
    assert Counter(key[0] for key in got.elements()) == {"a": 11, "b": 6, "c": 5}
    assert all(got[f"b{i}"] == 2 and got[f"c{i}"] == 1 for i in range(3))
    assert max(count for key, count in got.items() if key[0] == "a") == 1


def test_a_mix_of_two_formats_is_written_in_a_third_with_its_fields(tmp_path):
    a = dataset(tmp_path / "a.jsonl", "a", 2)
    llava = [
        {
            "id": "x",
            "image": "p.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat?"},
                {"from": "gpt", "value": "p"},
            ],
            "source": 2**70,
        }
    ]
    (tmp_path / "l.json").write_text(json.dumps(llava))
    run(a, tmp_path / "l.json", "-o", tmp_path / "out.json", "--to", "llava")
    got = {row["id"]: row for row in json.loads((tmp_path / "out.json").read_text())}
    assert set(got) == {"a0", "a1", "x"}
    assert got["x"] == llava[0]


def test_bad_rows_are_listed_and_cost_only_themselves(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nnot json\n{"text": "fine"}\n')
    said = run(path, "-o", tmp_path / "out.jsonl")
    assert "Written 2 of 2 rows" in said.output
    (drop,) = rows_of(tmp_path / "out.jsonl.dropped.jsonl")
    assert drop["line"] == 2
    assert "a.jsonl" in drop["value"]


def test_an_empty_dataset_and_itself_as_target_are_refused(tmp_path):
    a = dataset(tmp_path / "a.jsonl", "a", 2)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl has no rows"):
        run(a, tmp_path / "empty.jsonl", "-o", tmp_path / "o.jsonl", "--from", "dj")
    with pytest.raises(DataError, match="the same"):
        run(a, "-o", a)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_dataset_that_shrinks_between_the_two_looks_is_seen(tmp_path):
    a = dataset(tmp_path / "a.jsonl", "a", 5)
    mixed = Mixed([Part(Share(a), find("dj"))], tmp_path)
    dataset(tmp_path / "a.jsonl", "a", 4)
    with pytest.raises(DataError, match="had 5 records and has 4 now"):
        list(mixed.read(tmp_path))


def test_lone_surrogates_and_giant_numbers_survive(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d", "n": 1}\n{"text": "b", "n": 1e400}\n{"text":"c"}\n')
    mixed = Mixed([Part(Share(str(path)), find("dj"))], tmp_path)
    got = [r for r in mixed.read(tmp_path) if not isinstance(r, Fault)]
    assert {r.chunks for r in got} == {("\ud83d",), ("b",), ("c",)}


def with_pictures(path, format_name, rows):
    with find(format_name).writer(path) as writer:
        for i in range(rows):
            content = b"\xff\xd8\xff" + f"{path.name} {i}".encode()
            picture = Picture(f"{i}.jpg", content=content)
            writer.write(Record(str(i), (picture,), chunks=(f"<image>\n{path.stem} {i}",)))
    return path


@pytest.mark.parametrize("target", ["webdataset", "tsv_base64", "chatml_paddle"])
def test_pictures_in_the_data_travel_into_a_mix(tmp_path, target):
    tsv = with_pictures(tmp_path / "a.tsv", "tsv_base64", 4)
    tars = with_pictures(tmp_path / "shards", "webdataset", 3)
    out = tmp_path / "out"
    said = run(f"{tsv}#6", tars, "-o", out, "--to", target)
    assert "Written 9 of 9 rows" in said.output
    got = [r for r in find(target).read(out) if isinstance(r, Record)]
    seen = Counter(r.pictures[0].read()[3:].decode() for r in got)
    assert sum(seen.values()) == 9
    assert {key: seen[key] for key in seen if "shards" in key} == {
        f"shards {i}": 1 for i in range(3)
    }
    assert sorted(seen[f"a.tsv {i}"] for i in range(4)) == [1, 1, 2, 2]
