from flowparts.monitor import over_time
from flowparts.monitor.over_time import Point


def test_windows_without_a_value_are_bridged_and_further_lines_keep_their_windows() -> None:
    points = [Point("monday", 0.9, 0.8, 0.95), Point("tuesday"), Point("wednesday", 0.7, 0.6, 0.75)]
    measured = {"wednesday": 0.65, "last year": 0.1}
    drawn = str(over_time.chart("auc", "estimate", points, "95%", 0.88, {"measured": measured}, "; it fell"))
    assert "estimate: 1, 0.9" in drawn
    assert "estimate: 3, 0.7" in drawn
    assert "measured: 3, 0.65" in drawn
    assert "0.1<" not in drawn
    assert "reference: 3, 0.88" in drawn
    assert "<p>from monday to wednesday; it fell</p>" in drawn


def test_an_unknown_number_is_said_to_be_unknown() -> None:
    assert [over_time.number(value) for value in (None, 0.5)] == ["unknown", "0.5"]
