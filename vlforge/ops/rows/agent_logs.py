"""Tags from the logs of models and agents: tokens used, tool calls that went well."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from vlforge.ops.base import Grown, RowMapper, look_up
from vlforge.ops.batch import Batch
from vlforge.ops.rows.tags import tagged
from vlforge.types import Drop, RecipeError, Row

TOOL_ROLES = ("tool", "tool_use")
ERROR_PATTERNS = (
    r"(?i)\b(?:error\s*:|exception\b|fail(?:ed|ure)\b)",
    r"(?i)not\s+found|permission\s+denied",
    r"(?:执行|操作|请求|调用|接口)失败|(?:发生|出现)错误|错误码|无法访问|权限不足|无权限|找不到",
)
"""What says that a tool failed, in English and Chinese."""
_PREVIEW, _LONGEST = 200, 10_000
"""Characters of a tool's answer that are kept, and of an answer in JSON that are read."""


class Usage(NamedTuple):
    """Tokens of one call; `total` is None where the log does not say."""

    prompt: int | float
    completion: int | float
    total: int | float | None

    @property
    def sum(self) -> int | float:
        """The total, worked out where it is not given."""
        return self.prompt + self.completion if self.total is None else self.total


@dataclass(frozen=True, kw_only=True)
class UsageCounterMapper(RowMapper):
    """Sum the tokens that a logged model call used, into the row's tags.

    Looks for `prompt_tokens` and `completion_tokens` (or `input_tokens` and
    `output_tokens`) and `total_tokens` in the field `usage_key`, in
    `response_metadata_key` and in each entry of `choices_key` and its message.
    Equal counts stand for the same call and count once, unless
    `dedupe_identical_usage` is false.

    Tags: `prompt_tokens`, `completion_tokens`, `total_tokens`. The total is the
    sum of the given totals, prompt plus completion where one is missing, and null
    where no tokens are logged.

    `compat: data_juicer` takes the first given total instead of the sum, and does
    not see `input_tokens` that stand directly in `usage_key`.
    """

    choices_key: str = "choices"
    usage_key: str = "usage"
    response_metadata_key: str = "response_metadata"
    dedupe_identical_usage: bool = True

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        return [self._counted(item.row) for item in batch.items]

    def _counted(self, row: Row) -> Row:
        usages = list(self._usages(row))
        if self.dedupe_identical_usage:
            first: dict[Any, Usage] = {}
            for usage in usages:
                first.setdefault((usage.prompt, usage.completion, usage.sum), usage)
            usages = list(first.values())
        prompt = sum(usage.prompt for usage in usages)
        completion = sum(usage.completion for usage in usages)
        totals = [usage.total for usage in usages if usage.total is not None]
        if not totals and not prompt and not completion:
            total = None
        elif self.compat == "data_juicer":
            total = totals[0] if totals else prompt + completion
        else:
            total = sum(usage.sum for usage in usages)
        return tagged(row, prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)

    def _usages(self, row: Row) -> Iterable[Usage]:
        top = look_up(row, self.usage_key)
        if isinstance(top, Mapping):
            yield self._usage(top)
        elif self.usage_key in row:
            yield self._usage(row)
        places = [look_up(row, self.response_metadata_key)]
        choices = look_up(row, self.choices_key)
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                places += [choice, choice.get("message") or choice.get("delta")]
        for place in places:
            if isinstance(place, Mapping) and place:
                yield self._usage(place)

    def _usage(self, found: Mapping[str, Any]) -> Usage:
        """The counts in `found`, or in the `usage` that it holds."""
        inner = found.get("usage") or found.get("usage_metadata")
        counts = inner if isinstance(inner, Mapping) else {}
        names = ("prompt_tokens", "completion_tokens")
        own = names if self.compat == "data_juicer" else (*names, "input_tokens", "output_tokens")
        if not _has(counts, own) and _has(found, own):
            counts = found
        total = counts.get("total_tokens")
        return Usage(
            _number(counts.get("prompt_tokens") or counts.get("input_tokens")),
            _number(counts.get("completion_tokens") or counts.get("output_tokens")),
            None if total is None else _number(total),
        )


