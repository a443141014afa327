"""A shell script's commands with its variables put in, read as text and never executed.

Assignments, `export`, `cd`, arrays, `${A:-other}` and the folder of the script itself are
understood. What only running it would tell (`$(nproc)`, loop variables) is said to be unknown
where somebody asks for that word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlforge.recipe.adopt.shell_lexer import Part, Token, parts_of, tokens_of
from vlforge.types import RecipeError

_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_DEFAULT = re.compile(r"(\w+):?([-=])(.*)", re.DOTALL)
_ITEMS = re.compile(r"(\w+)\[[@*]\]")
_DECLARING = {"export", "local", "declare", "readonly", "typeset"}
_BEFORE = {"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}",
           "time", "exec", "nohup", "sudo", "function", "esac"}  # fmt: skip
"""Words in front of a command that change nothing about what it is."""
_OWN_FOLDER = re.compile(
    r"dirname\s+(?:--\s+)?\"?'?(?:\$\((?:realpath|readlink\s+-f)\s+)?\"?"
    r"\$\{?(?:0|BASH_SOURCE(?:\[0\])?)\}?\"?\)?\"?'?\)?\"?(/[\w./-]*)?"
)


@dataclass(frozen=True)
class Word:
    """A word with its variables put in.

    `names` are the variables that it is made of, each with the line of its value; `unknown`
    says what of it only running the script would tell.
    """

    text: str
    line: int
    names: tuple[tuple[str, int], ...] = ()
    unknown: str = ""


@dataclass(frozen=True)
class ShellCommand:
    """A command: its words, the settings before it, and the folder that `cd` left it in."""

    words: tuple[Word, ...]
    line: int
    env: Mapping[str, Word] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class Script:
    """What a script says: its commands in order, and its variables at the end."""

    commands: tuple[ShellCommand, ...]
    variables: Mapping[str, Word]


def read_script(
    text: str,
    path: Path,
    changes: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Script:
    """The commands of a script.

    Args:
        path: of the script, as it would be called; its folder is the script's own.
        changes: variables, and arguments by their number, that are given from outside and
            come before what the script says.
        environment: variables that it does not set; the process's own by default.
    """
    known = os.environ if environment is None else environment
    reader = _Reader(path, dict(changes or {}), known)
    reader.read(tokens_of(text))
    return Script(tuple(reader.commands), reader.variables)


def known_text(word: Word, where: str, what: str) -> str:
    """The word's text.

    Raises:
        RecipeError: a part of it is not known without running the script.
    """
    if word.unknown:
        raise RecipeError(f"{where}: {what} is made of {word.unknown}")
    return word.text


class _Reader:
    """Goes through the tokens in order, as if every branch were taken once."""

    def __init__(self, path: Path, changes: dict[str, str], environment: Mapping[str, str]):
        self.path = path
        self.changes = changes
        self.environment = environment
        self.variables: dict[str, Word] = {}
        self.arrays: dict[str, list[Word]] = {}
        self.commands: list[ShellCommand] = []
        self.folder = ""

    def read(self, tokens: Sequence[Token]) -> None:
        begun: list[Token] = []
        for token in tokens:
            if token.mark:
                self._command(begun)
                begun = []
            else:
                begun.append(token)
        self._command(begun)

    def _command(self, tokens: list[Token]) -> None:
        while tokens and _plain(tokens[0]) in _BEFORE:
            tokens = tokens[1:]
        if not tokens:
            return
        if _plain(tokens[0]) in ("for", "select", "case"):
            self._loop(tokens)
            return
        is_declared = _plain(tokens[0]) in _DECLARING
        tokens = tokens[1:] if is_declared else tokens
        env: dict[str, Word] = {}
        while tokens and self._assigns(tokens[0]):
            name, word = self._assignment(tokens[0])
            env[name] = word
            tokens = tokens[1:]
        words = [word for token in tokens for word in self._words(token)]
        if is_declared or not words:
            self.variables.update(env)
            return
        if words[0].text == "cd":
            if len(words) > 1 and not words[1].unknown:
                self.folder = os.path.join(self.folder, words[1].text)
            return
        self.commands.append(ShellCommand(tuple(words), words[0].line, env, self.folder))

    def _loop(self, tokens: list[Token]) -> None:
        """A loop's variable is several things; what it is made of is not known."""
        name = _plain(tokens[1]) if len(tokens) > 1 else ""
        if name and name not in self.changes:
            said = f"${name}, which a loop sets; write one command out"
            self.variables[name] = Word("", tokens[0].line, ((name, tokens[0].line),), said)

    def _assigns(self, token: Token) -> bool:
        first = token.parts[0] if token.parts else None
        if first is None or first.kind != "text" or first.is_quoted:
            return False
        return _ASSIGNED.match(first.text) is not None

    def _assignment(self, token: Token) -> tuple[str, Word]:
        found = _ASSIGNED.match(token.parts[0].text)
        assert found is not None
        name, adds, rest = found.groups()
        if name in self.changes:
            return name, Word(self.changes[name], token.line, ((name, 0),))
        if token.items is not None:
            held = [word for item in token.items for word in self._words(item)]
            self.arrays[name] = [*self.arrays.get(name, []), *held] if adds else held
            joined = " ".join(word.text for word in held)
            return name, Word(joined, token.line)
        parts = (Part("text", rest), *token.parts[1:])
        made = self._joined(parts, token.line)
        if adds and name in self.variables:
            before = self.variables[name]
            made = Word(before.text + made.text, token.line, made.names, made.unknown)
        return name, made

    def _words(self, token: Token) -> list[Word]:
        """The words that a token becomes: an unquoted variable may hold several."""
        parts = [part for part in token.parts if part.text]
        if len(parts) == 1 and parts[0].kind == "name":
            part = parts[0]
            items = _ITEMS.fullmatch(part.text)
            if items and items.group(1) in self.arrays:
                return self.arrays[items.group(1)]
            made = self._joined(parts, token.line)
            if part.is_quoted or made.unknown:
                return [made]
            return [Word(text, token.line, made.names) for text in made.text.split()]
        return [self._joined(token.parts, token.line)]

    def _joined(self, parts: Sequence[Part], line: int) -> Word:
        """The parts as one word."""
        texts, names, unknown = [], [], ""
        for part in parts:
            word = Word(part.text, line) if part.kind == "text" else self._expanded(part, line)
            texts.append(word.text)
            names += [name for name in word.names if name not in names]
            unknown = unknown or word.unknown
        return Word("".join(texts), line, tuple(names), unknown)

    def _expanded(self, part: Part, line: int) -> Word:
        return (
            self._run(part.text, line) if part.kind == "command" else self._value(part.text, line)
        )

    def _value(self, name: str, line: int) -> Word:
        """What `$NAME` or `${NAME…}` stands for."""
        if name == "0":
            return Word(str(self.path), line)
        if name in self.changes:
            return Word(self.changes[name], line, ((name, 0),))
        if name in self.variables:
            held = self.variables[name]
            return Word(held.text, line, ((name, held.line),), held.unknown)
        default = _DEFAULT.fullmatch(name)
        if default is not None:
            return self._or_default(default, line)
        if name in self.environment:
            return Word(self.environment[name], line, ((name, 0),))
        if name.isdigit():
            said = f"${name}, which the script is called with; give {name}=VALUE"
        elif re.fullmatch(r"\w+", name):
            said = f"${name}, which the script does not set; give {name}=VALUE"
        else:
            said = f"${{{name}}}, which is not read here; write its value out"
        return Word("", line, (), said)

    def _or_default(self, found: re.Match[str], line: int) -> Word:
        """`${NAME:-other}`."""
        name, _, other = found.groups()
        held = self._value(name, line)
        return held if held.text else self._joined(parts_of(other), line)

    def _run(self, command: str, line: int) -> Word:
        """What a command would print; its own commands are kept, though nothing runs."""
        own = _OWN_FOLDER.search(command)
        if own is not None:
            return Word(f"{self.path.parent}{own.group(1) or ''}", line)
        if command.strip() == "pwd":
            return Word(self.folder or ".", line)
        if not command.startswith("("):
            self.read(tokens_of(command, line))
        short = " ".join(command.split())
        return Word("", line, (), f"what `{short[:60]}` prints; write its value out")


def _plain(token: Token) -> str:
    """A word that stands there as it is, without quotes and variables."""
    if len(token.parts) == 1 and token.parts[0].kind == "text" and not token.parts[0].is_quoted:
        return token.parts[0].text
    return ""


def names_of(word: Word) -> Iterator[str]:
    """`NAME, line N` of each variable that a word is made of; those from outside by name."""
    for name, line in word.names:
        yield f"{name}, line {line}" if line else name
