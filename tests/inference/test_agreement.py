import pytest
import torch

from tests.families import FAMILIES, NATIVE, loaded, samples
from tests.inference.tiny import prompts, tiny_language, tiny_tokenizer
from vlforge.inference.agreement import compare_batches, compare_prompts, count_differing
from vlforge.inference.generate import Decoding, Generated, generate

LONG = Decoding(24)


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_in_fp32_no_answer_depends_on_the_batch(name):
    found = compare_batches(loaded(name), samples(), Decoding(8), (1, 5))
    assert (found.answers, found.differing, found.first) == (7, 0, 0)
    assert str(found) == "0 of 7 answers differ between batch 1 and 5"


def test_in_bf16_differences_are_counted():
    """Two languages of one shape differ as two roundings would; the count is of their answers."""
    words = tiny_tokenizer()
    one, other = tiny_language(0).bfloat16(), tiny_language(0).bfloat16()
    with torch.no_grad():
        other.lm_head.weight += 0.05 * torch.randn_like(other.lm_head.weight)
    made = [prompt.bfloat16() for prompt in prompts(one, [3, 9, 5, 7] * 4)]
    left, right = (generate(each, words, made, LONG) for each in (one, other))
    found = count_differing(left, right, (1, 8))
    differing = [a[0].ids != b[0].ids for a, b in zip(left, right, strict=True)]
    assert found.differing == sum(differing) > 0
    assert 1 <= found.first <= 24
    assert f"{found.differing} of 16 answers differ between batch 1 and 8, the first" in str(found)


def test_prompts_are_held_against_each_other_in_two_batches():
    language, words = tiny_language(), tiny_tokenizer()
    found = compare_prompts(language, words, prompts(language, [3, 9, 5, 7, 1]), LONG, (1, 4))
    assert found.to_json() == {"sizes": (1, 4), "answers": 5, "differing": 0, "first": 0}


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [((4, 5, 6), (4, 5, 6), 0), ((4, 5, 6), (4, 7, 6), 2), ((4, 5), (4, 5, 6), 3), ((), (4,), 1)],
)
def test_answers_part_at_their_first_other_token(one, other, first):
    pair = [[[Generated(ids, "", 0.0, True)]] for ids in (one, other)]
    found = count_differing(*pair, (1, 2))
    assert (found.differing, found.first) == (int(one != other), first)
