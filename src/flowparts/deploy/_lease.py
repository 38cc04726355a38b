"""One writer at a time for each endpoint: a lease that its holder renews, and that expires with it.

A deployment, a shift or a rollback reads the endpoint's state, changes several objects and writes the new
state. Two at once would each remove what the other has created. So each takes the endpoint's lease first. The
platform stores it (`Store`); this module decides who holds it:

- A lease that isn't renewed for `SECONDS` is free: its step was killed. Times are the store's, so machines
  with different clocks agree.
- A lease held by another step is watched until it is renewed, which shows that the step is alive, or free.
  Then the second writer is refused, or continues to wait for wait_seconds.
- A holder that was suspended for longer than its lease renews it before it writes again, and raises
  `LostError` if another step has taken it since. Then it undoes nothing: the endpoint belongs to the other
  step.
"""

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from flowparts.util import termination

SECONDS = 20.0
_RENEW_SECONDS = 4.0
_LOOK_SECONDS = 0.5

_log = logging.getLogger("flowparts")


class LostError(ValueError):
    """Another step has taken the lease in the meantime."""


@dataclass(frozen=True)
class Record:
    """The holder of a lease.

    Attributes:
        holder: The step: its machine or pod, its process and a random number.
        since: When it took the lease.
        renewed: When it last renewed the lease.
    """

    holder: str
    since: datetime
    renewed: datetime

    @property
    def ends(self) -> datetime:
        """When the lease expires unless it is renewed."""
        return self.renewed + timedelta(seconds=SECONDS)


class Store(Protocol):
    """The storage of one lease; a write only replaces the version that was read."""

    key: str

    def now(self) -> datetime:
        """Return the time by the store's clock."""

    def read(self) -> tuple[Record | None, str]:
        """Return the holder of the lease and the version; None if nobody holds it."""

    def write(self, record: Record, version: str) -> str:
        """Write the holder and return the new version; "" if something else has changed it."""

    def clear(self, version: str) -> None:
        """Free the lease, unless something else has changed it."""


class Lease:
    """A lease that this process holds and a thread renews."""

    def __init__(self, store: Store, what: str, wait_seconds: float):
        self._store = store
        self._what = what
        self._lock = threading.Lock()
        self._ended = threading.Event()
        me = f"{socket.gethostname()} (process {os.getpid()}, {secrets.token_hex(3)})"
        self._record, self._version = self._acquire(me, wait_seconds)
        self._until = time.monotonic() + SECONDS
        self.uses = 0
        self._thread = threading.Thread(target=self._keep, name=f"lease of {what}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise ValueError unless this process may write: call it right before each change.

        Raises:
            LostError: Another step has taken the lease, because this one was suspended.
            ValueError: The lease has expired, and the store can't be reached to renew it.
        """
        if time.monotonic() >= self._until:
            self._renew()

    def release(self) -> None:
        """Free the lease for the next step."""
        self._ended.set()
        self._thread.join()
        with suppress(ValueError):  # it runs out
            self._store.clear(self._version)

    def _acquire(self, me: str, wait_seconds: float) -> tuple[Record, str]:
        start = time.monotonic()
        first: Record | None = None
        said = False
        while True:
            found, version = self._store.read()
            now = self._store.now()
            if found is None or found.ends <= now:
                wanted = Record(me, now, now)
                if made := self._store.write(wanted, version):
                    if found:
                        _log.warning("%s was being changed by %s, which has ended", self._what, found.holder)
                    return wanted, made
                termination.check()
                continue
            first = first or found
            waited = time.monotonic() - start
            # A step that still holds it after that time was suspended, and can't be killed from here.
            lives = (found.holder, found.renewed) != (first.holder, first.renewed) or waited > 2 * SECONDS
            if lives and waited >= wait_seconds:
                raise ValueError(
                    f"{self._what} is being changed by {found.holder} since {found.since:%H:%M:%S} UTC; run "
                    "this again when that is done, or wait for it with the option wait_seconds"
                )
            if not said:
                _log.info("%s is being changed by %s; waiting", self._what, found.holder)
                said = True
            termination.pause(_LOOK_SECONDS)

    def _renew(self) -> None:
        with self._lock:
            start = time.monotonic()
            wanted = replace(self._record, renewed=self._store.now())
            version = self._store.write(wanted, self._version)
            if not version:
                found, version = self._store.read()
                if found is None or found.holder != self._record.holder:
                    who = (
                        f"{found.holder} changes it since {found.since:%H:%M:%S} UTC"
                        if found
                        else "it ran out"
                    )
                    raise LostError(
                        f"this step was held up and has lost its right to change {self._what}: {who}"
                    )
                wanted = found  # the answer to an earlier renewal was lost
            self._record, self._version = wanted, version
            self._until = start + SECONDS

    def _keep(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                self._renew()
            except LostError:
                self._until = 0.0  # the next check reports it
                return
            except ValueError as error:
                _log.warning("the lease of %s can't be renewed: %s", self._what, error)


_held: dict[str, Lease] = {}
_keeping = 0


@contextmanager
def writing(store: Store, what: str, wait_seconds: float = 0.0) -> Iterator[Lease]:
    """Hold a lease while the block runs; blocks of one process may be nested.

    Args:
        store: The storage of the lease.
        what: What it protects, such as "endpoint 'churn' in namespace team".
        wait_seconds: How long to wait for another holder that is alive.

    Raises:
        ValueError: Another step holds it; the message says which and since when.
    """
    lease = _held.get(store.key) or _held.setdefault(store.key, Lease(store, what, wait_seconds))
    lease.uses += 1
    try:
        yield lease
    finally:
        lease.uses -= 1
        _release_unused()


@contextmanager
def hold_until_end() -> Iterator[None]:
    """Keep every lease that is taken in this block until its end: a rollout is one change."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        _release_unused()


def _release_unused() -> None:
    if _keeping:
        return
    for key, lease in list(_held.items()):
        if not lease.uses:
            del _held[key]
            lease.release()


class FileStore:
    """A lease on this machine: a file that the holder locks; it is released with the process.

    Args:
        name: Unique name of the lease on this machine.
    """

    def __init__(self, name: str):
        # Not the TMPDIR of this process: other processes must find it.
        self._path = Path("/tmp") / f"flowparts-{name}.lock"  # noqa: S108
        self._file: int | None = None
        self.key = str(self._path)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def read(self) -> tuple[Record | None, str]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(file, 4096, 0).decode(errors="replace")
            os.close(file)
            now = self.now()
            try:
                found = json.loads(text)
                # Regardless of its age: the process that locked the file is alive.
                return Record(found["holder"], utc(found["since"]), max(utc(found["renewed"]), now)), text
            except (ValueError, KeyError, TypeError):  # it is being written
                return Record("another step", now, now), text
        if self._is_gone(file):
            os.close(file)
            return self.read()
        self._file = file
        return None, "free"

    def write(self, record: Record, version: str) -> str:  # noqa: ARG002 the lock itself is the version
        if self._file is None:
            return ""
        times = {name: getattr(record, name).isoformat() for name in ("since", "renewed")}
        text = json.dumps({"holder": record.holder, **times}).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        return "mine"

    def clear(self, version: str) -> None:  # noqa: ARG002
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _is_gone(self, file: int) -> bool:
        """Whether the previous holder has removed or replaced the file."""
        try:
            return os.fstat(file).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return True


def utc(text: str) -> datetime:
    """Parse a time in RFC 3339."""
    return datetime.fromisoformat(text).astimezone(UTC)
