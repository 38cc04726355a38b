"""Limits of time and memory for loading a model, which may come from someone else."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# A control group without a limit names a number near 2**63.
_NO_LIMIT = 1 << 60
# Libraries reserve address space that they never use: numerical ones about 1.5 GB on import.
_RESERVED = 2 << 30


def memory_bytes() -> int | None:
    """Return the container's memory limit; None without one."""
    for file in _CGROUPS:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
    return None


@contextmanager
def memory(limit: int | None) -> Iterator[None]:
    """Limit the further address space of a block of code, in bytes; beyond it, a MemoryError is raised.

    Without this, the kernel would kill the process without any message.
    """
    if limit is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    wanted = taken + limit + _RESERVED
    resource.setrlimit(resource.RLIMIT_AS, (wanted if before[1] < 0 else min(wanted, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def time(seconds: float, status: int, sentence: str) -> Iterator[None]:
    """End the process with a status if a block of code takes longer; libraries can't be interrupted."""
    from flowparts.serving import logs

    def end() -> None:
        logs.say(sentence, 40)
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
