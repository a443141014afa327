"""Summing up batch rows: attributes, rankings, nested summaries, merged tags."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asking import replies, run
from vlforge.ops.bind import bind
from vlforge.ops.group.rows import BATCH_META
from vlforge.ops.group.summaries import portions, tokens_in
from vlforge.ops.rows.tags import META
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Drop, RecipeError

EVENTS = ["Ann met Bob.", "Bob met Eve.", "Eve left."]
ROW = {"text": ["a", "b", "c", "d"],
       META: [*({"event_description": event} for event in EVENTS), {}]}  # fmt: skip
ATTRIBUTE = {"entity": "Ann", "attribute": "friends"}
RELEVANT = {"entity": "Ann", "query_entity_type": "person"}
CASES = [
    ("nested_aggregator", {}, "“All met.”", {"event_description": "All met."}, None),
    ("nested_aggregator", {"output_key": "sum"}, "All met.", {"sum": "All met."}, None),
    ("entity_attribute_aggregator", ATTRIBUTE, "Bob.", {"entity_attribute": "Bob."},
     {"entity_attribute": ""}),
    ("entity_attribute_aggregator",
     {**ATTRIBUTE, "output_pattern_template": r"\#\s*{entity}\s*\#\#\s*{attribute}\s*(.*?)\Z"},
     "# Ann\n## friends\nBob.", {"entity_attribute": "Bob."}, {"entity_attribute": ""}),
    ("most_relevant_entities_aggregator", RELEVANT, '["Bob", "Eve", "Bob", "Max", "Ann"]',
     {"most_relevant_entities": ["Bob", "Eve"]}, {"most_relevant_entities": []}),
    ("most_relevant_entities_aggregator", {**RELEVANT, "output_pattern": r"\#\#\s*List\s*(.*?)\Z"},
     "## List\nBob, Eve", {"most_relevant_entities": ["Bob", "Eve"]},
     {"most_relevant_entities": []}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "params", "reply", "told", "none"), CASES)
def test_what_is_said_of_all_rows_stands_at_the_batch_row(op, params, reply, told, none):
    rows = [ROW, {**ROW, BATCH_META: {**told, "old": 1}}, {"text": "x"}, {META: [{}]}]
    (row, done, single, empty), writer = run(op, rows, replies("", reply), **params)
    (entry,) = row[BATCH_META].pop(PROVENANCE)
    assert row[BATCH_META] == told
    assert (entry["op"], entry["source"]) == (op, "u0")
    assert row[META] == ROW[META]
    assert done == rows[1]
    assert [drop.reason for drop in (single, empty)] == ["no batch row", "no text to ask about"]
    shown = writer.asked[0].turns[-1].text
    assert all(event in shown for event in EVENTS)


@pytest.mark.parametrize(("op", "params", "reply", "told", "none"), CASES)
def test_unfit_replies_cost_their_row_only(op, params, reply, told, none):
    def answer(sample, times):
        return "I'm sorry, I can't help" if sample.id.startswith("u0") else reply

    (drop, fine), _ = run(op, [ROW, ROW], answer, **params)
    assert isinstance(drop, Drop)
    assert fine[BATCH_META].keys() >= told.keys()
    (theirs, _), _ = run(op, [ROW, ROW], answer, **params, compat="data_juicer")
    assert theirs == (ROW if none is None else {**ROW, BATCH_META: none})


def test_many_texts_are_summed_up_in_parts_and_these_again():
    texts = [f"Event number {n} is here." for n in range(7)]
    row = {META: [{"event_description": text} for text in texts]}
    seen = []

    def reply(sample, times):
        seen.append(sample.turns[-1].text.count("Piece:"))
        return f"Summary {len(seen)} of some."

    ((made,), _) = run("nested_aggregator", [row], reply, max_token_num=14)
    assert made[BATCH_META]["event_description"] == f"Summary {len(seen)} of some."
    assert sum(seen) >= len(texts)
    assert set(seen) <= {2}


def test_one_text_is_its_own_summary():
    row = {META: [{"event_description": "All."}]}
    ((made,), writer) = run("nested_aggregator", [row], replies("no"))
    assert made[BATCH_META]["event_description"] == "All."
    assert not writer.asked


def test_parts_of_an_attribute_are_put_together():
    row = {META: [{"event_description": f"Event number {n} is here."} for n in range(4)]}

    def reply(sample, times):
        is_last = "pieces of text" in sample.turns[0].text
        return f"joined {sample.turns[-1].text.count('Piece:')}" if is_last else f"part {sample.id}"

    ((made,), writer) = run(
        "entity_attribute_aggregator", [row], reply, max_token_num=14, **ATTRIBUTE
    )
    assert made[BATCH_META]["entity_attribute"] == "joined 2"
    assert len(writer.asked) == 3


@pytest.mark.parametrize(
    ("texts", "limit", "is_pairing", "parts"),
    [
        (["a b", "c d"], 9, True, [["a b", "c d"]]),
        (["a b", "c d", "e f", "g h"], 6, True, [["a b", "c d"], ["e f", "g h"]]),
        (["a b", "c d", "e f"], 3, True, [["a b", "c d"], ["e f"]]),
        (["a b", "c d", "e f"], 3, False, [["a b"], ["c d"], ["e f"]]),
    ],
)
def test_parts_are_within_the_limit(texts, limit, is_pairing, parts):
    assert portions(texts, limit, is_pairing) == parts


def test_tokens_are_estimated_by_words_and_signs():
    assert tokens_in("two words 两个字") == pytest.approx(2 * 1.3 + 3)


TAGS = {META: [{"dialog_sentiment_labels": ["happy", "glad"]}, {"dialog_sentiment_labels": "sad"},
               {"dialog_sentiment_labels": "glad"}, {}], "text": ["a"] * 4}  # fmt: skip
MAPPED = {"happy": "good", "glad": "good", "sad": "bad"}


@pytest.mark.parametrize(
    ("params", "reply"),
    [
        ({}, json.dumps(MAPPED)),
        ({"target_tags": ["good", "bad"]}, json.dumps(MAPPED)),
        ({"output_pattern": r"\*\*\s*(\w+)归类为(\w+)\s*\*\*"},
         " ".join(f"** {old}归类为{new} **" for old, new in MAPPED.items())),
    ],
)  # fmt: skip
def test_tags_are_merged(params, reply):
    ((row,), writer) = run(
        "meta_tags_aggregator", [TAGS], replies('{"happy": "good"}', reply), **params
    )
    labels = [tags.get("dialog_sentiment_labels") for tags in row[META]]
    assert labels == [["good", "good"], "bad", "good", None]
    assert [len(told) for told in row[PROVENANCE]] == [1] * 4
    assert "- glad: 2" in writer.asked[0].turns[-1].text
    assert ("New tags: good, bad" in writer.asked[0].turns[-1].text) == ("target_tags" in params)


def test_a_tag_that_is_no_target_is_asked_for_again_then_the_row_is_dropped():
    odd = json.dumps({**MAPPED, "sad": "odd"})
    ((drop,), _) = run("meta_tags_aggregator", [TAGS], replies(odd), target_tags=["good", "bad"])
    assert drop.value.startswith("'odd' is none of the new tags")
    ((row,), _) = run("meta_tags_aggregator", [TAGS], replies(odd), compat="data_juicer",
                      target_tags=["good", "bad"])  # fmt: skip
    assert row[META][1] == {"dialog_sentiment_labels": "odd"}


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        ("entity_attribute_aggregator", {"entity": "Ann"}, "must both be given"),
        ("most_relevant_entities_aggregator", {}, "must both be given"),
        ("meta_tags_aggregator", {"tag_template": "{nothing}"}, "nothing fills in"),
        ("nested_aggregator", {"sub_doc_template": "{} {}"}, "nothing fills in"),
    ],
)
def test_mistakes_in_recipes_are_named(op, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{op: params}])
