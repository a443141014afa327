"""A conversation template in Jinja, as transformers and vLLM render messages.

The result is the text that the model was trained on, without the begin-of-sequence
token: tokenizers add it, as for the llava-hf folders of the hub.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from vlforge.text.encode import encode_turns
from vlforge.text.template import Template, Voice
from vlforge.text.tokenizers import TextTokenizer
from vlforge.types import IMAGE_INDEX, Turn

_IMAGE = "<image>"
_QUESTION = Turn("user", f"{_IMAGE}\nWhat is red here?")
PROBES = ((_QUESTION,), (_QUESTION, Turn("assistant", "A cat."), Turn("user", "And blue?")))
"""Conversations whose ids tell whether a chat template is the one of training."""


def fitting_template(
    template: Template, tokenizer: Any, trained_with: TextTokenizer, image: int
) -> tuple[str | None, bool]:
    """The chat template whose ids are those of training, and whether they are.

    LLaVA tokenizes what follows a picture as a new text, which many a tokenizer begins
    with a space of its own; as one text with `<image>` in it that space is missing. Then
    the chat template writes it.

    Args:
        tokenizer: transformers' own, with `<image>` in it, whose id is `image`.
        trained_with: what made the ids of training.
    """
    first = chat_template(template, tokenizer.eos_token)
    for lead in ("", " "):
        gaps = (lead + template.image_gaps[0], lead + template.image_gaps[1])
        made = chat_template(replace(template, image_gaps=gaps), tokenizer.eos_token)
        if made is not None and _same_ids(made, template, tokenizer, trained_with, image):
            return made, True
    return first, False


def _same_ids(
    made: str, template: Template, tokenizer: Any, trained_with: TextTokenizer, image: int
) -> bool:
    for turns in PROBES:
        wanted = encode_turns(
            template, trained_with, turns, max_length=None, generation=True, images=1
        ).ids
        messages = [{"role": turn.role, "content": _parts(turn.text)} for turn in turns]
        text = tokenizer.apply_chat_template(
            messages, chat_template=made, tokenize=False, add_generation_prompt=True
        )
        found = list(tokenizer(text)["input_ids"])
        if found != [image if token == IMAGE_INDEX else token for token in wanted]:
            return False
    return True


def _parts(text: str) -> list[dict[str, str]]:
    words = [{"type": "text", "text": text.removeprefix(f"{_IMAGE}\n")}]
    return [{"type": "image"}, *words] if _IMAGE in text else words


def chat_template(template: Template, eos: str | None = None) -> str | None:
    """The template for `apply_chat_template`; None where Jinja cannot say it.

    Pictures stand where our own rendering puts them: at the head of a turn, one a
    line, or where the message has them.

    Args:
        eos: the tokenizer's end-of-sequence text, written where the template's stands.
    """
    if template.image_label or not template.words_from_user:
        return None
    voice = template.assistant
    end = voice.end.replace(template.eos, eos) if template.eos and eos else voice.end
    answer = _said(Voice(voice.open, voice.lead, end + template.after), "s.words")
    system = _said(template.system_voice, "s.system")
    head = [
        "{%- set s = namespace(system=" + _quoted(template.system) + ", words='', n=0) -%}",
        "{%- if messages[0]['role'] == 'system' -%}",
        _content("messages[0]", "s.system", images_first=False),
        "{%- endif -%}",
    ]
    outside = "" if template.system_inside else f"{{%- if s.system -%}}{system}{{%- endif -%}}"
    first = outside + _text(template.opening)
    inside = f"{{%- if s.n == 0 and s.system -%}}{system}{{%- endif -%}}"
    user = template.user
    question = [
        "{%- if s.n == 0 -%}" + first + "{%- else -%}" + _text(template.between) + "{%- endif -%}",
        _numbered(user.open, template.round_mark) + _text(user.lead),
        inside if template.system_inside else "",
        "{{ s.words }}" + _text(user.end),
        "{%- set s.n = s.n + 1 -%}",
    ]
    body = [
        "{%- for message in messages if message['role'] != 'system' -%}",
        _content("message", "s.words", template.images_first, _marked(template), template),
        "{%- if message['role'] == 'user' -%}",
        *question,
        "{%- else -%}",
        answer,
        "{%- endif -%}{%- endfor -%}",
        "{%- if add_generation_prompt -%}" + _text(voice.open) + "{%- endif -%}",
    ]
    return "".join([*head, *body])


def _marked(template: Template) -> str:
    return template.image_marks[0] + _IMAGE + template.image_marks[1]


def _content(
    message: str,
    into: str,
    images_first: bool,
    image: str = _IMAGE,
    template: Template | None = None,
) -> str:
    """Jinja that puts a message's words, a string or a list of parts, into a variable."""
    between, after = template.image_gaps if template else ("", "")
    count = f"{message}['content'] | selectattr('type', 'equalto', 'image') | list | length"
    texts = f"{message}['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text')"
    parts = [f"{{%- if {message}['content'] is string -%}}"]
    parts += [f"{{%- set {into} = {message}['content'] -%}}", "{%- else -%}"]
    if images_first:
        lead = f"(([{_quoted(image)}] * k) | join({_quoted(between)}) + {_quoted(after)} + "
        words = f"({texts} | join('') | trim)) | trim"
        parts += [f"{{%- set k = {count} -%}}", "{%- if k -%}"]
        parts += [f"{{%- set {into} = {lead}{words} -%}}", "{%- else -%}"]
        parts += [f"{{%- set {into} = {texts} | join('') -%}}", "{%- endif -%}"]
    else:
        parts += [f"{{%- set {into} = '' -%}}", f"{{%- for part in {message}['content'] -%}}"]
        shown = f"{_quoted(image)} if part['type'] == 'image' else part['text']"
        parts += [f"{{%- set {into} = {into} + ({shown}) -%}}", "{%- endfor -%}"]
    return "".join([*parts, "{%- endif -%}"])


def _said(voice: Voice, words: str) -> str:
    return _text(voice.open + voice.lead) + f"{{{{ {words} }}}}" + _text(voice.end)


def _text(text: str) -> str:
    return f"{{{{ {_quoted(text)} }}}}" if text else ""


def _numbered(text: str, mark: str) -> str:
    """The text with the number of the round where its mark stands."""
    if not mark:
        return _text(text)
    return "{{ s.n + 1 }}".join(map(_text, text.split(mark)))


def _quoted(text: str) -> str:
    return json.dumps(text)
