"""Where the command begins. Until `main` can answer Ctrl-C, it ends the process at once, and without a traceback."""

from __future__ import annotations

import signal


def main() -> int:
    """Import the command line, which takes a moment, and run it; returns the exit code."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from nnunet_robust.cli import main as command_line

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command_line.main()
