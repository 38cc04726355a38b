"""Error classes that callers can distinguish, and the one line that is shown of any error.

Invalid input (a value, a table, a file) is a plain `ValueError`, whose message callers only pass on. Errors
that callers handle have a class, so no code matches on messages. All are ValueErrors, so a step ends with a
one-line message and without a traceback.
"""

from flowparts.util.masking import masked
from flowparts.util.shortening import shorten

_MAX_CHARACTERS = 300


class MissingError(ValueError):
    """A file, a model or an object of a platform doesn't exist."""


class RefusedError(ValueError):
    """A service refused the request."""


class UnreachableError(ValueError):
    """A service doesn't answer; the same request may succeed later."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text without credentials, in at most 300 characters.

    An error without text is named by its class.
    """
    lines = (line.strip() for line in str(error).splitlines())
    # Masked before it is shortened: a password without its "@" is no longer recognized as one.
    return shorten(str(masked(next(filter(None, lines), type(error).__name__))), _MAX_CHARACTERS)
