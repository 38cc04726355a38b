"""The line of a step's output that says why it failed."""

import re
from collections.abc import Sequence

# The last line that names an exception; what follows it belongs to its message.
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)$")


def error_in(lines: Sequence[str]) -> str:
    """Return the message of the last exception in a step's output, on one line; empty for none."""
    for index in range(len(lines) - 1, -1, -1):
        if match := _ERROR.match(lines[index]):
            return " ".join([match[2], *(line.strip() for line in lines[index + 1 :] if line.strip())])
    return ""
