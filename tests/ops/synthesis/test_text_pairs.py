"""Questions and answers written anew: calibration, improvement, worse answers, new pairs."""

from __future__ import annotations

import json

import pytest

from tests.ops.synthesis.asking import replies, run
from vlforge.ops.base import Grown
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.likeness import rouge_l, words_of
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Drop, RecipeError, Refusal

ROW = {"text": "Oslo has 709,000 people.", "query": "How big is Oslo?", "response": "Big."}
NEW = {"question": "How many people has Oslo?", "answer": "709,000."}
MARKED = "【问题】\n多少人？\n【回答】\n七十万。\n很多。"


@pytest.mark.parametrize("op", ["calibrate_qa_mapper", "optimize_qa_mapper"])
@pytest.mark.parametrize(
    ("reply", "params", "pair"),
    [
        (json.dumps(NEW), {}, (NEW["question"], NEW["answer"])),
        (f"```json\n{json.dumps(NEW)}\n```", {}, (NEW["question"], NEW["answer"])),
        (MARKED, {}, ("多少人？", "七十万。\n很多。")),
        ("Q: a\nA: b\nc", {"output_pattern": r"Q:(.*?)A:(.*)"}, ("a", "b\nc")),
    ],
)
def test_both_texts_are_written_anew(op, reply, params, pair):
    ((row,), writer) = run(op, [ROW], replies(reply), **params)
    assert (row["query"], row["response"]) == pair
    assert row[PROVENANCE][0]["op"] == op
    asked = writer.asked[0].turns[-1].text
    assert ("709,000" in asked) == (op == "calibrate_qa_mapper")
    assert "How big is Oslo?" in asked
    assert "Big." in asked


@pytest.mark.parametrize("family", ["calibrate", "optimize"])
@pytest.mark.parametrize("field", ["query", "response"])
def test_one_of_them_is_written_anew(family, field):
    op = f"{family}_{field}_mapper"
    (row, same), _ = run(
        op, [ROW, {**ROW, field: "New one"}], replies('<think>hm</think>"New one"')
    )
    other = {"query": "response", "response": "query"}[field]
    assert (row[field], row[other]) == ("New one", ROW[other])
    assert PROVENANCE not in same
    ((row,), _) = run(op, [ROW], replies("Sure. <b>x</b>"), output_pattern="<(b)>(.*)</b>")
    assert row[field] == "x"


PAIR_OPS = ["calibrate_qa_mapper", "optimize_qa_mapper", "pair_preference_mapper"]


@pytest.mark.parametrize("op", PAIR_OPS)
def test_bad_replies_are_asked_again_and_cost_their_row_only(op):
    good = json.dumps({"question": "a", "answer": "b", "reason": "c"})

    def reply(sample, times):
        if sample.id == "u1#0":
            return "no"
        return Refusal("server says no") if sample.id == "u2#0" else ["hm", good][min(times, 1)]

    rows = [ROW, ROW, ROW, {"text": "no pair"}]
    (fine, unfit, refused, empty), writer = run(op, rows, reply)
    assert isinstance(fine, dict)
    assert [d.reason for d in (unfit, refused, empty)] == [
        "reply does not follow the format", "server says no", "no text to ask about"]  # fmt: skip
    assert len(writer.asked) == 2 + 3 + 1
    theirs, _ = run(op, rows, reply, compat="data_juicer")
    worse = {"rejected_response": "", "reason": ""} if op == "pair_preference_mapper" else {}
    assert theirs[1:] == [{**row, **worse} for row in rows[1:]]
    assert PROVENANCE not in theirs[0]


def test_a_refusing_model_is_not_believed():
    ((drop,), _) = run("optimize_response_mapper", [ROW], replies("I'm sorry, I cannot help."))
    assert drop.reason == "model refuses"


def test_templates_of_recipes_are_shown():
    ((_,), writer) = run(
        "calibrate_qa_mapper",
        [{**ROW, "query": "{text}?"}],
        replies(MARKED),
        input_template="<{reference}|{qa_pair}>",
        reference_template="R {}",
        qa_pair_template="Q {} A {}",
        system_prompt="Be exact.",
    )
    system, user = writer.asked[0].turns
    assert system.text == "Be exact."
    assert user.text == "<R Oslo has 709,000 people.|Q {text}? A Big.>"


