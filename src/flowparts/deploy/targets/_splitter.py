"""The configuration of HAProxy, which splits an endpoint's traffic among the servers of its revisions.

See https://docs.haproxy.org/2.6/configuration.html for the directives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import gcd, prod
from typing import Any

from flowparts.deploy.endpoint import Endpoint

PORT = 8080
# A request can choose its revision by this header; answers name theirs.
REVISION_HEADER = "x-flowparts-revision"
# The path where the splitter reports its state.
TRAFFIC_PATH = "/-/traffic"

_MAX_WEIGHT = 256

_TOP = """\
global
    log stdout format raw local0 notice
    maxconn 500
    # A request up to this size is sent again where a server fails to answer it.
    tune.bufsize 65536
    hard-stop-after 60s

resolvers engine
    nameserver dns 127.0.0.11:53
    timeout resolve 1s
    hold valid 1s

defaults
    mode http
    log global
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    # Predicting changes nothing, so a request that got no answer can go to another server.
    retries 3
    retry-on conn-failure empty-response
    option redispatch 1
    # After a reload, clients leave the old process with an answer and never with a closed connection.
    option idle-close-on-response
    option httpchk GET /v2/health/ready
    default-server check inter 1s fall 2 rise 1 resolvers engine init-addr last,libc,none
"""


@dataclass(frozen=True)
class State:
    """An endpoint's parts on a Docker host.

    Attributes:
        endpoint: Its description.
        servers: Its servers' names by revision.
        image_id: The image of the splitter.
    """

    endpoint: Endpoint
    servers: Mapping[str, Sequence[str]]
    image_id: str

    def to_json(self) -> str:
        """Return the state as one line of JSON without apostrophes, which would end a HAProxy string."""
        return json.dumps(asdict(self), sort_keys=True).replace("'", r"\u0027")

    @classmethod
    def from_json(cls, text: str) -> "State":
        """Parse the result of `to_json`."""
        found: dict[str, Any] = json.loads(text)
        return cls(Endpoint(**found["endpoint"]), found["servers"], found["image_id"])


def configuration(state: State) -> str:
    """Return HAProxy's configuration for a state, with the state itself in the first line."""
    weights = _weights(state)
    revisions = sorted(state.servers)
    asked = f"{{ req.hdr({REVISION_HEADER}) -m found }}"
    known = f"{{ req.hdr({REVISION_HEADER}) {' '.join(revisions)} }}"
    lines = [
        f"# {state.to_json()}",
        _TOP,
        "frontend clients",
        f"    bind :{PORT}",
        f"    http-request return status 200 content-type application/json string '{state.to_json()}' "
        f"if {{ path {TRAFFIC_PATH} }}",
        f'    http-request return status 404 content-type text/plain string "no such revision" '
        f"if {asked} !{known}",
        *(
            f"    use_backend {revision} if {{ req.hdr({REVISION_HEADER}) {revision} }}"
            for revision in revisions
        ),
        "    default_backend traffic",
        "",
        "backend traffic",
        "    balance roundrobin",
        f"    http-response set-header {REVISION_HEADER} %[srv_name,field(1,:)]",
        *(
            f"    server {revision}:{number} {host}:{PORT} weight {weights[revision]}"
            for revision in revisions
            for number, host in enumerate(state.servers[revision], 1)
        ),
    ]
    for revision in revisions:
        lines += [
            "",
            f"backend {revision}",
            "    balance roundrobin",
            f"    http-response set-header {REVISION_HEADER} {revision}",
            *(
                f"    server {revision}:{number} {host}:{PORT}"
                for number, host in enumerate(state.servers[revision], 1)
            ),
        ]
    return "\n".join(lines) + "\n"


def state_of(configuration_text: str) -> State:
    """Return the state of a configuration."""
    return State.from_json(configuration_text.partition("\n")[0].removeprefix("# "))


def _weights(state: State) -> dict[str, int]:
    """Return the weight of each server of a revision: its percentage divided by the number of servers."""
    others = {
        revision: state.endpoint.traffic[revision]
        * prod(len(hosts) for other, hosts in state.servers.items() if other != revision)
        for revision in state.servers
    }
    divisor = gcd(*others.values()) or 1
    whole = {revision: weight // divisor for revision, weight in others.items()}
    excess = max(1.0, max(whole.values()) / _MAX_WEIGHT)
    # If integers up to 256 can't express it exactly, at least no traffic above zero becomes zero.
    return {revision: max(round(weight / excess), min(weight, 1)) for revision, weight in whole.items()}
