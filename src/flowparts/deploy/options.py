"""What can be chosen of a deployment: what every target takes, to which each adds its own.

A target's class `Options` is what its `deploy` takes by name. The component of the target has a port for each
field; there stands what an option means to who deploys.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_origin, get_type_hints

from flowparts.deploy.pod_options import PodOptions
from flowparts.util.names import unknown

_MOST_REPLICAS = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every target takes.

    Attributes:
        percent: Percent of the requests for the revision while there is another one; a first one gets all.
        replicas: Servers of a revision.
        image: The model server's image; if not given, that of this release.
        timeout_seconds: How long to wait for the revision.

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
        if not 1 <= self.replicas <= _MOST_REPLICAS:
            raise ValueError(f"replicas must be from 1 to {_MOST_REPLICAS}, not {self.replicas}")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be more than 0, not {self.timeout_seconds:g}")


@dataclass(frozen=True, kw_only=True)
class Scaled(Options):
    """Targets with autoscaling.

    Attributes:
        max_replicas: Servers of a revision at most; 0 for no autoscaling.
        service_account: Account that the servers run as; if not given, the platform's default.
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
    """Targets that run the servers as containers of this project's choosing.

    Attributes:
        cpu: Processors of a server, such as "2" or "500m".
        memory: Memory of a server, such as "2Gi".
        wait_seconds: How long to wait for another step that changes the endpoint.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    wait_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class InCluster(OwnServers):
    """Targets on Kubernetes.

    Attributes:
        namespace: Where to deploy; if not given, the step's own namespace.
        environment_from: A Secret whose keys become an environment: which one, says the target.
        digest: What the model's files are, as `trees.digest` tells: pods refuse others. If not given, it is
            read from them here, which for a volume isn't possible.
        pods: What is added to the pods, as `flowparts.deploy.pod_options` says.
        monitoring: Whether alerting rules (a PrometheusRule) and a monitor must be installed, which takes the
            Prometheus operator; else there is only a monitor, where the operator is there.
        monitor_labels: Further labels of the monitor and the rules, where Prometheus selects by them.
    """

    namespace: str = ""
    environment_from: str = ""
    digest: str = ""
    pods: dict[str, Any] = field(default_factory=dict)
    monitoring: bool = False
    monitor_labels: dict[str, str] = field(default_factory=dict)

    @property
    def pod_options(self) -> PodOptions:
        """What is added to the pods.

        Raises:
            ValueError: It holds an unknown name, or a value of another type.
        """
        return PodOptions.of(self.pods)


@dataclass(frozen=True, kw_only=True)
class Routed(InCluster, Scaled):
    """Targets that make Deployments, Services and routes themselves.

    Attributes:
        replicas: Pods of a revision that gets all requests; without a Gateway the share is a ratio of pods.
        gateway: The Gateway that shares requests exactly, as NAME or NAMESPACE/NAME; if not given, by pods.
        clients: Further namespaces whose pods the NetworkPolicy admits, besides the endpoint's own, the
            Gateway's and the step's; "*" for everyone.
    """

    replicas: int = 2
    gateway: str = ""
    clients: list[str] = field(default_factory=list)


def percent_of(traffic_fraction: float) -> int:
    """Return a fraction of the traffic in percent, as platforms take it.

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
    """Return options with the types that a target takes; whole numbers arrive as floats from a pipeline.

    Args:
        target: The target's name.
        kind: The dataclass of its options.
        given: Some of them, and for a deployment `reset`: see `operations.changing`.

    Raises:
        ValueError: The target doesn't know an option or needs one that isn't given, or a value is of another
            type.
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
        raise ValueError("'traffic_fraction' is no option of a target; give it to the step itself")
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
