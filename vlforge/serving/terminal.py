"""A conversation about pictures in the terminal, or one question and its answer.

The model is anything that follows `Chat`; input and output are plain streams, so
that a script or a test talks to it as a person does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vlforge.types import LLAVA_IMAGE_TOKEN, Chat, DataError, Sample, Turn, VLForgeError

if TYPE_CHECKING:
    from rich.console import Console

HELP = """\
/image PATH   talk about another picture, from the start
/reset        forget what was said, keep the picture
/save FILE    write the conversation as a LLaVA json file
/help         this list
/quit         leave (so does Ctrl-D)
Ctrl-C stops an answer; a line that ends in \\ goes on in the next."""

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could move the cursor or recolour the terminal, line feed and tab aside."""


@dataclass
class Conversation:
    """The pictures looked at and what was said about them."""

    images: tuple[str, ...] = ()
    turns: list[Turn] = field(default_factory=list)

    def with_question(self, question: str) -> Sample:
        """The conversation so far and `question`, as the model takes it.

        The first question carries one `<image>` per picture.
        """
        tags = f"{LLAVA_IMAGE_TOKEN}\n" * len(self.images) if not self.turns else ""
        turns = (*self.turns, Turn("user", tags + question))
        return Sample(id="chat", images=self.images, turns=turns)

    def as_llava(self) -> dict[str, Any]:
        """The conversation as one row of a LLaVA json file."""
        speakers = {"user": "human", "assistant": "gpt", "system": "system"}
        row: dict[str, Any] = {"id": "chat"}
        if self.images:
            row["image"] = self.images[0] if len(self.images) == 1 else list(self.images)
        row["conversations"] = [{"from": speakers[t.role], "value": t.text} for t in self.turns]
        return row


def chat(
    model_path: str | Path,
    images: Sequence[str | Path] = (),
    question: str | None = None,
    *,
    max_new_tokens: int = 256,
    device: str = "auto",
    template: str = "auto",
    open_chat: Callable[[], Chat] | None = None,
    source: TextIO | None = None,
    output: TextIO | None = None,
) -> None:
    """Answer `question` about `images`, or talk until the person leaves.

    With a question, its answer and the seconds it took are printed. Without
    one, lines are read from `source` (the terminal, with line editing, if
    None) and answers are printed as they are made. What the user should know of
    the model (`notes`) goes to the error stream, once.

    Args:
        model_path: a model folder.
        images: picture files to talk about.
        question: one question; None starts a conversation.
        max_new_tokens: tokens an answer may have.
        open_chat: makes the model; None loads `model_path`.
        source, output: streams in place of the terminal's.

    Raises:
        VLForgeError: the model or a picture given here cannot be used. Inside a
            conversation such errors are shown as a line and the talk goes on.
    """
    console = _console(output)
    pictures = tuple(check_picture(image) for image in images)
    started = time.perf_counter()
    if question is None:
        console.print(f"loading {model_path} ...", style="dim", markup=False, highlight=False)
    model = open_chat() if open_chat else _load(model_path, device, template)
    load_s = time.perf_counter() - started
    for note in getattr(model, "notes", ()):
        print(f"note: {note}", file=sys.stderr)
    conversation = Conversation(pictures)
    if question is not None:
        _answer_once(model, conversation, question, max_new_tokens, console, load_s)
        return
    _Talk(model, conversation, console, _reader(source, console), max_new_tokens).run()


def check_picture(path: str | Path) -> str:
    """The absolute path of a picture that opens.

    Raises:
        DataError: the file is missing or is no readable picture.
    """
    from vlforge.data.images import load_rgb

    given = Path(path).expanduser()
    if not given.is_file():
        raise DataError(f"no picture at {path}; check the path")
    load_rgb(given)
    return os.path.abspath(given)


def printable(text: str) -> str:
    """`text` without control characters, which a model may have learned from its data."""
    return CONTROLS.sub("", text)


def _load(path: str | Path, device: str, template: str) -> Chat:
    from vlforge.inference.local import LocalChat

    return LocalChat(path, device=device, template=template)


def _console(output: TextIO | None) -> Console:
    from rich.console import Console

    return Console(file=output or sys.stdout, highlight=False, markup=False, soft_wrap=True)


def _answer_once(
    model: Chat,
    conversation: Conversation,
    question: str,
    max_new_tokens: int,
    console: Console,
    load_s: float,
) -> None:
    started = time.perf_counter()
    answer = model.answer([conversation.with_question(question)], max_new_tokens)[0]
    seconds = time.perf_counter() - started
    console.print(printable(answer.text))
    console.print(f"{seconds:.2f} s (model loaded in {load_s:.2f} s)", style="dim")


