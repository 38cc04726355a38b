"""Reasons for failures in the output of steps."""

from backends.local import step_error


def test_the_log_of_the_executor_after_an_error_is_no_part_of_it() -> None:
    lines = [
        "Traceback (most recent call last):",
        "ValueError: label column 'price' is not in the table",
        "  use another one",
        "[KFP Executor 2026-11-29 01:24:09,842 INFO]: Looking for component `refuse`",
        "{",
        '  "inputs": {}',
        "}",
    ]
    assert step_error.error_in(lines) == "label column 'price' is not in the table use another one"
    assert step_error.error_in(lines[3:]) == ""
