"""Submit pipelines to a service: packages, names, following runs, replacing schedules."""

import dataclasses
import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import yaml
from kfp import components
from kfp.dsl.structures import InputSpec

from backends import checks, faults, package
from flowparts.util import lineage

POLL_SECONDS = 5.0
RECONNECT_SECONDS = 600
EXIT_CODES = {"failed": 1, "cancelled": 3}
# Vertex AI takes 128 characters; the time and the unique part need 20.
_MAX_STEM = 107
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,126}[a-z0-9])?")


@dataclass(frozen=True)
class Package:
    """A compiled pipeline, ready to be sent.

    Attributes:
        text: The compiled YAML.
        code_version: Version of the code, such as that of the images.
    """

    text: str
    code_version: str

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The pipeline document."""
        return package.documents(self.text)[0]

    @property
    def name(self) -> str:
        """The pipeline's name, such as tabular-training."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def description(self) -> str:
        """What the pipeline does."""
        return str(self.spec["pipelineInfo"].get("description", ""))

    @cached_property
    def inputs(self) -> dict[str, InputSpec]:
        """The pipeline's parameters by name."""
        loaded = components.load_component_from_text(self.text)
        return loaded.component_spec.inputs or {}

    @property
    def digest(self) -> str:
        """Twelve digits of a hash of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def version(self) -> str:
        """The version's name: version of the code, git commit, and digest of the content."""
        return f"{self.code_version}-{lineage.git_commit()[:12]}-{self.digest}".lower()


@dataclass(frozen=True)
class Task:
    """A task of a run, as the service reports it."""

    name: str
    state: str  # waiting, running, succeeded, cached, skipped, cancelled, failed; unknown where nobody says
    seconds: float = 0.0
    error: str = ""  # why it failed, or what keeps it waiting
    last_line: str = ""  # why it waits, once that has taken long; services don't send a running step's output

    @property
    def elapsed_seconds(self) -> float:
        """Duration of the task so far, or in total, in seconds."""
        return self.seconds


@dataclass(frozen=True)
class Run:
    """A run, as the service reports it."""

    name: str
    key: str  # the service's own name for it
    state: str  # running, cancelling, succeeded, failed or cancelled
    url: str  # its page
    tasks: Sequence[Task] = ()
    error: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)  # those that were given
    version: str = ""  # of the pipeline
    images: Sequence[str] = ()
    pipeline: str = ""  # its name, where the service says so

    @property
    def in_progress(self) -> bool:
        """Whether the run has not ended."""
        return self.state in ("running", "cancelling")

    @property
    def failed(self) -> list[Task]:
        """The tasks that failed."""
        return [task for task in self.tasks if task.state == "failed"]


@dataclass(frozen=True)
class RunSummary:
    """An entry of a list of runs, without the steps."""

    key: str
    in_progress: bool


@dataclass(frozen=True)
class Schedule:
    """A schedule on the service."""

    key: str
    digest: str  # of everything that was asked for; empty where it was made by other means
    active: bool


@dataclass(frozen=True)
class RequestedSchedule:
    """A requested schedule."""

    name: str
    cron: str  # five fields: minute, hour, day of month, month, day of week
    package: Package
    parameters: Mapping[str, Any]
    settings: Any
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        asked = repr((self.cron, self.package.digest, sorted(self.parameters.items()), self.settings))
        object.__setattr__(self, "digest", hashlib.sha256(asked.encode()).hexdigest()[:16])


class Service(Protocol):
    """The interface of Kubeflow and Vertex AI; every method can raise `faults.Fault`."""

    def upload(self, sent: Package) -> tuple[str, bool]:
        """Upload a pipeline; return its URL and whether it is new."""

    def run(self, sent: Package, parameters: Mapping[str, Any], name: str) -> Run:
        """Start a run; an existing run with this name is returned unchanged."""

    def find(self, name: str) -> Run | None:
        """Return a run by its name or key; None if there is none."""

    def recent(self) -> list[str]:
        """Return the names of the latest runs."""

    def latest(self) -> list[RunSummary]:
        """Return the latest 100 runs, newest first."""

    def cancel(self, run: Run) -> None:
        """Cancel a run."""

    def schedules(self, name: str) -> list[Schedule]:
        """Return the schedules with a name."""

    def create_schedule(self, wanted: RequestedSchedule) -> None:
        """Create a schedule."""

    def set_active(self, schedule: Schedule, active: bool) -> None:
        """Pause or resume a schedule."""

    def runs_in_progress(self, schedule: Schedule) -> list[str]:
        """Return the names of the runs that removing a schedule now would abort."""

    def delete_schedule(self, schedule: Schedule) -> None:
        """Remove a schedule."""


class ConnectionLostError(Exception):
    """A followed run continues, but the service can't be reached any more."""


def images_in(spec: Mapping[str, Any]) -> list[str]:
    """Return the distinct images of a pipeline document."""
    executors = spec.get("deploymentSpec", {}).get("executors", {}).values()
    return sorted({each["container"]["image"] for each in executors if "container" in each})


def run_name(pipeline: str) -> str:
    """Return a unique run name that is valid on both services."""
    return f"{pipeline[:_MAX_STEM]}-{datetime.now(UTC):%Y%m%d%H%M%S}-{secrets.token_hex(2)}"


