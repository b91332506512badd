"""Faults that are the user's to mend."""


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
