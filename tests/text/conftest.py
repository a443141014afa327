"""Made tokenizers that the text tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MADE = Path(__file__).with_name("made")


@pytest.fixture(scope="session")
def sentencepiece_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Tokenizer folders around one small sentencepiece model, by `legacy`."""
    pytest.importorskip("sentencepiece")
    folders = {}
    for legacy in (False, True):
        folder = tmp_path_factory.mktemp(f"legacy_{legacy}".lower())
        (folder / "tokenizer.model").write_bytes((MADE / "tokenizer.model").read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
        folders[legacy] = folder
    return folders


@pytest.fixture(scope="session")
def bytes_tokenizer():
    """A byte-level tokenizer of transformers that adds a begin-of-sequence token."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    specials = ["<s>", "</s>", "<pad>"]
    vocabulary = {piece: place for place, piece in enumerate([*specials, *sorted(alphabet)])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(specials)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
