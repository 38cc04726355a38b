"""Live view of a run on the terminal, for local runs, Kubeflow and Vertex AI."""

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_MARKS = {
    "succeeded": ("✓", "green"),
    "cached": ("✓", "cyan"),
    "failed": ("✗", "red"),
    "running": ("…", "yellow"),
    "waiting": ("○", "yellow"),
    "skipped": ("-", "dim"),
    "cancelled": ("✗", "yellow"),
    "unknown": ("?", "dim"),
}
# Shown instead of a duration in these states.
_WORDS = {
    "running": "",
    "skipped": "not run",
    "waiting": "waiting",
    "unknown": "not reported by the service",
}


class Task(Protocol):
    """A displayed task."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def elapsed_seconds(self) -> float: ...  # noqa: D102
    @property
    def last_line(self) -> str: ...  # noqa: D102
    @property
    def error(self) -> str: ...  # noqa: D102


class Run(Protocol):
    """A displayed run."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def tasks(self) -> Sequence[Task]: ...  # noqa: D102


class LiveView:
    """Shows the tasks of a run: redrawn in place on a terminal, one line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run: Run | None = None
        self._shown: set[tuple[str, str, str]] = set()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "LiveView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            if self._run:
                for task in self._run.tasks:
                    self._console.print(line(task), soft_wrap=True)

    def update(self, record: Run) -> None:
        """Handle a change of the run."""
        self._run = record
        if self._console.is_terminal:
            return
        for task in list(record.tasks):
            change = (task.name, task.state, task.last_line if task.state == "waiting" else "")
            if change not in self._shown:
                self._shown.add(change)
                self._console.print(line(task), soft_wrap=True)
                if task.state == "failed":
                    self._console.print(Text(f"  {task.error}"), soft_wrap=True)

    def _render(self) -> RenderableType:
        if not self._run:
            return Spinner("dots", "starting")
        table = Table.grid(padding=(0, 1))
        for task in list(self._run.tasks):
            mark, colour = _MARKS[task.state]
            table.add_row(
                Spinner("dots") if task.state == "running" else Text(mark, colour),
                Text(task.name),
                Text(f"{task.elapsed_seconds:6.1f} s", "dim"),
                Text(self._beside(task), "red" if task.state == "failed" else "dim"),
            )
        done = sum(task.state not in ("running", "waiting") for task in self._run.tasks)
        return Group(Text(f"{self._run.name}: {done} tasks done", "bold"), table)

    def _beside(self, task: Task) -> str:
        """Return the text beside a task of an active run."""
        if task.state == "running":
            return task.last_line[: max(20, self._console.width - 60)]
        if task.state == "failed":
            return task.error
        return ": ".join(filter(None, (_WORDS.get(task.state, ""), task.last_line)))


def line(task: Task) -> Text:
    """Return the line of a task: mark, name and duration."""
    mark, colour = _MARKS[task.state]
    after = _WORDS.get(task.state, f"{task.seconds:6.1f} s")
    after += "  (from the cache)" if task.state == "cached" else ""
    after += f": {task.last_line}" if task.state == "waiting" and task.last_line else ""
    return Text.assemble((mark, colour), f" {task.name:<40} ", (after, "dim"))
