from typing import NamedTuple, Optional

from .. import NOTIFYING, runs_in


@runs_in("base", secrets=NOTIFYING)
def notify(
    state: str,
    pipeline: str,
    message: Optional[str] = None,
    step: Optional[str] = None,
    error: Optional[str] = None,
    run: Optional[str] = None,
    link: Optional[str] = None,
    when: bool = True,
    notices_uri: Optional[str] = None,
    quiet_hours: float = 24.0,
    about: Optional[str] = None,
) -> NamedTuple("Outputs", [("sent", int)]):  # type: ignore[valid-type]
    """Notify people by webhook, Slack, Microsoft Teams or e-mail; it never fails the run.

    Channels come from environment variables, each set from a secret: FLOWPARTS_NOTIFY_WEBHOOK (generic JSON,
    with a bearer token in FLOWPARTS_NOTIFY_WEBHOOK_TOKEN), FLOWPARTS_NOTIFY_SLACK, FLOWPARTS_NOTIFY_TEAMS
    (addresses of incoming webhooks), FLOWPARTS_NOTIFY_SMTP ("smtps://USER:PASSWORD@HOST:465", or smtp:// with
    STARTTLS) with FLOWPARTS_NOTIFY_FROM and FLOWPARTS_NOTIFY_TO. Every channel that is set is used. An
    unreachable channel is reported in the step's log.

    Args:
        state: What happened in one word, such as failed, drifted or promoted.
        pipeline: The pipeline, or the monitored model.
        message: Text of the notification, such as the reason for a decision.
        step: The step that failed.
        error: Its one-line error message.
        run: The run's name.
        link: Address of the run's page or of a report.
        when: Whether to send it, such as the verdict of an earlier step.
        notices_uri: Path or URI of a JSON file that persists between runs and prevents sending the same
            notification again within the quiet hours; other numbers in the text don't make it a new one.
            Without it, every notification is sent.
        quiet_hours: Hours before the same notification is sent again.
        about: Subject of the notification, such as the time of a log's newest row: with notices_uri, the
            same notification about the same subject is never sent again.

    Returns:
        sent: Number of channels that accepted the notification.
    """
    from flowparts.monitor.notices import Notice
    from flowparts.monitor.notify import send_unless_told

    if not when:
        return (0,)
    notice = Notice(state, pipeline, run or "", step or "", error or "", message or "", link or "")
    return (send_unless_told(notice, notices_uri, quiet_hours, about or ""),)
