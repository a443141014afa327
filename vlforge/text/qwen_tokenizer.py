"""Qwen's tokenizer: byte-level BPE from `qwen.tiktoken`, read without the tiktoken package.

A picture is written `<img>NAME</img>`. As ids, its name is its UTF-8 bytes, each byte
being the token id of that number, filled up to 256 with `<imgpad>`; a model puts 256
picture tokens there. `encode` gives these ids; `ids` and `plain_ids` leave pictures to
the caller, who writes -200 for each.

Source: Qwen-VL-Chat's tokenization_qwen.py and the file format of openai/tiktoken.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from vlforge.text.tokenizers import Offsets
from vlforge.types import DataError, ModelError

FILE_NAME = "qwen.tiktoken"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE, IMAGE_END, IMAGE_PAD = "<img>", "</img>", "<imgpad>"
GROUNDING = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
TAGS = (*GROUNDING, IMAGE, IMAGE_END, IMAGE_PAD)
"""Special tokens that words may hold; the others steer the conversation."""
CONTROL = (END_OF_TEXT, TURN_START, TURN_END, *(f"<|extra_{i}|>" for i in range(205)))
SPECIAL = (*CONTROL, *TAGS)
"""Special tokens in the order of their ids, which begin behind the ranks of the file."""
IMAGE_SPAN = 256
"""Ids between `<img>` and `</img>`."""
LABEL = "Picture {}: "
"""What stands before a picture; PaddleMIX and Qwen-VL's first release leave out the last space."""

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPAN = re.compile(r"<img>(.*?)(</img>|\Z)", re.S)
_LISTED = re.compile(r"<(img|ref|box|quad)>(.*?)(</\1>|\Z)", re.S)
_KEYS = {"img": "image", "ref": "ref", "box": "box", "quad": "quad"}


