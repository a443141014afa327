"""A tokenizer's files, carried from one folder to another as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja",
    "chat_template.json", "generation_config.json", "qwen.tiktoken", "spiece.model",
)  # fmt: skip
"""What may belong to a tokenizer; code that some repositories ship beside it does not."""


def copy_tokenizer(source: Path, out: Path) -> list[str]:
    """Copy a tokenizer's files; returns their names."""
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, out / name)
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "qwen.tiktoken", "vocab.json")
    )
