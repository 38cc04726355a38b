"""Send notices by webhook, Slack, Microsoft Teams and e-mail; a channel that fails never fails its caller."""

import json
import math
import os
import smtplib
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

from flowparts.monitor import notices, sent_notices
from flowparts.monitor.notices import Notice
from flowparts.util import outgoing, state_files

# Each holds an address, which is itself a secret for Slack and Teams.
WEBHOOK = "FLOWPARTS_NOTIFY_WEBHOOK"
SLACK = "FLOWPARTS_NOTIFY_SLACK"
TEAMS = "FLOWPARTS_NOTIFY_TEAMS"
# smtps://USER:PASSWORD@HOST:465 (TLS from the start) or smtp://USER:PASSWORD@HOST:587 (STARTTLS, required).
SMTP = "FLOWPARTS_NOTIFY_SMTP"
FROM = "FLOWPARTS_NOTIFY_FROM"
TO = "FLOWPARTS_NOTIFY_TO"
# A bearer token for the generic webhook.
WEBHOOK_TOKEN = "FLOWPARTS_NOTIFY_WEBHOOK_TOKEN"  # noqa: S105 the variable's name
# A mail server asks for a later attempt with these (RFC 5321, 4.2.1).
_TRANSIENT_REPLIES = range(400, 500)

_FORMS: dict[str, tuple[str, Callable[[Notice], dict[str, Any]]]] = {
    WEBHOOK: ("the webhook", notices.generic),
    SLACK: ("Slack", notices.slack),
    TEAMS: ("Microsoft Teams", notices.teams),
}


def channels(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables of the channels that are set."""
    return [name for name in (*_FORMS, SMTP) if environment.get(name)]


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ValueError if no channel is set, or one isn't set correctly."""
    chosen = channels(environment)
    if not chosen:
        raise ValueError(
            f"no channel for notices is set; set one of {', '.join((*_FORMS, SMTP))} from a secret"
        )
    for name in chosen:
        if name == SMTP:
            _smtp_settings(environment)
        elif urlsplit(environment[name]).scheme not in ("http", "https"):
            raise ValueError(f"{name} must be an address that starts with https:// or http://")


def send(notice: Notice, environment: Mapping[str, str] = os.environ) -> int:
    """Send a notice to every channel that is set; return the number of channels that accepted it.

    Errors are printed, one line per channel, and never raised: a notice must not fail the run that it is
    about. Up to three attempts are made, unless a service may have received the first one.
    """
    sent = 0
    try:
        check(environment)
        chosen = channels(environment)
    except ValueError as error:
        print(f"not notified: {error}", file=sys.stderr)  # noqa: T201
        return 0
    for name in chosen:
        try:
            if name == SMTP:
                _send_mail(notice, environment)
            else:
                _post(notice, name, environment)
            sent += 1
        except Exception as error:  # whatever it is
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"not notified by {name}: {reason}", file=sys.stderr)  # noqa: T201
    return sent


def send_unless_told(notice: Notice, notices_uri: str | None, quiet_hours: float, about: str = "") -> int:
    """Send a notice unless it was sent before; return the number of channels that accepted it.

    Of two runs with the same file and notice at once, one sends it. A file that can't be read or written is
    reported, and the notice is sent: twice is better than never.

    Args:
        notice: The notice.
        notices_uri: Path or URI of the JSON file of `sent_notices`; None to always send.
        quiet_hours: Hours before the same notice is sent again.
        about: Subject of the notice, such as the newest row of a log; the same notice about the same subject
            is never sent again.
    """
    if not notices_uri:
        return send(notice)
    with ExitStack() as held:
        try:
            held.enter_context(state_files.locked(notices_uri))
            if sent_notices.recently(notices_uri, notice.digest, quiet_hours * 3600):
                print(f"not notified again within {quiet_hours:g} hours: {notice.title}", file=sys.stderr)  # noqa: T201
                return 0
            if about and sent_notices.recently(notices_uri, notice.digest_about(about), math.inf):
                print(f"not notified again, since {about}: {notice.title}", file=sys.stderr)  # noqa: T201
                return 0
        except ValueError as error:
            print(f"the file of sent notices is not used: {error}", file=sys.stderr)  # noqa: T201
            return send(notice)
        sent = send(notice)
        try:
            if sent:
                sent_notices.remember(
                    notices_uri, notice.digest, *([notice.digest_about(about)] if about else [])
                )
        except ValueError as error:
            print(f"the notice is not remembered: {error}", file=sys.stderr)  # noqa: T201
        return sent


