"""What a configuration of XTuner says of the model. It is Python, and is never run.

Its text is parsed and literals, `dict(...)`, names given before and sums of strings
are understood; whatever else stands there is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.text.templates import TEMPLATES
from vlforge.types import ModelError

_ABSENT = object()
_OTHER_NAMES = {
    "default": "xtuner_default", "gemma": "xtuner_gemma", "deepseek_moe": "mistral",
}  # fmt: skip
"""XTuner's templates that go by another name here."""


@dataclass(frozen=True)
class Recipe:
    """The parts of a configuration that a checkpoint leaves out.

    llm, vision: names or paths of the models it began from.
    llm_lora, vision_lora: arguments of `LoraConfig`, where it had one.
    template: our name of the conversation template.
    pads: whether pictures were padded to squares.
    text: the configuration itself.
    """

    llm: str = ""
    vision: str = ""
    llm_lora: Mapping[str, Any] | None = None
    vision_lora: Mapping[str, Any] | None = None
    select_layer: int = -2
    token_merge: int = 1
    template: str | None = None
    pads: bool | None = None
    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_recipe(path: Path) -> Recipe:
    """The configuration in a file.

    Raises:
        ModelError: it cannot be read, or is no configuration.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    try:
        return parse_recipe(text)
    except SyntaxError as error:
        raise ModelError(f"{path} is no configuration of XTuner: {error.msg}") from None


def parse_recipe(text: str) -> Recipe:
    """The configuration in a text.

    Raises:
        SyntaxError: it is no Python.
    """
    values = _assigned(ast.parse(text))
    model = _dict(values.get("model"))
    lora, vision_lora = model.get("llm_lora"), model.get("visual_encoder_lora")
    return Recipe(
        llm=_name(model.get("llm"), values.get("llm_name_or_path")),
        vision=_name(model.get("visual_encoder"), values.get("visual_encoder_name_or_path")),
        llm_lora=lora if isinstance(lora, dict) else None,
        vision_lora=vision_lora if isinstance(vision_lora, dict) else None,
        select_layer=_number(model.get("visual_select_layer"), -2),
        token_merge=_number(model.get("token_merge_ratio"), 1),
        template=_template(values),
        pads=_pads(values),
        text=text,
        values=values,
    )


def _assigned(tree: ast.Module) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        value = _value(node.value, values)
        for target in node.targets:
            if isinstance(target, ast.Name) and value is not _ABSENT:
                values[target.id] = value
    return values


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """A value that needs no running; a dotted name is its text."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return ast.unparse(node)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(one, known) for one in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, known)
        return -value if isinstance(value, int | float) else _ABSENT
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = _value(node.left, known), _value(node.right, known)
        return "".join(sides) if all(isinstance(one, str) for one in sides) else _ABSENT
    return _entries(node, known)


def _entries(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """`dict(a=1)` and `{"a": 1}`."""
    pairs: list[tuple[Any, ast.expr]] = []
    if isinstance(node, ast.Dict):
        pairs = [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        ]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = [(word.arg, word.value) for word in node.keywords if word.arg]
    else:
        return _ABSENT
    found = {key: _value(value, known) for key, value in pairs}
    return {key: value for key, value in found.items() if value is not _ABSENT}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(part: Any, otherwise: Any) -> str:
    name = _dict(part).get("pretrained_model_name_or_path", otherwise)
    return name if isinstance(name, str) else ""


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _template(values: Mapping[str, Any]) -> str | None:
    """`PROMPT_TEMPLATE.vicuna`, in a file as it is written or as mmengine dumps it."""
    given = values.get("prompt_template")
    if not isinstance(given, str) or "PROMPT_TEMPLATE." not in given:
        return None
    name = given.rpartition(".")[2]
    name = _OTHER_NAMES.get(name, name)
    return name if name in TEMPLATES else None


def _pads(values: Mapping[str, Any]) -> bool | None:
    data = _dict(values.get("llava_dataset")) or _dict(
        _dict(values.get("train_dataloader")).get("dataset")
    )
    pads = data.get("pad_image_to_square")
    return pads if isinstance(pads, bool) else None
