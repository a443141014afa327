"""Asks a judge which option an answer means, where no rule can read it.

The prompts are VLMEvalKit's, word for word: a judge's verdict depends on them.
Source: open-compass/VLMEvalKit@e8e78f0, extract_answer_from_item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from vlforge.evaluation.metrics.choices import vlmevalkit
from vlforge.inference.endpoint.config import ChatRequest

TRIES = 3
_CHINESE = re.compile("[\u4e00-\u9fff]")
_PROMPT = (
    "You are an AI assistant who will help me to match an answer with several options of a "
    "single-choice question. You are provided with a question, several options, and an answer, "
    "and you need to find which option is most similar to the answer. If the meaning of all "
    "options are significantly different from the answer, output Z. Your should output a single "
    "uppercase character in A, B, C, D (if they are valid options), and Z. \n"
    "Example 1: \nQuestion: What is the main object in image?\n"
    "Options: A. teddy bear B. rabbit C. cat D. dog\nAnswer: a cute teddy bear\nYour output: A\n"
    "Example 2: \nQuestion: What is the main object in image?\n"
    "Options: A. teddy bear B. rabbit C. cat D. dog\nAnswer: Spider\nYour output: Z\n"
    "Example 3: \nQuestion: {question}?\nOptions: {options}\nAnswer: {answer}\nYour output: "
)
_PROMPT_ZH = (
    "你是一个帮助我匹配答案与单选题中多个选项的 AI 助手。你会被提供：一个问题，多个选项，一个答案。"
    "你的任务是找到与答案意义最相近的选项。如果所有选项的意义都与答案显著不同，则输出 Z。"
    "你应该输出一个单个的大写字母，例如 A, B, C, D（如果它们是有效选项），或 Z。"
    "例 1:问题: 图中最主要的物体是什么?\n选项: A. 泰迪熊 B. 兔子 C. 猫 D. 狗\n"
    "答案: 一只可爱的泰迪熊\n输出: A\n例 2: \n问题: 图中最主要的物体是什么?\n"
    "选项: A. 泰迪熊 B. 兔子 C. 猫 D. 狗\n答案: 蜘蛛\n输出: Z\n例 3: \n"
    "问题: {question}?\n选项: {options}\n答案: {answer}\n输出: "
)


@dataclass(frozen=True)
class Verdict:
    """The letter that was read (None: the judge gave none in three tries) and the reply."""

    letter: str | None
    reply: str
    tries: int


def judge_choice(
    question: str, options: Mapping[str, str], answer: str, ask: Callable[[str], str]
) -> Verdict:
    """The option that `answer` means: by rule where that reads it, else asked of the judge.

    VLMEvalKit draws an option at random when the judge fails; here that is None,
    counted and wrong.
    """
    letter = vlmevalkit(answer, options)
    if letter is not None:
        return Verdict(letter, answer, 0)
    asked = judged_choice(question, options, answer)
    request = next(asked)
    while True:
        try:
            request = asked.send(ask(str(request.messages[-1]["content"])))
        except StopIteration as done:
            return Verdict(**done.value)


def judged_choice(
    question: str, options: Mapping[str, str], answer: str
) -> Generator[ChatRequest, str, Mapping[str, Any]]:
    """The same as requests and replies; three tries, each a request of its own."""
    prompt = judge_prompt(question, options, answer)
    reply = ""
    for attempt in range(TRIES):
        reply = yield ChatRequest.of_text(prompt, seed=attempt or None)
        letter = vlmevalkit(reply, options)
        if letter is not None:
            return {"letter": letter, "reply": reply, "tries": attempt + 1}
    return {"letter": None, "reply": reply, "tries": TRIES}


def judge_prompt(question: str, options: Mapping[str, str], answer: str) -> str:
    """The prompt, Chinese where the question is."""
    shape = _PROMPT_ZH if _CHINESE.search(question) else _PROMPT
    listed = "There are several options: \n" + "".join(
        f"{letter}. {text}\n" for letter, text in options.items()
    )
    return shape.format(question=question, options=listed, answer=answer)
