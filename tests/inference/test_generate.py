import dataclasses
import math
from itertools import chain

import pytest
import torch

from tests.inference.tiny import prompts, tiny_language, tiny_tokenizer
from vlforge.inference.generate import (
    Decoding,
    Generated,
    Growing,
    byte_ids,
    generate,
    log_probs,
    pad_left,
    stream,
    uniform,
)
from vlforge.types import ModelError

GREEDY = Decoding(max_new_tokens=12, eos_ids=(2,))
SAMPLED = Decoding(max_new_tokens=12, eos_ids=(2,), temperature=1.5, candidates=3, seed=7)


def one_by_one(language, tokenizer, made, decoding):
    return [
        generate(language, tokenizer, [prompt], decoding, keys=[key])[0]
        for key, prompt in enumerate(made)
    ]


def assert_same(left, right):
    flat_left, flat_right = [*chain(*left)], [*chain(*right)]
    assert [(a.ids, a.text, a.is_finished) for a in flat_left] == [
        (a.ids, a.text, a.is_finished) for a in flat_right
    ]
    for a, b in zip(flat_left, flat_right, strict=True):
        assert a.confidence == pytest.approx(b.confidence, abs=1e-5)


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_the_batch(decoding):
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [3, 9, 1, 6, 12, 4])
    together = generate(language, tokenizer, made, decoding)
    assert_same(together, one_by_one(language, tokenizer, made, decoding))


def test_rows_that_end_early_leave_the_others_unchanged():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [5] * 12)
    decoding = dataclasses.replace(SAMPLED, max_new_tokens=30)
    together = generate(language, tokenizer, made, decoding)
    lengths = {len(answer.ids) for answers in together for answer in answers}
    assert len(lengths) > 4, "the case must hold rows of many lengths"
    assert_same(together, one_by_one(language, tokenizer, made, decoding))


def test_greedy_equals_generate_of_transformers():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [3, 8, 5])
    for prompt, answers in zip(made, generate(language, tokenizer, made, GREEDY), strict=True):
        reference = language.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )[0].tolist()
        drawn = [*answers[0].ids, *([2] if answers[0].is_finished else [])]
        assert drawn == reference


def test_a_repetition_penalty_is_that_of_transformers():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [3, 8, 5])
    decoding = dataclasses.replace(GREEDY, repetition_penalty=1.7)
    found = generate(language, tokenizer, made, decoding)
    assert found != generate(language, tokenizer, made, GREEDY)
    for prompt, answers in zip(made, found, strict=True):
        reference = language.generate(
            inputs_embeds=prompt[None],
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            repetition_penalty=1.7,
            eos_token_id=2,
            pad_token_id=0,
        )[0].tolist()
        assert [*answers[0].ids, *([2] if answers[0].is_finished else [])] == reference
    with pytest.raises(ModelError, match="beams search without a repetition_penalty"):
        dataclasses.replace(decoding, beams=2)


def test_beams_find_answers_no_less_likely_than_greedy():
    language, tokenizer = tiny_language(3), tiny_tokenizer()
    made = prompts(language, [4, 6])
    fixed = Decoding(max_new_tokens=5)
    wide = generate(language, tokenizer, made, dataclasses.replace(fixed, beams=4))
    for beam, greedy in zip(wide, generate(language, tokenizer, made, fixed), strict=True):
        assert beam[0].confidence >= greedy[0].confidence - 1e-6


def test_confidence_is_the_mean_log_probability_of_the_tokens_drawn():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [3, 7])
    answers = [answer[0] for answer in generate(language, tokenizer, made, GREEDY)]
    drawn = [[*a.ids, *([2] if a.is_finished else [])] for a in answers]
    for answer, scores in zip(answers, log_probs(language, made, drawn), strict=True):
        assert answer.confidence == pytest.approx(sum(scores) / len(scores), abs=1e-5)


def test_likelihoods_do_not_depend_on_the_batch():
    language = tiny_language()
    made, texts = prompts(language, [3, 9, 5]), [[4], [5, 6, 7, 8], [9, 2]]
    together = log_probs(language, made, texts)
    for prompt, ids, scores in zip(made, texts, together, strict=True):
        assert scores == pytest.approx(log_probs(language, [prompt], [ids])[0], abs=1e-5)


def test_candidates_of_one_prompt_differ_and_another_seed_draws_others():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [4])
    first = [a.ids for a in generate(language, tokenizer, made, SAMPLED)[0]]
    assert len(set(first)) > 1
    again = dataclasses.replace(SAMPLED, seed=8)
    assert first != [a.ids for a in generate(language, tokenizer, made, again)[0]]


