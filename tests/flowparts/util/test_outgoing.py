import pytest

from flowparts.util import outgoing
from tests.stand_in import Answer, Request, StandIn, Trouble


class Hook(StandIn):
    routes = (("POST", "/secret", "take"), ("POST", "/moved", "move"))

    def take(self, request: Request) -> Answer:
        return Answer("taken", content_type="text/plain")

    def move(self, request: Request) -> Answer:
        return Answer(status=302, headers={"Location": "/secret"})


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outgoing, "PAUSES_SECONDS", (0.01, 0.01))
    server = Hook()
    yield server
    server.close()


def send(address: str, **options: bool) -> bytes:
    return outgoing.send("POST", address, b"text", {}, "the hook", **options)


def test_the_response_body_is_returned(hook: Hook) -> None:
    assert send(f"{hook.url}/secret") == b"taken"


def test_attempts_are_bounded_and_the_path_is_not_shown(hook: Hook) -> None:
    hook.troubles = [Trouble(500, "POST", "/secret", times=9)]
    with pytest.raises(ValueError, match=rf"^can't reach the hook at {hook.url}: status 500") as raised:
        send(f"{hook.url}/secret")
    assert "secret" not in str(raised.value)
    assert len(hook.requests) == 3


def test_a_redirect_is_not_followed(hook: Hook) -> None:
    with pytest.raises(ValueError, match="status 302"):
        send(f"{hook.url}/moved")
    assert len(hook.requests) == 1


@pytest.mark.parametrize(("repeatable", "attempts"), [(True, 3), (False, 1)])
def test_a_possibly_received_request_is_retried_only_if_repeatable(
    repeatable: bool, attempts: int, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "TIMEOUT_SECONDS", 0.2)
    hook.troubles = [Trouble("late", "POST", "/secret", times=9)]
    with pytest.raises(ValueError, match=r"no answer within 0\.2 s"):
        send(f"{hook.url}/secret", repeatable=repeatable)
    assert len(hook.requests) == attempts


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]"]
)
def test_no_request_reaches_cloud_metadata_servers(address: str) -> None:
    with pytest.raises(ValueError, match="clouds give out credentials"):
        send(address)
