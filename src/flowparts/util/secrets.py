"""Pass secrets of Google Cloud's Secret Manager to a step as environment variables.

Pipelines on Vertex AI have no field for secrets. So compile.py sets variables that only refer to secrets,
`secretmanager://projects/PROJECT/secrets/SECRET/versions/VERSION`, and starts the step through
`python -m flowparts.util.secrets COMMAND ARGUMENT...`, which reads the secrets with the step's own
credentials and then executes the command in its place.
"""

import base64
import os
import sys
from collections.abc import Mapping
from typing import Any

SCHEME = "secretmanager://"
# gcloud's own variable to override the server.
ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER"

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TIMEOUT_SECONDS = 30
_RETRIES = 3
_RETRIED = (429, 500, 502, 503, 504)


def main(command: list[str]) -> None:
    """Execute the command with all secrets that the environment refers to; exit with 1 if one is missing."""
    try:
        secrets = resolve(os.environ)
    except ValueError as error:
        print(f"ValueError: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    os.execvpe(command[0], command, {**os.environ, **secrets})  # noqa: S606


def resolve(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the variables that refer to a secret; secrets are UTF-8 text.

    They are read with application-default credentials, by `access` of Secret Manager's REST API v1.

    Raises:
        ValueError: There are no credentials, or a secret can't be read.
    """
    references = {
        name: value.removeprefix(SCHEME) for name, value in environment.items() if value.startswith(SCHEME)
    }
    if not references:
        return {}

    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise ValueError(
            f"no Google Cloud credentials to read {', '.join(references)} with; give the step a service "
            f"account: {error}"
        ) from None
    endpoint = environment.get(ENDPOINT) or f"https://secretmanager.{credentials.universe_domain}"
    retry = Retry(_RETRIES, backoff_factor=0.5, status_forcelist=_RETRIED, raise_on_status=False)
    with AuthorizedSession(credentials) as session:
        session.mount(endpoint, HTTPAdapter(max_retries=retry))
        return {name: _access(session, endpoint, name, secret) for name, secret in references.items()}


def _access(session: Any, endpoint: str, name: str, secret: str) -> str:
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    problem = f"{name} can't be read from {secret}"
    try:
        answer = session.get(f"{endpoint.rstrip('/')}/v1/{secret}:access", timeout=_TIMEOUT_SECONDS)
        body = answer.json()
    except (RequestException, GoogleAuthError) as error:
        raise ValueError(f"{problem}: {error}") from None
    if not answer.ok:
        reason = body.get("error", {}).get("message") or f"status {answer.status_code}"
        raise ValueError(
            f"{problem}: {reason} The job's service account needs the role roles/secretmanager.secretAccessor"
        )
    data = base64.b64decode(body["payload"]["data"])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{problem}: it isn't UTF-8 text") from None


if __name__ == "__main__":
    main(sys.argv[1:])