def test_sampling_follows_the_softmax():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [4])
    once = Decoding(max_new_tokens=1, temperature=1.0, candidates=4000)
    drawn = [a.ids[0] for a in generate(language, tokenizer, made, once)[0]]
    embeds, mask, positions = pad_left(made)
    logits = language(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
    for token, share in enumerate(logits[0, -1].softmax(-1).tolist()):
        error = 4 * math.sqrt(share * (1 - share) / 4000) + 1e-3
        assert drawn.count(token) / 4000 == pytest.approx(share, abs=error)


@pytest.mark.parametrize("bound", [{"top_k": 1}, {"top_p": 1e-6}], ids=["top_k", "top_p"])
def test_sampling_bound_to_the_best_token_is_greedy(bound):
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [4, 6])
    bound = Decoding(max_new_tokens=8, temperature=1.0, **bound)
    greedy = generate(language, tokenizer, made, Decoding(max_new_tokens=8))
    assert_same(generate(language, tokenizer, made, bound), greedy)


def test_top_k_draws_nothing_outside_the_best_k():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [4])
    some = Decoding(max_new_tokens=1, temperature=5.0, top_k=3, candidates=200)
    assert len({a.ids[0] for a in generate(language, tokenizer, made, some)[0]}) == 3


def test_an_answer_ends_before_its_stop_string():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    made = prompts(language, [5])
    free = generate(language, tokenizer, made, Decoding(max_new_tokens=10))[0][0]
    words = free.text.split()
    stop = words[3]
    stopped = generate(
        language, tokenizer, made, Decoding(max_new_tokens=10, stop_strings=(stop,))
    )[0][0]
    assert stopped.text == " ".join(words[: words.index(stop)])
    assert stopped.is_finished
    assert not free.is_finished


def test_the_streamed_pieces_are_the_answer():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    for seed in range(4):
        (prompt,) = prompts(language, [5], seed)
        for stops in ((), ("the",), ("sits on",)):
            decoding = Decoding(max_new_tokens=10, eos_ids=(2,), stop_strings=stops)
            whole = generate(language, tokenizer, [prompt], decoding)[0][0].text
            pieces = list(stream(language, tokenizer, prompt, decoding))
            assert "".join(pieces) == whole
            assert all(pieces)


def test_an_answer_stops_where_the_positions_of_the_model_end():
    language, tokenizer = tiny_language(positions=10), tiny_tokenizer()
    made = prompts(language, [4, 8])
    answers = generate(language, tokenizer, made, Decoding(max_new_tokens=50))
    assert [len(answer[0].ids) for answer in answers] == [6, 2]


def test_a_prompt_that_fills_the_model_is_refused_with_both_numbers():
    language, tokenizer = tiny_language(positions=10), tiny_tokenizer()
    with pytest.raises(ModelError, match=r"prompt 1 has 10 tokens and the model takes 10"):
        generate(language, tokenizer, prompts(language, [4, 10]), GREEDY)


def test_logits_that_are_not_finite_are_an_error():
    language, tokenizer = tiny_language(), tiny_tokenizer()
    language.lm_head.weight.data[:] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        generate(language, tokenizer, prompts(language, [4]), GREEDY)


def test_uniform_is_spread_over_zero_to_one_and_repeats():
    draws = [uniform(0, key, 0, 0) for key in range(2000)]
    assert min(draws) >= 0
    assert max(draws) < 1
    assert sum(draws) / len(draws) == pytest.approx(0.5, abs=0.03)
    assert draws[5] == uniform(0, 5, 0, 0) != uniform(0, 5, 1, 0)


class ByteFallback:
    """Words, and bytes that are read a run at a time: one that does not fit spoils all of it."""

    names = ("a", "b", *(f"<0x{byte:02X}>" for byte in b"(\n\xe4\xbd\xa0\x9c"))

    def convert_tokens_to_ids(self, name):
        return self.names.index(name) if name in self.names else None

    def decode(self, ids, skip_special_tokens=True):
        text, run = "", b""
        for name in [*(self.names[number] for number in ids), ""]:
            if name.startswith("<0x"):
                run += bytes([int(name[3:5], 16)])
                continue
            try:
                text += run.decode()
            except UnicodeDecodeError:
                text += "\ufffd" * len(run)
            text, run = text + name, b""
        return text


@pytest.mark.parametrize("ids", [(0, 2, 6, 1), (0, 4, 5, 6, 1), (2, 3, 7, 0, 2, 1, 2), (0, 3, 0)])
def test_what_was_shown_of_an_answer_is_never_taken_back(ids):
    tokenizer, decoding = ByteFallback(), Decoding()
    growing = Growing(byte_ids(tokenizer))
    whole = tokenizer.decode(ids).strip()
    shown = ""
    for count in range(1, len(ids)):
        shown += growing.more(ids[:count], tokenizer, decoding)
        assert whole.startswith(shown)
    assert shown + growing.rest(Generated(ids, whole, 0.0, True)) == whole
