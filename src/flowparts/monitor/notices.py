"""Notices about a run or a deployed model, in the format of each channel."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any

from flowparts.util.masking import masked

STATES = (
    "succeeded",
    "failed",
    "cancelled",
    "waiting",
    "drifted",
    "degraded",
    "stalled",
    "recovered",
    "promoted",
    "info",
)
_MAX_CHARACTERS = 600
_TEAMS_CARD = "application/vnd.microsoft.card.adaptive"
_COLOURS = {"succeeded": "Good", "recovered": "Good", "promoted": "Good", "info": "Default"}


@dataclass(frozen=True)
class Notice:
    """A notice; every text is one line of at most 600 characters, without credentials.

    Attributes:
        state: What happened in a word, such as failed, waiting or drifted.
        pipeline: The pipeline, or the model that is watched.
        run: The run's name.
        step: The step that failed or waits.
        error: Its one-line error.
        message: Anything else to say.
        link: Address of the run's page or of a report.
    """

    state: str
    pipeline: str
    run: str = ""
    step: str = ""
    error: str = ""
    message: str = ""
    link: str = ""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            object.__setattr__(self, name, _line(str(value)))

    @property
    def title(self) -> str:
        """Such as "tabular-training failed at train-tabular"."""
        at = {"failed": " at ", "waiting": " at "}.get(self.state, ": ")
        return f"{self.pipeline or 'flowparts'} {self.state}{f'{at}{self.step}' if self.step else ''}"

    @property
    def lines(self) -> list[str]:
        """The lines below the title, without the link."""
        return [line for line in (self.error, self.message, f"run {self.run}" if self.run else "") if line]

    @property
    def digest(self) -> str:
        """A digest that is the same for the same news from any run."""
        said = json.dumps([self.state, self.pipeline, self.step, self.error, self.message])
        # Times and counts differ each time, in various formats: 0.98, 1, 1,234, 1e-05.
        said = re.sub(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", "0", said)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def digest_about(self, about: str) -> str:
        """Return a digest that also depends on the subject, such as the newest row of a log."""
        return hashlib.sha256(f"{self.digest} {about}".encode()).hexdigest()[:16]


def generic(notice: Notice) -> dict[str, Any]:
    """Return a notice for a generic webhook: the fields by name, the title, the digest."""
    return {**asdict(notice), "title": notice.title, "digest": notice.digest}


def slack(notice: Notice) -> dict[str, Any]:
    """Return a notice for a Slack incoming webhook."""
    title, *lines = (_escaped(line) for line in (notice.title, *notice.lines))
    text = "\n".join([f"*{title}*", *lines, *([f"<{_escaped(notice.link)}>"] if notice.link else [])])
    section = {"type": "section", "text": {"type": "mrkdwn", "text": text}}
    return {"text": title, "blocks": [section]}


def teams(notice: Notice) -> dict[str, Any]:
    """Return a notice for a Microsoft Teams workflow that posts cards to a channel."""
    colour = _COLOURS.get(notice.state, "Attention")
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            _block(notice.title, weight="Bolder", size="Medium", color=colour),
            *map(_block, notice.lines),
        ],
    }
    if notice.link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open", "url": notice.link}]
    return {
        "type": "message",
        "attachments": [{"contentType": _TEAMS_CARD, "contentUrl": None, "content": card}],
    }


def email(notice: Notice, sender: str, recipients: list[str]) -> EmailMessage:
    """Return a notice as a plain-text message."""
    message = EmailMessage()
    message["Subject"] = notice.title[:200]
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    # Most mail programs show two messages with one id once.
    message["Message-ID"] = (
        f"<{notice.digest}.{hashlib.sha256(notice.run.encode()).hexdigest()[:12]}@flowparts>"
    )
    lines = [*notice.lines, *(["", notice.link] if notice.link else [])]
    message.set_content("\n".join([notice.title, "", *lines]) + "\n")
    return message


def _block(text: str, **style: str) -> dict[str, Any]:
    # Cards interpret Markdown.
    return {"type": "TextBlock", "text": re.sub(r"([\\`*_\[\]#|~])", r"\\\1", text), "wrap": True, **style}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(text: str) -> str:
    line = " ".join(str(masked(text)).split())
    line = "".join(character for character in line if character.isprintable())
    return line if len(line) <= _MAX_CHARACTERS else line[: _MAX_CHARACTERS - 3] + "..."
