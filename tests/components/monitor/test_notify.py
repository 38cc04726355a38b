import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from flowparts.components.monitor.notify import notify
from flowparts.util import outgoing
from tests.mail_server import MailServer, certificate
from tests.stand_in import Answer, Request, StandIn, Trouble

FAILED = {
    "state": "failed",
    "pipeline": "tabular-training",
    "run": "nightly-7",
    "step": "train-tabular",
    "error": "ValueError: label column 'price' is not in <the table>",
    "link": "https://kubeflow.example/#/runs/details/1",
}


@dsl.pipeline
def example() -> None:
    """Notify nobody, as no channel is set."""
    notify(state="info", pipeline="example", message="all is well")


class Hook(StandIn):
    routes = (("POST", "/hook/T0K3N", "take"),)

    def take(self, request: Request) -> Answer:
        return Answer("ok", content_type="text/plain")

    @property
    def taken(self) -> list[Any]:
        return [request.json for request in self.requests]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PAUSES_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(outgoing, "TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.close()


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def mail(request: pytest.FixtureRequest, pem: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    server = MailServer(pem, *getattr(request, "param", (True,)))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("FLOWPARTS_NOTIFY_SMTP", server.address)
    monkeypatch.setenv("FLOWPARTS_NOTIFY_FROM", "flowparts@example.com")
    monkeypatch.setenv("FLOWPARTS_NOTIFY_TO", "a@example.com, b@example.com")
    yield server
    server.close()


def sent(**given: Any) -> int:
    return int(notify.python_func(**{**FAILED, **given})[0])


def test_a_webhook_gets_every_field_and_the_token(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK_TOKEN", "s3cret")
    assert sent() == 1
    (message,) = hook.taken
    assert {key: message[key] for key in FAILED} == FAILED
    assert message["title"] == "tabular-training failed at train-tabular"
    assert hook.requests[0].headers["authorization"] == "Bearer s3cret"


def test_a_notice_that_a_verdict_does_not_ask_for_is_not_sent(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    assert sent(when=False) == 0
    assert hook.taken == []


def test_slack_and_teams_get_their_own_forms(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_SLACK", f"{hook.url}/hook/T0K3N")
    monkeypatch.setenv("FLOWPARTS_NOTIFY_TEAMS", f"{hook.url}/hook/T0K3N")
    assert sent() == 2
    slack, teams = hook.taken
    text = slack["blocks"][0]["text"]["text"]
    assert "&lt;the table&gt;" in text
    assert f"<{FAILED['link']}>" in text
    card = teams["attachments"][0]["content"]
    assert card["body"][1]["text"] == FAILED["error"]
    assert card["actions"][0]["url"] == FAILED["link"]


@pytest.mark.parametrize("mail", [(True,), (False,)], ids=["smtps", "starttls"], indirect=True)
def test_mail_goes_over_tls_with_a_log_in(mail: MailServer) -> None:
    assert sent(error="größe fehlt\nSubject: spam") == 1
    (message,) = mail.messages
    assert message["subject"] == "tabular-training failed at train-tabular"
    assert message["to"] == "a@example.com, b@example.com"
    text = message.get_payload(decode=True).decode()
    assert "größe fehlt Subject: spam" in text
    assert FAILED["link"] in text
    assert base64.b64decode(mail.log_ins[0]) == b"\0user\0pass@word"
    assert set(mail.before_tls) <= {"EHLO", "STARTTLS"}


@pytest.mark.parametrize("mail", [(False, False)], ids=["no TLS"], indirect=True)
def test_without_tls_nothing_is_sent(mail: MailServer, capsys: pytest.CaptureFixture) -> None:
    assert sent() == 0
    assert (
        "not notified by FLOWPARTS_NOTIFY_SMTP: can't send mail through 127.0.0.1" in capsys.readouterr().err
    )
    assert mail.log_ins == mail.messages == []


def test_an_untrusted_certificate_is_refused(
    mail: MailServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert sent() == 0
    assert "certificate verify failed" in capsys.readouterr().err
    assert mail.log_ins == []


@pytest.mark.parametrize(
    ("replies", "count", "attempts", "said"),
    [
        (["451 later"] * 4, 1, 2, ""),  # one reply for each recipient; the third attempt is taken
        (["550 unknown"] * 4, 0, 1, "550 unknown"),
        (["never"], 0, 1, "can't send mail"),
    ],
)
def test_mail_is_retried_only_where_that_helps(
    replies: list[str],
    count: int,
    attempts: int,
    said: str,
    mail: MailServer,
    capsys: pytest.CaptureFixture,
) -> None:
    mail.replies = replies
    assert sent() == count
    assert len(mail.messages) == count
    assert len(mail.log_ins) == attempts + count
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "attempts"), [(500, 3), ("late", 1), ("lost", 3)])
def test_a_webhook_that_fails_or_never_answers_fails_nothing(
    kind: int | str,
    attempts: int,
    hook: Hook,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_SLACK", f"{hook.url}/hook/T0K3N")
    hook.troubles = [Trouble(kind, "POST", "/hook", times=9)]
    assert sent() == 0
    assert len(hook.requests) == attempts
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not notified by FLOWPARTS_NOTIFY_SLACK: can't reach Slack at http://127.0.0.1")
    assert "T0K3N" not in line


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "not notified: no channel for notices is set"),
        (
            {"WEBHOOK": "ops@example.com"},
            "FLOWPARTS_NOTIFY_WEBHOOK must be an address that starts with https",
        ),
        ({"SMTP": "mail.example.com"}, "FLOWPARTS_NOTIFY_SMTP must read smtps://USER:PASSWORD@HOST:465"),
        ({"SMTP": "smtps://mail"}, "FLOWPARTS_NOTIFY_FROM must be an e-mail address"),
        (
            {"SMTP": "smtps://mail", "FROM": "a@b"},
            "FLOWPARTS_NOTIFY_TO must be an e-mail address, or several",
        ),
    ],
)
def test_settings_that_make_no_sense_are_reported_and_fail_nothing(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FLOWPARTS_NOTIFY_{name}", value)
    assert sent() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_the_same_news_is_sent_once_within_the_quiet_hours(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    kept = {"notices_uri": str(tmp_path / "told.json")}
    drifted = {"state": "drifted", "step": "", "error": "", **kept}
    assert sent(**drifted, message="age: PSI 0.31 of 998 rows", run="1") == 1
    assert sent(**drifted, message="age: PSI 1 of 1,234 rows", run="2") == 0
    assert sent(**drifted, message="income: PSI 0.33", run="3") == 1
    assert sent(**drifted, message="age: PSI 0.31 of 998 rows", run="4", quiet_hours=0.0) == 1
    assert [message["run"] for message in hook.taken] == ["1", "3", "4"]


def test_the_same_news_about_the_same_thing_is_sent_once_however_long_ago(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    told = {"state": "stalled", "notices_uri": str(tmp_path / "told.json"), "quiet_hours": 0.0}
    assert sent(**told, about="until 09:00", run="1") == 1
    assert sent(**told, about="until 09:00", run="2") == 0
    assert sent(**told, about="until 17:00", run="3") == 1
    assert sent(**told, about="until 09:00", run="4") == 0
    assert sent(**told | {"quiet_hours": 24.0}, about="until 18:00", run="5") == 0
    assert [message["run"] for message in hook.taken] == ["1", "3"]


def test_of_two_concurrent_runs_one_sends_the_notice(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    monkeypatch.setattr(outgoing, "TIMEOUT_SECONDS", 30.0)
    drifted = {"state": "drifted", "step": "", "error": "", "notices_uri": str(tmp_path / "told.json")}
    other = threading.Thread(target=lambda: sent(**drifted, run="2"))

    def take(request: Request) -> Answer:
        if not other.ident:  # the first notice is being sent, and isn't recorded yet
            other.start()
            other.join(0.5)
        return Answer("ok", content_type="text/plain")

    monkeypatch.setattr(hook, "take", take)
    assert sent(**drifted, run="1") == 1
    other.join()
    assert [message["run"] for message in hook.taken] == ["1"]


def test_an_unwritable_file_is_reported_and_the_notice_sent(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    (tmp_path / "file").touch()
    assert sent(notices_uri=str(tmp_path / "file" / "told.json")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the file of sent notices is not used: can't write" in line


def test_unsent_notices_are_not_recorded(hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    hook.troubles = [Trouble(500, "POST", "/hook", times=3)]
    assert sent(notices_uri=str(tmp_path / "told.json")) == 0
    assert sent(notices_uri=str(tmp_path / "told.json")) == 1


def test_a_damaged_file_of_notices_is_reported_and_the_notice_is_sent(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    (tmp_path / "told.json").write_text(json.dumps(["other"]))
    assert sent(notices_uri=str(tmp_path / "told.json")) == 1
    assert "isn't a file of sent notices" in capsys.readouterr().err
    assert json.loads((tmp_path / "told.json").read_text()) == ["other"]


def test_texts_are_short_lines_without_credentials(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_NOTIFY_WEBHOOK", f"{hook.url}/hook/T0K3N")
    sent(error="can't read https://user:pass@host/x?token=abc\n" + "x" * 2_000)
    (message,) = hook.taken
    assert message["error"].startswith("can't read https://***@host/x?token=***")
    assert len(message["error"]) == 600
