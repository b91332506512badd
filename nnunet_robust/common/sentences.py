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


def named(names: Sequence[str], at_most: int = 6, last: str = "and") -> str:
    """Write names with a word before the last, or, of many, the first and how many there are more.

    Example:
        >>> named(["a", "b", "c"], at_most=3), named(["a", "b", "c", "d"], at_most=3)
        ('a, b and c', 'a, b, c and 1 more')
    """
    return listed(names, at_most) if len(names) > at_most else joined(names, last=last)


def joined(parts: Sequence[str], separator: str = ", ", last: str = "and") -> str:
    """Write the parts of a sentence, one after the other, with a word before the last.

    Example:
        >>> joined(["a", "b", "c"], last="or")
        'a, b or c'
    """
    if len(parts) == 1:
        return parts[0]
    return f"{separator.join(parts[:-1])}{separator.rstrip(', ')} {last} {parts[-1]}"
