"""Limit the addresses that data is read from to an allow-list, and block cloud metadata services.

Anyone who names a source or writes a table of URIs makes a step send requests from inside its network (SSRF).
So every connection is checked when its IP address is known: after name resolution and at each redirect.
"""

import ipaddress
import os
import socket
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from flowparts.util import masking

if TYPE_CHECKING:
    import aiohttp

# Patterns separated by spaces, such as "s3://bucket/* https://data.example/* /data/*"; if unset, all.
ALLOWED = "FLOWPARTS_ALLOWED_SOURCES"
# Addresses and networks, separated by spaces, that are allowed although link-local or a cloud's own.
ALLOWED_ADDRESSES = "FLOWPARTS_ALLOWED_ADDRESSES"

# Metadata services besides 169.254.0.0/16 and fe80::/10: AWS, Alibaba and Azure.
_METADATA = tuple(map(ipaddress.ip_network, ("fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")))


class NotAllowedError(PermissionError):
    """A connection to an address that isn't allowed."""


def require_source(address: str) -> None:
    """Raise ValueError unless the environment allows a source.

    Args:
        address: The source without secrets. A local path must be resolved, without links and "..".
    """
    patterns = os.environ.get(ALLOWED)
    if patterns is None:
        return
    if ".." in address.split("/") or not any(fnmatchcase(address, one) for one in patterns.split()):
        raise ValueError(
            f"source {address} is not allowed here; {ALLOWED} of the step's environment allows: "
            f"{patterns.strip() or 'none'}"
        )


def require_address(address: str) -> None:
    """Raise NotAllowedError unless connections to an IP address are allowed.

    Link-local addresses and cloud metadata services are blocked unless FLOWPARTS_ALLOWED_ADDRESSES lists
    them.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    known = getattr(found, "ipv4_mapped", None) or found
    special = known.is_link_local or known.is_multicast or known.is_unspecified
    if not special and not any(known in network for network in _METADATA):
        return
    for text in os.environ.get(ALLOWED_ADDRESSES, "").split():
        if known in ipaddress.ip_network(text, strict=False):
            return
    raise NotAllowedError(
        f"{known} is a link-local or metadata address, where clouds give out credentials; to allow it, add "
        f"it to {ALLOWED_ADDRESSES} in the step's environment"
    )


async def client(**options: Any) -> "aiohttp.ClientSession":
    """Return an HTTP client that connects and redirects to allowed addresses only."""
    import aiohttp

    async def redirected(_session: Any, _context: Any, params: "aiohttp.TraceRequestRedirectParams") -> None:
        target = urljoin(str(params.url), params.response.headers.get("Location", ""))
        require_source(masking.shown(target))

    traced = aiohttp.TraceConfig()
    traced.on_request_redirect.append(redirected)
    connector = aiohttp.TCPConnector(socket_factory=_connecting)
    return aiohttp.ClientSession(connector=connector, trace_configs=[traced], **options)


def _connecting(info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    require_address(str(address[0]))
    return socket.socket(family, kind, protocol)
