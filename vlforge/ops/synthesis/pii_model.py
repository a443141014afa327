"""A second look for private data by a model, behind the rules that redact it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec

from vlforge.data.images import ImageFile
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import tagged, tags_of
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.replies import json_in
from vlforge.ops.synthesis.text_writing import ApiWriting
from vlforge.ops.synthesis.writing import Asked, Asks, drawing_of
from vlforge.types import Caption, Drawing, Drop, RecipeError, Row

_LEAST, _LEAST_NAMED, _SHORTEST = 8, 4, 2
_MESSAGE = 500
"""Characters of one message that are shown."""
_MOST = 32
"""Finds of one row that are kept."""
_SIGNS = re.compile(
    r"\d{6,}|@|[A-Za-z0-9_-]{24,}"
    r"|(?<![A-Za-z0-9_])(?:api[_-]?key|secret|token|passw(?:or)?d|credential|bearer)\b"
    r"|内网|局域网|\bvpn\b|\bssh\s|\b(?:rdp|mysql|redis)://",
    re.IGNORECASE,
)
_NAMES = re.compile(
    r"(?:我叫|叫我|更名为|(?:姓名|真名|联系人|负责人|经办人)\s*[:：为是]?|尊敬的|(?:^|\s)致)\s*"
    r"[\u4e00-\u9fff]{2,4}"
    r"|[\u4e00-\u9fff]{2,4}(?:先生|女士|老师|大夫|经理|主任|院长|博士|教授|同志)"
    r"(?=[\s，,。.!！?？;；:：]|$)"
    r"|\b(?:Mr|Mrs|Ms|Miss|Dr|Prof)\b\.?\s+[A-Z][a-z]+"
)
_PERSONS = ("PERSON", "PER")
_EXCERPT = "_excerpt"


class _Find(msgspec.Struct):
    field: str = ""
    category: str = ""
    evidence: str = ""


class _Found(msgspec.Struct):
    suspected: list[_Find]
    likely_clean: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PiiLlmSuspectMapper(ApiWriting):
    """Have a model look for private data that the rules of pii_redaction_mapper left.

    The texts of `inspect_keys` (by default text, query, response), each cut at
    `max_chars_per_field`, and the last `max_messages_for_prompt` messages are shown; the tag
    `pii_llm_suspect` tells the finds, or why nothing was asked. `gate_mode: heuristic` asks
    only about rows with a sign: six digits in a row, an @, long runs of letters and digits,
    words such as token or 内网, with `heuristic_name_rules` forms of address and "我叫…",
    and persons that the pipelines of `spacy_ner_models` find (spaCy and its pipelines have to
    be installed: nothing is downloaded). Rows that have the tag stay unless `overwrite`.

    `redaction_mode: evidence` replaces finds by `redaction_placeholder`, `whole_field` the
    fields that have one. Evidence that does not stand in its field is left out. A row whose
    replies do not fit is dropped, so that none goes on unseen; with `compat: data_juicer` it
    stays with an error in the tag, and evidence is taken as it is.
    """

    api_model: str = "qwen-turbo"
    inspect_keys: tuple[str, ...] | None = None
    messages_key: str | None = "messages"
    max_messages_for_prompt: int = 4
    max_chars_per_field: int = 6000
    max_chars_messages_excerpt: int = 8000
    gate_mode: Literal["heuristic", "always", "off", "none"] = "heuristic"
    result_key: str = "pii_llm_suspect"
    raw_key: str = "pii_llm_suspect_raw"
    overwrite: bool = False
    preferred_output_lang: str = "zh"
    try_num: int = 2
    heuristic_name_rules: bool = True
    spacy_ner_model: str | None = None
    spacy_ner_models: tuple[str, ...] | None = None
    spacy_ner_max_chars: int = 4000
    spacy_auto_download: bool = True
    redaction_mode: Literal["none", "evidence", "whole_field"] = "none"
    redaction_placeholder: str = "[LLM_PII_SUSPECT_REDACTED]"

    prompt_name: ClassVar = "pii_llm_suspect"
    prompt_fields: ClassVar = ("fields", "language")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._pipelines():
            spacy_pipeline(name)

    def drawing(self) -> Drawing:
        """Short and nearly greedy, unless `sampling_params` say otherwise."""
        return drawing_of({"max_tokens": 512, "temperature": 0.1} | self.sampling_params)

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question; none for a row without a sign of private data."""
        if not self.overwrite and self.result_key in tags_of(item.row):
            return None
        shown = self._shown(item, context)
        if self._why_skipped(shown):
            return []
        language = "Chinese" if self.preferred_output_lang.lower().startswith("zh") else "English"
        fields = "\n\n".join(f"### field: {name}\n{text}" for name, text in shown.items())
        told = self.prompt().fill(fields=fields, language=language)
        return [Asked(Asked.of(told).turns, about=shown)]

    def heard(self, item: Item, place: int, one: Any, reply: Caption, context: Context) -> Any:
        """The tag, and the finds per field."""
        found = json_in(reply.text, _Found)
        finds = [
            {"field": f.field[:64], "category": f.category[:120], "evidence": f.evidence[:80]}
            for f in found.suspected[:_MOST]
        ]
        if self.compat != "data_juicer":
            finds = [f for f in finds if _is_true(f, one.about)]
        is_clean = not finds if found.likely_clean is None else found.likely_clean
        told = {
            "suspected": finds,
            "likely_clean": is_clean and (not finds or self.compat == "data_juicer"),
            "fields_inspected": list(one.about),
            "redaction_mode": self.redaction_mode,
            "redaction_applied": self.redaction_mode != "none",
        }
        return told

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The row with the verdict, redacted where that is asked for."""
        if not values:
            shown = self._shown(item, context)
            why = self._why_skipped(shown)
            told = {"skipped": True, "reason": why, "fields_inspected": list(shown)}
            told |= {"likely_clean": True} if shown else {}
            return tagged(item.row, **{self.result_key: told})
        row = tagged(item.row, **{self.result_key: values[0]})
        return self._redacted(row, values[0]["suspected"])

    def marked(self, row: Row, entry: Mapping[str, Any]) -> Row:
        """Rows about which nothing was asked do not tell of a model."""
        is_skipped = "skipped" in tags_of(row)[self.result_key]
        return row if is_skipped else super().marked(row, entry)

    def unread(self, item: Item, drop: Drop) -> Row | Drop:
        """The drop; as in Data-Juicer the row stays and its tags tell of the error."""
        if self.compat != "data_juicer":
            return drop
        told = {"error": "json_parse_failed", "fields_inspected": [*self._shown(item, Context())]}
        return tagged(item.row, **{self.result_key: told, self.raw_key: drop.value})

    def _why_skipped(self, shown: Mapping[str, str]) -> str:
        if not shown:
            return "no_inspectable_text"
        text = "\n\n".join(shown.values())
        is_gated = self.gate_mode == "heuristic" and not self._is_suspect(text)
        return "heuristic_gate" if is_gated else ""

    def _is_suspect(self, text: str) -> bool:
        stripped = text.strip()
        if len(stripped) >= _LEAST and _SIGNS.search(text):
            return True
        if self.heuristic_name_rules and len(stripped) >= _LEAST_NAMED and _NAMES.search(text):
            return True
        start = text[: self.spacy_ner_max_chars]
        return any(
            entity.label_ in _PERSONS
            for name in self._pipelines()
            for entity in spacy_pipeline(name)(start).ents
        )

    def _pipelines(self) -> list[str]:
        names = [*(self.spacy_ner_models or ()), self.spacy_ner_model or ""]
        return list(dict.fromkeys(name.strip() for name in names if name.strip()))

    def _keys(self) -> tuple[str, ...]:
        return self.inspect_keys or ("text", "query", "response")

    def _shown(self, item: Item, context: Context) -> dict[str, str]:
        """The texts that are inspected, by field."""
        texts = {key: item.row.get(key) for key in self._keys()}
        found = {
            key: plain_words(text, context)[: self.max_chars_per_field]
            for key, text in texts.items()
            if isinstance(text, str) and text.strip()
        }
        messages = item.row.get(self.messages_key) if self.messages_key else None
        if isinstance(messages, list):
            told = [f"[{m.get('role') or ''}]{_said(m)[:_MESSAGE]}" for m in messages
                    if isinstance(m, dict) and _said(m)]  # fmt: skip
            excerpt = "\n".join(told[-self.max_messages_for_prompt :])
            found[f"{self.messages_key}{_EXCERPT}"] = excerpt[: self.max_chars_messages_excerpt]
        return {key: text for key, text in found.items() if text.strip()}

    def _redacted(self, row: Row, finds: Sequence[Mapping[str, str]]) -> Row:
        by_field: dict[str, list[str]] = {}
        for find in finds:
            field = find["field"].strip()
            if self.messages_key and field == f"{self.messages_key}{_EXCERPT}":
                field = self.messages_key
            if field in self._keys() or field == self.messages_key:
                by_field.setdefault(field, []).append(find["evidence"].strip())
        new = {
            field: self._redacted_field(row[field], snippets)
            for field, snippets in by_field.items()
            if field in row and self.redaction_mode != "none"
        }
        return {**row, **new}

    def _redacted_field(self, value: Any, snippets: Sequence[str]) -> Any:
        placeholder = self.redaction_placeholder
        if self.redaction_mode == "whole_field":
            message = {"role": "user", "content": placeholder}
            return [message] if isinstance(value, list) else placeholder
        longest_first = sorted({s for s in snippets if len(s) >= _SHORTEST}, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        return _replaced(value, pattern, placeholder) if pattern else value


def _is_true(find: Mapping[str, str], shown: Mapping[str, str]) -> bool:
    evidence = find["evidence"].strip()
    return bool(evidence) and evidence in shown.get(find["field"].strip(), "")


def _replaced(value: Any, pattern: str, placeholder: str, key: str = "content") -> Any:
    """A text, or the texts of messages and their blocks, with finds replaced."""
    if isinstance(value, str):
        is_text = key in ("content", "text")
        return re.sub(pattern, lambda _: placeholder, value) if is_text else value
    if isinstance(value, list):
        return [_replaced(one, pattern, placeholder, key) for one in value]
    if isinstance(value, dict):
        return {name: _replaced(one, pattern, placeholder, name) for name, one in value.items()}
    return value


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    blocks = content if isinstance(content, list) else [content]
    texts = [b.get("text") or b.get("content") if isinstance(b, dict) else b for b in blocks]
    return "\n".join(text for text in texts if isinstance(text, str)).strip()


@functools.cache
def spacy_pipeline(name: str) -> Any:
    """A pipeline of spaCy that is installed, opened once.

    Raises:
        RecipeError: spaCy or the pipeline is not there.
    """
    try:
        import spacy

        return spacy.load(name)
    except (ImportError, OSError):
        raise RecipeError(
            f"spacy_ner_models names {name!r}, which is not installed: pip install spacy, then "
            f"`python -m spacy download {name}`; or leave the key out"
        ) from None
