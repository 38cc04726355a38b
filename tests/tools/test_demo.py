from pathlib import Path

import pytest

from flowparts.monitor import drift
from flowparts.tables import summary
from tools import demo


def test_the_requests_change_half_way_and_not_before() -> None:
    before = summary.summarise(demo.customers(4_000, 1, False).drop("churned").lazy())

    def flagged(number: int) -> list[str]:
        rows = demo.customers(demo.ROWS, 100 + number, number >= demo.DRIFTS_AT).drop("churned")
        return sorted(
            each.name for each in drift.compare(before, summary.summarise(rows.lazy())) if each.drifted
        )

    found = [flagged(number) for number in range(demo.WINDOWS)]
    assert found == [[]] * demo.DRIFTS_AT + [["age", "income", "plan"]] * (demo.WINDOWS - demo.DRIFTS_AT)


def test_the_page_tells_the_story() -> None:
    story = demo.Story(
        events=[(1.0, "trained"), (9.5, "the webhook got FlowpartsDrift")],
        accuracy=[0.9] * 3 + [0.4] * 3 + [0.91],
        drift=[{"age": 0.01}] * 3 + [{"age": 0.5}] * 3 + [{"age": 0.02}],
        shares=[(10, 0.11, 0), (100, 1.0, 0)],
    )
    text = demo.page(story)
    assert "accuracy went from 0.40 to 0.91" in text
    assert "the webhook got FlowpartsDrift" in text
    assert text.count("<svg") == 2


def test_a_missing_program_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ValueError, match="prometheus-pushgateway is missing; `make system` installs it"),
        demo.monitored(tmp_path, [1, 2], 19_990),
    ):
        pass
