"""`vlforge list`: the operators, keys and stage kinds that a recipe can name."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vlforge.cli.show import plain_line, table
from vlforge.cli.tool import list_tools
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

OPS_EXAMPLES = """\b
Examples:
  vlforge list ops
  vlforge list ops image                  those whose name or line says "image"
  vlforge list ops text_length_filter     the documentation of one
  vlforge list ops --data-juicer          Data-Juicer's: same, different, not there, and why
  vlforge list ops --markdown             with every parameter, as docs/operators.md
"""
KEYS_EXAMPLES = """\b
Examples:
  vlforge list keys                       every key of a Data-Juicer recipe
  vlforge list keys export                those whose name or remark says "export"
"""
KINDS_EXAMPLES = """\b
Examples:
  vlforge list kinds
  vlforge list kinds --markdown           with every setting, as docs/stages.md
"""
COMMANDS_EXAMPLES = """\b
Examples:
  vlforge list commands
  vlforge list commands xtuner            those that mention it
  vlforge list commands --system xtuner --into docs/from_xtuner.md
  vlforge list commands --system mgm,llava --into docs/from_mgm.md
"""
CONFIGS_EXAMPLES = """\b
Examples:
  vlforge list configs                    all of them
  vlforge list configs internlm2          those with that in their name
"""
PROMPTS_EXAMPLES = """\b
Examples:
  vlforge list prompts
  vlforge list prompts caption             those whose name or words say "caption"
  vlforge list prompts caption_fusion > my_words.txt
                                           a copy to edit; then prompt_file: my_words.txt
