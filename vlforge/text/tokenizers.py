"""One face for every tokenizer: transformers', `tokenizer.json` and sentencepiece files.

Sentencepiece is called directly where the ids have to be those of the slow
tokenizers that the reference systems used; transformers 5 has none of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vlforge.types import ModelError

PIECES_NAME, DIALECT_NAME = "tokenizer.model", "vlforge_tokenizer.json"
"""A folder's sentencepiece file, and how it is read where a model was trained so."""

Offsets = list[tuple[int, int]]
"""Per token, the characters it covers: from, to."""


@runtime_checkable
class TextTokenizer(Protocol):
    """What text encoding needs of a tokenizer.

    `legacy` is True, False or None (unknown): whether text after a special token
    starts like a new text.
    """

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    unk_token_id: int | None
    eos_token: str | None
    adds_bos: bool
    legacy: bool | None

    def ids(self, text: str) -> list[int]:
        """Token ids of the text, nothing added; special tokens in the text are read as such."""
        ...

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        """The same ids with the characters they cover; None where that is not known."""
        ...


def adapt(tokenizer: Any) -> TextTokenizer:
    """A transformers tokenizer behind the face used here; ours come back as they are."""
    return tokenizer if isinstance(tokenizer, TextTokenizer) else TransformersTokenizer(tokenizer)


