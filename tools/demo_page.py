"""What happens in the demonstration of monitoring, and the page that tells it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowparts import reports

# Seconds of answers that a point of a line stands for.
_SPAN = 5.0


@dataclass(frozen=True)
class Answer:
    """What a customer got.

    Attributes:
        seconds: When, since the demonstration began.
        revision: Which revision answered; empty if none did.
        right: Rows that were predicted right.
        rows: Rows that were sent.
    """

    seconds: float
    revision: str
    right: int
    rows: int


@dataclass
class Story:
    """What happened.

    Attributes:
        started: When the demonstration began, by time.monotonic.
        events: Seconds since then, and what happened.
        accuracy: Of each window, on labels that arrived later.
        drift: Of each window, the share of rows that moved by column.
        answers: What customers got while the new model was trained and rolled out.
        revision: The revision that serves in the end.
        pages: Pages of what ran, by title; addresses as the page reaches them.
    """

    started: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str]] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    drift: list[dict[str, float]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    revision: str = ""
    pages: dict[str, str] = field(default_factory=dict)

    def seconds(self) -> float:
        """Return how long the demonstration has been going on."""
        return time.monotonic() - self.started

    def tell(self, what: str) -> None:
        """Note and print an event."""
        self.events.append((self.seconds(), what))
        print(f"{self.events[-1][0]:6.1f} s  {what}", flush=True)  # noqa: T201

    @property
    def lost(self) -> int:
        """Requests of customers without an answer."""
        return sum(not each.revision for each in self.answers)


def page(story: Story, drifts_at: int) -> str:
    """Return the page that tells the story.

    Args:
        story: What happened.
        drifts_at: The first window that differs, from 0.
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
            reports.section("Drift by window", reports.lines(drift, "window", "share of rows that moved")),
            reports.section(
                "Accuracy by window",
                reports.lines({"accuracy": (numbers, story.accuracy)}, "window", "accuracy"),
            ),
            reports.section(
                "Canary", reports.lines(_shares(story), "seconds", "share of the answers by the new model")
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
    """Return the answers by spans of time, each with its middle."""
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
