"""The `tool` stage of a recipe: another system's converter as one step of a workflow."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any

from vlforge.types import DataError


@dataclass(frozen=True)
class ToolConfig:
    """Run one of `vlforge list tools` on a file, with its own words.

    `source` is the file it reads. `options` are the tool's own (`vlforge tool NAME --help`).
    `target` is what the result is called in the stage's folder; "auto" is the tool's usual
    name, else `data.jsonl` for rows and `data.json` for the rest. `convert_labels` leaves
    `train.json`, `val.json` and `chat_template.json`, and takes no target.
    """

    tool: str
    source: str
    target: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from vlforge.data.tool_list import find_tool

        try:
            found = find_tool(self.tool)
        except DataError as error:
            raise ValueError(str(error)) from None
        known = {option.name: option for option in found.options}
        for name, value in self.options.items():
            if name not in known:
                from difflib import get_close_matches

                near = get_close_matches(name, known, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise ValueError(f"{found.name} has no option {name!r}; {hint}")
            choices = typing.get_args(known[name].hint)
            if typing.get_origin(known[name].hint) is typing.Literal and value not in choices:
                raise ValueError(f"options.{name} is {value!r}; take one of {', '.join(choices)}")
        if found.name == "convert_labels" and self.target != "auto":
            raise ValueError("convert_labels names its files itself; leave target out")

    @property
    def target_name(self) -> str:
        """The result's name in the stage's folder; "." is the folder itself."""
        from vlforge.data.tool_list import find_tool

        if self.target != "auto":
            return self.target
        found = find_tool(self.tool)
        if found.name == "convert_labels":
            return "."
        return found.usual[1] or ("data.jsonl" if found.name.endswith("_to_dj") else "data.json")
