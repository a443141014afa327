"""Operators that must see all rows: streaming in blocks equals all rows at once, kills included."""

from __future__ import annotations

import random

import pytest

from tests.engine.made import config, contents, lines, write_rows
from vlforge.engine import outputs
from vlforge.engine.in_memory import run_in_memory
from vlforge.engine.local import run_process
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind

CUSTOM = "tests.engine.custom_ops:"
FIRST, COMMON = f"{CUSTOM}FirstWordDedup", f"{CUSTOM}CommonWordMapper"
GROUP, PAIRS = f"{CUSTOM}ScoreGrouper", f"{CUSTOM}WordPairMapper"
WORDS = "red green blue the a house tree boat river stone cloud hill".split()
RECIPES = {
    "near dedup between filters": (
        {"text_length_filter": {"min_len": 3}},
        FIRST,
        {"text_length_filter": {"min_len": 9}},
    ),
    "corpus mapper, then dedup": (COMMON, "document_deduplicator"),
    "grouper": ({"text_length_filter": {"min_len": 5}}, GROUP),
    "rows multiply before a dedup": (PAIRS, "document_deduplicator"),
    "rows multiply after a dedup": (
        "document_deduplicator",
        PAIRS,
        {"text_length_filter": {"min_len": 6}},
    ),
    "rows join their source": ("document_deduplicator", {PAIRS: {"keeps": True}}, COMMON),
    "a selector that marks": (
        {
            "topk_specified_field_selector": {
                "field_key": "score",
                "top_ratio": 0.4,
                "mark": "top",
            }
        },
        FIRST,
        {"specified_field_filter": {"field_key": "__dj__stats__.top", "target_value": [True]}},
    ),
    "several barriers": (
        COMMON,
        {"random_selector": {"select_ratio": 0.8}},
        FIRST,
        {"topk_specified_field_selector": {"field_key": "score", "topk": 5}},
    ),
}


def rows_of(count: int, seed: int = 0) -> list[dict]:
    """Rows of few words, many of them equal, some empty or refused."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((0, 1, 2, 3, 5)))) for _ in range(count)]
    for at in range(0, count, 97):
        texts[at] = f"bad {texts[at]}"
    return [{"id": str(n), "text": t, "score": n % 13} for n, t in enumerate(texts)]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_streaming_equals_all_rows_at_once(tmp_path, recipe):
    rows = rows_of(2600)
    settings = config(write_rows(tmp_path / "a.jsonl", rows), *recipe)
    funnel = run_process(settings, tmp_path / "out", workers=1)
    items = [Item(str(n), n + 1, row) for n, row in enumerate(rows)]
    ran = run_in_memory(bind(settings.process), items, Context())
    kept = lines(tmp_path / "out" / "data.jsonl")
    assert kept == [item.row for item in ran.kept]
    uids = [line["uid"].partition("-")[2] for line in lines(tmp_path / "out" / "stats.jsonl")]
    assert uids == [item.uid for item in ran.kept]
    assert funnel["rows_out"] == len(kept)
    before = funnel["rows_in"]
    for op in funnel["ops"]:
        assert op["rows_in"] == before
        before = op["rows_out"]
    assert before == len(kept)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_is_kept_and_dropped_accounts_for_every_row(tmp_path, recipe):
    settings = config(write_rows(tmp_path / "a.jsonl", rows_of(1500)), *recipe)
    funnel = run_process(settings, tmp_path / "out", workers=1)
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert len(dropped) == sum(op["dropped"] for op in funnel["ops"])
    added = sum(op["added"] for op in funnel["ops"])
    assert funnel["rows_in"] + added == funnel["rows_out"] + len(dropped)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_workers_do_not_change_a_byte(tmp_path, recipe):
    settings = config(write_rows(tmp_path / "a.jsonl", rows_of(6500)), *recipe)
    for workers in (1, 2):
        run_process(settings, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


class Stop(Exception):
    """A kill."""


def test_a_run_stopped_at_any_block_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "COMMIT_EVERY_S", 0.0)
    path = write_rows(tmp_path / "a.jsonl", rows_of(3300))
    settings = config(path, *RECIPES["several barriers"], PAIRS, "document_deduplicator")
    seen = []
    whole = tmp_path / "whole"
    run_process(settings, whole, workers=1, progress=lambda *told: seen.append(told))
    for calls in range(1, len(seen) + 1):
        left = [calls]

        def progress(*told, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise Stop

        out = tmp_path / str(calls)
        with pytest.raises(Stop):
            run_process(settings, out, workers=1, progress=progress)
        run_process(settings, out, workers=1)
        assert contents(out) == contents(whole)
        assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_a_repeat_is_one_drop_whatever_became_of_it_later(tmp_path):
    rows = [{"text": "one two three four"}] * 3
    settings = config(write_rows(tmp_path / "a.jsonl", rows), "document_deduplicator", PAIRS)
    funnel = run_process(settings, tmp_path / "out", workers=1)
    dedup, pairs = funnel["ops"]
    assert (dedup["dropped"], pairs["rows_in"], pairs["added"], pairs["rows_out"]) == (2, 1, 1, 2)
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert [row["row"]["text"] for row in dropped] == ["one two three four"] * 2
    assert [row["uid"].partition("-")[2] for row in dropped] == ["1", "2"]


def test_strict_stops_at_the_first_row_that_cannot_be_used(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "a good row"}, "{broken", {"text": "b"}])
    from vlforge.types import DataError

    with pytest.raises(DataError, match=r"a\.jsonl: line 2: read: broken line.*strict: false"):
        run_process(config(path, strict=True), tmp_path / "out")
    assert run_process(config(path), tmp_path / "out")["rows_out"] == 2
