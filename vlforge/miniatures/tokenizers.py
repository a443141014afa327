"""Small tokenizers in the published files: sentencepiece's of Llama, Gemma and InternLM2.

They are trained on the scenes' own texts, with bytes to fall back on, so that any text
has ids and no `<unk>`.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlforge.miniatures.scenes import every_text
from vlforge.miniatures.weights import write_json

PIECES = 512
"""Words of a vocabulary: 256 are bytes."""
GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>")
_GEMMA_SYMBOLS = ("<mask>", *GEMMA_TURNS)
INTERNLM2_SPECIALS = (
    "<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>",
    "<|im_start|>",
)  # fmt: skip
"""InternLM2's, in the order of their ids, which follow the pieces."""


def llama_pieces(seed: int, more: Sequence[str] = ()) -> bytes:
    """A sentencepiece file with Llama's settings: `<unk>` 0, `<s>` 1, `</s>` 2, bytes."""
    return _trained(seed, tuple(more), (), False)


def gemma_pieces(seed: int) -> bytes:
    """One with Gemma's: `<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>` 3, its turns, no first space."""
    return _trained(seed, (), _GEMMA_SYMBOLS, True)


def write_llama_tokenizer(folder: Path, seed: int, more: Sequence[str] = ()) -> int:
    """Vicuna's files (tokenizer.model and its settings); the number of tokens.

    Args:
        more: texts whose words the tokenizer has to know too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(llama_pieces(seed, more))
    tokens = {name: _entry(text) for name, text in _LLAMA_TOKENS.items()}
    settings = {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "legacy": False, "model_max_length": 4096, "pad_token": None, "padding_side": "right",
        "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings | tokens)
    write_json(folder / "special_tokens_map.json", tokens | {"pad_token": "<unk>"})
    return PIECES


def write_internlm2_tokenizer(folder: Path, seed: int) -> int:
    """InternLM2's files; the number of tokens. Its class is code that nobody here runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(llama_pieces(seed))
    numbered = {**_LLAMA_NUMBERS, **dict(enumerate(INTERNLM2_SPECIALS, PIECES))}
    added = {str(number): _entry(text, has_flag=True) for number, text in numbered.items()}
    settings = {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(reversed(INTERNLM2_SPECIALS)),
        "auto_map": {
            "AutoTokenizer": [
                "tokenization_internlm2.InternLM2Tokenizer",
                "tokenization_internlm2_fast.InternLM2TokenizerFast",
            ]
        },
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "InternLM2Tokenizer",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)
    return PIECES + len(INTERNLM2_SPECIALS)


def write_gemma_tokenizer(folder: Path, seed: int) -> int:
    """Gemma's files, tokenizer.json among them; the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    model = gemma_pieces(seed)
    (folder / "tokenizer.model").write_bytes(model)
    names = ("<pad>", "<eos>", "<bos>", "<unk>", *_GEMMA_SYMBOLS)
    backend = _bpe(model, unk="<unk>")
    backend.add_special_tokens(list(names))
    backend.save(str(folder / "tokenizer.json"))
    numbered = {backend.token_to_id(name): name for name in names}
    tokens = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    settings = {
        "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": {
            str(number): _entry(text, has_flag=True) for number, text in sorted(numbered.items())
        },
        "additional_special_tokens": list(GEMMA_TURNS), "clean_up_tokenization_spaces": False,
        "legacy": None, "model_max_length": 1000000000000000019884624838656,
        "sp_model_kwargs": {}, "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer", "use_default_system_prompt": False,
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings | tokens)
    write_json(folder / "special_tokens_map.json", {k: _entry(v) for k, v in tokens.items()})
    return PIECES


_LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_LLAMA_NUMBERS = {0: "<unk>", 1: "<s>", 2: "</s>"}


def _entry(text: str, *, has_flag: bool = False) -> dict[str, Any]:
    fields = {
        "content": text, "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False,
    }  # fmt: skip
    return fields | ({"special": True} if has_flag else {})


@functools.cache
def _trained(seed: int, more: tuple[str, ...], symbols: tuple[str, ...], is_gemma: bool) -> bytes:
    import sentencepiece

    kinds = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3} if is_gemma else {"pad_id": -1}
    names = {"bos_piece": "<bos>", "eos_piece": "<eos>"} if is_gemma else {}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*every_text(seed), *more]),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=not is_gemma,
        user_defined_symbols=list(symbols),
        num_threads=1,
        minloglevel=2,
        **kinds,
        **names,
    )
    return model.getvalue()


def _bpe(model: bytes, unk: str) -> Any:
    """What a sentencepiece file says, as a `tokenizer.json` says it."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = SentencePieceProcessor(model_proto=model)
    names = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    ids = {name: number for number, name in enumerate(names)}
    merges = []
    for name in names:  # learned in the order of their ids
        if pieces.is_byte(ids[name]) or pieces.is_control(ids[name]) or len(name) < 2:
            continue
        halves = [(name[:at], name[at:]) for at in range(1, len(name))]
        known = [(a, b) for a, b in halves if a in ids and b in ids]
        merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    first = names[pieces.bos_id()]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first} $B",
        special_tokens=[(first, pieces.bos_id())],
    )  # fmt: skip
    return backend


def learn_merges(words: Iterable[Sequence[str]], count: int) -> list[tuple[str, str]]:
    """The most frequent pairs, merged one after the other; ties by their names.

    The library's own trainer breaks ties by chance, and equal seeds have to give equal files.
    """
    counts = Counter(tuple(word) for word in words)
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in counts.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        joined: Counter[tuple[str, ...]] = Counter()
        for word, times in counts.items():
            joined[_joined(word, best)] += times
        counts = joined
    return merges


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
