"""64-bit fingerprints of texts whose distance says how many words two texts share.

Source: Charikar 2002; bits as simhash-py computes them from MD5.
"""

from __future__ import annotations

import hashlib


def simhash(tokens: list[bytes]) -> int:
    """The bits that most tokens' hashes have set; 0 without tokens."""
    hashes = [
        int.from_bytes(hashlib.md5(token, usedforsecurity=False).digest()[:8]) for token in tokens
    ]
    result = 0
    for bit in range(64):
        if 2 * sum(found >> bit & 1 for found in hashes) > len(hashes):
            result |= 1 << bit
    return result


def word_windows(text: str, size: int) -> list[bytes]:
    """Runs of `size` lower-case words, each as bytes; none for a shorter text."""
    parts = text.lower().replace("\n", " ").replace("\t", " ").split(" ")
    words = [word for word in parts if word]
    return [
        " ".join(words[at : at + size]).encode("utf-8", "surrogatepass")
        for at in range(len(words) - size + 1)
    ]
