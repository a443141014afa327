"""A tokenizer of transformers whose ids come from the sentencepiece file beside it.

transformers 5 turned the slow Llama tokenizer into its fast one; text that starts with a
space or spells out `</s>` has other ids there than those that LLaVA, MGM and XTuner
trained with. `tokenizer: slow` (or `fast`, transformers 4's) brings theirs back: in
training, and in every later use of the model, because `save_pretrained` keeps the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from vlforge.text.tokenizers import (
    DIALECT_NAME,
    PIECES_NAME,
    Offsets,
    SentencePieceTokenizer,
    load_tokenizer,
)
from vlforge.types import ModelError

Dialect = Literal["auto", "slow", "fast"]
"""Whose ids: the folder's own, or transformers 4's slow or fast tokenizer's."""


class TwoTokenizers:
    """Ids of texts from `pieces`, everything else from `whole`.

    Args:
        whole: a tokenizer of transformers; decodes, counts, is saved.
        pieces: what makes ids of texts; a `TextTokenizer` with all its fields.
    """

    is_fast = False

    def __init__(self, whole: Any, pieces: SentencePieceTokenizer):
        self.whole = whole
        self.pieces = pieces
        self.bos_token_id = pieces.bos_token_id
        self.eos_token_id = pieces.eos_token_id
        self.pad_token_id = pieces.pad_token_id
        self.unk_token_id = pieces.unk_token_id
        self.eos_token = pieces.eos_token
        self.adds_bos = pieces.adds_bos
        self.legacy = pieces.legacy

    def __getattr__(self, name: str) -> Any:
        if name in ("whole", "pieces") or name.startswith("__"):
            raise AttributeError(name)  # before they are set, as while it is copied
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def ids(self, text: str) -> list[int]:
        """Ids of the text, nothing added."""
        return self.pieces.ids(text)

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        """None: sentencepiece does not tell which characters a token covers."""
        return None

    def encode(self, text: str, add_special_tokens: bool = True, **_: Any) -> list[int]:
        """Ids of the text, behind the token that begins a sequence where there is one."""
        head = [self.bos_token_id] if add_special_tokens and self.adds_bos else []
        return [token for token in head if token is not None] + self.pieces.ids(text)

    def __call__(
        self, text: str | Sequence[str], add_special_tokens: bool = True, **_: Any
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of a text, or of several."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, add_special_tokens) for one in text]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}

    def add_tokens(self, tokens: Sequence[str], special_tokens: bool = False) -> int:
        """Put tokens behind the vocabulary; how many were new."""
        new = int(self.whole.add_tokens(list(tokens), special_tokens=special_tokens))
        ids = {token: int(self.whole.convert_tokens_to_ids(token)) for token in tokens}
        self.pieces = self.pieces.with_added(ids)
        return new

    def save_pretrained(self, folder: str | Path, **how: Any) -> tuple[str, ...]:
        """What transformers writes, the sentencepiece file, and how it is read."""
        written = tuple(self.whole.save_pretrained(folder, **how))
        told = {one.name: getattr(self.pieces, one.name) for one in fields(self.pieces) if one.init}
        del told["model"]
        text = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (Path(folder) / DIALECT_NAME).write_text(text, encoding="utf-8")
        (Path(folder) / PIECES_NAME).write_bytes(self.pieces.model)
        return (*written, str(Path(folder) / DIALECT_NAME), str(Path(folder) / PIECES_NAME))


def with_dialect(whole: Any, folder: Path, dialect: Dialect) -> Any:
    """A folder's tokenizer with the ids that are asked for.

    Args:
        whole: what transformers reads from the folder.
        dialect: "auto" is what the folder was written with.

    Raises:
        ModelError: no sentencepiece file there.
    """
    if dialect == "auto" and not (folder / DIALECT_NAME).is_file():
        return whole
    if not (folder / PIECES_NAME).is_file():
        raise ModelError(
            f"{folder} has no {PIECES_NAME}, which `tokenizer: {dialect}` reads; copy the language "
            "model's there, or leave `tokenizer: auto`"
        )
    pieces = load_tokenizer(folder, dialect=dialect)
    if not isinstance(pieces, SentencePieceTokenizer):
        raise ModelError(f"{folder}: its {PIECES_NAME} is not what its tokenizer is made of")
    return TwoTokenizers(whole, pieces)
