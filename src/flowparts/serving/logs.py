"""Logging to standard error: JSON lines, or plain lines on a terminal."""

import json
import logging
import sys
import time
from typing import Any

log = logging.getLogger("flowparts.serving")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, message and the facts given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """Formats a record as a plain line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        prefix = "error: " if record.levelno >= logging.ERROR else ""
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{prefix}{record.getMessage()}" + (f"  {facts}" if facts else "") + trace


def configure() -> None:
    """Send the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def say(message: str, level: int = logging.INFO, **facts: Any) -> None:
    """Log a message with facts that become fields of its JSON object."""
    log.log(level, message, extra={"facts": facts})
