"""Which stages of a run need not run again, some of whose files may have been freed."""

from __future__ import annotations

from collections.abc import Sequence

from vlforge.recipe.graph import Node
from vlforge.runs.prepare import Prepared
from vlforge.runs.store import FREED, done_since, read_done


def reusable(prepared: Prepared, since: float = 0.0) -> set[str]:
    """Nodes that are finished, not before `since`, reports aside.

    One whose weights were freed counts as long as all that need it are finished too; else
    it runs again.
    """
    found: set[str] = set()
    users = users_of(prepared.nodes)
    for node in reversed(prepared.nodes):
        folder = prepared.folder(node.name)
        if node.kind == "report":
            continue
        if done_since(folder, since):
            found.add(node.name)
            continue
        done = None if since else read_done(folder)
        if done is not None and done.get(FREED) and users[node.name]:
            found |= {node.name} if users[node.name] <= found else set()
    return found


def users_of(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """The nodes that need each node, reports aside."""
    users: dict[str, set[str]] = {node.name: set() for node in nodes}
    for node in nodes:
        for other in node.inputs.values():
            if node.kind != "report":
                users[other].add(node.name)
    return users
