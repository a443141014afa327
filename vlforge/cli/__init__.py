"""The command line: verbs call functions, nothing heavy is imported before a verb runs."""

from vlforge.cli.start import main

__all__ = ["main"]
