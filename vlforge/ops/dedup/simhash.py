"""64-bit fingerprints of texts whose distance says how many words two texts share.

Source: Charikar 2002; bits as simhash-py computes them from MD5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlforge.ops.dedup.documents import md5

if TYPE_CHECKING:
    from vlforge.ops.dedup.shingles import Shingles


def simhash(tokens: list[bytes]) -> int:
    """The bits that most tokens' hashes have set; 0 without tokens."""
    hashes = [int.from_bytes(md5(token).digest()[:8]) for token in tokens]
    result = 0
    for bit in range(64):
        if 2 * sum(found >> bit & 1 for found in hashes) > len(hashes):
            result |= 1 << bit
    return result


def fingerprints(shingles: Shingles) -> Any:
    """[texts] uint64: `simhash` of each text's shingles."""
    import numpy as np

    digests = b"".join(
        b"".join([md5(shingle).digest() for shingle in some]) for some in shingles.slices()
    )
    halves = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)[:, :8]
    marks = np.unpackbits(halves, axis=1)
    out = np.zeros((len(shingles.counts), 64), dtype=bool)
    filled = np.flatnonzero(shingles.counts)
    if len(filled):
        counts = shingles.counts[filled]
        sums = np.add.reduceat(marks, np.cumsum(counts) - counts, axis=0, dtype=np.int64)
        out[filled] = 2 * sums > counts[:, None]
    return np.packbits(out, axis=1).view(">u8")[:, 0].astype(np.uint64)


def word_windows(text: str, size: int) -> list[bytes]:
    """Runs of `size` lower-case words, each as bytes; none for a shorter text."""
    parts = text.lower().replace("\n", " ").replace("\t", " ").split(" ")
    words = [word for word in parts if word]
    return [
        " ".join(words[at : at + size]).encode("utf-8", "surrogatepass")
        for at in range(len(words) - size + 1)
    ]
