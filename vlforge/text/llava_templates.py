"""The conversation templates of LLaVA and MGM.

Sources: haotian-liu/LLaVA@c121f04 and dvlab-research/MGM@769820c (conversation.py).
A name both have with different texts is MGM's under `mgm_`.
"""

from __future__ import annotations

from dataclasses import replace

from vlforge.text.template import MaskRule, Template, Voice

_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CURIOUS_HUMAN = _CURIOUS_USER.replace("user", "human")
_SEES_TAGS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, and assist "
    "the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_SEES = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\nIf a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information."
)

_EXAMPLE = (
    "Human: What are the key differences between renewable and non-renewable energy sources?###"
    "Assistant: Renewable energy sources are those that can be replenished naturally in a "
    "relatively short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
    "Non-renewable energy sources, on the other hand, are finite and will eventually be depleted, "
    "such as coal, oil, and natural gas. Here are some key differences between renewable and "
    "non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable "
    "energy sources are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact than "
    "non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, "
    "and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
    "typically have lower operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more "
    "remote locations than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to "
    "different situations and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, while "
    "non-renewable sources are not, and their depletion can lead to economic and social "
    "instability.\n###"
)
"""A round that is part of the format `v0`, letter by letter."""


def _both(rule: MaskRule) -> dict[str, MaskRule]:
    return {"llava": rule, "mgm": rule}


PLAIN = Template(
    name="plain",
    user=Voice(end="\n"),
    assistant=Voice(end="\n"),
    words_from_user=False,
    stop_strings=("\n",),
    references=_both("plain"),
)
"""Captioning: the image, then the caption and a line feed. LLaVA's and MGM's first stage."""

VICUNA_V1 = Template(
    name="v1",
    user=Voice("USER:", " ", " "),
    assistant=Voice("ASSISTANT:", " ", "</s>"),
    system=_CURIOUS_USER,
    system_voice=Voice(end=" "),
    eos="</s>",
    references=_both("vicuna"),
)
"""Vicuna 1.1 as LLaVA-1.5 and MGM use it."""

V1_SHORT = replace(VICUNA_V1, name="v1_short", system="", references={})
"""The same without the system text."""

LLAVA_V1 = replace(VICUNA_V1, name="llava_v1", system=_CURIOUS_HUMAN)

V1_TAGGED = replace(
    VICUNA_V1, name="v1_mmtag", system=_SEES_TAGS, image_marks=("<Image>", "</Image>")
)

IMGSP_V1 = replace(VICUNA_V1, name="imgsp_v1", references={"mgm": "headed"})

PHI_2 = replace(
    VICUNA_V1,
    name="phi_2",
    assistant=Voice("ASSISTANT:", " ", "<|endoftext|>"),
    eos="<|endoftext|>",
    references={"mgm": "headed"},
)

LLAVA_V0 = Template(
    name="llava_v0",
    user=Voice("Human:", " ", "###"),
    assistant=Voice("Assistant:", " ", "###"),
    system=_CURIOUS_HUMAN,
    system_voice=Voice(end="###"),
    stop_strings=("###",),
    references=_both("headed"),
)

V0 = replace(LLAVA_V0, name="v0", opening=_EXAMPLE)
"""Vicuna v0 with the round that it is shown before every conversation. Their training
leaves that round out, and so does `compat`."""

V0_TAGGED = replace(
    LLAVA_V0, name="v0_mmtag", system=_SEES_TAGS, image_marks=("<Image>", "</Image>")
)

LLAMA_2 = Template(
    name="llama_2",
    user=Voice("[INST]", " ", " [/INST]"),
    assistant=Voice("", " ", " </s>"),
    system=_SAFE,
    system_voice=Voice("<<SYS>>\n", "", "\n<</SYS>>\n\n"),
    system_inside=True,
    between="<s>",
    eos="</s>",
    references=_both("llama-2"),
)

LLAVA_LLAMA_2 = replace(LLAMA_2, name="llava_llama_2", system=_SEES)

MGM_MISTRAL = replace(
    LLAMA_2, name="mgm_mistral_instruct", system="", references={"mgm": "llama-2"}
)

MISTRAL = replace(
    LLAMA_2,
    name="mistral_instruct",
    system="",
    between="",
    references={"llava": "llama-2"},
)

CHATML = Template(
    name="chatml_direct",
    user=Voice("<|im_start|>user\n", "", "<|im_end|>"),
    assistant=Voice("<|im_start|>assistant\n", "", "<|im_end|>"),
    system="Answer the questions.",
    system_voice=Voice("<|im_start|>system\n", "", "<|im_end|>"),
    stop_strings=("<|im_end|>",),
    references={
        "llava": "chatml",
        "llava-31cceb8": "chatml-older",
        "llava-issue1706": "chatml-begun",
        "mgm": "chatml",
    },
)

MPT = replace(
    CHATML,
    name="mpt",
    system=(
        "A conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers."
    ),
)

LLAMA_3 = Template(
    name="llama_3",
    user=Voice("<|start_header_id|>user<|end_header_id|>\n\n", "", "<|eot_id|>"),
    # MGM opens the assistant's turn as the system's; its released weights learned it so.
    assistant=Voice("<|start_header_id|>system<|end_header_id|>\n\n", "", "<|eot_id|>"),
    system=_SEES,
    system_voice=Voice("<|start_header_id|>system<|end_header_id|>\n\n", "", "<|eot_id|>"),
    stop_strings=("<|eot_id|>",),
    references={"mgm": "llama-3"},
)

GEMMA = Template(
    name="gemma",
    user=Voice("<start_of_turn>user\n", "", "<end_of_turn>\n"),
    assistant=Voice("<start_of_turn>model\n", "", "<end_of_turn>\n<eos>"),
    eos="<eos>",
    stop_strings=("<end_of_turn>",),
    references={"mgm": "gemma"},
)

LLAVA_TEMPLATES = (
    PLAIN,
    replace(PLAIN, name="v0_plain"),
    VICUNA_V1,
    replace(VICUNA_V1, name="vicuna_v1"),
    V1_SHORT,
    LLAVA_V1,
    V1_TAGGED,
    IMGSP_V1,
    PHI_2,
    LLAVA_V0,
    V0,
    replace(V0, name="default"),
    V0_TAGGED,
    LLAMA_2,
    LLAVA_LLAMA_2,
    MISTRAL,
    MGM_MISTRAL,
    CHATML,
    replace(CHATML, name="mistral_direct"),
    MPT,
    LLAMA_3,
    GEMMA,
)
