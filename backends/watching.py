"""Watch all runs of a service and notify people of failed runs and of steps that don't start.

An exit handler in each pipeline would know less: on Kubeflow its task gets no error text and, after a
cancellation, a timeout or a driver's failure, not even the state; and it never hears of a pod that can't
start.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends import faults
from backends.submission import Run, RunSummary, Service, Task
from flowparts.monitor import notify
from flowparts.monitor.notices import Notice
from flowparts.util import outputs

STATES = ("failed", "cancelled", "waiting", "succeeded")
DEFAULT_STATES = ("failed", "waiting")
INTERVAL_SECONDS = 30.0
WAITING_SECONDS = 600.0
QUIET_HOURS = 1.0
# Maximum notices per poll; a last one says how many more there are.
MAX_NOTICES = 10
_MAX_TOLD = 5_000


@dataclass
class WatchState:
    """The state of a watch between polls.

    Attributes:
        place: The service and the namespace or project.
        told: Keys of runs that ended before the watch or whose end was reported, oldest first.
        open: Keys of runs that were active at the last poll.
        waiting: For each of these runs, the waiting steps that were reported.
    """

    place: str
    told: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    waiting: dict[str, list[str]] = field(default_factory=dict)


def read(file: Path, place: str) -> WatchState | None:
    """Read a watch's state; None if there is none.

    Raises:
        ValueError: It is damaged, or belongs to another place.
    """
    if not file.exists():
        return None
    try:
        state = WatchState(**outputs.read_json(file, "the state of the watch"))
    except TypeError:
        raise ValueError(f"{file} isn't the state of a watch; name another file by --state") from None
    if state.place != place:
        raise ValueError(
            f"{file} is the state of a watch of {state.place}, not of {place}; name another by --state"
        )
    return state


def poll(
    service: Service, state: WatchState | None, place: str, states: Collection[str], waiting_seconds: float
) -> tuple[WatchState, list[Notice]]:
    """Poll all runs once; return the new state and the notices to send.

    The first poll doesn't report runs that have already ended.

    Args:
        service: The service with the runs.
        state: State from the last poll; None at the first.
        place: The service and the namespace or project.
        states: The states to report, out of STATES.
        waiting_seconds: Time after which a waiting step is reported.
    """
    latest = service.latest()
    if state is None:
        state = WatchState(place, told=[each.key for each in latest if not each.in_progress])
    known = set(state.told)
    listed = {each.key for each in latest}
    # Long runs are no longer among the latest.
    asked = [*latest, *(RunSummary(key, True) for key in state.open if key not in listed)]
    found: list[Notice] = []
    told, still_open, waiting = list(state.told), [], {}
    for each in reversed(asked):
        if each.key in known:
            continue
        run = service.find(each.key)
        if run is None:  # the run was deleted
            continue
        if run.in_progress:
            still_open.append(each.key)
            waiting[each.key] = state.waiting.get(each.key, [])
            late = [task for task in run.tasks if task.state == "waiting" and task.seconds >= waiting_seconds]
            for task in late if "waiting" in states and run.state == "running" else []:
                if task.name not in waiting[each.key]:
                    waiting[each.key].append(task.name)
                    found.append(_of_waiting(run, task))
            continue
        told.append(each.key)
        if run.state in states:
            found.append(notice(run))
    return WatchState(place, told[-_MAX_TOLD:], still_open, waiting), _bounded(found)


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
    """Poll all runs periodically and notify people.

    Args:
        service: The service with the runs.
        place: The service and the namespace or project.
        file: State of the watch; sent notices are recorded beside it.
        say: Called with messages for the log.
        states: The states to report, out of STATES.
        waiting_seconds: Time after which a waiting step is reported.
        quiet_hours: Hours before the same notice is sent again.
        interval_seconds: Time between two polls; None for a single one.

    Raises:
        ValueError: No channel is set, or the state is damaged or of another place.
        faults.Fault: The service refuses, or, at a single poll, can't be reached.
    """
    notify.check()
    state = read(file, place)
    while True:
        try:
            state, news = poll(service, state, place, states, waiting_seconds)
        except faults.Fault as fault:
            if interval_seconds is None or not fault.transient:
                raise
            say(f"can't get the runs: {fault}; trying again")
            news = []
        # Saved before anything is sent: if the watch ends in between, a notice is lost rather than sent
        # twice.
        if state:
            outputs.write_json(file, state.__dict__)
        for each in news:
            sent = notify.send_unless_told(each, f"{file}.notices", quiet_hours)
            say(f"{each.title} ({each.run}): {'notified' if sent else 'not notified'}")
        if interval_seconds is None:
            return
        time.sleep(interval_seconds)


def notice(run: Run) -> Notice:
    """Return the notice about a run that has ended."""
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
