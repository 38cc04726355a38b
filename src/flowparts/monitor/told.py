"""Remember what people have been told, so that the same news isn't sent again and again."""

import time

from flowparts.util import kept

# A file of thousands of notices is a few hundred kB; older ones are forgotten first.
_MAX_ENTRIES = 5_000
_WHAT = "a file of sent notices"


def recently(notices_uri: str, digest: str, quiet_seconds: float) -> bool:
    """Return whether a notice of this digest was sent within a time.

    Args:
        notices_uri: Path or URI of a JSON file that outlives runs; one that isn't there is empty.
        digest: Of the notice.
        quiet_seconds: The time.

    Raises:
        ValueError: The file can't be read, or holds something else.
    """
    return time.time() - _read(notices_uri).get(digest, 0.0) < quiet_seconds


def remember(notices_uri: str, digest: str) -> None:
    """Note that a notice was sent now; the arguments and errors are those of `recently`."""
    times = {**_read(notices_uri), digest: time.time()}
    latest = dict(sorted(times.items(), key=lambda entry: entry[1])[-_MAX_ENTRIES:])
    kept.write(notices_uri, {"told": latest})


def _read(notices_uri: str) -> dict[str, float]:
    found = kept.read(notices_uri, _WHAT)
    if found is None:
        return {}
    try:
        return {str(digest): float(at) for digest, at in found["told"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise kept.foreign(notices_uri, _WHAT) from None
