import re
from fractions import Fraction

import pytest

from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.targets import _splitter
from flowparts.deploy.targets._splitter import State


def state(percent: int, servers: int, previous_servers: int) -> State:
    traffic = {"r2": percent, "r1": 100 - percent}
    endpoint = Endpoint("docker", "churn", "http://127.0.0.1:8080", "r2", traffic, "r1")
    names = {"r2": servers, "r1": previous_servers}
    return State(
        endpoint,
        {revision: [f"{revision}-{number}" for number in range(count)] for revision, count in names.items()},
        "sha256:1",
    )


def shares(configuration: str) -> dict[str, Fraction]:
    """Return the share of the requests that the weights give to each revision."""
    found = re.findall(r"server (r\d):\d+ \S+ weight (\d+)", configuration)
    total = sum(int(weight) for _, weight in found)
    return {
        revision: Fraction(sum(int(weight) for name, weight in found if name == revision), total)
        for revision in {name for name, _ in found}
    }


@pytest.mark.parametrize("percent", [0, 1, 10, 33, 50, 99, 100])
@pytest.mark.parametrize(("servers", "previous_servers"), [(1, 1), (1, 2), (2, 1)])
def test_weights_equal_the_traffic_for_any_number_of_servers(
    percent: int, servers: int, previous_servers: int
) -> None:
    found = shares(_splitter.configuration(state(percent, servers, previous_servers)))
    assert found == {"r2": Fraction(percent, 100), "r1": Fraction(100 - percent, 100)}


def test_with_many_servers_the_shares_are_near_and_none_is_lost() -> None:
    text = _splitter.configuration(state(1, 3, 8))
    assert max(int(weight) for weight in re.findall(r"weight (\d+)", text)) <= 256
    assert 0 < shares(text)["r2"] < Fraction(2, 100)


def test_the_state_is_read_back_from_the_configuration() -> None:
    given = state(10, 2, 1)
    assert _splitter.state_of(_splitter.configuration(given)) == given
