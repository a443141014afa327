"""Short tasks: sentences, classes, plain answers, and a second look for private data."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asking import replies, run
from vlforge.ops.bind import bind
from vlforge.ops.rows.tags import META
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Drop, RecipeError

SENTENCE = {"task_sentence": "Make it rhyme.", "text_key_second": "rhyme"}


def test_a_sentence_is_written_anew_beside_the_old_one():
    ((row, none), writer) = run(
        "sentence_augmentation_mapper",
        [{"text": "A cat."}, {}],
        replies("", '"A cat, a hat."'),
        **SENTENCE,
    )
    assert (row["text"], row["rhyme"]) == ("A cat.", "A cat, a hat.")
    assert writer.asked[0].turns[-1].text == 'The sentence: "A cat."\nMake it rhyme.'
    assert none == Drop("", "no text to ask about")
    (bound,) = bind([{"sentence_augmentation_mapper": {**SENTENCE, "num_beams": 4}}])
    drawing = bound.op.drawing()
    assert (drawing.temperature, drawing.beams, drawing.max_new_tokens) == (0.0, 4, 256)


@pytest.mark.parametrize("key", list(SENTENCE))
def test_a_sentence_needs_a_task_and_a_field(key):
    with pytest.raises(RecipeError, match=f"{key} is empty"):
        bind([{"sentence_augmentation_mapper": {**SENTENCE, key: None}}])


@pytest.mark.parametrize(
    ("reply", "params", "tags"),
    [
        ("**Maths.**", {}, ["maths"]),
        ("poetry", {}, None),
        ("poetry", {"compat": "data_juicer"}, ["poetry"]),
        ("code", {"prompt": "Which of {tag_list}? {text}"}, ["code"]),
    ],
)
def test_a_text_is_sorted_into_a_class_of_the_list(reply, params, tags):
    ((row,), writer) = run(
        "text_tagging_by_prompt_mapper", [{"text": "1 + 1"}], replies(reply),
        tag_list=["maths", "code"], **params,
    )  # fmt: skip
    if tags is None:
        assert row.reason == "class is none of the list"
        assert len(writer.asked) == 3
    else:
        assert row["__dj__text_tags__"] == tags
    asked = writer.asked[0].turns[-1].text
    assert (asked == "Which of maths, code? 1 + 1") == ("prompt" in params)


def test_a_class_as_data_juicer_writes_it():
    ((row,), _) = run("text_tagging_by_prompt_mapper", [{"text": "x"}], replies("【数学】。"))
    assert row["__dj__text_tags__"] == ["数学"]


@pytest.mark.parametrize("op", ["llm_ray_vllm_engine_pipeline", "vlm_ray_vllm_engine_pipeline"])
def test_pipelines_answer_queries(op):
    rows = [{"query": "Why?", "images": ["a.jpg"]}, {"query": ""}]
    (row, none), writer = run(op, rows, replies("", " Because. "), system_prompt="Be brief.")
    assert row["response"] == "Because."
    assert none.reason == "no text to ask about"
    is_shown = op.startswith("vlm")
    assert [t.text for t in writer.asked[0].turns] == ["Be brief.", "<image>\n" * is_shown + "Why?"]
    assert writer.asked[0].images == (("a.jpg",) if is_shown else ())
    assert row[PROVENANCE][0]["op"] == op
    (bound,) = bind([{op: {"engine_kwargs": {"x": 1}}}])
    assert bound.notes[0] == f"{op}: without effect here: engine_kwargs"
    assert "vllm serve Qwen" in bound.notes[1]
    with pytest.raises(RecipeError, match="api_key does not belong"):
        bind([{op: {"api_key": "x"}}])


FOUND = {"suspected": [{"field": "text", "category": "name", "evidence": "Ann Lee"},
                       {"field": "text", "category": "name", "evidence": "Nobody"},
                       {"field": "messages_excerpt", "category": "key", "evidence": "k-1"}],
         "likely_clean": False}  # fmt: skip
PRIVATE = {
    "text": "Dr. Ann Lee has the number 12345678.",
    "messages": [
        {"role": "user", "content": "my key is k-1"},
        {"role": "assistant", "content": [{"type": "text", "text": "k-1 noted"}]},
    ],
}
PII = "pii_llm_suspect_mapper"


def test_what_a_model_suspects_is_told_among_the_tags():
    ((row,), writer) = run(PII, [PRIVATE], replies("no", json.dumps(FOUND)))
    told = row[META]["pii_llm_suspect"]
    assert [find["evidence"] for find in told["suspected"]] == ["Ann Lee", "k-1"]
    assert told["fields_inspected"] == ["text", "messages_excerpt"]
    assert not told["likely_clean"]
    assert row["text"] == PRIVATE["text"]
    assert "[user]my key is k-1\n[assistant]k-1 noted" in writer.asked[0].turns[-1].text
    assert PROVENANCE in row


@pytest.mark.parametrize(
    ("mode", "text", "messages"),
    [
        (
            "evidence",
            "Dr. [X] has the number 12345678.",
            ["my key is [X]", [{"type": "text", "text": "[X] noted"}]],
        ),
        ("whole_field", "[X]", ["[X]"]),
    ],
)
def test_finds_are_replaced(mode, text, messages):
    ((row,), _) = run(PII, [PRIVATE], replies(json.dumps(FOUND)), redaction_mode=mode,
                      redaction_placeholder="[X]")  # fmt: skip
    assert row["text"] == text
    assert [message["content"] for message in row["messages"]] == messages


@pytest.mark.parametrize(
    ("text", "is_asked"),
    [
        ("A quiet day at the sea.", False),
        ("Call 13800138000 now", True),
        ("write to a@b.c please", True),
        ("his password was changed", True),
        ("the passwords of old films", False),
        ("我叫张三，想咨询", True),
        ("Mrs. Miller came", True),
        ("王小明先生，您好", True),
        ("文件都放在内网机器上", True),
        ("", False),
    ],
)
def test_only_rows_with_a_sign_are_asked_about(text, is_asked):
    reply = '{"suspected": []}'
    ((row,), writer) = run(PII, [{"text": text}], replies(reply))
    assert len(writer.asked) == is_asked
    told = row[META]["pii_llm_suspect"]
    reason = "heuristic_gate" if text else "no_inspectable_text"
    assert told.get("reason") == (None if is_asked else reason)
    assert (PROVENANCE in row) == is_asked
    ((_,), writer) = run(PII, [{"text": text}], replies(reply), gate_mode="always")
    assert len(writer.asked) == bool(text)


def test_a_row_that_cannot_be_judged_is_dropped_or_marked():
    rows = [PRIVATE, {**PRIVATE, META: {"pii_llm_suspect": {}}}]
    (drop, done), _ = run(PII, rows, replies("no"))
    assert drop.reason == "reply does not follow the format"
    assert done == rows[1]
    ((row,), _) = run(PII, [PRIVATE], replies("no"), compat="data_juicer")
    assert row[META]["pii_llm_suspect"]["error"] == "json_parse_failed"
    assert "'no'" in row[META]["pii_llm_suspect_raw"]


def test_a_pipeline_of_spacy_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match="names 'xx_none', which is not installed"):
        bind([{PII: {"spacy_ner_models": ["xx_none"]}}])
