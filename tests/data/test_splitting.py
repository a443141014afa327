"""Splitting: every row once, sizes to the row, strata alike, and nothing shared between parts."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vlforge.cli.split import split as split_verb
from vlforge.data.formats.index import find
from vlforge.data.records import Picture, Record
from vlforge.data.splitting import (
    PartSize,
    divide,
    linked,
    parse_part,
    part_sizes,
    round_table,
)
from vlforge.types import DataError


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train=0.9", PartSize("train", share=0.9)),
        ("val=5%", PartSize("val", share=0.05)),
        ("test=500", PartSize("test", count=500)),
        ("all=1.0", PartSize("all", share=1.0)),
        ("dev-1.b=1,000", PartSize("dev-1.b", count=1000)),
    ],
)
def test_a_part_is_a_share_or_a_count(text, part):
    assert parse_part(text) == part


@pytest.mark.parametrize("text", ["train", "train=", "train=x", "=0.5", "../x=5", "..=5", "a=-1"])
def test_other_words_are_refused(text):
    with pytest.raises(DataError):
        parse_part(text)


@pytest.mark.parametrize(
    ("words", "rows", "sizes"),
    [
        ("train=0.9 val=0.05 test=500", 10_000, [9000, 500, 500, 0]),
        ("train=0.9 val=0.05 test=500", 2_000, [1421, 79, 500, 0]),
        ("train=0.8 val=0.1 test=0.1", 11, [9, 1, 1, 0]),
        ("train=0.8 val=0.1", 1000, [800, 100, 100]),
        ("train=10 val=5", 20, [10, 5, 5]),
        ("a=1.0", 7, [7, 0]),
    ],
)
def test_counts_come_first_and_shares_divide_the_rest(words, rows, sizes):
    assert part_sizes([parse_part(word) for word in words.split()], rows) == sizes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("test=11", "ask for 11 rows and the dataset has 10"),
        ("a=0.9 b=0.2", r"add up to 1\.1"),
        ("a=0.9 a=0.1", "a is named twice"),
        ("", "no parts"),
    ],
)
def test_more_than_there_is_is_refused(words, said):
    with pytest.raises(DataError, match=said):
        part_sizes([parse_part(word) for word in words.split()], 10)


def brute_groups(rows: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest row that can be reached over shared keys."""
    groups = list(range(rows))
    for _ in range(rows):
        for key in {key for key, _ in pairs}:
            owners = [row for k, row in pairs if k == key]
            least = min(groups[row] for row in owners)
            for row in owners:
                groups[row] = least
    return groups


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 14)), max_size=25))
def test_links_reach_through_other_rows(pairs):
    keys, owners = array("Q", [k for k, _ in pairs]), array("q", [r for _, r in pairs])
    assert list(linked(15, keys, owners)) == brute_groups(15, pairs)


def dealt(groups, strata, sizes, seed=0) -> list[int]:
    parts = list(divide(groups, strata, sizes, seed))
    assert len(parts) == len(groups)
    together = defaultdict(set)
    for group, part in zip(groups, parts, strict=True):
        together[group].add(part)
    assert all(len(found) == 1 for found in together.values())
    return parts


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=80),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_no_group_is_torn_and_every_row_has_one_part(marks, portions, seed, random):
    rows = len(marks)
    first: dict[int, int] = {}
    groups = [first.setdefault(mark, row) for row, mark in enumerate(marks)]
    strata = [random.randrange(3) for _ in range(rows)]
    shares = [PartSize(f"p{i}", share=p / (sum(portions) or 1)) for i, p in enumerate(portions)]
    sizes = part_sizes(shares, rows)
    parts = dealt(groups, strata, sizes, seed)
    assert set(parts) <= set(range(len(sizes)))
    assert parts == dealt(groups, strata, sizes, seed)
    largest = max(Counter(groups).values())
    got = Counter(parts)
    assert all(abs(got[part] - size) < largest for part, size in enumerate(sizes)) or largest > 1
    if largest == 1:
        assert [got[part] for part in range(len(sizes))] == sizes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.randoms(use_true_random=False))