class QwenTokenizer:
    """Text to ids and back; has what callers ask of a tokenizer of transformers.

    Args:
        ranks: token (bytes) -> id, 0 to n - 1.
        long_names: a picture's name of more than 256 bytes is an error, or, as in
            MGen-VL, 256 times `<imgpad>`.
    """

    bos_token_id: int | None = None
    unk_token_id: int | None = None
    bos_token: str | None = None
    eos_token: str | None = END_OF_TEXT
    pad_token: str | None = END_OF_TEXT
    adds_bos = False
    legacy: bool | None = None
    is_fast = False
    padding_side = "right"

    def __init__(
        self, ranks: Mapping[bytes, int], *, long_names: Literal["error", "pads"] = "error"
    ):
        if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
            raise ModelError(f"{FILE_NAME} holds {len(ranks)} ranks that are not 0, 1, 2, …")
        self.ranks = dict(ranks)
        self.long_names = long_names
        self.special = {token: len(ranks) + place for place, token in enumerate(SPECIAL)}
        self.eos_token_id: int | None = self.special[END_OF_TEXT]
        self.pad_token_id: int | None = self.special[END_OF_TEXT]
        self.turn_start_id = self.special[TURN_START]
        self.turn_end_id = self.special[TURN_END]
        self.image_start_id = self.special[IMAGE]
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._bytes |= {place: token.encode() for token, place in self.special.items()}

    @classmethod
    def from_pretrained(cls, folder: str | Path, **how: Any) -> QwenTokenizer:
        """The tokenizer of a folder's `qwen.tiktoken`, or of that file itself.

        Raises:
            ModelError: no such file, or one that is damaged.
        """
        path = Path(folder)
        path = path / FILE_NAME if path.is_dir() else path
        try:
            lines = path.read_bytes().splitlines()
            pairs = [line.split() for line in lines if line]
            ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
        except OSError:
            raise ModelError(f"no tokenizer at {path}; copy {FILE_NAME} of Qwen there") from None
        except (ValueError, binascii.Error) as error:
            raise ModelError(f"{path} is damaged ({error}); copy it again") from None
        return cls(ranks, **how)

    def save_pretrained(self, folder: str | Path) -> tuple[str, ...]:
        """Write `qwen.tiktoken` into a folder; returns the path written."""
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(self.ranks.items(), key=lambda pair: pair[1])
        lines = (base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ordered)
        draft = path.with_name(path.name + ".tmp")
        draft.write_bytes(b"".join(lines))
        shutil.move(draft, path)
        return (str(path),)

    def __len__(self) -> int:
        return len(self.ranks) + len(self.special)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id; bytes that are no text stand as in GPT-2's vocabularies."""
        return {_written(token): rank for token, rank in self.ranks.items()} | self.special

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Ids of one token's text or bytes, or of a list of them; None where there is none."""
        if isinstance(tokens, str | bytes):
            token = tokens.encode() if isinstance(tokens, str) else tokens
            special = self.special.get(tokens) if isinstance(tokens, str) else None
            return self.ranks.get(token) if special is None else special
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """Tokens as text, of one id or of several."""
        if isinstance(ids, int):
            return self._bytes[ids].decode("utf-8", "replace")
        return [self.convert_ids_to_tokens(int(token)) for token in ids]

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for; it may be part of a character."""
        return self._bytes[token]

    def ids(self, text: str) -> list[int]:
        """Ids of the text; every special token in it is read as such, `<img>` too."""
        return self._split(unicodedata.normalize("NFC", text), SPECIAL)

    def plain_ids(self, text: str) -> list[int]:
        """Ids of what somebody wrote: of special tokens only those of grounding are read."""
        return self._split(unicodedata.normalize("NFC", text), GROUNDING)

    def ids_and_offsets(self, text: str) -> tuple[list[int], Offsets] | None:
        """As `ids`, with the characters covered; None where normalising changes the text."""
        if unicodedata.normalize("NFC", text) != text:
            return None
        ids: list[int] = []
        offsets: Offsets = []
        for part, start, is_special in _parts(text, SPECIAL):
            if is_special:
                ids.append(self.special[part])
                offsets.append((start, start + len(part)))
                continue
            found = self._backend.encode(part, add_special_tokens=False)
            ids += found.ids
            offsets += [(start + first, start + last) for first, last in found.offsets]
        return ids, offsets

    def encode(
        self,
        text: str,
        *,
        allowed_special: Collection[str] | Literal["all"] = "all",
        disallowed_special: Collection[str] | Literal["all"] = (),
        **_: Any,
    ) -> list[int]:
        """Ids as Qwen-VL's own tokenizer gives them, pictures as spans of their name's bytes.

        Args:
            allowed_special: special tokens that are read as such; others are text.
            disallowed_special: special tokens that are an error, unless allowed.

        Raises:
            DataError: an `<img>` without end, a name that is too long, or a token
                that is disallowed.
        """
        allowed = SPECIAL if allowed_special == "all" else tuple(allowed_special)
        refused = set(SPECIAL if disallowed_special == "all" else disallowed_special)
        text = unicodedata.normalize("NFC", text)
        _refuse(text, refused - set(allowed))
        if IMAGE not in allowed or IMAGE not in text:
            return self._split(text, allowed)
        ids: list[int] = []
        at = 0
        for span in _SPAN.finditer(text):
            ids += self._split(text[at : span.start()], allowed)
            ids += self._picture(span)
            at = span.end()
        return ids + self._split(text[at:], allowed)

    def __call__(self, text: str | Sequence[str], **how: Any) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of a text, or of several."""
        if isinstance(text, str):
            ids = self.encode(text, **how)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, **how) for one in text]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of ids, names of pictures spelled out; broken UTF-8 gives U+FFFD."""
        listed = [ids] if isinstance(ids, int) else [int(token) for token in ids]
        chunks = []
        for token, is_name in self._unspanned(listed):
            is_special = not is_name and token >= len(self.ranks)
            if is_name:
                chunks.append(bytes([token]))
            elif not (is_special and skip_special_tokens):
                chunks.append(self._bytes.get(token, b"\xef\xbf\xbd"))
        return b"".join(chunks).decode("utf-8", "replace")

    def batch_decode(self, rows: Iterable[Any], **how: Any) -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, **how) for row in rows]

    def picture_spans(self, ids: Sequence[int]) -> list[tuple[int, int, str]]:
        """(position of `<img>`, position past `</img>`, name) of each picture in ids.

        A span that was cut off, or that something else stands in, is none.
        """
        spans, width = [], IMAGE_SPAN + 2
        for at, token in enumerate(ids):
            inner = list(ids[at + 1 : at + width - 1])
            is_closed = at + width <= len(ids) and ids[at + width - 1] == self.image_start_id + 1
            if token == self.image_start_id and is_closed:
                pad = self.image_start_id + 2
                name = inner[: inner.index(pad)] if pad in inner else inner
                if all(0 <= byte < 256 for byte in name):
                    spans.append((at, at + width, bytes(name).decode("utf-8", "replace")))
        return spans

    def from_list_format(self, items: Iterable[Mapping[str, Any]], *, label: str = LABEL) -> str:
        """One text of a list of texts, pictures and boxes.

        `{"text": …}`, `{"image": PATH}`, `{"box": [[x1, y1, x2, y2], …], "ref": …}`;
        boxes count from 0 to 1000 across the picture.

        Raises:
            DataError: an item that is none of these.
        """
        text, images = "", 0
        for item in items:
            if "image" in item:
                images += 1
                text += label.format(images) + IMAGE + str(item["image"]) + IMAGE_END + "\n"
            elif "text" in item:
                text += item["text"]
            elif "box" in item:
                text += f"<ref>{item['ref']}</ref>" if "ref" in item else ""
                corners = (tuple(int(side) for side in box[:4]) for box in item["box"])
                text += "".join(f"<box>({a},{b}),({c},{d})</box>" for a, b, c, d in corners)
            else:
                raise DataError(f"Unsupport element: {dict(item)}; give text, image or box")
        return text

    def to_list_format(self, text: str) -> list[dict[str, str]]:
        """The texts, pictures, references and boxes of a text, in order.

        Raises:
            DataError: a tag without its end, or a token that steers the conversation.
        """
        text = unicodedata.normalize("NFC", text)
        _refuse(text, {*CONTROL} - {END_OF_TEXT})
        items: list[dict[str, str]] = []
        at = 0
        for tagged in _LISTED.finditer(text):
            if not tagged.group(3):
                raise _unclosed(tagged)
            if tagged.start() > at:
                items.append({"text": text[at : tagged.start()]})
            items.append({_KEYS[tagged.group(1)]: tagged.group(2)})
            at = tagged.end()
        return items + ([{"text": text[at:]}] if at < len(text) else [])

    def _split(self, text: str, special: Collection[str]) -> list[int]:
        ids: list[int] = []
        for part, _, is_special in _parts(text, special):
            if is_special:
                ids.append(self.special[part])
            else:
                ids += self._backend.encode(part, add_special_tokens=False).ids
        return ids

    def _picture(self, span: re.Match[str]) -> list[int]:
        if not span.group(2):
            raise _unclosed(span)
        name = list(span.group(1).encode())
        if len(name) > IMAGE_SPAN and self.long_names == "error":
            raise DataError(
                f"The content in <img>..</img> is too long: {len(name)} bytes, and {IMAGE_SPAN} "
                "fit; give the picture a shorter path"
            )
        name = name if len(name) <= IMAGE_SPAN else []
        start = self.image_start_id
        return [start, *name, *[start + 2] * (IMAGE_SPAN - len(name)), start + 1]

    def _unspanned(self, ids: list[int]) -> Iterator[tuple[int, bool]]:
        """Each id, or the byte of a picture's name, and which of the two it is."""
        at = 0
        pad, end = self.image_start_id + 2, self.image_start_id + 1
        while at < len(ids):
            yield ids[at], False
            at += 1
            if ids[at - 1] != self.image_start_id or end not in ids[at:]:
                continue
            closing = ids.index(end, at)
            name = ids[at:closing]
            name = name[: name.index(pad)] if pad in name else name
            if all(0 <= byte < 256 for byte in name):
                yield from ((byte, True) for byte in name)
                at = closing

    @cached_property
    def _backend(self) -> Any:
        """The pieces of text and their merges, as the tokenizers library does them.

        tiktoken joins the two neighbours whose union has the lowest rank; here every
        way to make a token of two others is a merge, in the order of ranks. They agree
        but where one union can be made in two overlapping ways at once.
        """
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        text = {token: _written(token) for token in self.ranks}
        merges = []
        for token, _ in sorted(self.ranks.items(), key=lambda pair: pair[1]):
            cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
            known = [(a, b) for a, b in cuts if a in text and b in text]
            known.sort(key=lambda pair: (self.ranks[pair[0]], self.ranks[pair[1]]))
            merges += [(text[a], text[b]) for a, b in known]
        vocabulary = {text[token]: rank for token, rank in self.ranks.items()}
        backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        pieces = pre_tokenizers.Split(Regex(_PIECES), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([pieces, by_bytes])
        return backend


def _parts(text: str, special: Collection[str]) -> Iterator[tuple[str, int, bool]]:
    """(text, where it starts, whether it is one of `special`) from left to right."""
    at = 0
    if special and "<" in text:
        for match in _any_of(tuple(special)).finditer(text):
            if match.start() > at:
                yield text[at : match.start()], at, False
            yield match.group(), match.start(), True
            at = match.end()
    if at < len(text):
        yield text[at:], at, False


@cache
def _any_of(special: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, special)))


def _refuse(text: str, special: Collection[str]) -> None:
    for part, _, is_special in _parts(text, special):
        if is_special:
            raise DataError(f"the text holds {part!r}, which has no place here; take it out")


def _unclosed(tagged: re.Match[str]) -> DataError:
    shown = tagged.group()[:40]
    return DataError(f"Unclosed image token: {shown!r} has no end tag; write one, or no tag")


_GAPS = [*range(33), *range(127, 161), 173]
_LETTERS = {byte: chr(byte) for byte in range(256)} | {
    byte: chr(256 + place) for place, byte in enumerate(_GAPS)
}


_BYTES = {letter: byte for byte, letter in _LETTERS.items()}


def bytes_of(written: str) -> bytes | None:
    """The bytes of a token as GPT-2's vocabularies write it; None where it is not written so."""
    if not written or any(letter not in _BYTES for letter in written):
        return None
    return bytes(_BYTES[letter] for letter in written)


def _written(token: bytes) -> str:
    """Bytes as printable characters, one each, as GPT-2's vocabularies write them."""
    return "".join(_LETTERS[byte] for byte in token)
