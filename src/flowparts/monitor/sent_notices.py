"""Remember which notices were sent, so that the same news isn't sent repeatedly.

Callers hold `state_files.locked` on the file while they ask, send and record, so that only one of two
concurrent runs sends a notice.
"""

import math
import time

from flowparts.util import state_files

# Thousands of notices take a few hundred kB; the oldest are dropped first.
_MAX_ENTRIES = 5_000
_WHAT = "a file of sent notices"


def recently(notices_uri: str, digest: str, quiet_seconds: float) -> bool:
    """Return whether a notice with this digest was sent within a period.

    Args:
        notices_uri: Path or URI of a JSON file that outlives runs; a missing one is empty.
        digest: Digest of the notice.
        quiet_seconds: Seconds of the period; infinite to ask whether it was ever sent.

    Raises:
        ValueError: The file can't be read, or holds something else.
    """
    return time.time() - _read(notices_uri).get(digest, -math.inf) < quiet_seconds


def remember(notices_uri: str, *digests: str) -> None:
    """Record that notices with these digests were sent now; the file and errors are as for `recently`."""
    times = {**_read(notices_uri), **dict.fromkeys(digests, time.time())}
    latest = dict(sorted(times.items(), key=lambda entry: entry[1])[-_MAX_ENTRIES:])
    state_files.write(notices_uri, {"told": latest})


def _read(notices_uri: str) -> dict[str, float]:
    found = state_files.read(notices_uri, _WHAT)
    if found is None:
        return {}
    try:
        return {str(digest): float(at) for digest, at in found["told"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise state_files.unexpected_content(notices_uri, _WHAT) from None
