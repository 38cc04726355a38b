"""Watch all runs of a service and notify people: of runs that fail, and of steps that wait to be started.

An exit handler in each pipeline would be told less: on Kubeflow its task gets no error text and, after a
termination, a time-out or a driver's failure, not even the state; nothing tells it of a pod that can't start.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import faults
from backends.submission import Glimpse, Run, Service, Task
from flowparts.monitor import notify
from flowparts.monitor.notices import Notice
from flowparts.util import outputs

STATES = ("failed", "cancelled", "waiting", "succeeded")
DEFAULT_STATES = ("failed", "waiting")
INTERVAL_SECONDS = 30.0
WAITING_SECONDS = 600.0
QUIET_HOURS = 1.0
# Of one look; more is one notice that says how many.
MAX_NOTICES = 10
_MAX_TOLD = 5_000


@dataclass
class Memory:
    """What a watch knows from earlier looks.

    Attributes:
        place: Which service and namespace or project it is of.
        told: Keys of runs that ended before the watch began or whose end was dealt with, oldest first.
        open: Keys of runs that went on at the last look.
        waiting: For each run of them, the waiting steps that people were told of.
    """

    place: str
    told: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    waiting: dict[str, list[str]] = field(default_factory=dict)


def read(file: Path, place: str) -> Memory | None:
    """Read a watch's memory; None if there is none.

    Raises:
        ValueError: It is damaged, or of another place.
    """
    if not file.exists():
        return None
    try:
        memory = Memory(**outputs.read_json(file, "the memory of the watch"))
    except TypeError:
        raise ValueError(f"{file} isn't a memory of a watch; name another file by --state") from None
    if memory.place != place:
        raise ValueError(
            f"{file} is the memory of a watch of {memory.place}, not of {place}; name another by --state"
        )
    return memory


def look(
    service: Service, memory: Memory | None, place: str, states: Collection[str], waiting_seconds: float
) -> tuple[Memory, list[Notice]]:
    """Look at all runs once; return what to remember and what to tell people.

    The first look tells nothing of the runs that have ended already.

    Args:
        service: Where the runs are.
        memory: From the last look; None at the first.
        place: Which service and namespace or project this is.
        states: Of which to tell, out of STATES.
        waiting_seconds: How long a step may wait to be started before people are told.
    """
    latest = service.latest()
    if memory is None:
        memory = Memory(place, told=[each.key for each in latest if not each.goes_on])
    known = set(memory.told)
    glimpsed = {each.key for each in latest}
    # Runs that go on for long are no longer among the latest.
    asked = [*latest, *(Glimpse(key, True) for key in memory.open if key not in glimpsed)]
    found: list[Notice] = []
    told, still_open, waiting = list(memory.told), [], {}
    for each in reversed(asked):
        if each.key in known:
            continue
        run = service.find(each.key)
        if run is None:  # it was deleted
            continue
        if run.goes_on:
            still_open.append(each.key)
            waiting[each.key] = memory.waiting.get(each.key, [])
            late = [task for task in run.tasks if task.state == "waiting" and task.seconds >= waiting_seconds]
            for task in late if "waiting" in states and run.state == "running" else []:
                if task.name not in waiting[each.key]:
                    waiting[each.key].append(task.name)
                    found.append(_of_waiting(run, task))
            continue
        told.append(each.key)
        if run.state in states:
            found.append(notice(run))
    return Memory(place, told[-_MAX_TOLD:], still_open, waiting), _bounded(found)


def watch(
    service: Service,
    place: str,
    file: Path,
    say: Callable[[str], None],
    states: Collection[str] = DEFAULT_STATES,
    waiting_seconds: float = WAITING_SECONDS,
    quiet_hours: float = QUIET_HOURS,
    interval_seconds: float | None = INTERVAL_SECONDS,
) -> None:
    """Look at all runs again and again and notify people.

    Args:
        service: Where the runs are.
        place: Which service and namespace or project this is.
        file: Memory of the watch; beside it, that of the notices.
        say: Takes a sentence for the log.
        states: Of which to tell, out of STATES.
        waiting_seconds: How long a step may wait to be started before people are told.
        quiet_hours: Hours before the same news, of another run, is sent again.
        interval_seconds: Between two looks; None for a single one.

    Raises:
        ValueError: No channel is set, or the memory is damaged or of another place.
        faults.Fault: The service doesn't allow it, or, at a single look, can't be reached.
    """
    notify.check()
    memory = read(file, place)
    while True:
        try:
            memory, news = look(service, memory, place, states, waiting_seconds)
        except faults.Fault as fault:
            if interval_seconds is None or not fault.transient:
                raise
            say(f"can't look at the runs: {fault}; trying again")
            news = []
        # Before anything is sent: a watch that ends in between tells too little rather than twice.
        if memory:
            outputs.write_json(file, memory.__dict__)
        for each in news:
            sent = notify.send_unless_told(each, f"{file}.notices", quiet_hours)
            say(f"{each.title} ({each.run}): {'notified' if sent else 'not notified'}")
        if interval_seconds is None:
            return
        time.sleep(interval_seconds)


def notice(run: Run) -> Notice:
    """Return what to say of a run that has ended."""
    failed = run.failed
    step, error = (failed[0].name, failed[0].error) if failed else ("", run.error)
    if run.state == "failed" and not error:
        error = "the service gives no reason; the run's page may show more"
    others = "; ".join(f"{task.name}: {task.error}" for task in failed[1:])
    more = f"failed as well: {others}" if others else ""
    return Notice(run.state, run.pipeline or run.name, run.name, step, error, more, run.url)


def _of_waiting(run: Run, task: Task) -> Notice:
    said = task.error or "the service gives no reason"
    message = f"for {task.seconds / 60:.0f} minutes; it may wait for ever"
    return Notice("waiting", run.pipeline or run.name, run.name, task.name, said, message, run.url)


def _bounded(found: list[Notice]) -> list[Notice]:
    if len(found) <= MAX_NOTICES:
        return found
    more = len(found) - MAX_NOTICES + 1
    counts: dict[str, Any] = {}
    for each in found[MAX_NOTICES - 1 :]:
        counts[each.pipeline] = counts.get(each.pipeline, 0) + 1
    said = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
    summary = Notice("failed", f"{more} more runs", message=f"{said}; see the list of runs")
    return [*found[: MAX_NOTICES - 1], summary]
