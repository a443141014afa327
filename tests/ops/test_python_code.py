"""The user's own Python as mappers: rows in, rows out, mistakes named by line."""

from __future__ import annotations

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError

ROWS = [{"id": 1, "text": "one", "n": 2, "m": {"k": [1]}}, {"id": 2, "text": "two", "n": 0}]


def ran(name, params, rows=ROWS, stats=None):
    """What is kept and what is dropped when one operator runs over some rows."""
    items = [Item(str(at), at + 1, row, dict(stats or {})) for at, row in enumerate(rows)]
    return run_in_memory(bind([{name: params}]), items, Context())


def by_lambda(text, **others):
    """Kept rows and drop records of a lambda."""
    out = ran("python_lambda_mapper", {"lambda_str": text, **others})
    return [item.row for item in out.kept], [drop for _, drop in out.dropped]


def test_what_a_lambda_leaves_out_stays():
    rows, _ = by_lambda("lambda s: {'text': s['text'].upper()}")
    assert rows == [{**ROWS[0], "text": "ONE"}, {**ROWS[1], "text": "TWO"}]
    assert by_lambda("lambda s: (s.pop('n'), s)[1]")[0] == ROWS


def test_changes_in_place_reach_a_copy_only():
    rows, _ = by_lambda("lambda s: (s['m'] and s['m']['k'].append(2), s)[1]")
    assert rows[0]["m"] == {"k": [1, 2]}
    assert ROWS[0]["m"] == {"k": [1]}
    assert "m" not in rows[1]


def test_a_row_that_is_not_changed_stays_the_same_object():
    out = ran("python_lambda_mapper", {"lambda_str": "lambda s: dict(s)"})
    assert [item.row is row for item, row in zip(out.kept, ROWS, strict=True)] == [True, True]


def test_one_and_true_are_a_change():
    assert by_lambda("lambda s: dict(s, n=bool(s['n']))")[0][0]["n"] is True


def test_an_error_costs_its_row_and_names_the_line():
    rows, drops = by_lambda("lambda s: dict(\n  s, share=1 / s['n'])")
    assert [row["id"] for row in rows] == [1]
    assert drops[0].reason == "ZeroDivisionError in lambda_str, line 2"
    assert drops[0].value == "division by zero"


@pytest.mark.parametrize("gives", ["5", "None", "[s]"])
def test_what_is_no_dict_is_named(gives):
    _, drops = by_lambda(f"lambda s: {gives}")
    assert [drop.reason[:5] for drop in drops] == ["gave "] * 2
    assert drops[0].reason.endswith("not a dict")


def test_values_that_no_row_can_hold_are_named():
    rows, drops = by_lambda("lambda s: dict(s, t=(1, {3, 2}), o=object() if s['n'] else 0)")
    assert rows == [{**ROWS[1], "t": [1, [2, 3]], "o": 0}]
    assert drops[0].reason == "gave an object for 'o', which no row can hold"


def test_a_batched_lambda_sees_columns_and_may_give_a_few():
    rows, _ = by_lambda("lambda b: {'text': [t * 2 for t in b['text']]}", batched=True)
    assert [row["text"] for row in rows] == ["oneone", "twotwo"]
    assert [row["n"] for row in rows] == [2, 0]


def test_in_a_failing_batch_only_the_bad_row_is_lost():
    rows, drops = by_lambda("lambda b: dict(b, q=[1 // n for n in b['n']])", batched=True)
    assert [row["q"] for row in rows] == [0]
    assert drops[0].reason == "ZeroDivisionError in lambda_str, line 1"


def test_a_batch_may_grow_and_shrink():
    out = ran(
        "python_lambda_mapper",
        {"lambda_str": "lambda b: {k: v * b['n'][0] for k, v in b.items()}", "batched": True},
    )
    assert [(item.uid, item.row["id"]) for item in out.kept] == [("0/1", 1), ("0/2", 1)]
    assert [drop.reason for _, drop in out.dropped] == ["gave no row"]


