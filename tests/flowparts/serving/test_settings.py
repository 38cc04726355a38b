import re

import pytest

from flowparts.serving import server_settings


def test_options_come_from_the_command_line_then_the_environment_then_the_platform() -> None:
    environment = {
        "FLOWPARTS_SERVING_MODEL": "/env", "FLOWPARTS_SERVING_PORT": "1",
        "FLOWPARTS_SERVING_LOG_REQUESTS": "true", "AIP_HTTP_PORT": "2", "AIP_STORAGE_URI": "gs://x",
        "AIP_HEALTH_ROUTE": "/h",
    }  # fmt: skip
    given = server_settings.parse(["--port=3"], environment)
    assert (given.model, given.port, given.health_route, given.log_requests) == ("/env", 3, "/h", True)
    assert server_settings.parse([], environment).port == 1
    del environment["FLOWPARTS_SERVING_PORT"]
    assert server_settings.parse([], environment).port == 2
    assert server_settings.parse(["--model=m", "--log-requests"], {}).log_requests


def test_only_this_machine_reaches_a_server_by_default() -> None:
    assert server_settings.parse(["--model=m"], {}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model to serve: give --model DIRECTORY_OR_URI"),
        (["--model=m", "--port=x"], "--port must be a whole number, not 'x'"),
        (["--model=m", "--port=70000"], "--port must be between 0 and 65535, not 70000"),
        (["--model=m", "--workers=0"], "--workers must be at least 1, not 0"),
        (["--model=m", "--timeout-seconds=nan"], "--timeout-seconds must be more than 0, not nan"),
        (["--model=m", "--drain-seconds=-1"], "--drain-seconds must be 0 or more, not -1"),
        (
            ["--model=m", "--prediction-log-fraction=2"],
            "--prediction-log-fraction must be between 0 and 1, not 2",
        ),
        (
            ["--model=m", "--unknown-fields=maybe"],
            "--unknown-fields must be one of ignore, reject, not 'maybe'",
        ),
        (["--model=m", "--name=a/b"], "--name must be usable in a URL"),
        (["--model=m", "--predict-route=x"], "--predict-route must start with /, not 'x'"),
        (["--model=m", "--log-requests=perhaps"], "--log-requests must be true or false, not 'perhaps'"),
    ],
)
def test_wrong_options_give_a_one_line_error(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        server_settings.parse(arguments, {})
