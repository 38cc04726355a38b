"""Errors that callers tell apart by class, and the one line that is shown of any error.

Wrong input (a value, a table, a file) is a plain `ValueError`: callers only pass its sentence on. Whatever a
caller reacts to has a class, so nobody reads the text of an error. All are ValueErrors, so a step ends with
their sentence alone and without a traceback.
"""

from flowparts.util.masking import masked

_MOST_CHARACTERS = 300


class MissingError(ValueError):
    """What was asked for isn't there: a file, a model, an object of a platform."""


class RefusedError(ValueError):
    """A service has answered that it won't do what was asked."""


class UnreachableError(ValueError):
    """A service gives no answer; the same request may succeed later."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without credentials, in at most 300 characters.

    An error without text is named by its class.
    """
    lines = (line.strip() for line in str(error).splitlines())
    # Masked before it is cut: a password whose "@" is cut off no longer looks like one.
    return str(masked(next(filter(None, lines), type(error).__name__)))[:_MOST_CHARACTERS]