def _post(notice: Notice, name: str, environment: Mapping[str, str]) -> None:
    what, form = _FORMS[name]
    # A retry is the same news for a receiver that looks at the key.
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"{notice.digest}-{notice.run}"}
    if name == WEBHOOK and (token := environment.get(WEBHOOK_TOKEN)):
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps(form(notice), ensure_ascii=False).encode()
    outgoing.send("POST", environment[name], body, headers, what, repeatable=False)


def _send_mail(notice: Notice, environment: Mapping[str, str]) -> None:
    sender, recipients = _smtp_settings(environment)
    message = notices.email(notice, sender, recipients)
    for pause in (*outgoing.PAUSES_SECONDS, None):
        try:
            _deliver(message, environment[SMTP])
            return
        except (OSError, smtplib.SMTPException) as error:
            if pause is None or not _may_help_later(error):
                host = urlsplit(environment[SMTP]).hostname
                raise ValueError(f"can't send mail through {host}: {_mail_reason(error)}") from None
        time.sleep(pause)


def _may_help_later(error: Exception) -> bool:
    """Return whether to retry: not after a permanent error, nor if the server may have taken the message."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code in _TRANSIENT_REPLIES for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code in _TRANSIENT_REPLIES
    lasting = (TimeoutError, ssl.SSLError, smtplib.SMTPServerDisconnected, smtplib.SMTPNotSupportedError)
    return not isinstance(error, lasting)


def _deliver(message: EmailMessage, address: str) -> None:
    parts = urlsplit(address)
    context = ssl.create_default_context()
    host, timeout = parts.hostname or "", outgoing.TIMEOUT_SECONDS
    server: smtplib.SMTP
    if parts.scheme == "smtps":
        server = smtplib.SMTP_SSL(host, parts.port or 465, timeout=timeout, context=context)
    else:
        server = smtplib.SMTP(host, parts.port or 587, timeout=timeout)
    with server:
        if parts.scheme == "smtp":
            server.starttls(context=context)
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        refused = server.send_message(message)
    for recipient, (code, _) in refused.items():
        print(f"not notified by {SMTP}: {host} refused {recipient} ({code})", file=sys.stderr)  # noqa: T201


def _smtp_settings(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    try:
        parts = urlsplit(environment[SMTP])
        valid = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{SMTP} must read smtps://USER:PASSWORD@HOST:465 or smtp://USER:PASSWORD@HOST:587")
    recipients = [one.strip() for one in environment.get(TO, "").split(",") if one.strip()]
    sender = environment.get(FROM, "").strip()
    for name, addresses in ((FROM, [sender]), (TO, recipients)):
        if not addresses or not all("@" in one and one.isprintable() and " " not in one for one in addresses):
            raise ValueError(
                f"{name} must be an e-mail address{'' if name == FROM else ', or several with commas'}"
            )
    return sender, recipients


def _mail_reason(error: Exception) -> str:
    raw: bytes | str
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, raw = next(iter(error.recipients.values()))
    elif isinstance(error, smtplib.SMTPResponseException):
        code, raw = error.smtp_code, error.smtp_error
    else:
        return str(error) or type(error).__name__
    return f"{code} {raw.decode(errors='replace') if isinstance(raw, bytes) else raw}"
