"""Takes settings out of a configuration and remembers which; the rest is accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.recipe.adopt.xtuner_config import Config, Said, Unread
from vlforge.recipe.adopt.xtuner_keys import (
    ASKED,
    KEYS,
    NOTHING,
    SECTIONS,
    SHOWN,
    pattern_of,
    reason_of,
)
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError


class Reading:
    """A configuration that is read key by key."""

    def __init__(self, config: Config):
        self.values, self.used = config.values, config.used
        self.taken: set[str] = set()
        self.told: set[str] = set()
        for key, said in config.extra.items():
            self._add(key, said)

    def _add(self, key: str, said: Said) -> None:
        """A change of what the file does not say itself."""
        head, *rest = key.split(".")
        if head not in SECTIONS:
            known = sorted({*SECTIONS, *self.values})
            raise RecipeError(f"{key}: the configuration has no {head!r}{nearest(head, known)}")
        node = self.values.setdefault(head, said if not rest else Said({}, "", head))
        for number, word in enumerate(rest):
            is_last = number == len(rest) - 1
            node = node.value.setdefault(word, said if is_last else Said({}, "", key))

    def find(self, dotted: str) -> Said | None:
        """The entry there, if there is one; None too where it is None."""
        words = dotted.split(".")
        node = self.values.get(words[0])
        for word in words[1:]:
            if node is None:
                return None
            if isinstance(node.value, dict):
                node = node.value.get(word)
            elif isinstance(node.value, list) and word.isdigit() and int(word) < len(node.value):
                node = node.value[int(word)]
            else:
                node = None
        return node

    def take(self, dotted: str) -> Said | None:
        """The entry there, which is used from now on; None where it is not there or None.

        Raises:
            RecipeError: its value could only be had by running the file.
        """
        said = self.find(dotted)
        if said is None:
            return None
        self.taken.add(dotted)
        if isinstance(said.value, Unread):
            raise RecipeError(
                f"{said.where}: {said.key} is `{said.value}`, which would have to be run; "
                "write its value"
            )
        return None if said.value is None else said

    def value(self, dotted: str, kind: type[Any], default: Any) -> Any:
        """The value there, of that kind.

        Raises:
            RecipeError: it is of another kind.
        """
        said = self.take(dotted)
        if said is None:
            return default
        value = said.plain()
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise RecipeError(f"{said.origin}: {value!r} is not {_CALLED.get(kind, 'a value')}")
        return value

    def names(self, dotted: str) -> str:
        """The last word of a type or function there: `LLaVAModel`; empty where none is."""
        said = self.take(dotted)
        return "" if said is None else str(said.value).rpartition(".")[2]

    def origin(self, *dotted: str) -> str:
        """Where the first of these that is there stands."""
        for key in dotted:
            said = self.find(key)
            if said is not None:
                return said.origin
        return "default of XTuner"

    def tell_rest(self, out: AdoptedRecipe) -> None:
        """List every key that was not used, with the reason.

        Raises:
            RecipeError: a key that XTuner does not know.
        """
        for dotted, said in self._effective():
            if dotted in self.taken or any(f"{dotted}." in f"{one}." for one in self.taken):
                continue
            if not self._is_within_taken(dotted):
                self._tell(out, dotted, said)
        for name, said in self.values.items():
            if name not in SECTIONS and name not in self.used:
                out.leave(name, _shown(said.plain()), said.where, "no part of the run reads it")

    def _is_within_taken(self, dotted: str) -> bool:
        words = dotted.split(".")
        return any(".".join(words[:n]) in self.told for n in range(1, len(words) + 1))

    def _tell(self, out: AdoptedRecipe, dotted: str, said: Said) -> None:
        found = reason_of(dotted)
        whole = f"{pattern_of(dotted)}."
        if found is None and said.value is None and any(key.startswith(whole) for key in KEYS):
            return  # a section that is left out
        if found is None:
            parent = pattern_of(dotted).rpartition(".")[0]
            known = [k.removeprefix(f"{parent}.") for k in KEYS if k.startswith(f"{parent}.")]
            word = dotted.rpartition(".")[2]
            raise RecipeError(
                f"{said.origin}: {parent or 'a configuration'} has no {word!r}"
                f"{nearest(word, known)}"
            )
        head, why = found
        self.told.add(head)
        held = self.find(head) or said
        if held.value is not None or why:
            out.leave(head, _shown(held.plain()), held.where or "command line", why or NOTHING)

    def _effective(self) -> Iterator[tuple[str, Said]]:
        for name in self.values:
            if name in SECTIONS:
                yield from _entries(name, self.values[name])

    def tell_hooks(self, out: AdoptedRecipe) -> None:
        """`custom_hooks`: what each does, and why it is not there."""
        hooks = self.find("custom_hooks")
        items = hooks.value if hooks is not None and isinstance(hooks.value, list) else []
        for number, hook in enumerate(items):
            dotted = f"custom_hooks.{number}"
            self.told.add(dotted)
            kind = self.names(f"{dotted}.type")
            why = _HOOKS.get(kind)
            if why is None:
                raise RecipeError(
                    f"{hook.where}: the hook {kind!r} is code of another; take it out"
                    f"{nearest(kind, _HOOKS)}"
                )
            asked = _shown(hook.plain())
            told = {k: v for k, v in asked.items() if k in _TOLD} if isinstance(asked, dict) else {}
            out.leave(f"custom_hooks: {kind}", told, hook.where, why)


_CALLED = {
    int: "a whole number", float: "a number", str: "a text", bool: "True or False", list: "a list",
}  # fmt: skip
_TOLD = ("every_n_iters", "evaluation_inputs", "evaluation_images", "system")
_HOOKS = {
    "DatasetInfoHook": "vlforge inspect FILE shows the first rows as tokens and labels",
    "EvaluateChatHook": ASKED,
    "VarlenAttnArgsToMessageHubHook": "packs are told apart by the trainer",
    "ThroughputHook": SHOWN,
    "HFCheckpointHook": "vlforge convert-model writes another layout",
}


def _entries(dotted: str, said: Said) -> Iterator[tuple[str, Said]]:
    if isinstance(said.value, dict) and said.value:
        for key, one in said.value.items():
            yield from _entries(f"{dotted}.{key}", one)
    elif isinstance(said.value, list) and any(isinstance(o.value, dict) for o in said.value):
        for number, one in enumerate(said.value):
            yield from _entries(f"{dotted}.{number}", one)
    else:
        yield dotted, said


def _shown(value: Any) -> Any:
    """Plain YAML of a value; names as text."""
    if isinstance(value, dict):
        return {str(key): _shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    if isinstance(value, str):
        return str.__str__(value) if type(value) is str else str.__new__(str, value)
    return value if isinstance(value, int | float | bool) or value is None else repr(value)
