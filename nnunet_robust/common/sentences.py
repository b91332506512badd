"""Names and parts, one after the other in a sentence."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], at_most: int = 8) -> str:
    """Write names with commas between; "and 3 more" stands for those beyond the most that are told.

    Example:
        >>> listed(["a", "b", "c", "d"], at_most=2)
        'a, b and 2 more'
    """
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def joined(parts: Sequence[str], separator: str = ", ", last: str = "and") -> str:
    """Write the parts of a sentence, one after the other, with a word before the last.

    Example:
        >>> joined(["a", "b", "c"], last="or")
        'a, b or c'
    """
    if len(parts) == 1:
        return parts[0]
    return f"{separator.join(parts[:-1])}{separator.rstrip(', ')} {last} {parts[-1]}"
