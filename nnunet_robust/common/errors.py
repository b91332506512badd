"""Faults that are the user's to mend."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Input is bad. The message is one line: what is wrong, with the value, and what to do.

    The command line prints the message and exits with 2, without a traceback.
    """


def one_line(error: BaseException) -> str:
    """Return the text of an error as one line of at most 300 characters.

    >>> one_line(ValueError("two\\nlines"))
    'two lines'
    """
    return " ".join(str(error).split())[:300]


def shortened(text: str, longest: int = 400) -> str:
    """Return a text with its overlong words cut, and line ends and other control characters written as escapes.

    Args:
        text: of a message, with values in it that may be of any length.
        longest: characters of a word that stay as they are: a path may have that many.

    >>> shortened("seed " + "9" * 5000)
    'seed 9999999999999999999999999999999999999999... (5000 characters)'
    """
    cut = re.sub(rf"\S{{{longest + 1},}}", lambda word: f"{word[0][:40]}... ({len(word[0])} characters)", text)
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda character: ascii(character[0])[1:-1], cut)
