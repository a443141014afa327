"""`vlforge list`: the operators and stage kinds that a recipe can name."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from vlforge.cli.show import plain_line, table

OPS_EXAMPLES = """\b
Examples:
  vlforge list ops
  vlforge list ops image                  those whose name or line says "image"
  vlforge list ops --markdown             with every parameter, as docs/operators.md
"""
KINDS_EXAMPLES = """\b
Examples:
  vlforge list kinds
  vlforge list kinds --markdown           with every setting, as docs/stages.md
"""
_PLAINER = {str(sys.maxsize): "no limit", "": "must be given"}
"""Defaults that a reader knows by another name."""
Markdown = Annotated[bool, typer.Option("--markdown", help="Every parameter, as Markdown.")]


def build_app() -> typer.Typer:
    """`list ops` and `list kinds`."""
    app = typer.Typer(help="What a recipe can name.", no_args_is_help=True)
    app.command("ops", epilog=OPS_EXAMPLES)(list_operators)
    app.command("kinds", epilog=KINDS_EXAMPLES)(list_kinds)
    return app


def list_operators(
    word: Annotated[
        str, typer.Argument(help="Only operators that mention it.", show_default=False)
    ] = "",
    markdown: Markdown = False,
) -> None:
    """The operators of a `process` list."""
    from vlforge import ops

    found = [op for op in ops.names() if word.lower() in f"{op.name} {op.doc}".lower()]
    if markdown:
        plain_line(operators_page(found))
        return
    table(("operator", "kind", "what it does"), [(op.name, op.kind, op.doc) for op in found])
    plain_line(f"{len(found)} operators; their parameters: vlforge list ops --markdown")


def list_kinds(markdown: Markdown = False) -> None:
    """The kinds of stages in a recipe."""
    from vlforge.recipe.kinds import KINDS

    if markdown:
        plain_line(kinds_page(KINDS.values()))
        return
    table(("kind", "what it does"), [(kind.name, kind.does) for kind in KINDS.values()])
    plain_line("Their settings: vlforge list kinds --markdown")


def operators_page(operators: Iterable[Any]) -> str:
    """One section per kind of operator, one table row per parameter."""
    found = list(operators)
    lines = [
        "# Operators",
        "",
        "Written by `vlforge list ops --markdown`; change an operator, then `make docs`.",
        "Names, parameters, defaults and statistics are Data-Juicer's where it has the operator.",
        "Every operator also takes `text_key` and `image_key`, the fields it reads; every filter",
        "`min_closed_interval`, `max_closed_interval` (true) and `reversed_range` (false).",
    ]
    for kind in dict.fromkeys(op.kind for op in found):
        lines += ["", f"## {kind.capitalize()}s"]
        for op in found:
            if op.kind == kind:
                lines += ["", f"### {op.name}", "", op.doc, *_parameters(op.fields)]
    return "\n".join(lines)


def kinds_page(kinds: Iterable[Any]) -> str:
    """One section per kind of stage; settings that are groups follow in tables of their own."""
    lines = [
        "# Stages",
        "",
        "Written by `vlforge list kinds --markdown`; change a `config.py`, then `make docs`.",
        "A setting without default must be given.",
    ]
    for kind in kinds:
        config = kind.config_class()
        lines += ["", f"## {kind.name}", "", _document(config), *_field_table(_fields(config))]
        for group in _groups(config):
            lines += ["", f"### {group.__name__}", "", _document(group)]
            lines += _field_table(_fields(group))
    return "\n".join(lines)


def _parameters(fields: Iterable[tuple[str, str]]) -> list[str]:
    rows = [f"| `{name}` | {_PLAINER.get(default) or _code(default)} |" for name, default in fields]
    return ["", "| parameter | default |", "|---|---|", *rows] if rows else []


def _fields(config: type) -> Iterator[tuple[str, str, str]]:
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            default = _short(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = _short(field.default_factory())
        else:
            default = ""
        yield field.name, str(field.type), default


def _short(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return "see below"
    return repr(list(value) if isinstance(value, tuple) else value)


def _groups(config: type) -> list[type]:
    """Dataclasses among the settings' types, the settings' own settings included."""
    found: list[type] = []
    module = inspect.getmodule(config)
    for field in dataclasses.fields(config):
        for name in str(field.type).replace("[", " ").replace("]", " ").replace("|", " ").split():
            group = getattr(module, name.strip(","), None)
            if isinstance(group, type) and dataclasses.is_dataclass(group):
                found += [group, *_groups(group)]
    return list(dict.fromkeys(found))


def _document(config: type) -> str:
    return inspect.getdoc(config) or ""


def _field_table(fields: Iterable[tuple[str, str, str]]) -> list[str]:
    rows = [f"| `{name}` | {_code(kind)} | {_code(default)} |" for name, kind, default in fields]
    return ["", "| setting | type | default |", "|---|---|---|", *rows] if rows else []


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""
