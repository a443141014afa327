"""HTML as a flat tree, forgiving as Python's own parser is: nothing is moved, added or closed.

An element that is never closed holds all that follows in its parent. That is
how BeautifulSoup reads HTML through `html.parser`, and results that were made
with it can be repeated.
"""

from __future__ import annotations

import html.entities
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset(
    (
        "area base basefont bgsound br col command embed frame hr image img input isindex keygen "
        "link menuitem meta nextid param source spacer track wbr"
    ).split()
)
"""Elements without content."""
_UNSHOWN = frozenset(("rp", "rt", "script", "style", "template"))
"""Elements whose text is not part of the page's text."""
_RAW = frozenset(("script", "style"))
_KEEPS_BLANKS = frozenset(("pre", "textarea"))
_ASCII_BLANKS = " \n\t\f\r"
_WORD_LISTS = {
    "": {"class", "accesskey", "dropzone"},
    "a": {"rel", "rev"},
    "area": {"rel"},
    "form": {"accept-charset"},
    "icon": {"sizes"},
    "iframe": {"sandbox"},
    "link": {"rel", "rev"},
    "object": {"archive"},
    "output": {"for"},
    "td": {"headers"},
    "th": {"headers"},
}
"""Attributes that are lists of words; they are written with one blank between words."""


@dataclass(slots=True)
class Node:
    """An element (`name`), or a piece of text or markup (`name` empty).

    `end` is the place after its last descendant in the tree's list of nodes.
    `frame` is what stands around a piece that is no text, such as a comment.
    """

    name: str
    parent: int
    end: int
    text: str = ""
    frame: tuple[str, str] | None = None
    is_shown: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[int] = field(default_factory=list)


class HtmlTree(HTMLParser):
    """The nodes of some HTML in the order of the document; the first is the document itself."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=False)
        self.nodes = [Node("", -1, 0)]
        self._open = [0]
        self._names: Counter[str] = Counter()
        self._shut: Counter[str] = Counter()
        self._pieces: list[str] = []
        self.feed(markup)
        self.close()
        self._end_text()
        while self._open:
            self._pop()

    def places(self, name: str, inside: int = 0) -> Iterator[int]:
        """Elements of that name inside a node."""
        for at in range(inside + 1, self.nodes[inside].end):
            if self.nodes[at].name == name:
                yield at

    def text(self, at: int) -> str:
        """All text inside an element, each piece stripped."""
        inside = self.nodes[at + 1 : self.nodes[at].end]
        return "".join(node.text.strip() for node in inside if node.is_shown)

    def markup(self, at: int) -> str:
        """An element as HTML: attributes in order of their names, text escaped."""
        parts: list[str] = []
        opened: list[int] = []
        for place in range(at, self.nodes[at].end):
            node = self.nodes[place]
            while opened and self.nodes[opened[-1]].end <= place:
                parts.append(f"</{self.nodes[opened.pop()].name}>")
            if not node.name:
                parts.append(self._written(node))
            elif node.end == place + 1 and node.name in _VOID:
                parts.append(f"<{node.name}{_attributes(node)}/>")
            else:
                parts.append(f"<{node.name}{_attributes(node)}>")
                opened.append(place)
        parts += [f"</{self.nodes[place].name}>" for place in reversed(opened)]
        return "".join(parts)

    def _written(self, node: Node) -> str:
        if node.frame is not None:
            return node.frame[0] + node.text + node.frame[1]
        return node.text if self.nodes[node.parent].name in _RAW else _escaped(node.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element; one that has no content is closed at once."""
        self._push(tag, attrs)
        if tag in _VOID:
            self._shut_element(tag)
            self._shut[tag] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself."""
        self._push(tag, attrs)
        self._shut_element(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close an element and what is open inside; a tag that closes nothing is passed over."""
        if self._shut[tag]:
            self._shut[tag] -= 1
        else:
            self._shut_element(tag)

    def handle_data(self, data: str) -> None:
        """A piece of text; neighbours are joined."""
        self._pieces.append(data)

    def handle_charref(self, name: str) -> None:
        """A character by its number, as browsers read it."""
        base, digits = (16, name[1:]) if name[:1] in "xX" else (10, name)
        self._pieces.append(_character(int(digits[:4000], base)))

    def handle_entityref(self, name: str) -> None:
        """A character by its name; an unknown name stays as it is, without its semicolon."""
        known = html.entities.html5
        self._pieces.append(known.get(name) or known.get(f"{name};") or f"&{name}")

    def handle_comment(self, data: str) -> None:
        """A comment."""
        self._framed(data, "<!--", "-->")

    def handle_decl(self, decl: str) -> None:
        """A document type."""
        self._framed(decl[len("DOCTYPE ") :], "<!DOCTYPE ", ">\n")

    def unknown_decl(self, data: str) -> None:
        """A CDATA section, whose text is shown, or another declaration."""
        if data.upper().startswith("CDATA["):
            self._framed(data[len("CDATA[") :], "<![CDATA[", "]]>", is_shown=True)
        else:
            self._framed(data, "<?", "?>")

    def handle_pi(self, data: str) -> None:
        """A processing instruction."""
        self._framed(data, "<?", ">")

    def _push(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_text()
        node = Node(tag, self._open[-1], 0, attributes={k: v or "" for k, v in attrs})
        self._open.append(self._add(node))
        self._names[tag] += 1

    def _shut_element(self, tag: str) -> None:
        self._end_text()
        if not self._names[tag]:
            return
        while self.nodes[self._open[-1]].name != tag:
            self._pop()
        self._pop()

    def _pop(self) -> None:
        node = self.nodes[self._open.pop()]
        node.end = len(self.nodes)
        self._names[node.name] -= 1

    def _add(self, node: Node) -> int:
        self.nodes[node.parent].children.append(len(self.nodes))
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _framed(self, data: str, before: str, after: str, *, is_shown: bool = False) -> None:
        self._end_text()
        self._pieces.append(data)
        self._end_text((before, after), is_shown)

    def _end_text(self, frame: tuple[str, str] | None = None, is_shown: bool = False) -> None:
        """Make a node of the collected text; blanks alone become one blank or one line end."""
        if not self._pieces:
            return
        text = "".join(self._pieces)
        self._pieces = []
        if not text.strip(_ASCII_BLANKS) and not any(self._names[n] for n in _KEEPS_BLANKS):
            text = "\n" if "\n" in text else " "
        if frame is None:
            is_shown = not any(self._names[name] for name in _UNSHOWN)
        self._add(Node("", self._open[-1], len(self.nodes) + 1, text, frame, is_shown))


def _attributes(node: Node) -> str:
    lists = _WORD_LISTS[""] | _WORD_LISTS.get(node.name, set())
    parts = []
    for name, value in sorted(node.attributes.items()):
        value = " ".join(re.findall(r"\S+", value)) if name in lists else value
        value = _escaped(value)
        if '"' in value and "'" in value:
            value = value.replace('"', "&quot;")
        quote = "'" if '"' in value else '"'
        parts.append(f" {name}={quote}{value}{quote}")
    return "".join(parts)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _character(number: int) -> str:
    if number == 0 or number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return "\ufffd"
    if 0x80 <= number <= 0x9F:
        return bytes([number]).decode("cp1252", "ignore") or chr(number)
    return chr(number)
