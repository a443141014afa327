"""Asking a model about rows: prompts from files, replies that do not fit, provenance."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vlforge.inference.scripted import ScriptedModels, ScriptedWriter
from vlforge.ops.base import Grown, replaced
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.synthesis.prompt_files import Prompt, parse, read_prompt
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.writing import Asked, Writing, drawing_of, reference
from vlforge.types import Drop, EndpointSpec, RecipeError, Refusal


@dataclass(frozen=True, kw_only=True)
class Counted(Writing):
    """Writes how many words a text has, as the model says."""

    prompt_fields = ("text",)

    def prompt(self) -> Prompt:
        return Prompt("You count.", "{text}")

    def model_name(self) -> str:
        return "counter"

    def asks(self, item, files, context):
        text = item.row["text"]
        return [Asked.of(self.prompt().fill(text=text))] if text else None

    def read(self, item, place, reply):
        return json_in(reply.text, dict[str, int])["words"]

    def made(self, item, values, context):
        return replaced(item.row, "words", values[0])


def run(reply, texts, **params):
    writer = ScriptedWriter(reply)
    models = ScriptedModels(others={"counter": writer})
    items = [Item(f"u{n}", n, {"text": text}) for n, text in enumerate(texts)]
    return Counted(**params).apply(Batch(items, Context(seed=7, models=models))), writer


def count(sample, times):
    words = next(t.text for t in sample.turns if t.role == "user")
    return f'Sure! ```json\n{{"words": {len(words.split())}}}\n```'


def test_rows_are_asked_about_together_and_say_where_they_come_from():
    (first, empty, last), writer = run(count, ["a b", "", "a b c"])
    assert [len(s.turns) for s in writer.asked] == [2, 2]
    assert (first["words"], last["words"]) == (2, 3)
    (entry,) = first[PROVENANCE]
    assert entry == {
        "op": "counted",
        "source": "u0",
        "model": "counter",
        "prompt": Prompt("You count.", "{text}").hash,
        "seed": 7,
    }
    assert empty == {"text": ""}


def test_as_data_juicer_rows_keep_to_their_fields():
    (row,), _ = run(count, ["a b"], compat="data_juicer")
    assert row == {"text": "a b", "words": 2}


def test_a_reply_that_does_not_fit_is_put_to_the_model_again():
    def reply(sample, times):
        return "two" if times == 0 else '{"words": "two"}' if times == 1 else count(sample, 0)

    (row,), writer = run(reply, ["a b"])
    assert row["words"] == 2
    roles = [[turn.role for turn in sample.turns] for sample in writer.asked]
    assert roles[0] == ["system", "user"]
    assert roles[1] == roles[2] == ["system", "user", "assistant", "user"]
    assert "no JSON" in writer.asked[1].turns[-1].text
    assert "Expected `int`" in writer.asked[2].turns[-1].text


def test_tries_end_and_the_row_is_dropped_with_what_was_wrong():
    (drop, fine), writer = run(
        lambda sample, times: "so many" if sample.id == "u0#0" else count(sample, times),
        ["a b", "c"],
        try_num=2,
    )
    assert isinstance(drop, Drop)
    assert drop.reason == "reply does not follow the format"
    assert drop.value == "the reply holds no JSON: 'so many'"
    assert fine["words"] == 1
    assert len(writer.asked) == 3


def test_a_refusal_costs_its_row_only():
    def reply(sample, times):
        gone = Refusal("picture cannot be read", "x.jpg")
        return gone if sample.id == "u0#0" else count(sample, times)

    (drop, row), _ = run(reply, ["a b", "c"])
    assert drop == Drop("", "picture cannot be read", None, "x.jpg")
    assert row["words"] == 1


def test_new_rows_tell_it_too():
    class Twice(Counted):
        def made(self, item, values, context):
            return Grown(True, ({"text": "1"}, {"text": "2"}))

    writer = ScriptedWriter(count)
    models = ScriptedModels(others={"counter": writer})
    batch = Batch([Item("u", 1, {"text": "a"})], Context(models=models))
    (grown,) = Twice().apply(batch)
    assert [row[PROVENANCE][0]["source"] for row in grown.rows] == ["u", "u"]


def test_prompts_are_files(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("[system]\nBe brief.\n[user]\nOf {text}: {not} {text}?\n")
    found = read_prompt("none", str(path))
    assert found == Prompt("Be brief.", "Of {text}: {not} {text}?")
    assert found.fill(text="{not}").user == "Of {not}: {not} {not}?"
    assert parse("plain {text}\n") == Prompt("", "plain {text}")
    with pytest.raises(RecipeError, match=r"nothing fills in \{not\}; there are \{text\}"):
        read_prompt("none", str(path), ("text",))
    with pytest.raises(RecipeError, match="No such file"):
        read_prompt("none", str(tmp_path / "gone.txt"))
    path.write_text("[system]\nOnly this.\n[user]\n")
    with pytest.raises(RecipeError, match="says nothing"):
        read_prompt("other", str(path))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        'Here: {"a": 1} there',
        '<think>{"a": 5}</think>{"a": 1}',
        '```\n{"a": 1}\n```',
        'Say ```json\n{"a": 1}\n``` so.',
    ],
)
def test_json_is_found_between_words(text):
    assert json_in(text, dict[str, int]) == {"a": 1}


def test_what_is_no_json_is_told():
    with pytest.raises(UnfitError, match="holds no JSON"):
        json_in("a: 1", dict)
    with pytest.raises(UnfitError, match="does not fit: Expected `array`"):
        json_in('{"a": 1}', list)


def test_parameters_of_sampling():
    drawing = drawing_of({"temperature": 0.5, "max_tokens": 9, "stop": "x"})
    assert (drawing.temperature, drawing.max_new_tokens, drawing.stop) == (0.5, 9, ("x",))
    with pytest.raises(RecipeError, match="'heat' is unknown; known: temperature"):
        drawing_of({"heat": 1})


def test_where_a_model_is(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert reference("folder", None, {}, False) == "folder"
    assert reference("gpt", None, {}, True) == EndpointSpec("gpt")
    here = EndpointSpec("gpt", "http://h/v1")
    assert reference("gpt", "http://h/v1/chat/completions", {}, False) == here
    assert reference("gpt", "/chat/completions", {"base_url": "http://h/v1"}, True) == here
    with pytest.raises(RecipeError, match="set OPENAI_API_KEY"):
        reference("gpt", None, {"api_key": "sk"}, True)
