from pathlib import Path
from typing import Any

import pytest

from flowparts.deploy import log_options, operations

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no directory": ({"days": 3}, "directory of the option 'prediction_log' must be an absolute path"),
    "a relative directory": ({"directory": "log"}, "an absolute path on the machine that serves, not 'log'"),
    "an unknown name": ({"directory": "/log", "day": 3}, "unknown name in the option 'prediction_log' 'day'"),
    "a value out of range": ({"directory": "/log", "fraction": 2}, "must be between 0 and 1, not 2"),
    "a value of another type": ({"directory": "/log", "rows": "many"}, "must be a whole number, not 'many'"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_log_is_refused_before_anything_is_deployed(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        operations.deployed("docker", "/no/model", "churn", 1.0, {"prediction_log": given})


def test_the_server_gets_its_options_and_the_key_of_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_SERVING_PREDICTION_LOG_SECRET", "key")
    assert log_options.variables({"directory": "/log", "mask": "email", "seconds": 2}, "/mnt/log") == {
        "FLOWPARTS_SERVING_PREDICTION_LOG": "/mnt/log",
        "FLOWPARTS_SERVING_PREDICTION_LOG_MASK": "email",
        "FLOWPARTS_SERVING_PREDICTION_LOG_SECONDS": "2",
        "FLOWPARTS_SERVING_PREDICTION_LOG_SECRET": "key",
    }
    assert log_options.variables({}, "/mnt/log") == {}


def test_values_are_accepted_as_pipelines_pass_them() -> None:
    given = {
        "directory": "/log",
        "keys": ["order_id", "user"],
        "days": 30.0,
        "fraction": 0.5,
        "seconds": 10.0,
    }
    log_options.check(given)
    found = log_options.variables(given, "/mnt/log")
    assert {name.removeprefix("FLOWPARTS_SERVING_PREDICTION_LOG_"): text for name, text in found.items()} == {
        "FLOWPARTS_SERVING_PREDICTION_LOG": "/mnt/log",
        "KEYS": "order_id,user",
        "DAYS": "30",
        "FRACTION": "0.5",
        "SECONDS": "10",
    }


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"the prediction log can't be at .*: Not a directory"):
        log_options.writer_of({"directory": str(tmp_path / "file" / "log")}, 65532)
