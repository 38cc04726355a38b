"""Access to Vertex AI: Google's clients over REST, and their errors as one-line messages.

Credentials, project and location are found in the same way as by Google's tools. FLOWPARTS_VERTEX_ENDPOINT is
another address of the service, such as that of Private Service Connect.
https://cloud.google.com/vertex-ai/docs/reference/rest
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from flowparts.util.errors import RefusedError, UnreachableError
from flowparts.util.shortening import one_line

ANSWER_SECONDS = 30.0
# Maximum length of Google's message in an error; the log has all of it.
_SAID = 250
_WAYS = {
    403: "give this step's account the role Vertex AI User",
    429: "have the quota raised, or take another machine_type or location",
}

# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_RESOURCE_EXHAUSTED = 8

_log = logging.getLogger("flowparts")


def located(project: str = "", location: str = "") -> tuple[str, str, str]:
    """Return the service's address, the project and the location; the default is the environment's.

    Raises:
        ValueError: The project or the location is unknown.
    """
    environment = os.environ.get("GOOGLE_CLOUD_LOCATION") or os.environ.get("CLOUD_ML_REGION")
    location = location or environment or ""
    host = os.environ.get("FLOWPARTS_VERTEX_ENDPOINT") or f"{location}-aiplatform.googleapis.com"
    project = project or clients(host).project
    if not project or not location:
        raise ValueError(
            "project and location must be known; give them as options, or set GOOGLE_CLOUD_PROJECT and "
            "GOOGLE_CLOUD_LOCATION"
        )
    return host, project, location


class Clients:
    """Cached clients of the service with the step's credentials; creating one takes longer than a call.

    Attributes:
        project: The project of the credentials; empty if they have none.
    """

    def __init__(self, host: str):
        import google.auth

        self._host = host
        self._credentials, project = google.auth.default(
            scopes=["https://www.googleapis.com/auth/cloud-platform"]
        )
        self.project = project or ""
        self._made: dict[str, Any] = {}

    def get(self, kind: str) -> Any:
        """Return a client by its class, such as EndpointServiceClient."""
        if kind not in self._made:
            from google.cloud import aiplatform_v1

            options = {"api_endpoint": self._host}
            self._made[kind] = getattr(aiplatform_v1, kind)(
                credentials=self._credentials, transport="rest", client_options=options
            )
        return self._made[kind]


clients = lru_cache(maxsize=1)(Clients)


def or_none(method: Callable[..., Any], **given: Any) -> Any:
    """Call a method of Google's clients as `call` does; return None if nothing is found."""
    from google.api_core.exceptions import NotFound

    try:
        return call(method, **given)
    except NotFound:
        return None


def call(method: Callable[..., Any], *, writes: bool = False, **given: Any) -> Any:
    """Call a method of Google's clients, with retries on transient errors: rate limits, unavailable service.

    A broken connection is transient too, unless the request starts an operation: it may have arrived.
    """
    from google.api_core.exceptions import ServiceUnavailable, TooManyRequests
    from google.api_core.retry import Retry, if_exception_type
    from requests.exceptions import RequestException

    passing = (TooManyRequests, ServiceUnavailable, *(() if writes else (RequestException,)))
    again = Retry(if_exception_type(*passing), initial=0.5, maximum=8.0, timeout=ANSWER_SECONDS)
    return method(**given, retry=again, timeout=ANSWER_SECONDS)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn exceptions of Google's clients into one-line errors."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAuthError, GoogleAPICallError, RetryError, RequestException) as error:
        cause = error.cause if isinstance(error, RetryError) else error
        if isinstance(cause, GoogleAuthError):
            raise RefusedError(
                f"Google gives this step no access ({line(str(cause))}); set "
                "GOOGLE_APPLICATION_CREDENTIALS, or run it as a service account"
            ) from None
        if isinstance(cause, GoogleAPICallError):
            way = f"; {_WAYS[cause.code]}" if cause.code in _WAYS else ""
            raise RefusedError(f"Vertex AI answered {cause.code}: {line(cause.message)}{way}") from None
        raise UnreachableError(
            f"Vertex AI gave no answer ({line(str(cause))}); is the location right and the service within "
            "reach?"
        ) from None


def failed(status: Any) -> ValueError:
    """Return the error of a failed operation."""
    _log.info("Vertex AI says: %s", status.message)
    way = f"; {_WAYS[429]}" if status.code == _RESOURCE_EXHAUSTED else ""
    return ValueError(f"Vertex AI says: {line(status.message)}{way}")


def line(text: str) -> str:
    """Return Google's message on one line, without the request that the client prepends."""
    return one_line(re.sub(r"^[A-Z]+ https?://\S+: ", "", str(text)), _SAID)
