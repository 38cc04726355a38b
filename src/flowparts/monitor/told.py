"""Remember what people have been told, so that the same news isn't sent again and again."""

import time

from flowparts.util import kept

# The memory of thousands of notices is a few hundred kB; older ones are forgotten first.
_MAX_ENTRIES = 5_000
_WHAT = "a memory of notices"


def recently(memory: str, digest: str, quiet_seconds: float) -> bool:
    """Return whether a notice of this digest was sent within a time.

    Args:
        memory: Path or URI of a JSON file that outlives runs; one that isn't there is empty.
        digest: Of the notice.
        quiet_seconds: The time.

    Raises:
        ValueError: The file can't be read, or holds something else.
    """
    return time.time() - _read(memory).get(digest, 0.0) < quiet_seconds


def remember(memory: str, digest: str) -> None:
    """Note that a notice was sent now; the arguments and errors are those of `recently`."""
    times = {**_read(memory), digest: time.time()}
    latest = dict(sorted(times.items(), key=lambda entry: entry[1])[-_MAX_ENTRIES:])
    kept.write(memory, {"told": latest})


def _read(memory: str) -> dict[str, float]:
    found = kept.read(memory, _WHAT)
    if found is None:
        return {}
    try:
        return {str(digest): float(at) for digest, at in found["told"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise kept.foreign(memory, _WHAT) from None
