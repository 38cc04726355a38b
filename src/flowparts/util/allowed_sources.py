"""What addresses data may be read from: those of a list, and never those that tell a cloud's credentials.

Whoever names a source, or writes a table of URIs, decides what a step asks for with the step's own place in
the network. So each connection is looked at when its address is known, after names are resolved and at every
redirect.
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

# Patterns with blanks between them, such as "s3://bucket/* https://data.example/* /data/*"; if not set, all.
ALLOWED = "FLOWPARTS_ALLOWED_SOURCES"
# Addresses and networks that are allowed although they are link-local or a cloud's own, likewise.
ALLOWED_ADDRESSES = "FLOWPARTS_ALLOWED_ADDRESSES"

# Where clouds tell a machine its credentials, beyond 169.254.0.0/16 and fe80::/10: AWS, Alibaba and Azure.
_METADATA = tuple(map(ipaddress.ip_network, ("fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")))


class NotAllowedError(PermissionError):
    """A connection to an address that isn't allowed."""


def require_source(address: str) -> None:
    """Raise ValueError unless the environment allows a source.

    Args:
        address: Without what may be secret in it. A path on this machine is one without links and "..".
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

    Link-local addresses and those of clouds' metadata services are not, unless FLOWPARTS_ALLOWED_ADDRESSES
    names them.
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
        f"{known} is an address of this machine's own network, where clouds give out credentials; "
        f"{ALLOWED_ADDRESSES} of the step's environment may allow it"
    )


async def client(**options: Any) -> "aiohttp.ClientSession":
    """Return a client for HTTP whose connections and redirects are held to what is allowed."""
    import aiohttp

    async def redirected(_session: Any, _context: Any, params: "aiohttp.TraceRequestRedirectParams") -> None:
        there = urljoin(str(params.url), params.response.headers.get("Location", ""))
        require_source(masking.shown(there))

    traced = aiohttp.TraceConfig()
    traced.on_request_redirect.append(redirected)
    connector = aiohttp.TCPConnector(socket_factory=_connecting)
    return aiohttp.ClientSession(connector=connector, trace_configs=[traced], **options)


def _connecting(info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    require_address(str(address[0]))
    return socket.socket(family, kind, protocol)
