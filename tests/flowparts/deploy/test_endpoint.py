import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowparts.deploy import endpoint
from flowparts.deploy.endpoint import Endpoint

CANARY = Endpoint(
    target="docker",
    name="churn",
    url="http://127.0.0.1:8080",
    revision="r2",
    traffic={"r1": 90, "r2": 10},
    previous_revision="r1",
    settings={"port": 8080},
)
ALONE = Endpoint("docker", "churn", "http://127.0.0.1:8080", "r1", {"r1": 100})


@pytest.mark.parametrize("given", [CANARY, ALONE], ids=["two revisions", "one revision"])
def test_what_is_read_is_what_was_written(given: Endpoint, tmp_path: Path) -> None:
    endpoint.write(given, tmp_path / "endpoint")
    assert endpoint.read(tmp_path / "endpoint") == given


def test_the_file_has_fractions(tmp_path: Path) -> None:
    endpoint.write(CANARY, tmp_path / "endpoint")
    written = json.loads((tmp_path / "endpoint").read_text())
    assert written["traffic"] == {"r1": 0.9, "r2": 0.1}
    for percent in range(101):
        tried = replace(CANARY, traffic={"r1": 100 - percent, "r2": percent})
        endpoint.write(tried, tmp_path / "endpoint")
        assert endpoint.read(tmp_path / "endpoint") == tried


def test_traffic_follows_the_current_revision() -> None:
    assert CANARY.percent == 10
    assert CANARY.with_percent(50).traffic == {"r2": 50, "r1": 50}
    promoted = CANARY.with_percent(100)
    assert promoted.traffic == {"r2": 100, "r1": 0}
    back = promoted.rolled_back()
    assert (back.revision, back.previous_revision, back.traffic) == ("r1", None, {"r1": 100})


def test_without_a_previous_revision_nothing_can_be_shared_or_rolled_back() -> None:
    assert ALONE.with_percent(100) == ALONE
    with pytest.raises(ValueError, match="no previous revision to take the other 60 %"):
        ALONE.with_percent(40)
    with pytest.raises(ValueError, match="no previous revision to roll back to; it keeps serving r1"):
        ALONE.rolled_back()


@pytest.mark.parametrize("percent", [-1, 101, 12.5, True])
def test_a_revision_gets_a_whole_percentage(percent: Any) -> None:
    with pytest.raises(ValueError, match="whole number from 0 to 100"):
        CANARY.with_percent(percent)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "not empty"),
    "target with a dash": ({"target": "../docker"}, "not the name of a module"),
    "url without a scheme": ({"url": "127.0.0.1:80"}, "http://"),
    "url with a user": ({"url": "http://me:pw@host"}, "names a user"),
    "too much traffic": ({"traffic": {"r1": 90, "r2": 20}}, "add up to 100"),
    "negative traffic": ({"traffic": {"r1": 110, "r2": -10}}, "from 0 to 1"),
    "traffic in halves": ({"traffic": {"r1": 87.5, "r2": 12.5}}, "whole percent"),
    "unknown revision": ({"traffic": {"r1": 90, "r3": 10}}, "must name r1, r2"),
    "twice the same": ({"previous_revision": "r2", "traffic": {"r2": 100}}, "both 'r2'"),
    "a secret": ({"settings": {"api_token": "x"}}, "looks like a secret"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_not_an_endpoint_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(CANARY, **change)
    if "traffic" in change:
        fractions = {revision: percent / 100 for revision, percent in change["traffic"].items()}
        change = {**change, "traffic": fractions}
    with pytest.raises(ValueError, match=words) as raised:
        endpoint.read(changed(tmp_path / "endpoint", change))
    assert str(tmp_path / "endpoint") in str(raised.value)


WRONG_TRAFFIC = {
    "percent": ({"r1": 90, "r2": 10}, "traffic_fraction must be from 0 to 1, such as 0.1 for 10 %, not 90"),
    "too fine": ({"r1": 0.875, "r2": 0.125}, "in steps of 0.01, not 0.875"),
    "a list": ([0.9, 0.1], "an object of revisions and fractions"),
    "text": ({"r1": "0.9", "r2": 0.1}, "not '0.9'"),
}


@pytest.mark.parametrize(("traffic", "words"), WRONG_TRAFFIC.values(), ids=WRONG_TRAFFIC)
def test_a_file_without_fractions_is_refused(traffic: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        endpoint.read(changed(tmp_path / "endpoint", {"traffic": traffic}))


def changed(file: Path, change: dict[str, Any]) -> Path:
    endpoint.write(CANARY, file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return file


@pytest.mark.parametrize("text", ["[]", "{}", '{"target": "docker"}', "null"])
def test_other_json_is_no_endpoint(text: str, tmp_path: Path) -> None:
    (tmp_path / "endpoint").write_text(text)
    with pytest.raises(ValueError, match="must be a JSON object with the keys name, previous_revision"):
        endpoint.read(tmp_path / "endpoint")


STATES = {
    "a second revision takes its share from the first": (
        ALONE,
        "r2",
        ("r2", "r1", {"r2": 20, "r1": 80}),
    ),
    "the revision that is being tried gets the new share": (CANARY, "r2", ("r2", "r1", {"r2": 20, "r1": 80})),
    "a third revision takes the place of one that is being tried": (
        CANARY,
        "r3",
        ("r3", "r1", {"r3": 20, "r1": 80}),
    ),
    "the one that serves most ends a trial beside it": (CANARY, "r1", ("r1", None, {"r1": 100})),
    "a promoted revision keeps what it has": (
        CANARY.with_percent(100),
        "r2",
        ("r2", "r1", {"r2": 100, "r1": 0}),
    ),
    "the only revision keeps what it has": (ALONE, "r1", ("r1", None, {"r1": 100})),
    "an earlier revision is tried like a new one": (
        CANARY.with_percent(100),
        "r1",
        ("r1", "r2", {"r1": 20, "r2": 80}),
    ),
}


@pytest.mark.parametrize(("before", "revision", "expected"), STATES.values(), ids=STATES)
def test_deploying_sets_the_revisions_and_their_traffic(
    before: Endpoint, revision: str, expected: Any
) -> None:
    after = before.deploying(revision, 20)
    assert (after.revision, after.previous_revision, after.traffic) == expected
    assert after.deploying(revision, 20) == after
