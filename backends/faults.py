"""Faults of services: one-line messages, and retries of transient ones."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Answer = TypeVar("Answer")

# Half a minute in total, enough for a rolling restart or a burst of requests.
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
# A request without an answer may still be in progress when its result is first looked for.
LOOKUPS = 3
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass
class Fault(Exception):  # noqa: N818 some are no errors of anyone's
    """A failed request to a service.

    Attributes:
        message: What happened and what to do.
        status: HTTP status; 0 without an answer.
        transient: Whether a retry may succeed.
        may_be_done: Whether the service may have processed the request anyway.
    """

    message: str
    status: int = 0
    transient: bool = False
    may_be_done: bool = False

    def __str__(self) -> str:
        return self.message


def from_status(service: str, status: int, message: str, hints: dict[int, str]) -> Fault:
    """Return the fault for an HTTP status.

    Args:
        service: Name of the service.
        status: The status.
        message: The service's message; may be empty.
        hints: What to do, by status.
    """
    what = {
        401: "doesn't know who is asking",
        403: "doesn't allow this",
        404: "has no such thing",
        409: "has this already",
        429: "is asked too often, or a quota is used up",
    }.get(status, "is out of order" if status >= 500 else "refused the request")
    # A gateway answers with an HTML page.
    said = "" if message.lstrip().startswith("<") else " ".join(message.split()).rstrip(".")
    hint = hints.get(status, "try again later" if status in _TRANSIENT else "")
    return Fault(
        f"{service} {what} ({status})" + (f": {said}" if said else "") + (f"; {hint}" if hint else ""),
        status,
        transient=status in _TRANSIENT,
        # A rate-limited request wasn't processed; after a gateway's error that is unknown.
        may_be_done=status == 409 or (status in _TRANSIENT and status != 429),
    )


def with_retries(
    send: Callable[[], Answer],
    fault_of: Callable[[Exception], Fault | None],
    find_existing: Callable[[], Answer | None] | None = None,
) -> Answer:
    """Send a request until it is answered; transient faults are retried with growing pauses.

    Args:
        send: Sends the request.
        fault_of: Returns the fault for an exception; None if it isn't one.
        find_existing: For a request that creates something: looks for the object of an earlier attempt. It is
            called before a retry, so that nothing is created twice.

    Raises:
        Fault: The request was refused, or the service didn't recover.
    """
    fault = Fault("")
    for pause in (*PAUSES_SECONDS, 0.0):
        try:
            return send()
        except Exception as error:
            known = fault_of(error)
            if not known:
                raise
            fault = known
        lookups = LOOKUPS if find_existing and fault.may_be_done else 0
        if not fault.transient and not lookups:
            break
        for _ in range(max(lookups, 1)):
            time.sleep(pause / max(lookups, 1) * random.uniform(0.5, 1.0))  # noqa: S311 so that callers spread
            if find_existing and lookups and (earlier := with_retries(find_existing, fault_of)) is not None:
                return earlier
        if not fault.transient:
            break
    raise fault
