"""Which layers an adapter changes: published sets, names, expressions, within one part.

Published sets are data. Names stand for the end of a module's path, expressions have to
mean the whole of it, as in peft; both look only into the part that is adapted.

Sources: LLaVA's and XTuner's find_all_linear_names (haotian-liu/LLaVA@c121f04,
InternLM/xtuner v0.1.23), QwenLM/Qwen-VL finetune.py, MGen-VL's lora_sft_argument.json.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from vlforge.models.base import PARTS
from vlforge.training.config import LoraSpec
from vlforge.types import RecipeError

ALL_LINEAR = "all_linear"
TARGETS: Mapping[str, tuple[str, ...]] = {
    "clip": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "ad_captions": (".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*"),
    "qwen": ("c_attn", "attn.c_proj", "w1", "w2"),
    "internlm2": (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head",
    ),
}  # fmt: skip
"""Published sets by name; `all_linear` is worked out from the model.

An InternLM2 is a Llama here: its `wqkv`, `wo`, `w1`, `w3`, `w2` and `output` are q_proj to
v_proj, o_proj, gate_proj, up_proj, down_proj and lm_head.
"""
_MARKS = re.compile(r"[\\*+?\[\](){}|^$]")


def find_targets(model: Any, part: str, spec: LoraSpec, word: str) -> list[str]:
    """Paths within the model of the layers that `spec` means in a part, in order.

    Args:
        part: vision or language.
        word: the setting, for errors.

    Raises:
        RecipeError: an entry that means no layer, or an expression that also means
            layers of another part.
    """
    layers = [name for name, module in model.named_modules() if _can_adapt(module)]
    inside = [name for name in layers if name.startswith(f"{part}.")]
    head = _head_of(model)
    chosen: set[str] = set()
    for entry in _entries(spec.targets):
        if entry == ALL_LINEAR:
            kinds = dict(model.named_modules())
            found = {n for n in inside if isinstance(kinds[n], nn.Linear) and n != head}
        else:
            found = _meant(entry, inside, part)
        if not found:
            raise RecipeError(_unknown(entry, inside, part, f"{word}.targets"))
        if spec.outside == "refuse" and _is_expression(entry):
            _refuse_outside(entry, layers, part, word)
        chosen |= found
    for entry in _entries(spec.exclude):
        taken = _meant(entry, inside, part)
        if not taken:
            raise RecipeError(_unknown(entry, inside, part, f"{word}.exclude"))
        chosen -= taken
    whole = set(modules_named(model, part, spec.modules_to_save, word))
    chosen = {name for name in chosen if not any(f"{name}.".startswith(f"{w}.") for w in whole)}
    if not chosen:
        raise RecipeError(f"{word}: nothing is left to adapt in {part}; mend targets or exclude")
    if head in chosen and _is_tied(model):
        raise RecipeError(
            f"{word}: the output layer is the embeddings' own matrix here; exclude {_leaf(head)!r} "
            "or name it in modules_to_save"
        )
    return [name for name in inside if name in chosen]


def modules_named(model: Any, part: str, names: Iterable[str], word: str) -> list[str]:
    """Paths of the modules of a part whose path ends in one of `names`.

    Raises:
        RecipeError: a name that no module has.
    """
    modules = [name for name, _ in model.named_modules() if name.startswith(f"{part}.")]
    found: list[str] = []
    for entry in names:
        matching = [name for name in modules if _ends(name, entry)]
        if not matching:
            raise RecipeError(_unknown(entry, modules, part, f"{word}.modules_to_save"))
        found += matching
    return list(dict.fromkeys(found))


def short_targets(paths: Sequence[str], layers: Iterable[str]) -> list[str]:
    """The same layers in as few names as peft understands: leaves where these say it all.

    Args:
        paths: the layers that are adapted.
        layers: all modules that a name could mean.
    """
    leaves = {_leaf(path) for path in paths}
    if {layer for layer in layers if _leaf(layer) in leaves} == set(paths):
        return sorted(leaves)
    return sorted(paths)


def _entries(given: str | Iterable[str]) -> list[str]:
    """Entries with published sets written out."""
    listed = [given] if isinstance(given, str) else list(given)
    return [one for entry in listed for one in TARGETS.get(entry, (entry,))]


def _can_adapt(module: nn.Module) -> bool:
    # MultiheadAttention reads its output layer's matrix and never calls the layer.
    is_plain = isinstance(module, nn.Linear | nn.Embedding)
    return is_plain and type(module).__name__ != "NonDynamicallyQuantizableLinear"


def _is_expression(entry: str) -> bool:
    return _MARKS.search(entry) is not None


def _meant(entry: str, layers: Iterable[str], part: str) -> set[str]:
    if not _is_expression(entry):
        return {name for name in layers if _ends(name, entry)}
    try:
        expression = re.compile(entry)
    except re.error as error:
        raise RecipeError(f"lora: {entry!r} is no regular expression: {error}") from None
    return {
        name
        for name in layers
        if expression.fullmatch(name) or expression.fullmatch(name.removeprefix(f"{part}."))
    }


def _refuse_outside(entry: str, layers: Iterable[str], part: str, word: str) -> None:
    lost = []
    for name in layers:
        own = name.partition(".")[0]
        if own != part and _meant(entry, [name], own if own in PARTS else ""):
            lost.append(name)
    if lost:
        raise RecipeError(
            f"{word}.targets: {entry!r} also means {len(lost)} layers outside of {part}, the "
            f"first is {lost[0]}; begin it with {part}\\. or set outside: leave"
        )


def _ends(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _unknown(entry: str, layers: Sequence[str], part: str, word: str) -> str:
    leaves = list(dict.fromkeys(map(_leaf, layers)))
    if not leaves:
        return f"{word}: {part} has no linear layer to adapt"
    known = [*leaves, ALL_LINEAR, *TARGETS]
    near = difflib.get_close_matches(entry, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(leaves)}"
    return f"{word}: {entry!r} means no layer of {part}; {hint}"


def _head_of(model: Any) -> str:
    head = model.language.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


def _is_tied(model: Any) -> bool:
    language = model.language
    head, words = language.get_output_embeddings(), language.get_input_embeddings()
    return head is not None and head.weight is words.weight
