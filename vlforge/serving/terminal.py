"""A conversation about pictures in the terminal, or one question and its answer.

The model is anything that follows `Speaker`; input and output are plain streams, so
that a script or a test talks to it as a person does.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vlforge.serving.conversation import Conversation, Shown, look
from vlforge.types import Drawing, Piece, Sample, VLForgeError

if TYPE_CHECKING:
    from rich.console import Console

    from vlforge.serving.talking import Speaker

HELP = """\
/image PATH|URL   talk about another picture, from the start
/add PATH|URL     show one more picture with the next question
/regenerate       answer the last question anew (another draw where answers are sampled)
/undo             forget the last question and its answer
/reset            forget what was said, keep the pictures
/system TEXT      what the model is told before everything; without TEXT its own words
/beams N  /temperature X  /top-p X  /top-k N  /repetition-penalty X  /max-tokens N
/settings         how answers are drawn now
/save FILE        write the conversation as a LLaVA json file
/help             this list
/quit             leave (so does Ctrl-D)
Ctrl-C stops an answer; a line that ends in \\ goes on in the next."""

BLIND = "sees no pictures; give vlforge chat a model that does, or ask without"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could move the cursor or recolour the terminal, line feed and tab aside."""


@dataclass(frozen=True)
class Asking:
    """How answers are asked for: `drawing`, the `seed` of what is sampled, the system text."""

    drawing: Drawing = field(default_factory=Drawing)
    seed: int = 0
    system: str = ""
    allow_private: bool = False