def _has(counts: Mapping[str, Any], names: Iterable[str]) -> bool:
    return any(counts.get(name) is not None for name in names)


def _number(value: Any) -> int | float:
    """A count, also one written as text; 0 for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else 0


@dataclass(frozen=True, kw_only=True)
class ToolSuccessTaggerMapper(RowMapper):
    """Count the tool calls of a conversation that went well and that failed, into the row's tags.

    Looks at the messages of `messages_key` whose `role` is one of
    `tool_role_names` (default tool, tool_use; upper and lower case are one). An
    answer that matches one of `error_patterns` (regular expressions; by default
    usual words for errors in English and Chinese) is an error, an empty one is
    unknown and any other a success: so `success_patterns` are read and checked,
    but change nothing, as in Data-Juicer.

    Tags: `tool_success_count`, `tool_fail_count`, `tool_unknown_count`,
    `tool_success_ratio` (successes among successes and errors, null without
    either) and, with `store_per_tool_results`, `tool_results`: the first 200
    characters of each answer and what it was taken for.

    With `compat: data_juicer` names in `tool_role_names` that hold capitals match
    nothing.
    """

    messages_key: str = "messages"
    tool_role_names: tuple[str, ...] | None = None
    success_patterns: tuple[str, ...] | None = None
    error_patterns: tuple[str, ...] | None = None
    store_per_tool_results: bool = True

    def __post_init__(self) -> None:
        _compiled("success_patterns", self.success_patterns or ())
        _compiled("error_patterns", self.error_patterns or ())

    @cached_property
    def _errors(self) -> tuple[re.Pattern[str], ...]:
        return _compiled("error_patterns", self.error_patterns or ERROR_PATTERNS)

    @cached_property
    def _roles(self) -> frozenset[str]:
        names = self.tool_role_names or TOOL_ROLES
        return frozenset(names if self.compat == "data_juicer" else map(str.lower, names))

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        found: list[Grown | Row | Drop] = []
        for item in batch.items:
            try:
                found.append(self._tagged(item.row))
            except RecursionError:
                found.append(Drop("", "messages nested too deeply"))
        return found

    def _tagged(self, row: Row) -> Row:
        messages = look_up(row, self.messages_key)
        answers = [
            _as_text(message.get("content"))
            for message in (messages if isinstance(messages, list) else ())
            if isinstance(message, Mapping) and str(message.get("role")).lower() in self._roles
        ]
        results = [self._judged(answer) for answer in answers]
        well, failed = results.count("success"), results.count("error")
        tags: dict[str, Any] = {
            "tool_success_count": well,
            "tool_fail_count": failed,
            "tool_unknown_count": results.count("unknown"),
            "tool_success_ratio": well / (well + failed) if well + failed else None,
        }
        if self.store_per_tool_results:
            pairs = zip(answers, results, strict=True)
            tags["tool_results"] = [
                {"content_preview": a[:_PREVIEW], "result": r} for a, r in pairs
            ]
        return tagged(row, **tags)

    def _judged(self, answer: str) -> str:
        if not answer:
            return "unknown"
        return "error" if any(p.search(answer) for p in self._errors) else "success"


def _compiled(key: str, patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(pattern) for pattern in patterns)
    except re.error as error:
        raise RecipeError(
            f"tool_success_tagger_mapper.{key} holds {error.pattern!r}, "
            f"no regular expression: {error}"
        ) from None


def _as_text(content: Any) -> str:
    """A message's content as one text: parts on lines of their own, other objects as JSON."""
    if content is None:
        return ""
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, default=str)[:_LONGEST]
    if isinstance(content, list):
        return "\n".join(
            _part(block) for block in content if isinstance(block, str | Mapping)
        ).strip()
    return str(content).strip()


def _part(block: Any) -> str:
    is_text = isinstance(block, Mapping) and block.get("type") == "text"
    return _as_text(block.get("text") if is_text else block)
