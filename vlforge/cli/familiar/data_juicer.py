"""Data-Juicer's commands."""

from __future__ import annotations

from vlforge.cli.familiar.old import Familiar, OldCommand, Ours


def _same_words(verb: str) -> Familiar:
    names = {f"dj-{verb}", f"{verb}_data.py", f"{verb}_data"}
    ours = "process" if verb == "process" else "analyze"
    return Familiar(
        f"dj-{verb} --config clean.yaml --np 8",
        f"vlforge {ours} --config clean.yaml --np 8",
        lambda old: old.name in names,
        lambda old: Ours(((ours, *old.words),)),
    )


def _is_tool(old: OldCommand) -> bool:
    from vlforge.data.tool_list import tools

    name = old.name.removesuffix(".py")
    return any(tool.name == name for tool in tools() if tool.system == "Data-Juicer")


def _tool(old: OldCommand) -> Ours:
    return Ours((("tool", old.name.removesuffix(".py"), *old.words),))


COMMANDS = (
    _same_words("process"),
    _same_words("analyze"),
    Familiar(
        "python dj_to_llava.py rows.jsonl llava.json --restore_questions True",
        "vlforge tool dj_to_llava rows.jsonl llava.json --restore_questions True",
        _is_tool,
        _tool,
    ),
)