"""
_PLAINER = {str(sys.maxsize): "no limit", "": "must be given"}
"""Defaults that a reader knows by another name."""
Markdown = Annotated[bool, typer.Option("--markdown", help="Every parameter, as Markdown.")]
Into = Annotated[
    Path | None, typer.Option(metavar="PAGE", help="Write the Markdown into its part of a page.")
]


def build_app() -> typer.Typer:
    """The commands of `vlforge list`."""
    app = typer.Typer(help="What a recipe can name.", no_args_is_help=True)
    app.command("ops", epilog=OPS_EXAMPLES)(list_operators)
    app.command("keys", epilog=KEYS_EXAMPLES)(list_keys)
    app.command("kinds", epilog=KINDS_EXAMPLES)(list_kinds)
    app.command("prompts", epilog=PROMPTS_EXAMPLES)(list_prompts)
    app.command("formats")(list_formats)
    app.command("layouts")(list_layouts)
    app.command("tools")(list_tools)
    app.command("commands", epilog=COMMANDS_EXAMPLES)(list_commands)
    app.command("configs", epilog=CONFIGS_EXAMPLES)(list_configs)
    app.command("benchmarks")(list_benchmarks)
    return app


def list_commands(
    word: Annotated[
        str, typer.Argument(help="Only commands that mention it.", show_default=False)
    ] = "",
    system: Annotated[
        str, typer.Option(help="Only these systems': data_juicer, xtuner …", show_default=False)
    ] = "",
    into: Into = None,
) -> None:
    """Command lines of other systems that `vlforge compat` runs, and ours beside them."""
    from vlforge.cli.familiar.every import SYSTEMS, familiar

    chosen = [name for name in system.split(",") if name] or list(SYSTEMS)
    for name in chosen:
        if name not in SYSTEMS:
            raise RecipeError(f"no system {name!r}{nearest(name, SYSTEMS)}")
    found = [
        (whose, one.old, one.ours)
        for whose, one in familiar()
        if whose in [SYSTEMS[name] for name in chosen]
        and word.lower() in f"{whose} {one.old} {one.ours}".lower()
    ]
    if into is None:
        table(("system", "old", "here"), found)
        return
    rows = [f"| `{old}` | `{ours}` |".replace("||", "\\|\\|") for _, old, ours in found]
    _say_page("\n".join(["| you type | here |", "|---|---|", *rows]), "commands", into)


def list_configs(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="A part of the name.")] = "",
) -> None:
    """Configurations that other systems ship: `vlforge adopt NAME`, `vlforge run NAME`."""
    from vlforge.recipe.adopt.xtuner_built_in import BUILT_INS

    names = [name for name in BUILT_INS if pattern.lower() in name.lower()]
    if not names:
        raise RecipeError(
            f"{pattern}: no configuration's name has that{nearest(pattern, BUILT_INS)}"
        )
    table(("configuration", "language model", "of"),
          [(name, BUILT_INS[name].llm, "XTuner") for name in names])  # fmt: skip


def list_benchmarks() -> None:
    """Every benchmark that `eval` knows, its protocols and what it is."""
    from vlforge.evaluation.benchmarks import benchmark
    from vlforge.evaluation.config import benchmark_names

    rows = []
    for name in benchmark_names():
        module = benchmark(name)
        about = (module.__doc__ or "").partition("\n")[0]
        rows.append((name, ", ".join(module.PROTOCOLS), about))
    table(("benchmark", "protocols", "what it is"), rows)


def list_prompts(
    word: Annotated[
        str, typer.Argument(help="One prompt's name, or a word.", show_default=False)
    ] = "",
) -> None:
    """The words that operators ask models with, or the file of one as it is."""
    from vlforge.ops.synthesis.prompt_files import HOME, parse

    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HOME.glob("*.txt"))}
    if word in texts:
        plain_line(texts[word].removesuffix("\n"))
        return
    rows = []
    for name, text in texts.items():
        if word.lower() in f"{name} {text}".lower():
            prompt = parse(text)
            says = " ".join((prompt.system or prompt.user).split())
            short = says if len(says) <= _SHOWN else f"{says[:_SHOWN].rsplit(' ', 1)[0]} …"
            rows.append((name, ", ".join(sorted(prompt.fields())), short))
    table(("prompt", "fields", "begins"), rows)
    plain_line(f"{len(rows)} prompts; to edit one: vlforge list prompts NAME > my.txt, then")
    plain_line("prompt_file: my.txt in the operator's keys")


_SHOWN = 60
"""Characters of a prompt in the list."""


def list_layouts() -> None:
    """Every layout of models that `convert-model` reads and writes, and whose it is."""
    from vlforge.checkpoints.index import find, places

    rows = []
    for name in places():
        layout = find(name)
        rows.append((name, "a part" if getattr(layout, "is_part", False) else "all", layout.says))
    table(("layout", "writes", "what it is"), rows)
    plain_line(f"{len(rows)} layouts; to convert: vlforge convert-model SRC DST --to LAYOUT")


def list_formats() -> None:
    """Every dataset format that `convert` reads and writes, and what it can hold."""
    from vlforge.data.formats.index import find, places

    heads = ("format", "conversations", "documents", "pictures", "other fields", "options")
    rows = []
    for name in places():
        format_ = find(name)
        holds = format_.holds
        pictures = "several" if holds.several_pictures else "one"
        pictures += ", in the data" if holds.embedded else ""
        marks = ["yes" if held else "" for held in (holds.conversation, holds.document)]
        options = ", ".join(field.name for field in dataclasses.fields(format_))  # type: ignore[arg-type]
        rows.append((name, *marks, pictures, "kept" if holds.extra else "", options))
    table(heads, rows)


def list_operators(
    word: Annotated[
        str, typer.Argument(help="Only operators that mention it.", show_default=False)
    ] = "",
    markdown: Markdown = False,
    data_juicer: Annotated[
        bool, typer.Option("--data-juicer", help="Data-Juicer's operators and what becomes of them")
    ] = False,
    into: Into = None,
) -> None:
    """The operators of a `process` list, or the documentation of one."""
    from vlforge import ops

    if data_juicer:
        _say_page(_data_juicer_operators(), "operators", into)
        return
    everything = ops.names()
    exact = [op for op in everything if op.name == word]
    if exact and not markdown:
        plain_line(operator_help(exact[0]))
        return
    found = [op for op in everything if word.lower() in f"{op.name} {op.doc}".lower()]
    if markdown:
        plain_line(operators_page(found))
        return
    table(("operator", "kind", "what it does"), [(op.name, op.kind, op.doc) for op in found])
    plain_line(f"{len(found)} operators; one in full: vlforge list ops NAME")


def list_keys(
    word: Annotated[
        str, typer.Argument(help="Only keys that mention it.", show_default=False)
    ] = "",
    markdown: Markdown = False,
    into: Into = None,
) -> None:
    """The keys of a Data-Juicer recipe: same, different, without effect or refused, and why."""
    from vlforge.recipe.adopt.data_juicer_keys import KEYS, keys_page

    if markdown or into:
        _say_page(keys_page(), "keys", into)
        return
    found = [k for k in KEYS.values() if word.lower() in f"{k.name} {k.remark}".lower()]
    table(("key", "here", "remark"), [(k.name, k.status, k.remark) for k in found])


def _say_page(text: str, name: str, into: Path | None) -> None:
    if into is None:
        plain_line(text)
        return
    from vlforge.cli.pages import write_part

    write_part(into, name, text)


def _data_juicer_operators() -> str:
    from vlforge.recipe.adopt.data_juicer_operators import operators_page as page

    return page()


def operator_help(op: Any) -> str:
    """One operator's documentation, statistics, and parameters with type and default."""
    from vlforge.ops.index import find

    cls = find(op.name)
    stats = ", ".join(getattr(cls, "stats", ()))
    lines = [f"{op.name} ({op.kind})", "", inspect.getdoc(cls) or "", ""]
    lines += [f"statistics: {stats}", ""] if stats else []
    width = max((len(field.name) for field in dataclasses.fields(cls)), default=0)
    for field in dataclasses.fields(cls):
        default = _PLAINER.get(_default_of(field), _default_of(field))
        lines.append(f"  {field.name:{width}}  {field.type} = {default}")
    return "\n".join(lines)


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
        yield field.name, str(field.type), _default_of(field)


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _short(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _short(field.default_factory())
    return ""


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
