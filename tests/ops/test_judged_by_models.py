"""Judges: what is asked, marks become scores, replies that do not fit cost their row only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop, RecipeError, Refusal

PICTURES = Path(__file__).parent / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
IMAGE = "<__dj__image>"
QUALITY = ("accuracy", "grammar", "informativeness", "coherence")


def marks(names, *values, **more):
    return json.dumps({"dimension_scores": dict(zip(names, values, strict=True)), **more})


def run(op, rows, reply, **params):
    writer = ScriptedWriter(reply if callable(reply) else lambda sample, times: reply)
    (bound,) = bind([{op: {"is_hf_model": True, "api_or_hf_model": "judge", **params}}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    context = Context(models=ScriptedModels(others={"judge": writer}))
    return bound.op.measure(Batch(items, context)), writer, bound.op


def words(sample):
    return sample.turns[-1].text


def test_the_mean_of_the_marks_is_the_score():
    reply = marks(QUALITY, 4, 5, 3, 2, recommendation="keep", tags={"topic": ["a", "b"]}, flags=[])
    (scores, records, tags), writer, op = run(
        "llm_quality_score_filter", [{"text": f"{IMAGE} a text <image>"}], f"So:\n{reply}"
    )
    assert scores == [pytest.approx(3.5 / 5)]
    assert records[0]["recommendation"] == ["keep"]
    assert records[0]["dimension_scores"]["grammar"] == 5
    assert tags == [{"topic": "a, b"}]
    assert "\n**Text**\na text\n" in words(writer.asked[0])
    assert writer.asked[0].turns[0].role == "system"
    assert op.keep_all([scores, records, tags]) == [True]
    drop = op.fault("llm_quality_score_filter", (0.4, {}, {}))
    assert (drop.reason, drop.bound) == ("llm_quality_score too low", ">= 0.5")


@pytest.mark.parametrize(
    ("op", "stat", "names"),
    [
        ("llm_analysis_filter", "llm_analysis_score",
         ("clarity", "relevance", "usefulness", "fluency")),
        ("llm_difficulty_score_filter", "llm_difficulty_score",
         ("linguistic_complexity", "conceptual_depth", "prior_knowledge", "step_complexity",
          "ambiguity")),
        ("llm_task_relevance_filter", "llm_task_relevance",
         ("topical_relevance", "linguistic_style_match", "task_match", "knowledge_alignment",
          "potential_utility")),
    ],
)  # fmt: skip
def test_each_judge_asks_for_its_own_dimensions(op, stat, names):
    more = {"task_desc": "Count cats."} if "task" in op else {}
    values = [1 + n % 5 for n in range(len(names))]
    (scores, *_), writer, filter_ = run(op, [{"text": "x"}], marks(names, *values), **more)
    assert scores == [pytest.approx(sum(values) / len(names) / 5)]
    assert filter_.stats[0] == stat
    assert all(f'"{name}": 3' in words(writer.asked[0]) for name in names)
    (scores, *_), _, _ = run(op, [{"text": "x"}], marks(names, *values), **more,
                             dim_required_keys=[names[1]])  # fmt: skip
    assert scores == [pytest.approx(2 / 5)]


def test_several_fields_are_told_by_their_names():
    rows = [{"q": "Why?", "a": "So."}, {"q": "Why?"}, {"b": "x"}, {"q": IMAGE}]
    (scores, *_), writer, _ = run(
        "llm_quality_score_filter", rows, marks(QUALITY, 5, 5, 5, 5),
        input_keys=["q", "a"], field_names=["Question", "Answer"],
        field_template="{field_name}: {field_data}", input_template="<{data}>",
        system_prompt="Judge {it}.", preferred_output_lang="zh",
    )  # fmt: skip
    assert [words(sample) for sample in writer.asked] == [
        "<Question: Why?\n\nAnswer: So.>", "<Question: Why?>"]  # fmt: skip
    assert writer.asked[0].turns[0].text.startswith("Judge {it}.\n")
    assert "Chinese" in writer.asked[0].turns[0].text
    assert scores[:2] == [1.0, 1.0]
    assert [one.reason for one in scores[2:]] == ["no text to ask about"] * 2


def test_a_judge_that_does_not_keep_to_the_form_is_asked_again_and_then_costs_the_row():
    def reply(sample, times):
        replies = {
            "u0#0": ["no idea", marks(QUALITY, 5, "4", 3.0, 2)],
            "u1#0": [marks(QUALITY, 6, 4, 3, 2)] * 3,
            "u2#0": [marks(QUALITY[:2], 4, 4)] * 3,
            "u3#0": [Refusal("server refuses", "429")],
            "u4#0": [marks(QUALITY, True, 4, 4, 4)] * 3,
        }
        return replies[sample.id][times]

    rows = [{"text": "x"}] * 5
    (scores, records, _), writer, _ = run("llm_quality_score_filter", rows, reply)
    assert scores[0] == pytest.approx(3.5 / 5)
    assert [one.reason for one in scores[1:]] == [
        "reply does not follow the format", "reply does not follow the format", "server refuses",
        "reply does not follow the format"]  # fmt: skip
    assert "dimension_scores.accuracy is 6, not a mark from 1 to 5" in scores[1].value
    assert "dimension_scores.informativeness is None" in scores[2].value
    assert records[3] == scores[3]
    assert len(writer.asked) == 2 + 3 + 3 + 1 + 3


def test_as_data_juicer_rows_without_marks_have_the_score_0():
    (scores, records, tags), _, op = run(
        "llm_quality_score_filter", [{"text": "x"}], "none", compat="data_juicer", try_num=1
    )
    assert (scores, records, tags) == ([0.0], [{}], [{}])
    assert op.keep_all([scores, records, tags]) == [False]
    (scores, *_), _, op = run(
        "llm_analysis_filter", [{"text": "x"}], "none", compat="data_juicer", try_num=1
    )
    assert op.keep_all([scores, [{}], [{}]]) == [True]


def test_a_task_is_told_by_words_and_by_rows_of_it(tmp_path):
    file = tmp_path / "valid.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two"}\n')
    names = ("topical_relevance", "linguistic_style_match", "task_match", "knowledge_alignment",
             "potential_utility")  # fmt: skip
    how = {"valid_dataset": str(file), "task_desc": "Count.", "n_shot": 1}
    _, writer, _ = run("llm_task_relevance_filter", [{"text": "x"}], marks(names, *"11111"), **how)
    assert "The task:\nCount.\n\nSamples of it:\n---\n**Text**\none\n" in words(writer.asked[0])
    assert "Text**\ntwo" not in words(writer.asked[0])


@pytest.mark.parametrize(
    ("strategy", "reply", "answer"),
    [
        (None, "Yes.", True),
        ("direct", "no, although yes", False),
        ("cot", "It might be no. But: yes", True),
        ("few_shot", "<think>no</think>是", True),
        ("cot_shot", "Yes at first.\nNO", False),
    ],
)
def test_a_condition_is_met_or_not(strategy, reply, answer):
    how = {"condition": "is about cats", "strategy": strategy, "examples": "cat: yes"}
    rows = [{"text": "a cat", "facts": "cats purr"}, {"text": " "}]
    (found,), writer, op = run(
        "llm_condition_filter", rows, reply, **how, knowledge_grounding_key="facts"
    )
    assert found == [answer, False]
    assert len(writer.asked) == 1
    asked = words(writer.asked[0])
    assert "is about cats" in asked
    assert "To be taken as known:\ncats purr\n" in asked
    assert ("cat: yes" in asked) == (strategy in ("few_shot", "cot_shot"))
    assert op.keep_all([found]) == [answer, False]
    drop = op.fault("llm_condition_filter", (False,))
    assert (drop.reason, drop.bound) == ("condition not met", "is about cats")


def test_a_reply_that_is_neither_costs_the_row_or_is_a_no():
    rows = [{"text": "x"}]
    (found,), writer, _ = run("llm_condition_filter", rows, "maybe", condition="c", try_num=2)
    assert found[0].reason == "reply does not follow the format"
    assert len(writer.asked) == 2
    (found,), _, _ = run("llm_condition_filter", rows, "?", condition="c", compat="data_juicer")
    assert found == [False]


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        ("llm_quality_score_filter", {"input_keys": ["a", "b"]}, "one name for each"),
        ("llm_quality_score_filter", {"input_template": "x"}, "where {data} goes"),
        ("llm_quality_score_filter", {"preferred_output_lang": "fr"}, "give zh or en"),
        ("llm_quality_score_filter", {"try_num": 0}, "give at least 1"),
        ("llm_quality_score_filter", {"prompt_file": "gone.txt"}, "gone.txt: No such file"),
        ("llm_task_relevance_filter", {}, "knows no task"),
        ("llm_task_relevance_filter", {"valid_dataset": [{"q": 1}]}, "has none of"),
        ("llm_condition_filter", {}, "condition is empty"),
        ("llm_condition_filter", {"condition": "x", "strategy": "few_shot"}, "give some"),
    ],
)
def test_what_cannot_be_asked_is_told_when_the_recipe_is_read(op, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{op: params}])


def test_where_the_judge_is():
    (here,) = bind([{"llm_quality_score_filter": {"is_hf_model": True, "api_or_hf_model": "m"}}])
    (api,) = bind([{"llm_quality_score_filter": {"api_endpoint": "http://h/v1"}}])
    assert here.op.judge() == "m"
    assert (api.op.judge().model, api.op.judge().url) == ("gpt-4o", "http://h/v1")


SEEN = ("faithfulness", "detail", "usefulness")


def see(rows, reply, **params):
    writer = ScriptedWriter(reply if callable(reply) else lambda sample, times: reply)
    (bound,) = bind([{"vlm_quality_score_filter": {"model": "judge", **params}}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    context = Context(models=ScriptedModels(others={"judge": writer}))
    return bound.op.measure(Batch(items, context)), writer, bound.op


def test_a_text_is_judged_beside_all_pictures_of_its_row():
    rows = [
        {"text": f"{IMAGE}{IMAGE} two cats", "images": [A, B]},
        {"text": "no picture", "images": []},
        {"text": f"{IMAGE} gone", "images": ["gone.jpg"]},
        {"text": IMAGE, "images": [A]},
    ]
    (scores, records, tags), writer, op = see(rows, marks(SEEN, 5, 3, 1), min_score=0.7)
    assert scores[:2] == [[pytest.approx(0.6)], []]
    assert records[1] == {}
    assert [one.reason for one in scores[2:]] == ["missing image", "no text to ask about"]
    (sample,) = writer.asked
    assert sample.images == (A, B)
    assert words(sample).startswith("<image>\n<image>\nHere is a text")
    assert "==========\ntwo cats\n" in words(sample)
    assert op.keep_all([scores[:2], records[:2], tags[:2]]) == [False, True]
    drop = op.fault("vlm_quality_score_filter", (scores[0], {}, {}))
    assert drop == Drop("vlm_quality_score_filter", "vlm_quality_score too low",
                        "vlm_quality_score", scores[0][0], ">= 0.7")  # fmt: skip


def test_a_picture_judge_may_have_a_prompt_of_the_users(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("[system]\nBe strict.\n[user]\nMark {text}\n")
    rows = [{"text": f"{IMAGE} x", "images": [A]}]
    (scores, *_), writer, _ = see(rows, marks(["truth"], 4), prompt_file=str(file),
                                  dim_required_keys=["truth"])  # fmt: skip
    assert scores == [[pytest.approx(0.8)]]
    assert [turn.text for turn in writer.asked[0].turns] == ["Be strict.", "<image>\nMark x"]