def chat(
    model_path: str | Path,
    images: Sequence[str | Path] = (),
    question: str | None = None,
    *,
    asking: Asking = Asking(),
    device: str = "auto",
    template: str = "auto",
    open_speaker: Callable[[], tuple[Speaker, Asking]] | None = None,
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
        images: picture files or addresses to talk about.
        question: one question; None starts a conversation.
        asking: how answers are drawn.
        open_speaker: makes the model, and says how it is asked in place of `asking`;
            None loads `model_path` on `device`.
        source, output: streams in place of the terminal's.

    Raises:
        VLForgeError: the model or a picture given here cannot be used. Inside a
            conversation such errors are shown as a line and the talk goes on.
    """
    console = _console(output)
    pictures = tuple(look(image, allow_private=asking.allow_private) for image in images)
    started = time.perf_counter()
    if question is None:
        console.print(f"loading {model_path} ...", style="dim", markup=False, highlight=False)
    if open_speaker is None:
        speaker = _load(model_path, device, template)
    else:
        speaker, asking = open_speaker()
    load_s = time.perf_counter() - started
    if pictures and not getattr(speaker, "sees", True):
        raise VLForgeError(f"{model_path} {BLIND}")
    for note in getattr(speaker, "notes", ()):
        print(f"note: {note}", file=sys.stderr)
    conversation = Conversation(pictures, system=asking.system)
    if question is not None:
        _answer_once(speaker, conversation, question, asking, console, load_s)
        return
    _Talk(speaker, conversation, asking, console, _reader(source, console)).run()


def printable(text: str) -> str:
    """`text` without control characters, which a model may have learned from its data."""
    return CONTROLS.sub("", text)


def pieces_of(speaker: Speaker, sample: Sample, drawing: Drawing, key: int) -> Iterator[Piece]:
    """One answer's pieces.

    Raises:
        VLForgeError: the model cannot answer; says why.
    """
    pieces: Any = speaker.stream_many([sample], drawing, [key])
    with closing(pieces):
        for piece in pieces:
            if piece.ended == "refused":
                raise VLForgeError(piece.text)
            yield piece


def _load(path: str | Path, device: str, template: str) -> Speaker:
    from vlforge.inference.speaking import open_speaker

    return open_speaker(path, device=device, template=template)


def _console(output: TextIO | None) -> Console:
    from rich.console import Console

    return Console(file=output or sys.stdout, highlight=False, markup=False, soft_wrap=True)


def _answer_once(
    speaker: Speaker,
    conversation: Conversation,
    question: str,
    asking: Asking,
    console: Console,
    load_s: float,
) -> None:
    sample = conversation.with_question(question)
    started = time.perf_counter()
    text = "".join(p.text for p in pieces_of(speaker, sample, asking.drawing, asking.seed))
    seconds = time.perf_counter() - started
    console.print(printable(text))
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
        speaker: Speaker,
        conversation: Conversation,
        asking: Asking,
        console: Console,
        read: Callable[[str], str],
    ) -> None:
        self.speaker = speaker
        self.conversation = conversation
        self.asking = asking
        self.console = console
        self.read = read
        self.tries = 0
        self.is_over = False
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.look_at,
            "/add": self.add,
            "/regenerate": self.regenerate,
            "/undo": self.undo,
            "/reset": self.reset,
            "/system": self.tell,
            "/beams": lambda text: self.draw("beams", text, int),
            "/temperature": lambda text: self.draw("temperature", text, float),
            "/top-p": lambda text: self.draw("top_p", text, float),
            "/top-k": lambda text: self.draw("top_k", text, int),
            "/repetition-penalty": lambda text: self.draw("repetition_penalty", text, float),
            "/max-tokens": lambda text: self.draw("max_new_tokens", text, int),
            "/settings": lambda _: self.say(self.settings()),
            "/save": self.save,
            "/help": lambda _: self.say(HELP),
            "/quit": self.quit,
            "/exit": self.quit,
        }

    def run(self) -> None:
        self._show_pictures()
        self.say("/help lists what you can type")
        while not self.is_over:
            try:
                self.take(self._read_lines())
            except VLForgeError as error:
                self.console.print(printable(str(error)), style="#b23b3b")
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
            self.tries = 0
            self.answer(line)
            return
        word, _, rest = line.partition(" ")
        if word not in self.commands:
            raise VLForgeError(f"{word} is no command; /help lists them")
        self.commands[word](rest.strip())

    def answer(self, question: str) -> bool:
        """Stream an answer; Ctrl-C keeps what has been said so far. Whether there is any."""
        sample = self.conversation.with_question(question)
        texts: list[str] = []
        last = Piece(0, "", "stopped")
        started = time.perf_counter()
        key = self.asking.seed + self.tries
        try:
            for last in pieces_of(self.speaker, sample, self.asking.drawing, key):
                texts.append(last.text)
                self.console.print(printable(last.text), end="")
                self.console.file.flush()
        except KeyboardInterrupt:
            last = Piece(0, "", "stopped")
        seconds = time.perf_counter() - started
        text = "".join(texts).strip()
        self.console.print()
        is_stopped = last.ended == "stopped"
        cut = f"; cut at {last.tokens_out} tokens (/max-tokens)" if last.ended == "length" else ""
        self.say(f"{'stopped after ' if is_stopped else ''}{seconds:.2f} s{cut}")
        if is_stopped and not text:
            return False
        self.conversation.keep(sample, text)
        return True

    def look_at(self, place: str) -> None:
        self.conversation = Conversation((self._seen("/image", place),), system=self.asking.system)
        self._show_pictures()

    def add(self, place: str) -> None:
        seen = self._seen("/add", place)
        self.conversation.images = (*self.conversation.images, seen)
        self.say(f"looking also at {printable(seen.name)}")

    def _seen(self, command: str, place: str) -> Shown:
        if not place:
            raise VLForgeError(f"{command} needs a path or an address: {command} PATH|URL")
        if not getattr(self.speaker, "sees", True):
            raise VLForgeError(f"this model {BLIND}")
        return look(place.strip("'\""), allow_private=self.asking.allow_private)

    def regenerate(self, _: str) -> None:
        """Answer the last question anew; where that comes to nothing, the old answer stays."""
        before = list(self.conversation.turns)
        question = self.conversation.undo()
        if self.asking.drawing.temperature <= 0:
            self.say("answers are not sampled, so it will be the same; /temperature 0.7 samples")
        self.tries += 1
        is_answered = False
        try:
            is_answered = self.answer(question)
        finally:
            if not is_answered:
                self.conversation.turns = before

    def undo(self, _: str) -> None:
        self.say(f"forgotten: {printable(self.conversation.undo())}")

    def reset(self, _: str) -> None:
        self.conversation = Conversation(self.conversation.images, system=self.asking.system)
        stay = ("", "; the picture stays", "; the pictures stay")
        self.say(f"forgotten{stay[min(2, len(self.conversation.images))]}")

    def tell(self, text: str) -> None:
        self.asking = replace(self.asking, system=text)
        self.conversation.system = text
        self.say("told" if text else "the model's own words stand before the conversation")

    def draw(self, name: str, text: str, kind: type[int] | type[float]) -> None:
        """Change a setting of how answers are drawn."""
        drawing = drawn_as(self.asking.drawing, name, text, kind)
        both = drawing.beams > 1 and drawing.temperature > 0
        if both and not getattr(self.speaker, "samples_beams", False):
            other: dict[str, Any] = {"temperature": 0.0} if name == "beams" else {"beams": 1}
            drawing = replace(drawing, **other)
            self.say("beams search without sampling, so the other is off now")
        self.asking = replace(self.asking, drawing=drawing)
        self.say(self.settings())

    def settings(self) -> str:
        """How answers are drawn, in one line."""
        now = self.asking.drawing
        told = f", system: {printable(self.asking.system)}" if self.asking.system else ""
        more = f"top-k {now.top_k}, " if now.top_k else ""
        if now.repetition_penalty != 1:
            more += f"repetition-penalty {now.repetition_penalty:g}, "
        return (
            f"beams {now.beams}, temperature {now.temperature:g}, top-p {now.top_p:g}, {more}"
            f"max-tokens {now.max_new_tokens}, seed {self.asking.seed}{told}"
        )

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
            self.say(f"looking at {printable(image.name)}")

    def _read_lines(self) -> str:
        """One entry; a line that ends in a backslash goes on in the next."""
        line = self.read("> ")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self.read("| ")
        return line


LIMITS: dict[str, tuple[float, float]] = {
    "beams": (1, 16),
    "temperature": (0, 2),
    "top_p": (0.001, 1),
    "top_k": (0, 1_000_000),
    "repetition_penalty": (0.01, 100),
    "max_new_tokens": (1, 32_768),
}


def drawn_as(drawing: Drawing, name: str, text: str, kind: type[int] | type[float]) -> Drawing:
    """The drawing with one setting read from words.

    Raises:
        VLForgeError: no number, or one out of bounds.
    """
    least, most = LIMITS[name]
    shown = name.replace("max_new_tokens", "max-tokens").replace("_", "-")
    try:
        value = kind(text)
    except ValueError:
        value = kind(least) - 1
    if not least <= value <= most:
        raise VLForgeError(f"/{shown} {text}: give a number from {least:g} to {most:g}")
    changes: dict[str, Any] = {name: value}
    return replace(drawing, **changes)
