"""What a text says, as tags: fields, keywords, events, passages, entities, relations."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asking import replies, run
from vlforge.ops.base import Grown
from vlforge.ops.bind import bind
from vlforge.ops.rows.tags import META
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import RecipeError, Refusal

TEXT = "Ann met Bob in Oslo. Bob, whom Ann calls Bobby, is her brother."
ROW = {"text": TEXT, "id": 7}
EMPTY_LINK = {"relation_source_entity": "", "relation_target_entity": "",
              "relation_description": "", "relation_keywords": [],
              "relation_strength": None}  # fmt: skip
NICKNAMES = [{"speaker": "Ann", "person": "Bob", "nickname": "Bobby"},
             {"speaker": "Ann", "person": "Bob", "nickname": "Bobby"},
             {"speaker": "Bob", "person": "Ann", "nickname": "Ann"},
             {"speaker": "Bob", "person": "Ann", "nickname": "Annie"}]  # fmt: skip
GRAPH = {"entities": [{"name": "Ann", "type": "person", "description": "a sister"},
                      {"name": "Bob", "type": "person", "description": "a brother"}],
         "relations": [{"source": "ann", "target": "Bob", "description": "siblings",
                        "keywords": ["family"], "strength": 9},
                       {"source": "Ann", "target": "Eve"}]}  # fmt: skip
LINK = {"relation_source_entity": "ann", "relation_target_entity": "Bob",
        "relation_description": "siblings", "relation_keywords": ["family"],
        "relation_strength": 9.0}  # fmt: skip
NICK = {**EMPTY_LINK, "relation_source_entity": "Ann", "relation_target_entity": "Bob",
        "relation_description": "Bobby", "relation_keywords": ["nickname"]}  # fmt: skip
ENTITIES = [{"entity_name": e["name"], "entity_type": "person",
             "entity_entity_description": e["description"]} for e in GRAPH["entities"]]  # fmt: skip
ASK_ATTRIBUTE = {"query_entities": ["Ann", "Bob"], "query_attributes": ["family"]}
ATTRIBUTE = {"description": "siblings", "passages": ["is her\nbrother", "invented"]}
ASK_RELATION = {"source_entity": "Ann", "target_entity": "Bob"}
SCHEMA = {"input_keys": ["text", "id"], "output_schema": {"who": "all names", "where": {
    "type": "string", "enum": ["Oslo", "Rome"], "description": "the town"}}}  # fmt: skip
FIELDS = {"who": ["Ann", "Bob"], "where": "Oslo"}

CASES = [
    ("extract_keyword_mapper", {}, ["Oslo", "Ann", "Oslo"], {"keyword": ["Oslo", "Ann"]},
     {"keyword": []}),
    ("extract_nickname_mapper", {}, NICKNAMES, {"nickname": [NICK]}, {"nickname": [EMPTY_LINK]}),
    ("extract_entity_relation_mapper", {"max_gleaning": 0}, GRAPH,
     {"entity": ENTITIES, "relation": [LINK]},
     {"entity": [dict.fromkeys(ENTITIES[0], "")],
      "relation": [{**EMPTY_LINK, "relation_strength": 0.0}]}),
    ("extract_entity_attribute_mapper", ASK_ATTRIBUTE, ATTRIBUTE,
     {"main_entities": ["Ann", "Bob"], "attributes": ["family"] * 2,
      "attribute_descriptions": ["siblings"] * 2,
      "attribute_support_texts": [["is her\nbrother"]] * 2},
     {"main_entities": ["Ann", "Bob"], "attributes": ["family"] * 2,
      "attribute_descriptions": [""] * 2, "attribute_support_texts": [[]] * 2}),
    ("relation_identity_mapper", ASK_RELATION, {"reasoning": "…", "relation": "brother."},
     {"role_relation": "brother"}, {"role_relation": ""}),
    ("llm_extract_mapper", SCHEMA, {"more": 1, **FIELDS}, {"llm_extract": FIELDS},
     {"llm_extract": {"who": None, "where": None}}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "params", "value", "tags", "none"), CASES)
def test_what_the_model_finds_stands_among_the_tags(op, params, value, tags, none):
    good = f"Here:\n```json\n{json.dumps(value)}\n```"
    ((row,), writer) = run(op, [{**ROW, META: {"old": 1}}], replies("hm", good), **params)
    assert row[META] == {"old": 1, **tags}
    assert (row["text"], row["id"]) == (TEXT, 7)
    assert row[PROVENANCE][0]["op"] == op
    assert TEXT in writer.asked[0].turns[-1].text
    assert "no JSON" in writer.asked[-1].turns[-1].text


@pytest.mark.parametrize(("op", "params", "value", "tags", "none"), CASES)
def test_unfit_replies_and_refusals_cost_their_row_only(op, params, value, tags, none):
    def reply(sample, times):
        if sample.id.startswith("u1"):
            return Refusal("server says no")
        return "hm" if sample.id.startswith("u0") else json.dumps(value)

    rows = [ROW, ROW, ROW, {"nothing": 1}]
    (unfit, refused, fine, empty), _ = run(op, rows, reply, **params)
    assert fine[META] == tags
    assert [d.reason for d in (unfit, refused, empty)] == [
        "reply does not follow the format", "server says no", "no text to ask about"]  # fmt: skip
    theirs, _ = run(op, rows, reply, **params, compat="data_juicer")
    assert theirs[0] == {**ROW, META: none}
    assert theirs[1] == {**ROW, META: none}
    assert PROVENANCE not in theirs[2]


@pytest.mark.parametrize(("op", "params", "value", "tags", "none"), CASES[:-1])
def test_rows_that_have_the_tags_stay_and_texts_may_leave(op, params, value, tags, none):
    done = {**ROW, META: tags}
    (same, row), writer = run(op, [done, ROW], replies(json.dumps(value)), drop_text=True, **params)
    assert same == done
    assert "text" not in row
    assert all(sample.id.startswith("u1") for sample in writer.asked)


EVENTS = [{"event": "They met.", "characters": ["Ann", "Bob"]}, {"event": "They left."}]


@pytest.mark.parametrize(
    ("params", "reply"),
    [
        ({}, json.dumps(EVENTS)),
        ({"output_pattern": r"\#(\d+) : (.*?) \| (.*?) ;"},
         "#1: They met.|Ann, Bob; #2: They left.|;"),
    ],
)  # fmt: skip
def test_a_row_per_event(params, reply):
    ((grown,), _) = run("extract_event_mapper", [ROW], replies(reply), **params)
    assert isinstance(grown, Grown)
    assert not grown.keeps_original
    told = [row[META]["event_description"] for row in grown.rows]
    assert told == ["They met.", "They left."]
    assert grown.rows[0][META]["relevant_characters"] == ["Ann", "Bob"]
    assert [row["id"] for row in grown.rows] == [7, 7]


def test_without_events_the_row_stays():
    ((row,), _) = run("extract_event_mapper", [ROW], replies("[]"))
    assert row == ROW
    ((row,), _) = run("extract_event_mapper", [ROW], replies("no"), compat="data_juicer")
    assert row == ROW


SUMMARY = {**ROW, META: {"event_description": "siblings"}}


@pytest.mark.parametrize(
    ("reply", "params", "passage"),
    [
        ('"is her\nbrother"', {}, "is her\nbrother"),
        ("He is a brother", {}, None),
        ("He is a brother", {"compat": "data_juicer"}, "He is a brother"),
        (" ", {"compat": "data_juicer"}, "siblings"),
    ],
)
def test_a_passage_has_to_stand_in_the_text(reply, params, passage):
    (row, same), _ = run("extract_support_text_mapper", [SUMMARY, ROW], replies(reply), **params)
    assert same == ROW
    if passage is None:
        assert row.reason == "passage is not in the text"
    else:
        assert row[META]["support_text"] == passage


@pytest.mark.parametrize(
    ("op", "params", "reply", "tags"),
    [
        ("extract_keyword_mapper",
         {"output_pattern": r'\("content_keywords"(.*?)\)', "prompt_template": "Of {input_text}"},
         '("content_keywords" "Oslo, Ann and Bob")<|COMPLETE|>',
         {"keyword": ["Oslo", "Ann and Bob"]}),
        ("relation_identity_mapper",
         {**ASK_RELATION,
          "output_pattern_template": r"\s*So\s{entity2}\sis\s{entity1}'s:\s*(.*?)\Z"},
         "Hm. So Bob is Ann's: elder brother", {"role_relation": "elder brother"}),
        ("extract_entity_attribute_mapper",
         {"query_entities": ["Ann"], "query_attributes": ["family"],
          "system_prompt_template": "On {attribute} of {entity}.",
          "attr_pattern_template": r"\#\#\s*{attribute}:\s*(.*?)(?=\#\#\#|\Z)",
          "demo_pattern": r"\#\#\#\s*(\d+):\s*(.*?)(?=\#\#\#|\Z)"},
         "## family: siblings\n### 1: is her brother\n### 2: no",
         {"main_entities": ["Ann"], "attributes": ["family"],
          "attribute_descriptions": ["siblings"],
          "attribute_support_texts": [["is her brother"]]}),
        ("extract_entity_relation_mapper",
         {"max_gleaning": 0, "prompt_template": "{entity_types}{tuple_delimiter}{input_text}"},
         '("entity"<|>"Ann"<|>person<|>a sister)##("entity"<|>Bob<|>person<|>a brother)##'
         '("entity"<|>short)##("relationship"<|>ann<|>Bob<|>siblings<|>"family"<|>9)'
         '("relationship"<|>Ann<|>Bob<|>x<|>y<|>much)',
         {"entity": ENTITIES, "relation": [LINK]}),
        ("extract_nickname_mapper",
         {"output_pattern": r"(\d+)\.(\w+)>(\w+)\|(\w+)>(\w+)=(\w+)"},
         "1.Ann>Bob|Ann>Bob=Bobby 2.Ann>Bob|Bob>Ann=Bobby", {"nickname": [NICK]}),
        ("llm_extract_mapper",
         {**SCHEMA, "meta_output_key": None, "strategy": "cot_shot", "examples": "E1",
          "knowledge_grounding_fixed": "All is true."},
         f"They met in Oslo, so {json.dumps(FIELDS)}", FIELDS),
    ],
)  # fmt: skip
def test_recipes_may_have_their_own_forms(op, params, reply, tags):
    ((row,), writer) = run(op, [ROW], replies(reply), **params)
    assert row[META] == tags
    if op == "llm_extract_mapper":
        system, user = writer.asked[0].turns
        assert "All is true." in system.text
        assert user.text.startswith("Examples:\nE1")
        assert "- where: the town (string), one of Oslo, Rome" in user.text
        assert "id: 7" in user.text


@pytest.mark.parametrize(
    ("bad", "said"),
    [({"who": 1}, "lacks where"), ({"who": 1, "where": 2}, "not of the type string"),
     ({"who": 1, "where": "Paris"}, "none of Oslo, Rome")],
)  # fmt: skip
def test_values_are_held_to_the_schema(bad, said):
    ((row,), writer) = run(
        "llm_extract_mapper", [ROW], replies(json.dumps(bad), json.dumps(FIELDS)), **SCHEMA
    )
    assert row[META]["llm_extract"] == FIELDS
    assert said in writer.asked[1].turns[-1].text


def test_what_the_text_does_not_tell_is_empty():
    nothing = json.dumps({"description": "", "passages": []})
    ((row,), _) = run("extract_entity_attribute_mapper", [ROW], replies(nothing), **ASK_ATTRIBUTE)
    assert row[META]["attribute_descriptions"] == ["", ""]
    ((row,), _) = run("extract_nickname_mapper", [ROW], replies("[]"))
    assert row[META]["nickname"] == []


def test_gleaning_asks_on_while_the_model_says_that_something_is_missing():
    more = {
        "entities": [{"name": "Oslo", "type": "geo", "description": "a town"}, GRAPH["entities"][0]]
    }
    answers = [json.dumps(GRAPH), json.dumps(more), '"Yes."', "nothing", "no"]
    ((row, other), writer) = run(
        "extract_entity_relation_mapper", [ROW, ROW],
        lambda sample, times: answers[times] if sample.id == "u0#0" else answers[[0, 3, 4][times]],
        max_gleaning=4,
    )  # fmt: skip
    assert [e["entity_name"] for e in row[META]["entity"]] == ["Ann", "Bob", "Oslo"]
    assert other[META]["entity"] == ENTITIES
    roles = [len(sample.turns) for sample in writer.asked if sample.id == "u0#0"]
    assert roles == [2, 4, 6, 6, 8]


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        ("extract_entity_attribute_mapper", {}, "at least one each"),
        ("relation_identity_mapper", {"source_entity": "Ann"}, "must both be given"),
        ("extract_event_mapper", {"output_pattern": "(a)(b)"}, "needs 3 groups"),
        ("extract_entity_relation_mapper", {"max_gleaning": -1}, "max_gleaning is -1"),
        ("llm_extract_mapper", {"input_keys": ["text"], "output_schema": {}}, "at least one field"),
        ("llm_extract_mapper", {"input_keys": ["a"], "output_schema": {"b": {"type": "list"}}},
         "type is 'list'; known: string"),
    ],
)  # fmt: skip
def test_mistakes_in_recipes_are_named(op, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{op: params}])
