"""A site that serves files with and without ranges, changes them, breaks off and fails."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.download_site import Server, Site, running_site


@dataclass
class Page:
    """A file, and how the site serves it.

    `cuts`: after how many bytes each of the first answers breaks off; `codes`: what the
    first answers say instead. `slow_s`: a wait before each 64 KiB.
    """

    body: bytes
    ranges: bool = True
    etag: str = ""
    modified: str = ""
    told: bool = True
    kind: str = "application/octet-stream"
    to: str = ""
    slow_s: float = 0.0
    cuts: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


@dataclass
class Asked:
    """A request that the site has seen."""

    path: str
    range: str
    if_range: str


class Web(Site):
    """Answers by the server's `pages`; hub repositories by its `repos`."""

    def do_HEAD(self) -> None:
        """As a GET, without the body."""
        self.do_GET()

    def answer(self, name: str, rest: str, times: int) -> None:
        """The page, or what a hub would say."""
        asked = Asked(
            self.path, self.headers.get("Range") or "", self.headers.get("If-Range") or ""
        )
        self.server.seen.append(asked)
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.hub()
        elif page.to:
            self.say(302, b"", Location=page.to)
        elif page.codes and asked.range != "bytes=0-0":
            self.say(page.codes.pop(0), b"no")
        else:
            self.serve(page, asked)

    def serve(self, page: Page, asked: Asked, **more: str) -> None:
        """The file, or the part of it that is asked for."""
        start, end, code = 0, len(page.body), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range)
        vouched = asked.if_range in ("", page.etag or "-", page.modified or "-")
        if match and page.ranges and vouched:
            start = int(match[1])
            if start >= len(page.body):
                self.say(416, b"", **{"Content-Range": f"bytes */{len(page.body)}"})
                return
            end = min(int(match[2]) + 1 if match[2] else end, end)
            code, more = 206, more | {"Content-Range": f"bytes {start}-{end - 1}/{len(page.body)}"}
        self.send_response(code)
        self.send_header("Connection", "close")
        heads = {"ETag": page.etag, "Last-Modified": page.modified, "Content-Type": page.kind}
        if page.told:
            heads["Content-Length"] = str(end - start)
        for key, value in (heads | more).items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            is_probe = asked.range == "bytes=0-0"
            cut = page.cuts.pop(0) if page.cuts and not is_probe else end - start
            self.send(page.body[start : min(start + cut, end)], page.slow_s)

    def send(self, body: bytes, slow_s: float) -> None:
        """The bytes, all at once or with pauses."""
        for at in range(0, len(body), 1 << 16):
            if slow_s and self.server.closing.wait(slow_s):
                return
            self.wfile.write(body[at : at + (1 << 16)])

    def hub(self) -> None:
        """Hugging Face's answers about a repository and its files."""
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repo = self.server.repos.get(f"{match[1]}/{match[2]}")
            if repo is not None:
                self.say(200, json.dumps(info_of(match[2], repo)).encode())
                return
            self.say(404, b"", **{"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind = "datasets" if match[1] else "models"
            page = self.server.repos.get(f"{kind}/{match[2]}", {}).get(match[4])
            if page is None:
                self.say(404, b"", **{"X-Error-Code": "EntryNotFound"})
            elif page.to:
                heads = {"X-Linked-ETag": f'"{sha256(page)}"', "X-Linked-Size": str(len(page.body))}
                self.say(302, b"", Location=page.to, **{"X-Repo-Commit": COMMIT, **heads})
            else:
                asked = self.server.seen[-1]
                self.serve(page, asked, **{"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(page)}"'})
        else:
            self.say(404, b"no")


COMMIT = "a" * 40


def sha256(page: Page) -> str:
    """The sum of a page's body."""
    return hashlib.sha256(page.body).hexdigest()


def info_of(name: str, repo: dict[str, Page]) -> dict:
    """What Hugging Face says of a repository, sizes and sums of its files included."""
    files = [
        {
            "rfilename": path,
            "size": len(page.body),
            "blobId": "b" * 40,
            "lfs": {
                "sha256": page.etag or sha256(page),
                "size": len(page.body),
                "pointerSize": 100,
            },
        }
        for path, page in repo.items()
    ]
    return {"id": name, "modelId": name, "sha": COMMIT, "siblings": files}


@contextlib.contextmanager
def running_web(monkeypatch) -> Iterator[Server]:
    """The site while the block runs, the only place that Hugging Face's library asks."""
    with running_site(monkeypatch) as server:
        server.RequestHandlerClass = Web
        server.pages, server.repos, server.seen = {}, {}, []
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