def _reader(source: TextIO | None, console: Console) -> Callable[[str], str]:
    """Reads one line at a time; raises EOFError at the end."""
    if source is None and sys.stdin.isatty():
        import contextlib

        with contextlib.suppress(ImportError):  # not on every system
            import readline  # noqa: F401  (gives `input` line editing and history)
        return lambda prompt: _ask(prompt, console)
    stream = source or sys.stdin

    def read(prompt: str) -> str:
        line = stream.readline()
        if not line:
            raise EOFError
        line = line.rstrip("\n")
        # Nobody saw it typed: show it, so that the output reads as a conversation.
        console.print(prompt + printable(line))
        return line

    return read


def _ask(prompt: str, console: Console) -> str:
    try:
        return input(prompt)
    except EOFError:
        console.print()  # Ctrl-D leaves the cursor behind the prompt
        raise


class _Talk:
    """The loop of one conversation."""

    def __init__(
        self,
        model: Chat,
        conversation: Conversation,
        console: Console,
        read: Callable[[str], str],
        max_new_tokens: int,
    ) -> None:
        self.model = model
        self.conversation = conversation
        self.console = console
        self.read = read
        self.max_new_tokens = max_new_tokens
        self.is_over = False

    def run(self) -> None:
        self._show_pictures()
        self.say("/help lists what you can type")
        while not self.is_over:
            try:
                self.take(self._read_lines())
            except VLForgeError as error:
                self.console.print(str(error), style="#b23b3b")
            except KeyboardInterrupt:
                self.console.print()
                self.say("/quit or Ctrl-D leaves")
            except EOFError:
                break
        self.say("bye")

    def say(self, text: str) -> None:
        self.console.print(text, style="dim")

    def take(self, line: str) -> None:
        """Obey a command or answer a question."""
        line = line.strip()
        if not line:
            return
        if not line.startswith("/"):
            self.answer(line)
            return
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/image": self.look_at,
            "/reset": self.reset,
            "/save": self.save,
            "/help": lambda _: self.say(HELP),
            "/quit": self.quit,
            "/exit": self.quit,
        }
        if word not in commands:
            raise VLForgeError(f"{word} is no command; /help lists them")
        commands[word](rest.strip())

    def answer(self, question: str) -> None:
        """Stream an answer; Ctrl-C keeps what has been said so far."""
        sample = self.conversation.with_question(question)
        pieces: list[str] = []
        is_stopped = False
        started = time.perf_counter()
        try:
            for piece in self.model.stream(sample, self.max_new_tokens):
                pieces.append(piece)
                self.console.print(printable(piece), end="")
                self.console.file.flush()
        except KeyboardInterrupt:
            is_stopped = True
        seconds = time.perf_counter() - started
        self.console.print()
        self.say(f"{'stopped after ' if is_stopped else ''}{seconds:.2f} s")
        if is_stopped and not pieces:
            return
        self.conversation.turns = [*sample.turns, Turn("assistant", "".join(pieces).strip())]

    def look_at(self, path: str) -> None:
        if not path:
            raise VLForgeError("/image needs a path: /image PATH")
        self.conversation = Conversation((check_picture(path.strip("'\"")),))
        self._show_pictures()

    def reset(self, _: str) -> None:
        self.conversation = Conversation(self.conversation.images)
        self.say("forgotten; the picture stays")

    def save(self, name: str) -> None:
        if not name:
            raise VLForgeError("/save needs a file: /save FILE")
        if not self.conversation.turns:
            raise VLForgeError("nothing has been said yet; there is nothing to save")
        path = Path(name).expanduser()
        if path.exists():
            raise VLForgeError(f"{path} exists; give another name")
        text = json.dumps([self.conversation.as_llava()], ensure_ascii=False, indent=1) + "\n"
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise VLForgeError(f"cannot write {path} ({error.strerror}); give another") from None
        self.say(f"saved to {path}")

    def quit(self, _: str) -> None:
        self.is_over = True

    def _show_pictures(self) -> None:
        for image in self.conversation.images:
            self.say(f"looking at {printable(image)}")

    def _read_lines(self) -> str:
        """One entry; a line that ends in a backslash goes on in the next."""
        line = self.read("> ")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self.read("| ")
        return line
