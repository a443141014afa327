"""Every conversation template by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

from vlforge.text.llava_templates import LLAVA_TEMPLATES
from vlforge.text.minigpt4_templates import MINIGPT4_TEMPLATES
from vlforge.text.qwen_templates import QWEN_TEMPLATES
from vlforge.text.template import MaskRule, Template, Voice
from vlforge.text.xtuner_templates import XTUNER_TEMPLATES
from vlforge.types import RecipeError

__all__ = ["TEMPLATES", "MaskRule", "Template", "Voice", "find_template"]

TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (*LLAVA_TEMPLATES, *XTUNER_TEMPLATES, *MINIGPT4_TEMPLATES, *QWEN_TEMPLATES)
}

IM_START_END = "im_start_end"
"""What `v1+im_start_end` adds to `v1`: LLaVA's mm_use_im_start_end."""


def with_im_start_end(template: Template) -> Template:
    """The template with every image between two tokens of their own."""
    before, after = template.image_marks
    marks = ("<im_start>", "<im_end>")
    return replace(
        template,
        name=f"{template.name}+{IM_START_END}",
        image_marks=(before + marks[0], marks[1] + after),
        new_tokens=(*template.new_tokens, *marks),
    )


def find_template(name: str) -> Template:
    """The template called `name`; `NAME+im_start_end` puts each image between two tokens.

    Raises:
        RecipeError: no such template; lists those there are.
    """
    base, _, added = name.partition("+")
    if added == IM_START_END and base in TEMPLATES:
        return with_im_start_end(TEMPLATES[base])
    if name not in TEMPLATES:
        near = get_close_matches(base, TEMPLATES, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(sorted(TEMPLATES))
        raise RecipeError(f"no conversation template is called {name!r}; {hint}known: {known}")
    return TEMPLATES[name]