def test_sizes_are_met_to_the_row_where_single_rows_fill_them(seed, random):
    groups: list[int] = []
    for size in [random.randint(2, 5) for _ in range(20)] + [1] * 30:
        groups += [len(groups)] * size
    rows = len(groups)
    sizes = [rows - 25, 10, 15]
    parts = dealt(groups, [0] * rows, sizes, seed)
    assert [Counter(parts)[part] for part in range(3)] == sizes


def test_groups_are_exchanged_until_sizes_are_met():
    groups = [0] * 5 + [5] * 5 + [10] * 4 + [14] * 4 + [18] * 3 + [21] * 3
    for sizes in ([12, 12], [13, 11], [8, 16], [15, 9], [8, 8, 8], [9, 10, 5]):
        parts = dealt(groups, [0] * 24, sizes)
        assert [Counter(parts)[part] for part in range(len(sizes))] == sizes, sizes


def test_where_groups_forbid_a_size_the_nearest_is_taken():
    parts = dealt([0, 0, 2, 2, 4, 4], [0] * 6, [3, 3])
    assert sorted(Counter(parts).values()) == [2, 4]


@pytest.mark.parametrize("seed", range(5))
def test_strata_are_spread_alike_within_a_row(seed):
    strata = [0] * 700 + [1] * 200 + [2] * 95 + [3] * 5
    parts = dealt(list(range(1000)), strata, [900, 60, 40], seed)
    seen = Counter(zip(strata, parts, strict=True))
    for stratum, count in Counter(strata).items():
        for part, share in enumerate((0.9, 0.06, 0.04)):
            assert abs(seen[stratum, part] - share * count) < 1.001


def test_strata_are_spread_alike_where_rows_come_in_groups():
    groups = [row - row % 4 for row in range(4000)]
    strata = [row // 4 % 2 for row in range(4000)]
    parts = dealt(groups, strata, [3600, 400])
    seen = Counter(zip(strata, parts, strict=True))
    assert seen[0, 1] == seen[1, 1] == 200


def test_a_seed_decides_which_rows():
    rows = list(range(100))
    assert dealt(rows, [0] * 100, [50, 50], 1) == dealt(rows, [0] * 100, [50, 50], 1)
    assert dealt(rows, [0] * 100, [50, 50], 1) != dealt(rows, [0] * 100, [50, 50], 2)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_a_rounded_table_adds_up_both_ways(wishes, random):
    rows = [round(sum(line)) for line in wishes]
    columns = [0, 0, 0]
    for _ in range(sum(rows)):
        columns[random.randrange(3)] += 1
    table = round_table(wishes, rows, columns)
    assert [sum(line) for line in table] == rows
    assert [sum(column) for column in zip(*table, strict=True)] == columns


def run(*words: object):
    app = typer.Typer()
    app.command()(split_verb)
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path) -> list[dict]:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_verb_writes_every_row_once_and_the_same_for_a_seed(tmp_path):
    rows = [
        {"id": i, "text": f"text {i}", "images": [], "source": "ab"[i % 4 == 0]} for i in range(200)
    ]
    source = write(tmp_path / "rows.jsonl", rows)
    words = [source, "train=0.9", "val=0.05", "test=20", "--by", "source"]
    said = run(*words)
    assert said.exit_code == 0
    got = {name: rows_of(tmp_path / f"rows-{name}.jsonl") for name in ("train", "val", "test")}
    assert {name: len(found) for name, found in got.items()} == {"train": 171, "val": 9, "test": 20}
    assert sorted(r["id"] for found in got.values() for r in found) == list(range(200))
    assert all(row == rows[row["id"]] for found in got.values() for row in found)
    assert Counter(row["source"] for row in got["test"]) == {"a": 15, "b": 5}
    before = (tmp_path / "rows-test.jsonl").read_bytes()
    run(*words)
    assert (tmp_path / "rows-test.jsonl").read_bytes() == before
    run(*words, "--seed", 1)
    assert (tmp_path / "rows-test.jsonl").read_bytes() != before
    assert not list(tmp_path.glob("*.dropped.jsonl"))