@pytest.mark.parametrize("op", ["optimize_qa_mapper", "optimize_prompt_mapper"])
def test_recipes_may_say_null_for_an_empty_table(op):
    (bound,) = bind([{op: {"model_params": None, "sampling_params": None}}])
    assert not bound.op.model_params
    (bound,) = bind([{"optimize_qa_mapper": {"hf_model": "old/name"}}])
    assert bound.op.model_name() == "old/name"


@pytest.mark.parametrize(
    ("op", "params", "said"),
    [
        ("calibrate_qa_mapper", {"output_pattern": "("}, "no regular expression"),
        ("calibrate_qa_mapper", {"output_pattern": "(a)"}, "needs 2 groups"),
        ("optimize_qa_mapper", {"input_template": "{nothing}"}, r"nothing fills in \{nothing\}"),
        ("optimize_qa_mapper", {"qa_pair_template": "{}{}{}"}, r"nothing fills in \{\}"),
        ("optimize_prompt_mapper", {"gen_num": 0}, "gen_num is 0"),
        ("generate_qa_from_text_mapper", {"max_num": 0}, "max_num is 0"),
        ("generate_qa_from_examples_mapper", {}, "seed_file must be given"),
    ],
)
def test_mistakes_in_recipes_are_named(op, params, said):
    with pytest.raises(RecipeError, match=said):
        bind([{op: params}])


def test_a_server_of_vllm_is_told_of_unless_the_name_is_an_endpoints():
    (bound,) = bind([{"optimize_qa_mapper": {"enable_vllm": True}}])
    assert bound.notes[0].startswith("optimize_qa_mapper: vLLM is reached through its server")
    (bound,) = bind([{"optimize_qa_mapper": {"enable_vllm": True, "api_or_hf_model": "mine"}}])
    assert bound.notes == ()


def test_a_worse_answer_stands_beside_the_good_one():
    def reply(sample, times):
        return json.dumps({"answer": ["Big.", "Tiny."][times], "reason": "Wrong size."})

    ((row,), writer) = run("pair_preference_mapper", [ROW], reply, rejected_key="bad")
    assert (row["response"], row["bad"], row["reason"]) == ("Big.", "Tiny.", "Wrong size.")
    assert "given" in writer.asked[1].turns[-1].text
    assert "Reference:\nOslo" in writer.asked[0].turns[-1].text


PAIRS = [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"},
         {"question": "a", "answer": "e"}, {"question": "f", "answer": " "}]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "params"),
    [
        (json.dumps(PAIRS), {"hf_model": "m"}),
        ("Text.\nHuman: a\nAssistant: b\nHuman: c\nAssistant: d", {}),
        ("<q>a<a>b</><q>c<a>d</>", {"output_pattern": "<q>(.*?)<a>(.*?)</>"}),
    ],
)
def test_a_text_becomes_a_row_per_question(reply, params):
    row = {"text": "T", "id": 1}
    ((grown,), writer) = run("generate_qa_from_text_mapper", [row], replies(reply), **params)
    assert isinstance(grown, Grown)
    assert not grown.keeps_original
    assert [(r["query"], r["response"], r["id"]) for r in grown.rows] == [
        ("a", "b", 1),
        ("c", "d", 1),
    ]
    assert grown.rows[1][PROVENANCE][0]["source"] == "u0"
    is_bare = writer.asked[0].turns[-1].text == "T"
    assert is_bare == ("hf_model" not in params)
    ((grown,), _) = run("generate_qa_from_text_mapper", [row], replies(reply), max_num=1, **params)
    assert len(grown.rows) == 1


@pytest.fixture
def seeds(tmp_path):
    path = tmp_path / "seeds.jsonl"
    lines = [
        [("user", f"What is {n} plus {n}?"), ("assistant", f"It is {2 * n}.")] for n in range(5)
    ]
    path.write_text(
        "\n".join(
            json.dumps({"messages": [{"role": r, "content": c} for r, c in one]}) for one in lines
        )
    )
    return str(path)


