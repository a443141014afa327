"""Every family answers the same whatever the batch, the order, the cache or the stream."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.families import FAMILIES, NATIVE, batch, folder, loaded, samples
from vlforge.inference.generate import Decoding, generate, stream
from vlforge.inference.local import LocalChat
from vlforge.inference.native import native_generate, native_prompt
from vlforge.inference.prompts import embed, prompt_of

LONGEST = 8
HOW = {
    "greedy": {},
    "sampled": {"temperature": 1.5, "candidates": 2, "seed": 3},
    "bounded": {"temperature": 0.9, "top_k": 9, "top_p": 0.8, "seed": 5},
}


def ask(model, rows, keys, decoding):
    """Candidates per row, all rows in one batch."""
    if model.kind == "native":
        return native_generate(model, [native_prompt(model, row) for row in rows], decoding, keys)
    embeds = embed(model, [prompt_of(model, row) for row in rows])
    return generate(model.language, model.tokenizer, embeds, decoding, keys)


def in_batches(model, rows, keys, decoding, size):
    answers = []
    for start in range(0, len(rows), size):
        answers += ask(model, rows[start : start + size], keys[start : start + size], decoding)
    return answers


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert [a.ids for a in one] == [a.ids for a in other]
        assert [a.text for a in one] == [a.text for a in other]
        sure = [a.confidence for a in other]
        assert [a.confidence for a in one] == pytest.approx(sure, abs=1e-4)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_neither_batch_nor_order_changes_an_answer(name, how):
    model, rows = loaded(name), samples()
    decoding = model.decoding(LONGEST, **HOW[how])
    keys = [10 + place for place in range(len(rows))]
    alone = in_batches(model, rows, keys, decoding, 1)
    said = {answer.ids for answers in alone for answer in answers}
    assert len(said) > 3, "the case must hold answers that differ"
    for size in (2, 5):
        assert_same(in_batches(model, rows, keys, decoding, size), alone)
    backwards = in_batches(model, rows[::-1], keys[::-1], decoding, 5)
    assert_same(backwards[::-1], alone)


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_another_seed_or_key_draws_another_answer(name):
    model, rows = loaded(name), samples()[:1]
    drawn = model.decoding(LONGEST, temperature=2.0, seed=1)
    first = ask(model, rows, [1], drawn)
    assert first[0][0].ids != ask(model, rows, [2], drawn)[0][0].ids
    again = dataclasses.replace(drawn, seed=2)
    assert first[0][0].ids != ask(model, rows, [1], again)[0][0].ids


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_the_stream_is_the_answer(name):
    chat = LocalChat(loaded(name), temperature=0.8, seed=2)
    for row in samples():
        pieces = list(chat.stream(row, LONGEST))
        assert "".join(pieces) == chat.answer([row], LONGEST)[0].text
        assert all(pieces)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_what_generate_of_transformers_gives(name):
    parts = folder(name)
    parts.model.language.generation_config.bos_token_id = None
    parts.model.language.config.bos_token_id = None
    ids, more = batch(name)
    how = {"max_new_tokens": LONGEST, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = parts.model.generate(ids, **more, **how)
    assert torch.equal(parts.model.generate(ids, **more, **how, use_cache=False), theirs)
    spliced = parts.model.splice(
        ids, more["pixels"], sizes=more.get("sizes"), mask=more["attention_mask"]
    )
    prompts = [
        row[:length] for row, length in zip(spliced.embeds, spliced.plan.lengths, strict=True)
    ]
    ours = generate(parts.model.language, parts.tokenizer, prompts, Decoding(LONGEST))
    assert [list(row[0].ids) for row in ours] == theirs.tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_cache_changes_no_logits(name):
    parts = folder(name)
    ids, more = batch(name)
    spliced = parts.model.splice(
        ids,
        more["pixels"],
        sizes=more.get("sizes"),
        mask=more["attention_mask"],
        padding_side="left",
    )
    embeds, mask, positions = spliced.embeds, spliced.plan.mask.long(), spliced.plan.positions
    language, half = parts.model.language, embeds.shape[1] - 2
    with torch.no_grad():
        whole = language(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
        first = language(
            inputs_embeds=embeds[:, :half],
            attention_mask=mask[:, :half],
            position_ids=positions[:, :half],
            use_cache=True,
        )
        rest = language(
            inputs_embeds=embeds[:, half:],
            attention_mask=mask,
            position_ids=positions[:, half:],
            past_key_values=first.past_key_values,
        )
    torch.testing.assert_close(rest.logits, whole[:, half:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_beams_are_those_of_transformers(name):
    model, rows = loaded(name), samples()[:4]
    decoding = Decoding(LONGEST, beams=3)
    found = in_batches(model, rows, [0] * len(rows), decoding, 4)
    assert_same(found, in_batches(model, rows, [0] * len(rows), decoding, 1))
    greedy = in_batches(model, rows, [0] * len(rows), Decoding(LONGEST), 4)
    better = [a[0].confidence >= b[0].confidence - 1e-6 for a, b in zip(found, greedy, strict=True)]
    assert sum(better) >= len(rows) - 1
    if model.kind == "native":
        return
    prompts = embed(model, [prompt_of(model, row) for row in rows])
    for prompt, answer in zip(prompts, found, strict=True):
        theirs = model.language.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=LONGEST,
            num_beams=3,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(answer[0].ids) == theirs[0].tolist()


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_an_answer_ends_before_a_stop_string_in_answer_and_stream(name):
    model = loaded(name)
    row = samples()[0]
    free = ask(model, [row], [0], Decoding(24))[0][0]
    raw = model.tokenizer.decode(list(free.ids), skip_special_tokens=False)
    later = free.text[len(free.text) // 3 :]
    stop = next(c for c in later if "!" <= c <= "~" and raw.count(c) == free.text.count(c))
    decoding = Decoding(24, stop_strings=(stop,))
    stopped = ask(model, [row], [0], decoding)[0][0]
    assert stopped.text == free.text[: free.text.index(stop)].strip()
    assert stopped.is_finished
    if model.kind == "family":
        (prompt,) = embed(model, [prompt_of(model, row)])
        pieces = stream(model.language, model.tokenizer, prompt, decoding)
        assert "".join(pieces) == stopped.text


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_end_where_the_template_says(name):
    model = loaded(name)
    assert model.decoding(4).stop_strings == model.template.stop_strings
    assert set(model.decoding(4).eos_ids) >= {model.tokenizer.eos_token_id}
