"""The `tool` and `split` stages of a recipe: other systems' converters, parts of a dataset."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True)
class SplitConfig:
    """Divide a dataset into parts that share no picture, no text and no group.

    `data` is a dataset of any format, read as `format` and written as `to` ("auto": by its
    content, and as it is). `parts` gives each part's name and size: 0.95 or "95%" is a share
    of the rows, 500 so many. Its file or folder is called by that name (`$parts/val.json`).
    `group` names fields whose values stay together, `by` one whose values are spread over
    the parts alike, `ignore` what parts may share (image, text). `images`: as in
    `vlforge convert`. Rows that cannot be read lie beside the first part with their reasons.
    """

    data: str
    parts: dict[str, float | str]
    format: str = "auto"
    to: str = "auto"
    group: tuple[str, ...] = ()
    by: str = ""
    ignore: tuple[Literal["image", "text"], ...] = ()
    images: str = "auto"
    seed: int | Literal["auto"] = 0

    def __post_init__(self) -> None:
        from vlforge.data.splitting import parse_part

        if not self.parts:
            raise ValueError("parts is empty; give each part's name and size")
        for text in self.sizes:
            try:
                parse_part(text)
            except DataError as error:
                raise ValueError(str(error)) from None

    @property
    def sizes(self) -> list[str]:
        """The parts as `vlforge split` takes them."""
        return [
            f"{name}={int(size) if isinstance(size, float) and size > 1 else size}"
            for name, size in self.parts.items()
        ]
