import json
from pathlib import Path
from typing import Any

import pytest

from flowparts.monitor import measurements
from flowparts.monitor.measurements import Measurement

PSI = Measurement("flowparts_drift_psi", 0.25, {"column": "größe, cm"}, "Population stability index.")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = [PSI, Measurement("flowparts_drift_psi", 1, {"column": "age"}), Measurement("rows", 0)]
    measurements.write(str(tmp_path / "measurements"), written)
    assert measurements.read(str(tmp_path / "measurements")) == written


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "drift psi"}, "'drift psi' isn't a valid name"),
        ({"name": "job:rate"}, "isn't a valid name"),
        ({"name": "__name__"}, "isn't a valid name"),
        ({"name": "x" * 101}, "at most 100"),
        ({"value": float("nan")}, "measurement rows must be a finite number, not nan"),
        ({"value": float("inf")}, "must be a finite number, not inf"),
        ({"labels": {"instance": "a"}}, "label 'instance' of measurement rows isn't valid"),
        ({"labels": {"a-b": "a"}}, "label 'a-b' of measurement rows isn't valid"),
        ({"labels": {f"l{n}": "" for n in range(11)}}, "has 11 labels; at most 10"),
    ],
)
def test_values_that_no_metrics_server_accepts_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Measurement(**{"name": "rows", "value": 1, **values})


def test_long_label_values_are_shortened_and_stay_different() -> None:
    one, other = (Measurement("rows", 1, {"column": "x" * 500 + end}) for end in "ab")
    assert len(one.labels["column"]) == measurements.MAX_LABEL_CHARACTERS
    assert one.labels != other.labels


def test_the_same_series_twice_and_too_many_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "measurements"
    with pytest.raises(ValueError, match="flowparts_drift_psi occurs twice with labels"):
        measurements.write(str(file), [PSI, PSI])
    many = [Measurement("rows", 1, {"n": str(n)}) for n in range(10_001)]
    with pytest.raises(ValueError, match="10,001 measurements; at most 10,000 are allowed"):
        measurements.write(str(file), many)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"rows": 5}, "holds no measurements, but another kind of JSON"),
        ([1], "holds no measurements"),
        ({"measurements": [{"name": "a"}]}, "without a name, a number and labels of text"),
        ({"measurements": [{"name": "a", "value": True}]}, "without a name, a number"),
        ({"measurements": [{"name": "a", "value": 1, "labels": {"b": 1}}]}, "labels of text"),
        ({"measurements": ["a"]}, "without a name"),
        ({"measurements": [{"name": "a", "value": 1}] * 2}, "measurement a occurs twice"),
    ],
)
def test_another_file_is_refused_in_one_line(content: Any, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence) as caught:
        measurements.read(str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the file of measurements is missing"):
        measurements.read(str(tmp_path / "none"))
