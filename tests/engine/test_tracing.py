"""Data-Juicer's trace files, from what a run wrote down."""

from __future__ import annotations

import pytest

from tests.engine.made import config, lines, write_rows
from vlforge.engine.local import run_process
from vlforge.engine.tracing import write_traces

OPERATORS = (
    {"clean_email_mapper": {}},
    {"text_length_filter": {"min_len": 8}},
    {"document_deduplicator": {}},
    {"words_num_filter": {"min_num": 1}},
)
ROWS = [
    {"id": 0, "text": "write to a.b@example.org today", "source": "web"},
    {"id": 1, "text": "short", "source": "web"},
    {"id": 2, "text": "the very same words", "source": "book"},
    {"id": 3, "text": "the very same words", "source": "web"},
    {"id": 4, "text": "tiny", "source": "web"},
    {"id": 5, "text": "the very same words", "source": "book"},
]


@pytest.fixture
def traced(tmp_path):
    def run(**keys):
        path = write_rows(tmp_path / "rows.jsonl", ROWS)
        recipe = config(path, *OPERATORS, open_tracer=True, **keys)
        funnel = run_process(recipe, tmp_path / "work")
        files = write_traces(tmp_path / "work", funnel, recipe)
        return {file.name: lines(file) for file in files}

    return run


def test_each_operator_that_changed_something_has_a_file_of_data_juicers_shape(traced):
    found = traced()
    assert found["sample_trace-clean_email_mapper.jsonl"] == [
        {"original_text": ROWS[0]["text"], "processed_text": "write to  today"}
    ]
    assert found["sample_trace-text_length_filter.jsonl"] == [
        {**ROWS[1], "__dj__stats__": {"text_len": 5}},
        {**ROWS[4], "__dj__stats__": {"text_len": 4}},
    ]
    assert found["duplicate-document_deduplicator.jsonl"] == [{"dup1": ROWS[2], "dup2": ROWS[3]}]
    assert set(found) == {
        "sample_trace-clean_email_mapper.jsonl", "sample_trace-text_length_filter.jsonl",
        "duplicate-document_deduplicator.jsonl",
    }  # fmt: skip


def test_fields_operators_and_numbers_may_be_chosen(traced):
    found = traced(trace_keys=("source", "id"), op_list_to_trace=("clean_email_mapper",))
    assert found == {
        "sample_trace-clean_email_mapper.jsonl": [
            {"source": "web", "id": 0, "original_text": ROWS[0]["text"],
             "processed_text": "write to  today"}
        ]
    }  # fmt: skip
    assert len(traced(trace_num=1)["sample_trace-text_length_filter.jsonl"]) == 1


def test_files_of_an_earlier_run_do_not_stay(traced, tmp_path):
    (tmp_path / "work" / "trace").mkdir(parents=True)
    (tmp_path / "work" / "trace" / "sample_trace-gone.jsonl").write_text("{}\n")
    traced()
    assert not (tmp_path / "work" / "trace" / "sample_trace-gone.jsonl").exists()
