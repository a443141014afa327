"""XTuner's conversation templates: prompt, answer and the gap after it are tokenised apart.

Source: InternLM/xtuner@v0.1.23 (utils/templates.py). A name that LLaVA or MGM has
with another text stands here under `xtuner_`.
"""

from __future__ import annotations

from dataclasses import replace

from vlforge.text.template import Template, Voice

VICUNA = Template(
    name="vicuna",
    user=Voice("USER:", " ", " ASSISTANT:"),
    assistant=Voice(),
    system_voice=Voice(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
        "",
        "\n ",
    ),
    after="\n",
    joined=False,
    eos_after_answer=True,
    references={"xtuner": "xtuner", "xtuner-images": "xtuner-images"},
)
"""Vicuna without a system text, unless a turn brings one."""

DEFAULT = replace(
    VICUNA,
    name="xtuner_default",
    user=Voice("<|User|>:", "", "\n<|Bot|>:"),
    system_voice=Voice("<|System|>:", "", "\n"),
)

INTERNLM2 = replace(
    VICUNA,
    name="internlm2_chat",
    user=Voice("<|im_start|>user\n", "", "<|im_end|>\n<|im_start|>assistant\n"),
    assistant=Voice(end="<|im_end|>"),
    system_voice=Voice("<|im_start|>system\n", "", "<|im_end|>\n"),
    eos_after_answer=False,
    stop_strings=("<|im_end|>",),
)

QWEN = replace(INTERNLM2, name="qwen_chat", stop_strings=("<|im_end|>", "<|endoftext|>"))

INTERNLM = replace(
    INTERNLM2,
    name="internlm_chat",
    user=Voice("<|User|>:", "", "<eoh>\n<|Bot|>:"),
    assistant=Voice(end="<eoa>"),
    system_voice=Voice("<|System|>:", "", "\n"),
    stop_strings=("<eoa>",),
)

LLAMA_3 = replace(
    INTERNLM2,
    name="llama3_chat",
    user=Voice(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    assistant=Voice(end="<|eot_id|>"),
    system_voice=Voice("<|start_header_id|>system<|end_header_id|>\n\n", "", "<|eot_id|>"),
    after="",
    stop_strings=("<|eot_id|>",),
)

PHI_3 = replace(
    INTERNLM2,
    name="phi3_chat",
    user=Voice("<|user|>\n", "", "<|end|>\n<|assistant|>\n"),
    assistant=Voice(end="<|end|>"),
    system_voice=Voice("<|system|>\n", "", "<|end|>\n"),
    stop_strings=("<|end|>",),
)

MISTRAL = replace(
    VICUNA,
    name="mistral",
    user=Voice("[INST]", " ", " [/INST]"),
    system_voice=Voice("[INST] ", "", " [/INST]\n"),
)

LLAMA_2 = replace(
    MISTRAL,
    name="llama2_chat",
    system_voice=Voice(
        "[INST] <<SYS>>\n You are a helpful, respectful and honest assistant. Always answer as "
        "helpfully as possible, while being safe. Your answers should not include any harmful, "
        "unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your "
        "responses are socially unbiased and positive in nature.\n",
        "",
        "\n<</SYS>>\n [/INST] ",
    ),
)

CODE_LLAMA = replace(MISTRAL, name="code_llama_chat", system_voice=Voice("", "", "\n"), after="")

GEMMA = replace(
    VICUNA,
    name="xtuner_gemma",
    user=Voice("<start_of_turn>user\n", "", "<end_of_turn>\n<start_of_turn>model\n"),
    assistant=Voice(end="<end_of_turn>"),
    system_voice=Voice("<start_of_turn>system\n", "", "<end_of_turn>\n"),
    stop_strings=("<end_of_turn>",),
)

ZEPHYR = replace(
    VICUNA,
    name="zephyr",
    user=Voice("<|user|>\n", "", "\n<|assistant|>\n"),
    system_voice=Voice("<|system|>\n", "", "\n"),
)

DEEPSEEK_V2 = replace(
    INTERNLM2,
    name="deepseek_v2",
    user=Voice("User:", " ", "\n\nAssistant: "),
    assistant=Voice(end="<｜end▁of▁sentence｜>"),
    system_voice=Voice("", "", "\n\n"),
    after="",
    stop_strings=("<｜end▁of▁sentence｜>",),
)

MOSS = replace(
    VICUNA,
    name="moss_sft",
    user=Voice("<|Human|>: ", "", "<eoh>\n"),
    system_voice=Voice("", "", "\n"),
    stop_strings=("<eoc>", "<eom>"),
)

CHATGLM_2 = replace(
    VICUNA,
    name="chatglm2",
    user=Voice("[Round {round}]\n\n问：", "", "\n\n答："),
    system_voice=Voice("", "", "\n"),
    after="\n\n",
    round_mark="{round}",
)

CHATGLM_3 = replace(
    VICUNA,
    name="chatglm3",
    user=Voice("<|user|>\n", "", "<|assistant|>\n"),
    system_voice=Voice("<|system|>\n"),
)

BAICHUAN = replace(
    MOSS, name="baichuan_chat", user=Voice("<reserved_102>", "", "<reserved_103>"), stop_strings=()
)

BAICHUAN_2 = replace(
    BAICHUAN, name="baichuan2_chat", user=Voice("<reserved_106>", "", "<reserved_107>")
)

WIZARD_CODER = replace(
    VICUNA,
    name="wizardcoder",
    user=Voice("### Instruction:\n", "", "\n\n### Response:"),
    system_voice=Voice(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
        "",
        "\n ",
    ),
    after="\n\n",
)

DEEPSEEK_CODER = replace(
    VICUNA,
    name="deepseek_coder",
    user=Voice("### Instruction:\n", "", "\n### Response:\n"),
    # "DeepSeekCompany" is what its users' models were trained with.
    system_voice=Voice(
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by "
        "DeepSeekCompany, and you only answer questions related to computer science. For "
        "politically sensitive questions, security and privacy issues, and other non-computer "
        "science questions, you will refuse to answer. ",
        "",
        "\n",
    ),
)

MINICPM = replace(
    VICUNA,
    name="minicpm",
    user=Voice("<用户>", " ", " <AI>"),
    system_voice=Voice("", "", "\n"),  # the published one has no place for a system text
)

COHERE = replace(
    INTERNLM2,
    name="cohere_chat",
    user=Voice(
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        "",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    assistant=Voice(end="<|END_OF_TURN_TOKEN|>"),
    system_voice=Voice("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "", "<|END_OF_TURN_TOKEN|>"),
    after="",
    stop_strings=("<|END_OF_TURN_TOKEN|>",),
)

XTUNER_TEMPLATES = (
    VICUNA,
    replace(VICUNA, name="wizardlm"),
    DEFAULT,
    INTERNLM2,
    QWEN,
    INTERNLM,
    LLAMA_2,
    LLAMA_3,
    PHI_3,
    MISTRAL,
    replace(MISTRAL, name="mixtral"),
    replace(MISTRAL, name="deepseek_moe"),
    CODE_LLAMA,
    MOSS,
    CHATGLM_2,
    CHATGLM_3,
    BAICHUAN,
    BAICHUAN_2,
    WIZARD_CODER,
    DEEPSEEK_CODER,
    replace(DEEPSEEK_CODER, name="deepseekcoder"),
    MINICPM,
    COHERE,
    GEMMA,
    ZEPHYR,
    DEEPSEEK_V2,
)
