"""The events of the monitoring demonstration, and the page about them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowparts import reports

# Seconds of answers per point of a line.
_SPAN = 5.0


@dataclass(frozen=True)
class Answer:
    """The answer to a customer's request.

    Attributes:
        seconds: Time since the start of the demonstration.
        revision: The revision that answered; empty if none did.
        right: Number of correctly predicted rows.
        rows: Number of rows sent.
    """

    seconds: float
    revision: str
    right: int
    rows: int


@dataclass
class Story:
    """The course of the demonstration.

    Attributes:
        started: Start of the demonstration, by time.monotonic.
        events: Seconds since then, and the event.
        accuracy: Accuracy of each window, on labels that arrived later.
        drift: For each window, the fraction of rows that moved, by column.
        answers: Answers to customers while the new model was trained and rolled out.
        revision: The final revision.
        pages: Reports by title, with links relative to the page.
    """

    started: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str]] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    drift: list[dict[str, float]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    revision: str = ""
    pages: dict[str, str] = field(default_factory=dict)

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def tell(self, what: str) -> None:
        """Record and print an event."""
        self.events.append((self.seconds(), what))
        print(f"{self.events[-1][0]:6.1f} s  {what}", flush=True)  # noqa: T201

    @property
    def lost(self) -> int:
        """Number of customers' requests without an answer."""
        return sum(not each.revision for each in self.answers)


def page(story: Story, drifts_at: int) -> str:
    """Return the page about the demonstration.

    Args:
        story: What happened.
        drifts_at: Index of the first drifted window, from 0.
    """
    numbers = [float(number) for number in range(1, len(story.accuracy) + 1)]
    columns = [name for name in story.drift[0] if all(name in each for each in story.drift)]
    drift = {name: (numbers, [each[name] for each in story.drift]) for name in columns}
    events = [{"seconds": round(at, 1), "event": what} for at, what in story.events]
    links = [
        {"page": reports.Block('<a href="{}">{}</a>').format(address, title)}
        for title, address in story.pages.items()
    ]
    return reports.page(
        "A model drifts and is replaced",
        reports.callout(
            f"Requests changed in window {drifts_at + 1}. An alert fired and started the training pipeline; "
            "its model passed the gate and took over step by step. Accuracy went from "
            f"{story.accuracy[drifts_at]:.2f} to {story.accuracy[-1]:.2f}.",
            "good",
        ),
        reports.facts(
            {
                "Accuracy before": round(story.accuracy[0], 3),
                "While drifted": round(story.accuracy[drifts_at], 3),
                "New model": round(story.accuracy[-1], 3),
                "Requests lost": f"{story.lost} of {len(story.answers)}",
                "Duration": f"{story.events[-1][0]:.0f} s",
            }
        ),
        reports.grid(
            reports.section("Drift by window", reports.lines(drift, "window", "fraction of rows that moved")),
            reports.section(
                "Accuracy by window",
                reports.lines({"accuracy": (numbers, story.accuracy)}, "window", "accuracy"),
            ),
            reports.section(
                "Canary", reports.lines(_shares(story), "seconds", "fraction of answers by the new model")
            ),
            reports.section(
                "Accuracy while it rolls out", reports.lines(_accuracy(story), "seconds", "accuracy")
            ),
        ),
        reports.section("What happened", reports.table(events)),
        reports.section("What ran", reports.table(links)),
        subtitle=f"{len(story.accuracy)} windows of requests to one endpoint on Docker; Prometheus, "
        "Alertmanager and the pipelines are the real ones",
    )


def _spans(story: Story) -> list[tuple[float, Sequence[Answer]]]:
    """Return the answers grouped by time, each group with its midpoint."""
    spans: dict[int, list[Answer]] = {}
    for each in story.answers:
        spans.setdefault(int(each.seconds // _SPAN), []).append(each)
    return [((number + 0.5) * _SPAN, part) for number, part in sorted(spans.items())]


def _shares(story: Story) -> dict[str, tuple[list[float], list[float]]]:
    spans = _spans(story)
    times = [middle for middle, _ in spans]
    return {
        "new model": (
            times,
            [sum(each.revision == story.revision for each in part) / len(part) for _, part in spans],
        )
    }


def _accuracy(story: Story) -> dict[str, tuple[list[float], list[float]]]:
    spans = _spans(story)
    right = [sum(each.right for each in part) / sum(each.rows for each in part) for _, part in spans]
    return {"all answers": ([middle for middle, _ in spans], right)}
