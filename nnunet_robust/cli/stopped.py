"""What is kept where a command is told to end, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence

_AGAIN = "the same command starts again"
_ON = "the same command goes on from there"

# Words of the command -> what is kept. Sweeps and studies say more precisely how far they have got.
_KEPT: dict[tuple[str, ...], str] = {
    ("sweep",): f"finished predictions are kept, and {_ON}",
    ("study", "run"): f"finished jobs, and the last checkpoint of each training, are kept, and {_ON}",
    ("study", "status"): "the study itself goes on",
    ("study", "stage"): f"finished work is kept, and {_ON}",
    ("demo",): f"finished steps, and the last checkpoint of each training, are kept, and {_ON}",
    ("calibrate",): f"measured cases are kept, and {_ON}",
    ("monitor", "fit"): f"measured images are kept, and {_ON}",
    ("monitor", "check"): f"measured images are kept in the stream, and {_ON}",
    ("denoise",): f"finished images are kept, and {_ON}",
    ("apply",): f"finished masks stay, without ratings.csv, and {_AGAIN}",
    ("synthesize",): f"no half dataset is left, and {_AGAIN}",
    ("convert",): f"no half dataset is left, and {_AGAIN}",
    ("report",): f"finished files are whole, and {_AGAIN}",
}


def what_is_kept(arguments: Sequence[str]) -> str:
    """Return a sentence without its end: what is kept of a command that was told to end, and how to go on.

    Args:
        arguments: of the command line.

    Example:
        >>> what_is_kept(["monitor", "fit", "-i", "IMAGES"])
        'measured images are kept, and the same command goes on from there'
        >>> what_is_kept(["qa", "IMAGES"])
        'nothing is written, and the same command starts again'
    """
    words = tuple(arguments)
    return next(
        (kept for command, kept in _KEPT.items() if words[: len(command)] == command),
        f"nothing is written, and {_AGAIN}",
    )
