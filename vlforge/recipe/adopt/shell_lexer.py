"""A shell script cut into words and marks; nothing of it is executed.

Sh and bash as launch scripts use them: quotes, comments, lines that go on, `$NAME`,
`${NAME:-other}`, `$(…)` and backticks, arrays, redirections, here-documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

PartKind = Literal["text", "name", "command"]
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_SPACE = " \t\r\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"
"""Blanks; the last three come with scripts that were copied from a page."""
_ENDS = ";&|\n()"
_REDIRECT = re.compile(r"\d*(<<<|<<-?|>>|<>|[<>]\||&>>|&>|[<>]&|[<>])")
_ARRAY = re.compile(r"[A-Za-z_]\w*\+?=$")


@dataclass(frozen=True)
class Part:
    """A piece of a word: text as it stands, a variable, or a command whose output it is."""

    kind: PartKind
    text: str
    is_quoted: bool = False


@dataclass(frozen=True)
class Token:
    """A word as its parts, or a mark that ends a command (`mark`); `items` of an array."""

    line: int
    parts: tuple[Part, ...] = ()
    mark: str = ""
    items: tuple[Token, ...] | None = None


def tokens_of(text: str, line: int = 1) -> list[Token]:
    """The words and marks of a script, each with its line."""
    return _Lexer(text, line).run()


def parts_of(text: str) -> tuple[Part, ...]:
    """The parts of a text within double quotes."""
    lexer = _Lexer(text, 1)
    lexer.quoted("")
    return tuple(lexer.parts)


class _Lexer:
    """Reads on from `at`; `parts` are those of the word that is being read."""

    def __init__(self, text: str, line: int):
        self.source = text
        self.at = 0
        self.line = line
        self.parts: list[Part] = []
        self.out: list[Token] = []
        self.begun: int | None = None
        self.ends_of_documents: list[str] = []

    def run(self) -> list[Token]:
        while self.at < len(self.source):
            self._step()
        self._end_word()
        return self.out

    def _step(self) -> None:
        char = self.source[self.at]
        redirect = _REDIRECT.match(self.source, self.at)
        if redirect and (self.begun is None or not redirect.group()[0].isdigit()):
            self._redirect(redirect)
        elif char in _SPACE:
            self._end_word()
            self.at += 1
        elif char == "#" and self.begun is None:
            self._skip_to_line_end()
        elif char == "(" and self._begins_array():
            self._array()
        elif char in _ENDS:
            self._mark(char)
        else:
            self._piece(char)

    def _piece(self, char: str) -> None:
        """One character, quotation or expansion of a word."""
        if self.source.startswith("\\\n", self.at):
            self.at, self.line = self.at + 2, self.line + 1
            return
        if self.source.startswith("\\\r\n", self.at):
            self.at, self.line = self.at + 3, self.line + 1
            return
        self.begun = self.line if self.begun is None else self.begun
        if char == "\\":
            self._text(self.source[self.at + 1 : self.at + 2], True)
            self.at += 2
        elif char == "'":
            end = self._find("'", self.at + 1)
            self._text(self.source[self.at + 1 : end], True)
            self._move(end + 1)
        elif char == '"':
            self.at += 1
            self.quoted('"')
        elif char in "$`":
            self._expansion(False)
        else:
            self._text(char, False)
            self.at += 1

    def quoted(self, end: str) -> None:
        """Up to a closing double quote, or to the end of the text."""
        self._text("", True)
        while self.at < len(self.source):
            char = self.source[self.at]
            if end and char == end:
                self.at += 1
                return
            if char == "\\" and self.source[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`"):
                self._text(self.source[self.at + 1], True)
                self.at += 2
            elif self.source.startswith("\\\n", self.at):
                self._move(self.at + 2)
            elif char in "$`":
                self._expansion(True)
            else:
                self._text(char, True)
                self._move(self.at + 1)

    def _expansion(self, is_quoted: bool) -> None:
        """What begins with a dollar sign or a backtick."""
        rest = self.source[self.at + 1 : self.at + 2]
        if self.source[self.at] == "`":
            end = self._find("`", self.at + 1)
            self._add("command", self.source[self.at + 1 : end], is_quoted)
            self._move(end + 1)
        elif rest == "(":
            end = self._closing("(", ")", self.at + 1)
            self._add("command", self.source[self.at + 2 : end], is_quoted)
            self._move(end + 1)
        elif rest == "{":
            end = self._closing("{", "}", self.at + 1)
            self._add("name", self.source[self.at + 2 : end], is_quoted)
            self._move(end + 1)
        else:
            name = _NAME.match(self.source, self.at + 1)
            if name is None:
                self._text("$", is_quoted)
                self.at += 1
                return
            self._add("name", name.group(), is_quoted)
            self.at = name.end()

    def _closing(self, opening: str, closing: str, start: int) -> int:
        """Where what opens at `start` is closed again."""
        depth = 0
        for at in range(start, len(self.source)):
            if self.source[at] == opening:
                depth += 1
            elif self.source[at] == closing:
                depth -= 1
                if depth == 0:
                    return at
        return len(self.source)

    def _redirect(self, found: re.Match[str]) -> None:
        """A redirection and its target are no words of the command."""
        self._end_word()
        self.at = found.end()
        word = re.compile(r"[ \t]*([^\s;&|()<>]+)").match(self.source, self.at)
        if word is None:
            return
        self.at = word.end()
        if found.group(1) in ("<<", "<<-"):
            self.ends_of_documents.append(word.group(1).strip("'\"\\"))

    def _mark(self, char: str) -> None:
        self._end_word()
        double = self.source[self.at : self.at + 2]
        mark = double if double in ("&&", "||", ";;", "|&") else char
        self.out.append(Token(self.line, mark=mark))
        self._move(self.at + len(mark))
        if char == "\n":
            self._skip_documents()

    def _skip_documents(self) -> None:
        """The lines of here-documents that were announced in the line before."""
        while self.ends_of_documents:
            end = self.ends_of_documents.pop(0)
            while self.at < len(self.source):
                stop = self._find("\n", self.at)
                said = self.source[self.at : stop].strip()
                self._move(stop + 1)
                if said == end:
                    break

    def _begins_array(self) -> bool:
        """Whether an array's items follow: `NAME=(`."""
        if self.begun is None or len(self.parts) != 1 or self.parts[0].kind != "text":
            return False
        return bool(_ARRAY.fullmatch(self.parts[0].text))

    def _array(self) -> None:
        end = self._closing("(", ")", self.at)
        items = tokens_of(self.source[self.at + 1 : end], self.line)
        held = tuple(item for item in items if not item.mark)
        self.out.append(Token(self.begun or self.line, tuple(self.parts), items=held))
        self.parts, self.begun = [], None
        self._move(end + 1)

    def _skip_to_line_end(self) -> None:
        self.at = self._find("\n", self.at)

    def _find(self, mark: str, start: int) -> int:
        found = self.source.find(mark, start)
        return len(self.source) if found < 0 else found

    def _move(self, to: int) -> None:
        self.line += self.source.count("\n", self.at, to)
        self.at = to

    def _text(self, text: str, is_quoted: bool) -> None:
        last = self.parts[-1] if self.parts else None
        if last is not None and last.kind == "text" and last.is_quoted == is_quoted:
            self.parts[-1] = Part("text", last.text + text, is_quoted)
        else:
            self.parts.append(Part("text", text, is_quoted))

    def _add(self, kind: PartKind, text: str, is_quoted: bool) -> None:
        self.parts.append(Part(kind, text, is_quoted))

    def _end_word(self) -> None:
        if self.begun is not None:
            self.out.append(Token(self.begun, tuple(self.parts)))
        self.parts, self.begun = [], None