class TransformersTokenizer:
    """A tokenizer of transformers, fast or not."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bos_token_id: int | None = getattr(tokenizer, "bos_token_id", None)
        self.eos_token_id: int | None = getattr(tokenizer, "eos_token_id", None)
        self.pad_token_id: int | None = getattr(tokenizer, "pad_token_id", None)
        self.unk_token_id: int | None = getattr(tokenizer, "unk_token_id", None)
        self.eos_token: str | None = getattr(tokenizer, "eos_token", None)
        self.legacy: bool | None = getattr(tokenizer, "legacy", None)
        first = list(tokenizer.encode("", add_special_tokens=True))[:1]
        self.adds_bos = self.bos_token_id is not None and first == [self.bos_token_id]

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        out = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return list(out["input_ids"]), [tuple(pair) for pair in out["offset_mapping"]]


@dataclass
class FileTokenizer:
    """A `tokenizer.json`, read without transformers."""

    backend: Any
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    eos_token: str | None = None
    adds_bos: bool = False
    legacy: bool | None = None

    def ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        out = self.backend.encode(text, add_special_tokens=False)
        return list(out.ids), list(out.offsets)


@dataclass
class SentencePieceTokenizer:
    """A sentencepiece model with the habits of transformers' Llama tokenizers.

    dialect "slow": transformers 4's `LlamaTokenizer`, which LLaVA and MGM train
    with. "fast": its fast sibling of 4.4x, which XTuner trains with. They differ on
    text that starts with a space.

    legacy: text after a special token gets a leading space of its own.
    strips_left, strips_right: special tokens that swallow the white space beside them.
    named: special tokens that the settings name; "slow" writes no space before one of
        them that begins a text. None: all that are added.
    """

    model: bytes
    added: dict[str, int]
    legacy: bool | None = False
    dialect: Literal["slow", "fast"] = "slow"
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    eos_token: str | None = None
    unk_token: str = "<unk>"
    adds_bos: bool = True
    strips_left: Sequence[str] = ()
    strips_right: Sequence[str] = ()
    named: Sequence[str] | None = None
    _bare: Any = field(init=False, repr=False)
    _prefixed: Any = field(init=False, repr=False)
    _plain: Any = field(init=False, repr=False)
    _special: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import sentencepiece

        # Protocol buffers merge what is appended: normalizer_spec.add_dummy_prefix = false.
        bare = self.model + b"\x1a\x02\x18\x00"
        self._bare = sentencepiece.SentencePieceProcessor(model_proto=bare)
        # Nor does transformers' fast one normalise: no removed spaces, an empty rule table.
        plain = self.model + b"\x1a\x06\x18\x00\x20\x00\x12\x00"
        self._plain = sentencepiece.SentencePieceProcessor(model_proto=plain)
        self._prefixed = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        longest_first = sorted(self.added, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def with_added(self, ids: Mapping[str, int]) -> SentencePieceTokenizer:
        """The same with more special tokens."""
        named = None if self.named is None else [*self.named, *ids]
        return replace(self, added=self.added | dict(ids), named=named)

    def ids(self, text: str) -> list[int]:
        if not text:
            return []
        return self._slow(text) if self.dialect == "slow" else self._fast(text)

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        return None

    def _sections(self, text: str) -> list[str]:
        if not self.added:
            return [text]
        parts = self._special.split(text)
        # Text and special tokens in turn.
        for place in range(1, len(parts), 2):
            if parts[place] in self.strips_left:
                parts[place - 1] = parts[place - 1].rstrip()
            if parts[place] in self.strips_right:
                parts[place + 1] = parts[place + 1].lstrip()
        return [part for part in parts if part]

    def _slow(self, text: str) -> list[int]:
        if not self.legacy:
            text = "▁" + text.replace("▁", " ")
        out: list[int] = []
        sections = self._sections(text)
        named = self.added if self.named is None else self.named
        if not self.legacy and sections[0] == "▁" and len(sections) > 1 and sections[1] in named:
            sections = sections[1:]
        for section in sections:
            if section in self.added:
                out.append(self.added[section])
            elif self.legacy:
                out.extend(self._prefixed.encode(section))
            else:
                out.extend(self._continued(section))
        return out

    def _continued(self, section: str) -> list[int]:
        """Ids of text in mid-sentence: no leading space is added."""
        if not section.startswith(("▁", " ")):
            return list(self._bare.encode(section))
        # On its own, sentencepiece may swallow a leading space.
        skip = len(self._bare.encode(self.unk_token))
        return list(self._bare.encode(self.unk_token + section)[skip:])

    def _fast(self, text: str) -> list[int]:
        out: list[int] = []
        for place, section in enumerate(self._sections(text)):
            if section in self.added:
                out.append(self.added[section])
                continue
            spaced = section.startswith((" ", "▁"))
            if self.legacy or (place == 0 and not spaced):
                section = " " + section
            out.extend(self._plain.encode(section))
        return out


def load_tokenizer(
    folder: str | Path,
    *,
    dialect: Literal["auto", "slow", "fast"] = "auto",
    extra_tokens: Sequence[str] = (),
) -> TextTokenizer:
    """The tokenizer stored in a folder, without transformers.

    Args:
        dialect: "auto" is what the folder was written with; else reads
            `tokenizer.json` where there is one, else the sentencepiece file as
            "slow"; see `SentencePieceTokenizer`.
        extra_tokens: special tokens to add after the vocabulary.

    Raises:
        ModelError: no tokenizer in the folder, or one that cannot be read.
    """
    folder = Path(folder)
    settings = _settings(folder)
    json_file, model_file = folder / "tokenizer.json", folder / PIECES_NAME
    try:
        if (folder / DIALECT_NAME).is_file() and model_file.is_file():
            return _from_fields(folder, dialect, extra_tokens)
        if json_file.is_file() and (dialect == "auto" or not model_file.is_file()):
            return _from_json(json_file, settings, extra_tokens)
        if model_file.is_file():
            chosen: Literal["slow", "fast"] = "fast" if dialect == "fast" else "slow"
            return _from_model(model_file, settings, chosen, extra_tokens)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be read: {error}") from error
    if (folder / "qwen.tiktoken").is_file():
        from vlforge.text.qwen_tokenizer import QwenTokenizer

        return QwenTokenizer.from_pretrained(folder)
    raise ModelError(f"{folder}: holds no tokenizer.json, tokenizer.model or qwen.tiktoken")


def _from_fields(
    folder: Path, dialect: Literal["auto", "slow", "fast"], extra_tokens: Sequence[str]
) -> SentencePieceTokenizer:
    """A sentencepiece file that was written with all that transformers leaves out."""
    fields = json.loads((folder / DIALECT_NAME).read_text(encoding="utf-8"))
    if dialect != "auto":
        fields["dialect"] = dialect
    model = (folder / PIECES_NAME).read_bytes()
    try:
        found = SentencePieceTokenizer(model=model, **fields)
    except TypeError as error:
        raise ValueError(f"{DIALECT_NAME}: {error}") from None
    size = max(found._bare.get_piece_size(), 1 + max(found.added.values(), default=-1))
    new = [token for token in extra_tokens if token not in found.added]
    return found.with_added({token: size + place for place, token in enumerate(new)})


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the tokens of added_tokens.json under `added`.

    `lstrip` and `rstrip` list those that swallow white space, `named` those that the
    settings name beside the usual ones.
    """
    settings: dict[str, Any] = {}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
    added = {
        entry["content"]: int(token_id)
        for token_id, entry in settings.get("added_tokens_decoder", {}).items()
    }
    path = folder / "added_tokens.json"
    if not added and path.is_file():
        added = {str(k): int(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    entries = settings.get("added_tokens_decoder", {}).values()
    strips = {
        side: [entry["content"] for entry in entries if entry.get(side)]
        for side in ("lstrip", "rstrip")
    }
    more = settings.get("additional_special_tokens")
    path = folder / "special_tokens_map.json"
    if more is None and path.is_file():
        more = json.loads(path.read_text(encoding="utf-8")).get("additional_special_tokens")
    named = [one["content"] if isinstance(one, dict) else str(one) for one in more or ()]
    return {**settings, "added": added, **strips, "named": named}


def _token(settings: dict[str, Any], name: str) -> str | None:
    value = settings.get(name)
    return value.get("content") if isinstance(value, dict) else value


def _from_json(path: Path, settings: dict[str, Any], extra_tokens: Sequence[str]) -> FileTokenizer:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error
    if extra_tokens:
        backend.add_special_tokens(list(extra_tokens))

    def named(name: str) -> int | None:
        token = _token(settings, name)
        return backend.token_to_id(token) if token else None

    bos = named("bos_token")
    first = backend.encode("", add_special_tokens=True).ids[:1]
    return FileTokenizer(
        backend,
        bos_token_id=bos,
        eos_token_id=named("eos_token"),
        pad_token_id=named("pad_token"),
        unk_token_id=named("unk_token"),
        eos_token=_token(settings, "eos_token"),
        adds_bos=bos is not None and first == [bos],
        legacy=settings.get("legacy"),
    )


def _from_model(
    path: Path,
    settings: dict[str, Any],
    dialect: Literal["slow", "fast"],
    extra_tokens: Sequence[str],
) -> SentencePieceTokenizer:
    import sentencepiece

    model = path.read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    names = {
        kind: _token(settings, f"{kind}_token") or default
        for kind, default in (("unk", "<unk>"), ("bos", "<s>"), ("eos", "</s>"), ("pad", None))
    }
    added = dict(settings["added"])
    for name in filter(None, names.values()):
        added.setdefault(name, pieces.piece_to_id(name))
    size = max(pieces.get_piece_size(), 1 + max(added.values(), default=0))
    for place, name in enumerate(extra_tokens):
        added.setdefault(name, size + place)
    ids = {kind: added[name] if name else None for kind, name in names.items()}
    return SentencePieceTokenizer(
        model=model,
        added=added,
        legacy=bool(settings.get("legacy", True)),
        dialect=dialect,
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
        unk_token_id=ids["unk"],
        eos_token=names["eos"],
        unk_token=names["unk"] or "<unk>",
        adds_bos=bool(settings.get("add_bos_token", True)),
        strips_left=settings["lstrip"],
        strips_right=settings["rstrip"],
        named=[*filter(None, names.values()), *settings["named"], *extra_tokens],
    )
