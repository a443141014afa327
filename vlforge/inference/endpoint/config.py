"""What is asked of an endpoint, and how. No third-party imports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ChatRequest:
    """One request; `messages` as the API takes them, `seed` None where it is left out.

    With `needs_words` an empty answer is none.
    """

    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    needs_words: bool = False

    @classmethod
    def of_text(cls, text: str, system: str = "", **settings: Any) -> ChatRequest:
        """One user turn, after a system text where there is one."""
        told = [{"role": "system", "content": system}] if system else []
        return cls((*told, {"role": "user", "content": text}), **settings)

    def body(self, model: str) -> dict[str, Any]:
        """The request's JSON."""
        found: dict[str, Any] = {
            "model": model,
            "messages": list(self.messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if self.top_p != 1.0:
            found["top_p"] = self.top_p
        if self.seed is not None:
            found["seed"] = self.seed
        return found | ({"stop": list(self.stop)} if self.stop else {})

    def key(self, model: str) -> str:
        """Equal for requests that ask the same of the same model."""
        text = json.dumps(self.body(model), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What came back. `is_cached`: without asking again."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    is_cached: bool = False
    finish: str = ""


@dataclass
class Usage:
    """What asking took so far; `without` are parameters that the model does not take."""

    requests: int = 0
    cached: int = 0
    retried: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    without: frozenset[str] = frozenset()

    def line(self) -> str:
        """One line for people: `412 replies (80 cached), 3 failed, 120,000 + 9,000 tokens`."""
        parts = [f"{self.requests + self.cached:,} replies ({self.cached:,} cached)"]
        parts += [f"{self.failed:,} failed"] if self.failed else []
        parts += [f"{self.retried:,} retries"] if self.retried else []
        parts.append(f"{self.tokens_in:,} + {self.tokens_out:,} tokens")
        parts += [f"cost {money(self.cost)}"] if self.cost else []
        less = f"; it does not take {', '.join(sorted(self.without))}" if self.without else ""
        return ", ".join(parts) + less

    def __add__(self, other: Usage) -> Usage:
        names = [one.name for one in fields(self) if one.name != "without"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Usage(**sums, without=self.without | other.without)


def money(amount: float) -> str:
    """An amount of whatever the prices are in."""
    return f"{amount:.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def text_of_content(content: Any) -> str:
    """A message's content as text: plain, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
