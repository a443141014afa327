"""Where one thing comes from: an address on the web, or a repository of a hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Hub = Literal["http", "hf", "modelscope"]
HUB_NAMES = {"hf": "Hugging Face", "modelscope": "ModelScope"}
_HUB = re.compile(r"(hf|modelscope):(datasets/)?([^/@]+(?:/[^/@]+)?)(?:@([^/]+))?(?:/(.+))?")
FORMS = "https://HOST/PATH, hf:[datasets/]OWNER/NAME[@REVISION][/FILE] or modelscope:..."


@dataclass(frozen=True, slots=True)
class Source:
    """One place; for a hub with the kind of repository, its revision and a file in it."""

    hub: Hub
    place: str
    is_dataset: bool = False
    revision: str = ""
    file: str = ""

    @property
    def text(self) -> str:
        """As a manifest writes it."""
        if self.hub == "http":
            return self.place
        kind = "datasets/" if self.is_dataset else ""
        at = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"{self.hub}:{kind}{self.place}{at}{file}"

    @property
    def short(self) -> str:
        """For a column of a table: the host of an address, else the repository."""
        if self.hub == "http":
            return urlsplit(self.place).hostname or self.place
        return f"{self.hub}:{self.place}"

    @property
    def file_name(self) -> str:
        """The last part of what is fetched; empty for a whole repository."""
        path = unquote(urlsplit(self.place).path) if self.hub == "http" else self.file
        return path.rsplit("/", 1)[-1]


def source_of(text: str) -> Source:
    """The place that a line of a manifest names.

    Raises:
        ValueError: it has none of the known forms; says them.
    """
    if text.startswith(("http://", "https://")):
        if not urlsplit(text).hostname:
            raise ValueError(f"{text!r} names no host")
        return Source("http", text)
    match = _HUB.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is none of {FORMS}")
    hub, dataset, repo, revision, file = match.groups()
    if file and ".." in file.split("/"):
        raise ValueError(f"{text!r} leaves its repository")
    known: Hub = "hf" if hub == "hf" else "modelscope"
    return Source(known, repo, bool(dataset), revision or "", file or "")
