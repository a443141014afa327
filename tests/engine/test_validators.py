"""Checks of a dataset's first rows that a recipe asks for."""

from __future__ import annotations

import pytest

from tests.engine.made import write_rows
from vlforge.engine.config import ProcessConfig
from vlforge.engine.source import open_source
from vlforge.types import DataError, RecipeError

MESSAGES = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
TURNS = {"instruction": "", "query": "a", "response": "b", "history": [["c", "d"]]}


def check(tmp_path, rows, **validator):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    open_source(ProcessConfig(str(path), validators=(validator,)))


def test_datasets_that_are_as_asked_pass(tmp_path):
    check(tmp_path, [MESSAGES], type="swift_messages", min_turns=2)
    check(tmp_path, [TURNS], type="dj_conversation", max_turns=2)
    check(tmp_path, [{"a": 1}, {"a": None}], type="required_fields", required_fields=["a"],
          field_types={"a": "int"}, allow_missing=0.5)  # fmt: skip
    check(tmp_path, ["{broken", {"a": 1}], type="required_fields", required_fields=["a"])
    check(tmp_path, [{"a": 1}], type="code", supported_languages=["python"])


@pytest.mark.parametrize(
    ("rows", "validator", "said"),
    [
        ([{"a": 1}], {"required_fields": ["b"]}, "no field 'b'"),
        ([{"a": 1}, {"a": None}], {"required_fields": ["a"]}, "missing in 1 of the first 2 rows"),
        ([{"a": 1}], {"required_fields": ["a"], "field_types": {"a": "str"}}, "'a' is 1, not str"),
        ([MESSAGES, {"messages": "x"}], "swift_messages", "row 2: 'messages' is no list"),
        ([{"messages": []}], "swift_messages", "row 1: 0 messages, not 1 to 100"),
        ([{"messages": [{"role": "bot"}]}], "swift_messages", "has the role 'bot'"),
        ([{"messages": [{"role": "user"}]}], "swift_messages", "message 0 has no 'content'"),
        ([{**TURNS, "query": 1}], "dj_conversation", "'query' is no string"),
        ([{**TURNS, "history": [["a"]]}], "dj_conversation", "turn 0 of 'history'"),
    ],
)
def test_the_first_fault_is_named_with_its_row(tmp_path, rows, validator, said):
    if isinstance(validator, str):
        validator = {"type": validator}
    with pytest.raises(DataError, match=said) as raised:
        check(tmp_path, rows, **{"type": "required_fields", **validator})
    assert "\n" not in str(raised.value)


def test_only_the_first_rows_are_looked_at(tmp_path):
    rows = [MESSAGES] * 5 + [{"messages": None}]
    check(tmp_path, rows, type="swift_messages", sample_size=5)
    with pytest.raises(DataError, match="row 6"):
        check(tmp_path, rows, type="swift_messages", sample_size=6)


@pytest.mark.parametrize(
    ("validator", "said"),
    [
        ({"type": "nothing"}, "validator type 'nothing' is not known"),
        ({"type": "swift_messages", "turns": 3}, "unknown key 'turns'"),
        ({"type": "required_fields"}, "needs `required_fields`"),
        ({"type": "required_fields", "required_fields": ["a"], "field_types": {"a": "word"}},
         "of unknown type 'word'"),
    ],
)  # fmt: skip
def test_a_validator_that_is_not_there_is_refused(tmp_path, validator, said):
    with pytest.raises(RecipeError, match=said):
        check(tmp_path, [{"a": 1}], **validator)
