"""A judge reads what no rule can; what it does not read is nothing, never a guess."""

from __future__ import annotations

from vlforge.evaluation.judge import judge_choice, judge_prompt

OPTIONS = {"A": "cat", "B": "dog"}


def asking(*replies: str):
    sent: list[str] = []

    def ask(prompt: str) -> str:
        sent.append(prompt)
        return replies[len(sent) - 1]

    return ask, sent


def test_what_a_rule_reads_is_not_asked():
    ask, sent = asking()
    assert judge_choice("Which?", OPTIONS, "the dog", ask).letter == "B"
    assert sent == []


def test_an_unclear_reply_is_asked_again_and_then_given_up():
    ask, sent = asking("A or B", "hmm", "A")
    assert judge_choice("Which?", OPTIONS, "a feline pet", ask).letter == "A"
    assert len(set(sent)) == 1
    ask, sent = asking("?", "?", "?")
    verdict = judge_choice("Which?", OPTIONS, "a feline pet", ask)
    assert (verdict.letter, verdict.tries, len(sent)) == (None, 3, 3)


def test_the_prompt_holds_question_options_and_answer():
    prompt = judge_prompt("Which", OPTIONS, "a feline pet")
    assert "Question: Which?\nOptions: There are several options: \nA. cat\nB. dog\n" in prompt
    assert "Answer: a feline pet" in prompt
    assert judge_prompt("哪个", OPTIONS, "猫咪") != judge_prompt("Which", OPTIONS, "猫咪")
