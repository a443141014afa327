"""`vlforge process` without the parser of the whole command line.

The parser, and pydantic which it brings, take longer than ten rows. Words mean
what they mean to it; what needs more than that (help, a mistake in an option)
is left to it.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlforge.types import VLForgeError

_PATHS, _NUMBERS = ("config", "out"), ("limit", "sample")
_LEFT_TO_PARSER = {"-h", "--help", "--"}


def clean_at_once(given: Sequence[str], *, is_whole_process: bool = False) -> int | None:
    """The exit code of `process …`; None where the parser has to read it.

    Args:
        given: the command line.
        is_whole_process: this process ends with the command, so that looking for
            garbage in it may wait, and at its end need not be.
    """
    read = split_options(given[1:])
    if read is None:
        return None
    if not is_whole_process:
        return _clean(given, *read)
    from vlforge.engine.pool import RARELY

    gc.set_threshold(RARELY)
    code = _clean(given, *read)
    # What is frozen is not searched once more when the interpreter ends.
    gc.freeze()
    return code


def _clean(given: Sequence[str], words: Sequence[str], options: dict[str, Any]) -> int:
    from vlforge.cli.cleaning import clean

    try:
        clean(words, **options)
    except VLForgeError as error:
        from vlforge.cli.show import error_line

        error_line(str(error))
        return 2
    except KeyboardInterrupt:
        from vlforge.cli import start

        start._say_how_to_continue(given)
        return 130
    except Exception as error:
        from vlforge.cli import start

        return start._unexpected(error)
    return 0


def split_options(given: Sequence[str]) -> tuple[list[str], dict[str, Any]] | None:
    """The words and the command's own options; None where one of them needs the parser."""
    if not given or _LEFT_TO_PARSER.intersection(given):
        return None
    words: list[str] = []
    options: dict[str, Any] = {}
    rest = iter(given)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in (*_PATHS, *_NUMBERS):
            if word.startswith("-") and not word.startswith("--"):
                return None
            words.append(word)
            continue
        text = value if equals else next(rest, "")
        if not text or (name in _NUMBERS and not (text.isdecimal() and int(text) > 0)):
            return None
        options[name] = int(text) if name in _NUMBERS else Path(text)
    return words, options
