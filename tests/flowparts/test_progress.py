import logging
import time

import pytest

from flowparts import progress


def test_line_tells_share_rate_and_time_left() -> None:
    assert progress.line("reading a.csv", 120, 480, "MB", 2.0) == (
        "reading a.csv: 120 of 480 MB (25 %), 60 MB/s, 6 s left"
    )
    assert progress.line("reading a.csv", 0, 480, "MB", 2.0).endswith("0 MB/s, time left unknown")


def test_long_work_is_reported_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    with caplog.at_level(logging.INFO, "flowparts"), progress.reported("work", lambda: 5, 10, "rows"):
        time.sleep(0.1)
    said = len(caplog.messages)
    assert said >= 1
    assert caplog.messages[0].startswith("work: 5 of 10 rows (50 %), ")
    time.sleep(0.06)
    assert len(caplog.messages) == said


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "flowparts"), progress.reported("work", lambda: 1, 1, "rows"):
        pass
    assert not caplog.messages
