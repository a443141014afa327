"""Tokens and tool calls of logged conversations become tags."""

from __future__ import annotations

import pytest

from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError


def tags(name, row, **params):
    """The tags that an operator gives one row."""
    out = run_in_memory(bind([{name: params}]), [Item("0", 1, row)], Context())
    return out.kept[0].row["__dj__meta__"]


def tokens(row, **params):
    """Prompt, completion and total tokens of one row."""
    found = tags("usage_counter_mapper", row, **params)
    return tuple(found[f"{name}_tokens"] for name in ("prompt", "completion", "total"))


def usage(prompt, completion, total=None):
    """What a model's answer says of its tokens."""
    found = {"prompt_tokens": prompt, "completion_tokens": completion}
    return found if total is None else {**found, "total_tokens": total}


def test_equal_counts_are_one_call_unless_told_otherwise():
    row = {"choices": [{"usage": usage(1, 2, 3)}, {"usage": usage(1, 2, 3)}]}
    assert tokens(row) == (1, 2, 3)
    assert tokens(row, dedupe_identical_usage=False) == (2, 4, 6)
    assert tokens(row, dedupe_identical_usage=False, compat="data_juicer") == (2, 4, 3)


def test_a_missing_total_is_worked_out_and_no_tokens_have_none():
    row = {"usage": usage(5, 1), "choices": [{"message": {"usage": usage(2, 2, 9)}}]}
    assert tokens(row) == (7, 3, 15)
    assert tokens({"usage": None}) == (0, 0, None)
    assert tokens({}) == (0, 0, None)


def test_other_names_of_the_counts_are_known():
    other = {"input_tokens": 3, "output_tokens": 4}
    assert tokens({"usage": other}) == (3, 4, 7)
    assert tokens({"usage": other}, compat="data_juicer") == (0, 0, None)
    assert tokens({"response_metadata": {"usage_metadata": other}}) == (3, 4, 7)
    assert tokens({"answer": {"usage": usage(1, 1)}}, usage_key="answer.usage") == (1, 1, 2)


def test_counts_that_are_no_numbers_count_nothing():
    assert tokens({"usage": usage("12", float("inf"))}) == (12, 0, 12)
    assert tokens({"usage": usage(True, [3]), "choices": ["x", None]}) == (0, 0, None)


def test_the_row_that_came_in_keeps_its_tags():
    row = {"usage": usage(1, 1), "__dj__meta__": {"lang": "en"}}
    assert tags("usage_counter_mapper", row)["lang"] == "en"
    assert row["__dj__meta__"] == {"lang": "en"}


def test_tools_fail_by_their_words_and_succeed_otherwise():
    answers = ["OK", "42", "Error: no", "", "调用失败", "未失败", "not  found"]
    row = {"messages": [{"role": "Tool", "content": answer} for answer in answers]}
    found = tags("tool_success_tagger_mapper", row)
    results = [entry["result"] for entry in found["tool_results"]]
    assert results == ["success", "success", "error", "unknown", "error", "success", "error"]
    assert found["tool_success_ratio"] == 0.5
    assert found["tool_unknown_count"] == 1


def test_answers_in_parts_are_read_as_one_text():
    parts = [{"type": "text", "text": " a "}, "b", {"type": "image", "url": "é"}, 7]
    row = {"messages": [{"role": "tool", "content": parts}]}
    (entry,) = tags("tool_success_tagger_mapper", row)["tool_results"]
    assert entry["content_preview"] == 'a\nb\n{"type": "image", "url": "é"}'


def test_roles_and_patterns_can_be_chosen():
    row = {"messages": [{"role": "function", "content": "oops" * 100}, "x", {"role": None}]}
    found = tags("tool_success_tagger_mapper", row, tool_role_names=["Function"],
                 error_patterns=["oo"], store_per_tool_results=False)  # fmt: skip
    assert (found["tool_fail_count"], found["tool_success_count"]) == (1, 0)
    assert "tool_results" not in found
    as_theirs = tags("tool_success_tagger_mapper", row, tool_role_names=["Function"],
                     compat="data_juicer")  # fmt: skip
    assert as_theirs["tool_success_ratio"] is None


def test_a_broken_pattern_is_refused():
    with pytest.raises(RecipeError, match="success_patterns holds"):
        bind([{"tool_success_tagger_mapper": {"success_patterns": ["("]}}])