def test_new_pairs_follow_examples_and_repeat_none(seeds):
    near = '[{"question": "What is 9 plus 9?", "answer": "It is 18."}]'
    far = json.dumps([{"question": "Who wrote Emma?", "answer": "Jane Austen."},
                      {"question": "When?", "answer": "In 1815."}])  # fmt: skip
    rows = [{"id": n} for n in range(8)]
    how = {"seed_file": seeds, "similarity_threshold": 0.6}
    found, writer = run("generate_qa_from_examples_mapper", rows, replies(near, far), **how)
    assert found[0]["query"] == "When?"
    assert found[0]["history"] == [["Who wrote Emma?", "Jane Austen."]]
    assert "too near to an example (ROUGE-L 0.62)" in writer.asked[-1].turns[-1].text
    shown = [sample.turns[-1].text for sample in writer.asked[:8]]
    assert len(set(shown)) > 3
    assert all(text.count("Example:") == 3 for text in shown)
    again, _ = run("generate_qa_from_examples_mapper", rows[:1], replies(near), try_num=1, **how)
    assert again[0].reason == "too near to an example"
    theirs, _ = run("generate_qa_from_examples_mapper", rows[:1], replies(near), **how,
                    compat="data_juicer")  # fmt: skip
    assert theirs == [{"id": 0, "query": "", "response": "", "history": []}]


def test_a_seed_file_with_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"messages": "no"}\n')
    with pytest.raises(RecipeError, match="line 1 is not"):
        bind([{"generate_qa_from_examples_mapper": {"seed_file": str(path)}}])


@pytest.mark.parametrize(
    ("one", "other", "score"),
    [("the cat sat", "the cat sat", 1.0), ("a b c d", "a x c y", 0.5), ("猫坐着", "猫坐下", 2 / 3),
     ("", "a", 0.0)],
)  # fmt: skip
def test_likeness_counts_words_and_single_signs(one, other, score):
    assert rouge_l(words_of(one), words_of(other)) == pytest.approx(score)


def prompts(rows, reply, **params):
    from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
    from vlforge.ops.batch import Batch, Context, Item

    (bound,) = bind([{"optimize_prompt_mapper": {"api_or_hf_model": "m", **params}}])
    writer = ScriptedWriter(reply)
    context = Context(models=ScriptedModels(others={"m": writer}))
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    learned = bound.op.learn(iter(bound.op.keys(Batch(items, context))))
    return bound.op.apply(Batch(items, context), learned), writer


def test_new_prompts_follow_the_first_row_and_learn_from_each_other():
    rows = [{"id": 0}, *({"prompt": f"p{n}", "id": n} for n in range(1, 6))]
    (empty, first, *rest), writer = prompts(
        rows, lambda sample, times: ["p9", "new" + sample.id][times > 0 or "/0" not in sample.id]
    )
    assert (empty, rest) == (rows[0], rows[2:])
    assert first.keeps_original
    assert [row["prompt"] for row in first.rows] == ["p9", "newu1/1#0", "newu1/2#0"]
    assert first.rows[0][PROVENANCE][0]["op"] == "optimize_prompt_mapper"
    assert "p9" in writer.asked[1].turns[-1].text
    assert writer.asked[1].turns[-1].text.count("Prompt ") == 3


def test_only_new_prompts_stay_and_examples_are_no_new_ones():
    rows = [{"prompt": "p"}, {"prompt": "q"}]
    (first, second), writer = prompts(
        rows, lambda sample, times: "p" if times < 2 else sample.id, keep_original_sample=False,
        gen_num=1,
    )  # fmt: skip
    assert [row["prompt"] for row in first.rows] == ["u0/0#0"]
    assert isinstance(second, Drop)
    assert len(writer.asked) == 3
    (first, _), _ = prompts(rows, lambda sample, times: "p", gen_num=1)
    assert first == rows[0]
