"""Faults that are the user's to mend."""


class UserError(ValueError):
    """Bad input. Its message is one line: what is wrong, with the value, and what to do.

    The command line prints the message and exits with 2, without a traceback.
    """