def test_pictures_copies_texts_and_groups_are_on_one_side(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([i]) * 50)
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "3.jpg").read_bytes())

    def row(i, image, text, user):
        says = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": text}]
        return {"id": str(i), "image": image, "conversations": says, "user": user}

    rows = [row(i, f"{i}.jpg", f"answer {i}", f"u{i // 2}") for i in range(40)]
    rows += [row(40, "copy.jpg", "other", None), row(41, "./4.jpg", "one more", None)]
    rows += [row(42, "gone.jpg", "answer 5", None), row(43, "gone.jpg", "lost", None)]
    source = tmp_path / "l.json"
    source.write_text(json.dumps(rows))
    for seed in range(6):
        out = tmp_path / f"out{seed}"
        words = ["a=0.5", "b=0.5", "--group", "user", "--group", "image", "--seed", seed]
        run(source, *words, "--out", out)
        side = {r["id"]: name for name in "ab" for r in rows_of(out / f"{name}.json")}
        assert len(side) == 44
        assert all(side[str(i)] == side[str(i + 1)] for i in range(0, 40, 2))
        assert side["40"] == side["3"]
        assert side["41"] == side["4"]
        assert side["42"] == side["5"] == side["43"]
        assert Counter(side.values()) == {"a": 22, "b": 22}


def test_links_can_be_ignored(tmp_path):
    source = write(tmp_path / "r.jsonl", [{"id": i, "text": "the same"} for i in range(10)])
    assert "a has 10 rows for 5" in run(source, "a=5", "b=5").output
    run(source, "a=5", "b=5", "--ignore", "text")
    assert len(rows_of(tmp_path / "r-a.jsonl")) == len(rows_of(tmp_path / "r-b.jsonl")) == 5


def test_bad_rows_are_listed_and_rows_of_no_part_are_told(tmp_path):
    path = tmp_path / "r.jsonl"
    good = [json.dumps({"id": i, "text": f"t{i}"}) for i in range(10)]
    path.write_text("\n".join([*good[:5], "not json", *good[5:]]) + "\n")
    said = run(path, "a=0.5", "b=0.2")
    assert "In no part: 3 rows" in said.output
    (drop,) = rows_of(tmp_path / "r-a.jsonl.dropped.jsonl")
    assert drop["line"] == 6


def test_a_field_nobody_has_is_refused_with_those_there_are(tmp_path):
    source = write(tmp_path / "r.jsonl", [{"text": "a", "lang": "en", "meta": {"user": 1}}])
    with pytest.raises(DataError, match=r"no row has a field 'user'; fields are lang, meta"):
        run(source, "a=1.0", "--group", "user")
    assert run(source, "a=1.0", "--group", "meta.user", "--by", "lang").exit_code == 0


def test_an_empty_dataset_is_refused(tmp_path):
    source = write(tmp_path / "r.jsonl", [])
    with pytest.raises(DataError, match="no rows to split"):
        run(source, "a=1.0", "--from", "dj")


def test_another_format_is_written(tmp_path):
    source = write(tmp_path / "r.jsonl", [{"id": str(i), "text": f"t{i}"} for i in range(10)])
    run(source, "a=0.5", "b=0.5", "--to", "llava", "-o", tmp_path / "parts")
    got = [r["id"] for name in "ab" for r in rows_of(tmp_path / "parts" / f"{name}.json")]
    assert sorted(got) == [str(i) for i in range(10)]


def test_equal_pictures_in_the_data_are_on_one_side(tmp_path):
    source = tmp_path / "shards"
    with find("webdataset").writer(source) as writer:
        for i in range(20):
            picture = Picture(content=b"\xff\xd8\xff" + bytes([i % 10]) * 9)
            writer.write(Record(str(i), (picture,), chunks=(f"<image>\ntext {i}",)))
    run(source, "a=10", "b=10")
    sides = [
        {r.pictures[0].content for r in find("webdataset").read(tmp_path / f"shards-{name}")}
        for name in "ab"
    ]
    assert len(sides[0]) == len(sides[1]) == 5
    assert not sides[0] & sides[1]
