"""Starting a command so that Ctrl-C reaches it, wherever the tests themselves run."""

from __future__ import annotations

import signal


def hears_ctrl_c() -> None:
    """For `preexec_fn`: a shell's background jobs ignore Ctrl-C, and what they start does too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