def test_a_batch_changed_in_place_is_accepted_but_for_compat():
    text = "lambda b: (b.update(text=[t + '!' for t in b['text']]), b)[1]"
    assert [row["text"] for row in by_lambda(text, batched=True)[0]] == ["one!", "two!"]
    rows, drops = by_lambda(text, batched=True, compat="data_juicer")
    assert not rows
    assert drops[0].reason == "gave its own argument back, which Data-Juicer refuses"


def test_batches_have_at_most_batch_size_rows():
    rows, _ = by_lambda("lambda b: {'n': [len(b['n'])] * len(b['n'])}", batched=True, batch_size=1)
    assert [row["n"] for row in rows] == [1, 1]


def test_statistics_can_be_read_and_added():
    text = "lambda s: (s['__dj__stats__'].update(twice=2 * s['__dj__stats__']['x']), s)[1]"
    out = ran("python_lambda_mapper", {"lambda_str": text}, stats={"x": 3})
    assert [item.stats for item in out.kept] == [{"x": 3, "twice": 6}] * 2
    assert "__dj__stats__" not in out.kept[0].row


def test_rows_nested_beyond_reason_cost_themselves_alone():
    deep = []
    for _ in range(3000):
        deep = [deep]
    out = ran("python_lambda_mapper", {"lambda_str": "lambda s: s"}, [{"text": "a"}, {"x": deep}])
    assert [item.row for item in out.kept] == [{"text": "a"}]
    assert out.dropped[0][1].reason.startswith("RecursionError")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lambda s: (", "is no Python"),
        ("print", "is no lambda"),
        ("lambda: {}", "exactly one argument"),
        ("lambda a, b=1: a", "exactly one argument"),
        ("lambda s: dict(s, text=re.sub('a', 'b', s['text']))", "'re', which a lambda cannot see"),
    ],
)
def test_a_wrong_lambda_is_refused_before_the_run(text, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"python_lambda_mapper": {"lambda_str": text}}])


def test_names_inside_a_lambda_are_its_own():
    rows, _ = by_lambda("lambda s: {'q': [len(x) for x in s['text'] if (y := x)] + [y]}")
    assert rows[0]["q"] == [1, 1, 1, "e"]


def test_a_file_is_run_once_and_keeps_its_state(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Seen:\n    rows: int = 0\n"
        "seen = Seen()\n"
        "def number(sample):\n"
        "    seen.rows += 1\n"
        "    sample['number'] = seen.rows\n"
        "    return sample\n"
    )
    params = {"file_path": str(path), "function_name": "number"}
    assert [i.row["number"] for i in ran("python_file_mapper", params).kept] == [1, 2]
    assert [i.row["number"] for i in ran("python_file_mapper", params).kept] == [3, 4]


def test_an_error_in_a_file_names_file_and_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def process_single(sample):\n    return sample['nothing']\n")
    out = ran("python_file_mapper", {"file_path": str(path)})
    assert out.dropped[0][1].reason == "KeyError in mine.py, line 2"


def test_without_lambda_or_file_rows_stay():
    for name in ("python_lambda_mapper", "python_file_mapper"):
        assert [item.row for item in ran(name, {}).kept] == ROWS


@pytest.mark.parametrize(
    ("source", "params", "said"),
    [
        ("def f(s): return s", {}, "has no function 'process_single'"),
        ("def f(a, b): return a", {"function_name": "f"}, "takes 2 arguments"),
        ("x = 1\nraise ValueError('no')", {}, "line 2: ValueError: no"),
        ("def f(:", {}, "line 1: SyntaxError"),
        ("def process_single(s): return s", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_wrong_file_is_refused_before_the_run(tmp_path, source, params, said):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(RecipeError, match=said):
        bind([{"python_file_mapper": {"file_path": str(path), **params}}])


@pytest.mark.parametrize("name", ["none.py", "data.txt"])
def test_a_missing_or_other_file_is_refused(tmp_path, name):
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(RecipeError, match=r"cannot be read|is not a \.py file"):
        bind([{"python_file_mapper": {"file_path": str(tmp_path / name)}}])
