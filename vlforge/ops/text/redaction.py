"""Replacing what gives people away: paths, addresses, secrets, numbers, in texts and dialogues."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Grown, RowMapper, look_up, replaced
from vlforge.ops.batch import Batch
from vlforge.ops.text.private import Step, extra_step, steps_of
from vlforge.types import Drop, Row

PATH_KEYS = frozenset({"file_path", "path", "file", "arguments", "file_paths"})
"""Keys whose texts are redacted wherever in a row they stand."""
_MEDIA_KEYS = ("videos", "audios")


@dataclass(frozen=True, kw_only=True)
class PiiRedactionMapper(RowMapper):
    """Replace private data by placeholders: paths, addresses, secrets, ids, phone numbers.

    Every `mask_*` switches one kind, in this order: PEM blocks, JSON web tokens,
    URLs (off by default), IP and MAC addresses, Unix and Windows paths, e-mail
    addresses, values behind words like `password:` or `token=`, session and user
    ids, chat channels and their open ids, phone numbers, Chinese identity cards;
    then `extra_patterns`, pairs of a regular expression and its replacement. Each
    `*_replacement` may be changed.

    Redacted are the fields `redact_keys` (by default the text, query, response,
    dialog_history and messages; of `messages_key` the contents and the arguments of
    tool calls), and anywhere in the row texts in lists and texts under the keys
    file_path, path, file, arguments and file_paths. Here each text is redacted once,
    image, video and audio fields are left alone (their paths are needed), and what
    follows question and answer in a turn of dialog_history stays. With `compat:
    data_juicer` image paths become placeholders, a text in a list is redacted twice
    (`token=[REDACTED]]`), and turns are cut to two.
    """

    mask_paths: bool = True
    mask_emails: bool = True
    mask_secrets: bool = True
    mask_ids: bool = True
    mask_phones: bool = True
    mask_id_cards: bool = True
    mask_channel_ids: bool = True
    mask_platform_open_ids: bool = True
    mask_pem: bool = True
    mask_jwt: bool = True
    mask_urls: bool = False
    mask_ips: bool = True
    mask_macs: bool = True
    path_replacement: str = "[PATH_REDACTED]"
    email_replacement: str = "[EMAIL_REDACTED]"
    secret_replacement: str = "[REDACTED]"
    id_replacement: str = "[ID_REDACTED]"
    phone_replacement: str = "[PHONE_REDACTED]"
    id_card_replacement: str = "[ID_CARD_REDACTED]"
    channel_id_replacement: str = "[CHANNEL_ID_REDACTED]"
    pem_replacement: str = "[PEM_REDACTED]"
    jwt_replacement: str = "[JWT_REDACTED]"
    url_replacement: str = "[URL_REDACTED]"
    ip_replacement: str = "[IP_REDACTED]"
    mac_replacement: str = "[MAC_REDACTED]"
    extra_patterns: list[tuple[str, str]] | None = None
    redact_keys: list[str] | None = None
    messages_key: str | None = "messages"

    def __post_init__(self) -> None:
        for step in self._steps:
            step("")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        return [self._redacted_row(item.row) for item in batch.items]

    def redacted(self, text: str) -> str:
        """One text with placeholders."""
        for step in self._steps:
            text = step(text)
        return text

    def _redacted_row(self, row: Row) -> Row:
        walk = _Walk(self.redacted, is_exact=bool(self.compat))
        new = row
        for key in self._keys:
            if key not in new and "." not in key:
                continue
            value = look_up(new, key)
            found = self._redacted_field(key, value, walk)
            if found != value:
                new = replaced(new, key, found)
        left_alone = () if self.compat else (self.image_key, self.image_bytes_key, *_MEDIA_KEYS)
        found = {k: v if k in left_alone else walk.inside(k, v) for k, v in new.items()}
        return row if found == row else found

    def _redacted_field(self, key: str, value: Any, walk: _Walk) -> Any:
        if isinstance(value, str):
            return walk.text(value)
        if not isinstance(value, list):
            return value
        if key == self.messages_key:
            return [walk.message(message) for message in value]
        if key == "dialog_history":
            return [walk.turn(turn) for turn in value]
        return [walk.text(part) for part in value] if len(value) == 2 else value

    @functools.cached_property
    def _keys(self) -> list[str]:
        if self.redact_keys is not None:
            return self.redact_keys
        return [self.text_key, "query", "response", "dialog_history", "messages"]

    @functools.cached_property
    def _steps(self) -> list[Step]:
        """One function per kind that is masked, blocks and links before what may be in them."""
        wanted: list[tuple[bool, str, str]] = [
            (self.mask_pem, "armoured blocks", self.pem_replacement),
            (self.mask_jwt, "web tokens", self.jwt_replacement),
            (self.mask_urls, "urls", self.url_replacement),
            (self.mask_ips, "ips", self.ip_replacement),
            (self.mask_macs, "macs", self.mac_replacement),
            (self.mask_paths, "paths", self.path_replacement),
            (self.mask_emails, "emails", self.email_replacement),
            (self.mask_secrets, "secrets", self.secret_replacement),
            (self.mask_ids, "ids", self.id_replacement),
            (self.mask_channel_ids, "channels", self.channel_id_replacement),
            (self.mask_platform_open_ids, "open ids", self.channel_id_replacement),
            (self.mask_phones, "phones", self.phone_replacement),
            (self.mask_id_cards, "id cards", self.id_card_replacement),
        ]
        steps = [step for is_on, kind, repl in wanted if is_on for step in steps_of(kind, repl)]
        return steps + [extra_step(*pair) for pair in self.extra_patterns or ()]


class _Walk:
    """Redacting what a row holds, as new values; each text once unless `is_exact`.

    `is_exact` is Data-Juicer's way, where a text that two rules reach is redacted twice.
    """

    def __init__(self, redacted: Step, is_exact: bool):
        self._redacted = redacted
        self._is_exact = is_exact
        self._results: set[str] = set()

    def text(self, value: Any) -> Any:
        """A text redacted; anything else as it is."""
        if not isinstance(value, str) or (value in self._results and not self._is_exact):
            return value
        result = self._redacted(value)
        self._results.add(result)
        return result

    def inside(self, key: str, value: Any) -> Any:
        """Texts in lists and under the keys of paths, at any depth."""
        if isinstance(value, str):
            return self.text(value) if key in PATH_KEYS else value
        if isinstance(value, list):
            return [self.text(v) if isinstance(v, str) else self.inside("", v) for v in value]
        if isinstance(value, dict):
            return {k: self.inside(k, v) for k, v in value.items()}
        return value

    def message(self, message: Any) -> Any:
        """The contents and the arguments of tool calls of one message."""
        if not isinstance(message, dict):
            return message
        new = dict(message)
        content = message.get("content")
        if isinstance(content, list):
            new["content"] = [self._block(block) for block in content]
        elif isinstance(content, str):
            new["content"] = self.text(content)
        for key in ("tool_calls", "tool_use"):
            calls = message.get(key)
            if isinstance(calls, list):
                new[key] = [self._call(call) for call in calls]
        return new

    def turn(self, turn: Any) -> Any:
        """Question and answer; a tuple, which `inside` leaves alone."""
        if not isinstance(turn, list) or len(turn) < 2:
            return turn
        pair = tuple(self.text(part) for part in turn[:2])
        return pair if self._is_exact else [*pair, *turn[2:]]

    def _block(self, block: Any) -> Any:
        if not isinstance(block, dict):
            return self.text(block)
        texts = {key: self.text(block[key]) for key in ("text", "content") if key in block}
        return {**block, **texts}

    def _call(self, call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        name = "function" if call.get("function") else "function_call"
        new = {name: self._arguments(call[name])} if name in call else {}
        return self._arguments({**call, **new})

    def _arguments(self, call: Any) -> Any:
        if not isinstance(call, dict) or "arguments" not in call:
            return call
        given = call["arguments"]
        found = self.inside("arguments", given) if isinstance(given, str | dict) else given
        return {**call, "arguments": found}
