"""The time that servers measure for a request, without proxies and network.

Our server reports it in the header Server-Timing (https://www.w3.org/TR/server-timing/) of each prediction.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_PREDICT = re.compile(r"\bpredict\s*;\s*dur\s*=\s*(\d+(?:\.\d+)?)")
_times: ContextVar[list[float] | None] = ContextVar("server_times", default=None)


@contextmanager
def recorded() -> Iterator[list[float]]:
    """Collect the milliseconds that servers report in the answers to requests sent in the block."""
    times: list[float] = []
    token = _times.set(times)
    try:
        yield times
    finally:
        _times.reset(token)


def record(headers: Mapping[str, str]) -> None:
    """Record the time from an answer's headers; header names are case-insensitive."""
    times = _times.get()
    found = _PREDICT.search(headers.get("server-timing") or "")
    if times is not None and found:
        times.append(float(found[1]))
