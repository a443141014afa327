"""Replies by request: an append-only file, so that nothing is asked or paid twice."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

from vlforge.inference.endpoint.config import Reply


class ReplyCache:
    """Keeps replies in a JSON-lines file; without a path, in memory alone.

    A last line that a kill cut off is passed over and cut away. Threads may share it.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._found: dict[str, Reply] = {}
        self._lock = threading.Lock()
        if path is not None and path.is_file():
            self._load(path)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                reply = Reply(row["text"], row["in"], row["out"], True, row.get("finish", ""))
                self._found[row["key"]] = reply
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, key: str) -> Reply | None:
        """The reply to a request that was made before."""
        return self._found.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns."""
        row = {"key": key, "text": reply.text, "in": reply.tokens_in, "out": reply.tokens_out}
        line = json.dumps(row | {"finish": reply.finish}, ensure_ascii=False) + "\n"
        with self._lock:
            self._found[key] = replace(reply, is_cached=True)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
