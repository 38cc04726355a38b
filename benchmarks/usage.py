"""Run a command and measure what it takes, with all its descendants."""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a command took, with all its descendants.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Processor time.
        megabytes: Peak memory; pages that processes share count once.
        timed_out: Whether it was killed at the time limit.
        returncode: Its exit status.
        errors: The end of what it wrote to standard error.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float
    timed_out: bool
    returncode: int
    errors: str


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limit: float,
    before: Callable[[], None] | None = None,
    noticed: Callable[[int], None] | None = None,
    interval: float = 0.5,
) -> Usage:
    """Run a command, and kill it and its descendants at the time limit.

    Args:
        command: The command line.
        folder: Where it runs.
        environment: Its environment variables.
        limit: Wall seconds that it may take.
        before: Called in the new process before the command starts.
        noticed: Called with the number of each process, soon after it has started.
        interval: Seconds between two looks at the processes.
    """
    start, peak, timed_out = time.monotonic(), 0, False
    reaped = _reaped_seconds()
    seen: dict[int, float] = {}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=before,
    ) as process:
        os.set_blocking(process.stderr.fileno(), False)
        errors = b""
        while process.poll() is None:
            known = set(seen)
            peak = max(peak, _tree_bytes(process.pid, seen))
            if noticed:
                for one in seen.keys() - known:
                    noticed(one)
            if time.monotonic() - start > limit:
                timed_out = True
                _kill(process.pid)
            errors = (errors + (process.stderr.read() or b""))[-10_000:]
            time.sleep(interval)
        seconds = time.monotonic() - start
        errors = (errors + (process.stderr.read() or b""))[-10_000:]
    # What was killed with its parent is only in the one, what was too quick to be seen only in the other.
    cpu = max(_reaped_seconds() - reaped, sum(seen.values()))
    return Usage(seconds, cpu, peak / 1e6, timed_out, process.returncode, errors.decode(errors="replace"))


def _reaped_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _kill(process: int) -> None:
    """Kill a process and its descendants, also those that have made a group of their own."""
    descendants: dict[int, float] = {}
    _tree_bytes(process, descendants)
    for one in [process, *descendants]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _tree_bytes(process: int, seen: dict[int, float]) -> int:
    """Return the proportional memory of a process and its descendants; note the processor time of each."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        seen[process] = (int(fields[11]) + int(fields[12])) / _TICKS
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        threads = Path(f"/proc/{process}/task").glob("*/children")
        children = [int(word) for file in threads for word in file.read_text().split()]
    except (OSError, StopIteration):  # it has ended
        return 0
    return own + sum(_tree_bytes(child, seen) for child in children)
