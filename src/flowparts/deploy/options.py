"""The options of deployments: common ones, to which each target adds its own.

A target's class `Options` has the keyword arguments of its `deploy`. The target's component has a parameter
for each field, with the description for users.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_origin, get_type_hints

from flowparts.deploy.pod_options import PodOptions
from flowparts.util.names import unknown

_MAX_REPLICAS = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every target.

    Attributes:
        percent: Percent of the requests for the revision beside another one; a first revision gets all.
        replicas: Servers per revision.
        image: Image of the model server; default: this release's.
        timeout_seconds: Maximum seconds until the revision is ready.

    Raises:
        ValueError: A value is out of range.
    """

    percent: int = 100
    replicas: int = 1
    image: str = ""
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent must be from 0 to 100, not {self.percent}")
        if not 1 <= self.replicas <= _MAX_REPLICAS:
            raise ValueError(f"replicas must be from 1 to {_MAX_REPLICAS}, not {self.replicas}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be more than 0, not {self.timeout_seconds:g}")


@dataclass(frozen=True, kw_only=True)
class Scaled(Options):
    """Targets with autoscaling.

    Attributes:
        max_replicas: Maximum servers per revision; 0 turns autoscaling off.
        service_account: Service account of the servers; default: the platform's.
    """

    max_replicas: int = 0
    service_account: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_replicas and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas must be 0 or at least the {self.replicas} replicas, not {self.max_replicas}"
            )


@dataclass(frozen=True, kw_only=True)
class OwnServers(Options):
    """Targets that run the servers in containers with resources of choice.

    Attributes:
        cpu: CPU per server, such as "2" or "500m".
        memory: Memory per server, such as "2Gi".
        wait_seconds: Maximum seconds to wait for another step that is changing the endpoint.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    wait_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class InCluster(OwnServers):
    """Targets on Kubernetes.

    Attributes:
        namespace: Namespace to deploy to; default: the step's own.
        environment_from: A Secret whose keys become environment variables, of which container depends on the
            target.
        digest: Digest of the model's files (`trees.digest`); pods refuse any other. By default it is computed
            here, which isn't possible for a volume.
        pods: Additions to the pods, see `flowparts.deploy.pod_options`.
        monitoring: Whether to install alerting rules (a PrometheusRule) and a monitor, which needs the
            Prometheus operator; otherwise only a monitor is installed, if the operator exists.
        monitor_labels: Extra labels of the monitor and the rules that Prometheus selects them by.
    """

    namespace: str = ""
    environment_from: str = ""
    digest: str = ""
    pods: dict[str, Any] = field(default_factory=dict)
    monitoring: bool = False
    monitor_labels: dict[str, str] = field(default_factory=dict)

    @property
    def pod_options(self) -> PodOptions:
        """Additions to the pods.

        Raises:
            ValueError: A name is unknown, or a value has another type.
        """
        return PodOptions.of(self.pods)


@dataclass(frozen=True, kw_only=True)
class Routed(InCluster, Scaled):
    """Targets that create Deployments, Services and routes themselves.

    Attributes:
        replicas: Pods of a revision that gets all requests; without a Gateway, traffic is split by pods.
        gateway: Gateway that splits the traffic exactly, as NAME or NAMESPACE/NAME; default: split by pods.
        clients: More namespaces whose pods the NetworkPolicy admits, besides the endpoint's own, the
            Gateway's and the step's; "*" for all.
    """

    replicas: int = 2
    gateway: str = ""
    clients: list[str] = field(default_factory=list)


def percent_of(traffic_fraction: float) -> int:
    """Return a fraction of the traffic in percent, for platforms.

    Raises:
        ValueError: It isn't from 0 to 1, or not in whole percent.
    """
    is_number = isinstance(traffic_fraction, int | float) and not isinstance(traffic_fraction, bool)
    if not is_number or not 0 <= traffic_fraction <= 1:
        raise ValueError(
            f"traffic_fraction must be from 0 to 1, such as 0.1 for 10 %, not {traffic_fraction!r}"
        )
    percent = round(100 * traffic_fraction)
    if abs(percent - 100 * traffic_fraction) > 1e-9:
        raise ValueError(
            f"traffic_fraction must be in steps of 0.01, not {traffic_fraction!r}: platforms take "
            "whole percent"
        )
    return percent


def checked(target: str, kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options converted to a target's types; pipelines pass integers as floats.

    Args:
        target: The target's name.
        kind: The dataclass of its options.
        given: Some options, and for a deployment `reset`: see `operations.changing`.

    Raises:
        ValueError: An option is unknown or a required one is missing, or a value has another type.
    """
    hints = get_type_hints(kind)
    known = {each.name: hints[each.name] for each in fields(kind) if each.name != "percent"}
    for needed in fields(kind):
        is_optional = needed.default is not MISSING or needed.default_factory is not MISSING
        if not is_optional and needed.name not in given:
            raise ValueError(
                f"the target {target} needs the option {needed.name!r}; give it among the options"
            )
    if issubclass(kind, Options):
        known["reset"] = bool
    return {option: _typed(target, option, value, known) for option, value in given.items()}


def _typed(target: str, option: str, value: Any, known: Mapping[str, Any]) -> Any:
    if option == "traffic_fraction":
        raise ValueError("'traffic_fraction' isn't a target's option; pass it to the step itself")
    if option == "prediction_log" and option not in known:
        raise ValueError(
            f"the target {target} has no prediction log of this project; use the platform's own log of "
            "requests, which docs/monitoring.md names, or deploy to docker, kubernetes, kserve or seldon"
        )
    if option not in known:
        raise ValueError(unknown(f"option of the target {target}", option, sorted(known)))
    wanted = get_origin(known[option]) or known[option]
    if wanted is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    elif wanted is float and type(value) is int:
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"option {option!r} of the target {target} must be {wanted.__name__}, not {value!r}")
    return value
