"""A conversation template in Jinja, as transformers and vLLM render messages.

The result is the text that the model was trained on, without the begin-of-sequence
token: tokenizers add it, as for the llava-hf folders of the hub.
"""

from __future__ import annotations

import json

from vlforge.text.template import Template, Voice

_IMAGE = "<image>"


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
        _text(user.open + user.lead),
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


def _quoted(text: str) -> str:
    return json.dumps(text)
