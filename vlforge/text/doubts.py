"""Whether a template fits a language model: told, never refused.

Turns are marked by tokens that the language model knows from its own training. Where
the tokenizer cuts such a mark into pieces, the model sees words it has never seen used
that way, and answers run on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlforge.text.minigpt4_templates import MINIGPT4_TEMPLATES, separator_doubt
from vlforge.text.template import Template
from vlforge.text.tokenizers import TextTokenizer, adapt

_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_PHI_3 = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
SPECIAL_MARKS = (
    *_CHATML,
    "<start_of_turn>", "<end_of_turn>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<eoh>", "<eoa>", "<｜end▁of▁sentence｜>", "<img>", "</img>",
)  # fmt: skip
"""What is one token of its own in the models whose templates have it: ChatML, Gemma,
Llama 3, InternLM, DeepSeek, Qwen-VL. Phi-3's `<|user|>` is one too, Zephyr's is not."""


def template_doubts(
    template: Template,
    tokenizer: Any,
    language: Mapping[str, Any] | None = None,
    name: str = "",
) -> list[str]:
    """Why a template may not fit a language model, a line each; empty where it should.

    Args:
        tokenizer: a `TextTokenizer` or a tokenizer of transformers.
        language: `config.json` of the language model.
        name: of its folder, which often holds its version.
    """
    tokens = adapt(tokenizer)
    found = []
    split = [mark for mark in special_marks(template) if not _is_token(mark, tokens)]
    if split:
        found.append(
            f"template {template.name!r} marks turns with {', '.join(split)}, which this "
            "tokenizer cuts into pieces: the language model may not know where turns end. Take "
            "the template that it was trained with"
        )
    if (template.eos or template.eos_after_answer) and tokens.eos_token_id is None:
        found.append(
            f"template {template.name!r} ends answers with an end-of-sequence token, and this "
            "tokenizer has none: answers will run on to their longest. Name one in "
            "tokenizer_config.json (eos_token)"
        )
    if "<s>" in template.between and tokens.bos_token_id is None:
        found.append(
            f"template {template.name!r} begins rounds with a begin-of-sequence token, and this "
            "tokenizer has none"
        )
    if template in MINIGPT4_TEMPLATES and language is not None:
        doubt = separator_doubt(template, language, name)
        found += [doubt] if doubt else []
    return found


def special_marks(template: Template) -> list[str]:
    """The marks in a template that its own models have as tokens, in order of appearance."""
    voices = (template.system_voice, template.user, template.assistant)
    written = [part for voice in voices for part in (voice.open, voice.lead, voice.end)]
    written += [template.opening, template.between, template.after, *template.image_marks]
    text = " ".join(written)
    known = SPECIAL_MARKS + (_PHI_3 if "<|end|>" in text else ())
    found = re.findall("|".join(re.escape(mark) for mark in known), text)
    return [mark for mark in dict.fromkeys(found) if mark != template.eos]


def _is_token(mark: str, tokens: TextTokenizer) -> bool:
    ids = tokens.ids(mark)
    return len(ids) == 1 and ids[0] != tokens.unk_token_id
