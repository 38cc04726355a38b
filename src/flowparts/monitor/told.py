"""Remember what people have been told, so that the same news isn't sent again and again."""

import json
import tempfile
import time
from pathlib import Path

from flowparts.util import outputs, sources
from flowparts.util.masking import masked

# The memory of thousands of notices is a few hundred kB; older ones are forgotten first.
_MAX_ENTRIES = 5_000


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
    kept = dict(sorted(times.items(), key=lambda entry: entry[1])[-_MAX_ENTRIES:])
    local = sources.local_path(memory)
    if local is not None:
        outputs.write_json(local, {"told": kept})
        return
    with tempfile.TemporaryDirectory() as folder:
        outputs.write_json(Path(folder) / "told", {"told": kept})
        try:
            sources.filesystem(memory.partition("://")[0]).put_file(str(Path(folder) / "told"), memory)
        except Exception as error:  # each store's client has exceptions of its own
            raise ValueError(f"can't write {masked(f'{memory}: {type(error).__name__}: {error}')}") from None


def _read(memory: str) -> dict[str, float]:
    local = sources.local_path(memory)
    try:
        if local is not None:
            text = Path(local).read_text(encoding="utf-8")
        else:
            text = sources.filesystem(memory.partition("://")[0]).cat_file(memory).decode()
    except FileNotFoundError:
        return {}
    except Exception as error:  # each store's client has exceptions of its own
        raise ValueError(f"can't read {masked(f'{memory}: {type(error).__name__}: {error}')}") from None
    try:
        return {str(digest): float(at) for digest, at in json.loads(text)["told"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(
            f"{masked(memory)} isn't a memory of notices; name another file, or remove it"
        ) from None
