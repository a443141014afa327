"""The command line: verbs call functions, nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # One of several processes has to see first whether the verb is its own.
    is_launched = "RANK" in os.environ or "SLURM_PROCID" in os.environ
    if given[:1] == ["process"] and not is_launched:
        from vlforge.cli.quick import clean_at_once

        code = clean_at_once(given, is_whole_process=arguments is None)
        if code is not None:
            return code
    from vlforge.cli.start import main as read_and_run

    return read_and_run(given)


__all__ = ["main"]
