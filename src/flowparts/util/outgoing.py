"""Send HTTP requests to services that users name: bounded, retried, to allowed addresses only."""

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowparts.util import allowed_sources, masking
from flowparts.util.shortening import one_line

if TYPE_CHECKING:
    import aiohttp

# Waits before the second and third attempts.
PAUSES_SECONDS = (1.0, 4.0)
TIMEOUT_SECONDS = 10.0
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_MAX_ANSWER_BYTES = 64_000


def check_address(address: str, what: str) -> str:
    """Check an address given as a parameter, and return it.

    Args:
        address: Such as http://pushgateway:9091.
        what: The service at that address, for the error message.

    Raises:
        ValueError: It isn't an HTTP address, holds credentials, or isn't allowed in this environment.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"the address of {what} must start with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ValueError(
            f"the address of {what} must not hold a user or password; put credentials into the environment "
            "of the step"
        )
    allowed_sources.require_source(masking.shown(address))
    return address


def send(
    method: str,
    address: str,
    body: bytes,
    headers: Mapping[str, str],
    what: str,
    repeatable: bool = True,
) -> bytes:
    """Send a request, up to three times, and return the body of the answer.

    Transient errors are retried: no connection, and statuses such as 429 and 503. Redirects aren't followed.

    Args:
        method: Such as "POST".
        address: Only its host is shown in errors, because the path may be a secret.
        body: The request's body.
        headers: Its headers.
        what: The service at that address, for the error message.
        repeatable: Whether to retry after a timeout, although the service may have received the request.

    Raises:
        ValueError: The address isn't allowed, or the service can't be reached or refuses the request.
    """
    for pause in (*PAUSES_SECONDS, None):
        try:
            status, answer = asyncio.run(_sent(method, address, body, headers))
            problem = "" if 200 <= status < 300 else f"status {status}{_reason(answer)}"
            transient = status in _RETRIED
        except TimeoutError:
            problem, transient = f"no answer within {TIMEOUT_SECONDS:g} s", repeatable
        except (OSError, ValueError, _client_error()) as error:
            answer = b""
            refusal = _not_allowed(error)
            problem = one_line(refusal or error, 200) or type(error).__name__
            transient = refusal is None
        if not problem:
            return answer
        if pause is None or not transient:
            break
        time.sleep(pause)
    parts = urlsplit(address)
    raise ValueError(f"can't reach {what} at {parts.scheme}://{parts.netloc}: {problem}")


async def _sent(method: str, address: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with (
        await allowed_sources.client(timeout=timeout, trust_env=True) as session,
        session.request(method, address, data=body, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.content.read(_MAX_ANSWER_BYTES)


def _client_error() -> "type[aiohttp.ClientError]":
    import aiohttp

    return aiohttp.ClientError


def _not_allowed(error: BaseException | None) -> BaseException | None:
    """Return the NotAllowedError behind an error, if any; clients wrap it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, allowed_sources.NotAllowedError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _reason(answer: bytes) -> str:
    text = one_line(answer.decode(errors="replace"), 200)
    return f" ({text})" if text and text.isprintable() and not text.startswith("<") else ""
