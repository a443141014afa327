"""Every conversation template by name."""

from __future__ import annotations

from collections.abc import Mapping

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


def find_template(name: str) -> Template:
    """The template called `name`.

    Raises:
        RecipeError: no such template; lists those there are.
    """
    if name not in TEMPLATES:
        known = ", ".join(sorted(TEMPLATES))
        raise RecipeError(f"no conversation template is called {name!r}; known: {known}")
    return TEMPLATES[name]