def check_name(name: str) -> str:
    """Return a run's or schedule's name, or raise ValueError if a service would refuse it."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r} must start with a letter, end with a letter or digit, "
            "and hold at most 128 of a-z, 0-9 and hyphen"
        )
    return name


def check_cron(cron: str) -> str:
    """Return a cron expression, or raise ValueError unless it has five fields."""
    fields = cron.split()
    if len(fields) != 5 or not all(re.fullmatch(r"[\dA-Za-z*/,-]+", text) for text in fields):
        raise ValueError(
            f"cron {cron!r} must have five fields: minute, hour, day of month, month, day of week, "
            "such as '30 6 * * 1-5'; the time is UTC"
        )
    return " ".join(fields)


def check_sizes(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter that is too large for the services."""
    for name, value in parameters.items():
        size = len(json.dumps(value).encode())
        if size > checks.MAX_PARAMETER_BYTES:
            raise ValueError(f"parameter {name!r} takes {size:,} of {checks.MAX_PARAMETER_BYTES:,} bytes")


def without_caching(text: str) -> str:
    """Return a compiled package with caching off for every task, also in groups."""
    documents = package.documents(text)
    spec = documents[0]
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return yaml.safe_dump_all(documents, sort_keys=True)


def uniquely_named(tasks: list[Task]) -> list[Task]:
    """Number tasks with the same name, such as those of a loop."""
    seen: dict[str, int] = {}
    named = []
    for task in tasks:
        seen[task.name] = seen.get(task.name, 0) + 1
        number = seen[task.name]
        named.append(dataclasses.replace(task, name=f"{task.name}-{number}") if number > 1 else task)
    return named


def follow(
    service: Service,
    run: Run,
    on_change: Callable[[Run], None],
    say: Callable[[str], None],
    reconnect_seconds: float = RECONNECT_SECONDS,
    start_timeout_seconds: float | None = None,
) -> Run:
    """Follow a run until it ends; return its final state.

    Args:
        service: The service that runs it.
        run: The run.
        on_change: Called with the run at each poll.
        say: Called with messages for the user.
        reconnect_seconds: How long to keep trying while the service can't be reached.
        start_timeout_seconds: Maximum time for a step to start; then the run is cancelled and counts as
            failed. None for no limit.

    Raises:
        ConnectionLostError: The service couldn't be reached for that long, or no longer accepts this user.
        ValueError: The run was deleted.
    """
    lost_since = None
    while True:
        try:
            found = service.find(run.key)
        except faults.Fault as fault:
            now = time.monotonic()
            if not fault.transient or (lost_since is not None and now - lost_since >= reconnect_seconds):
                raise ConnectionLostError(str(fault)) from None
            if lost_since is None:
                lost_since = now
                say(
                    f"lost contact with {run.name}, which continues: {fault}; "
                    f"retrying for {reconnect_seconds:g} s"
                )
            time.sleep(POLL_SECONDS)
            continue
        if not found:
            raise ValueError(f"run {run.name} was deleted while it was followed")
        if lost_since is not None:
            lost_since = None
            say(f"the contact with {run.name} is restored")
        on_change(found)
        if not found.in_progress:
            return found
        late = [
            task
            for task in found.tasks
            if task.state == "waiting" and task.seconds >= (start_timeout_seconds or math.inf)
        ]
        if late and found.state == "running":
            service.cancel(found)
            reason = f"it couldn't start within {start_timeout_seconds:g} s, so the run was ended: " + (
                late[0].error or "the service gives no reason"
            )
            failed = dataclasses.replace(late[0], state="failed", error=reason)
            tasks = [failed if task is late[0] else task for task in found.tasks]
            return dataclasses.replace(found, state="failed", tasks=tasks)
        time.sleep(POLL_SECONDS)


def schedule(service: Service, wanted: RequestedSchedule, wait: bool, say: Callable[[str], None]) -> str:
    """Create or replace the schedule with a name; return what was done.

    Args:
        service: Where.
        wanted: The schedule.
        wait: Whether to wait for runs of the previous schedule, which removing it would abort.
        say: Called with messages for the user.
    """
    existing = service.schedules(wanted.name)
    fitting = next((old for old in existing if old.active and old.digest == wanted.digest), None)
    others = [old for old in existing if old is not fitting]
    # The old one is paused while the new one is created, so that no run starts twice.
    paused = [old for old in others if old.active]
    for old in paused:
        service.set_active(old, False)
    try:
        if not fitting:
            service.create_schedule(wanted)
    except BaseException:
        for old in paused:
            service.set_active(old, True)
        raise
    done = "unchanged" if fitting else "updated" if existing else "created"
    running = _delete(service, others, wait, say)
    if running:
        done += (
            f"; the former one is disabled, but not removed, because that would cut off {', '.join(running)}"
            ": give the same command again once that has ended, or now with --wait"
        )
    return done


def unschedule(service: Service, name: str, wait: bool, say: Callable[[str], None]) -> str:
    """Remove the schedules with a name; return what was done. The arguments are those of `schedule`."""
    existing = service.schedules(name)
    for old in existing:
        if old.active:
            service.set_active(old, False)
    running = _delete(service, existing, wait, say)
    if running:
        return (
            f"disabled, but not removed, because that would cut off {', '.join(running)}: "
            "give the same command again once that has ended, or now with --wait"
        )
    return "removed" if existing else "absent"


def _delete(
    service: Service, resting: Sequence[Schedule], wait: bool, say: Callable[[str], None]
) -> list[str]:
    """Delete paused schedules, except those with active runs; return the names of these runs."""
    reported: set[str] = set()
    left = resting
    while True:
        running = {old.key: service.runs_in_progress(old) for old in left}
        for old in left:
            if not running[old.key]:
                service.delete_schedule(old)
        left = [old for old in left if running[old.key]]
        going_on = sorted(name for names in running.values() for name in names)
        if not going_on or not wait:
            return going_on
        for name in [name for name in going_on if name not in reported]:
            say(f"waiting for run {name} to end; removing its schedule now would cut it off")
        reported.update(going_on)
        time.sleep(POLL_SECONDS)
