"""The endpoint contract: where a model is served, its revisions and the traffic split.

The file is JSON:

    {
      "target": "docker", "name": "churn", "url": "http://127.0.0.1:32771", "revision": "r5d1c0f7a9b3e",
      "previous_revision": "r08e2b6c41f7d", "traffic": {"r08e2b6c41f7d": 0.9, "r5d1c0f7a9b3e": 0.1},
      "settings": {}
    }

- `target`: the module of `flowparts.deploy` that created it and can change it.
- `name`: its name on the platform.
- `url`: where clients send requests.
- `revision`: the revision that was deployed last; it identifies its model's content.
- `previous_revision`: the revision to roll back to; null if there is none.
- `traffic`: revision to its fraction of the requests; they add up to 1. In memory it is in whole percent, as
  on the platforms.
- `settings`: what the target needs to find the endpoint again (namespace, project, region), never a secret.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from flowparts.deploy.options import percent_of
from flowparts.util import metadata, outputs

_TARGET = re.compile(r"[a-z][a-z0-9_]*")
_URL = re.compile(r"https?://[^\s@]+")
_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key|access_?key", re.IGNORECASE)


class Written(Protocol):
    """The parts of an output artifact that an endpoint needs."""

    path: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """An endpoint's state when it was written; the module's docstring explains the fields.

    Raises:
        ValueError: A field is invalid.
    """

    target: str
    name: str
    url: str
    revision: str
    traffic: Mapping[str, int]
    previous_revision: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"the endpoint {self.name!r} is not valid: {problem}")

    @property
    def percent(self) -> int:
        """Percent of the requests that the current revision gets."""
        return self.traffic[self.revision]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with the traffic in fractions."""
        fractions = {revision: percent / 100 for revision, percent in self.traffic.items()}
        return {**asdict(self), "traffic": fractions}

    def deploying(self, revision: str, percent: int) -> "Endpoint":
        """Return the endpoint after deploying a revision with a part of the traffic.

        A new revision takes its part from the revision with most traffic, which becomes the previous one; a
        third revision is dropped. If the revision with most traffic is deployed again, it keeps its traffic,
        and a canary beside it is dropped.

        Args:
            revision: The revision to deploy.
            percent: Percent of the requests for it.
        """
        other = self.previous_revision
        stable = self.revision if other is None or self.percent > self.traffic[other] else other
        if revision != stable:
            traffic = {revision: percent, stable: 100 - percent}
            return replace(self, revision=revision, previous_revision=stable, traffic=traffic)
        if revision == self.revision:
            return self
        return replace(self, revision=revision, previous_revision=None, traffic={revision: 100})

    def with_percent(self, percent: int) -> "Endpoint":
        """Return the endpoint with a percentage for the current revision, and the rest for the previous one.

        Raises:
            ValueError: The percentage is invalid, or there is no previous revision for the rest.
        """
        if not isinstance(percent, int) or isinstance(percent, bool) or not 0 <= percent <= 100:
            raise ValueError(f"percent must be a whole number from 0 to 100, not {percent!r}")
        if self.previous_revision is None:
            if percent != 100:
                raise ValueError(
                    f"endpoint {self.name!r} has no previous revision to take the other "
                    f"{100 - percent} %; revision {self.revision} must get 100"
                )
            return replace(self, traffic={self.revision: 100})
        return replace(self, traffic={self.revision: percent, self.previous_revision: 100 - percent})

    def rolled_back(self) -> "Endpoint":
        """Return the endpoint with only its previous revision, and that revision's options.

        Raises:
            ValueError: There is no previous revision.
        """
        settings = dict(self.settings)
        if "previous_options" in settings:
            settings["options"] = settings.pop("previous_options")
        if self.previous_revision is None:
            raise ValueError(
                f"endpoint {self.name!r} has no previous revision to roll back to; it keeps serving "
                f"{self.revision} until another model is deployed"
            )
        return replace(
            self,
            revision=self.previous_revision,
            previous_revision=None,
            traffic={self.previous_revision: 100},
            settings=settings,
        )


def read(path: str | Path) -> Endpoint:
    """Read an endpoint's file.

    Raises:
        ValueError: The file is missing, isn't JSON, or isn't an endpoint.
    """
    found = outputs.read_json(path, "the endpoint")
    known = {part.name for part in fields(Endpoint)}
    needed = known - {"previous_revision", "settings"}
    if not isinstance(found, dict) or not needed <= found.keys() <= known:
        raise ValueError(
            f"the endpoint at {path} must be a JSON object with the keys {', '.join(sorted(known))}"
        )
    try:
        return Endpoint(**{**found, "traffic": _in_percent(found["traffic"])})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write(endpoint: Endpoint, path: str | Path) -> None:
    """Write an endpoint's file atomically."""
    outputs.write_json(path, endpoint.to_dict())


def publish(endpoint: Endpoint, artifact: Written) -> tuple[str, str, float]:
    """Write an endpoint to an output artifact: the file and the metadata.

    Returns:
        Its URL, its current revision and that revision's fraction of the requests, which deployments return.
    """
    write(endpoint, artifact.path)
    traffic = sorted(endpoint.traffic.items(), key=lambda item: -item[1])
    shown = {"traffic": ", ".join(f"{revision} {percent} %" for revision, percent in traffic)}
    metadata.describe(artifact, {**endpoint.to_dict(), **shown})
    return endpoint.url, endpoint.revision, endpoint.percent / 100


def _in_percent(traffic: Any) -> Any:
    """Return the traffic of a file in percent.

    Raises:
        ValueError: It isn't an object of revisions and fractions in whole percent.
    """
    if not isinstance(traffic, dict):
        raise ValueError(f"traffic must be an object of revisions and fractions, not {traffic!r}")
    return {revision: percent_of(fraction) for revision, fraction in traffic.items()}


def _problems(endpoint: Endpoint) -> Any:
    texts = (endpoint.target, endpoint.name, endpoint.url, endpoint.revision)
    if not all(isinstance(text, str) and text for text in texts):
        yield "target, name, url and revision must be text that is not empty"
        return
    if not _TARGET.fullmatch(endpoint.target):
        yield f"target {endpoint.target!r} is not the name of a module"
    if not _URL.fullmatch(endpoint.url):
        yield f"url {endpoint.url!r} does not start with http:// or https://, or names a user"
    previous = endpoint.previous_revision
    if previous is not None and not (isinstance(previous, str) and previous):
        yield f"previous_revision must be text or null, not {previous!r}"
    if previous == endpoint.revision:
        yield f"revision and previous_revision are both {previous!r}"
    traffic = endpoint.traffic
    if not isinstance(traffic, Mapping) or not all(type(percent) is int for percent in traffic.values()):
        yield f"traffic must be an object of revisions and whole percentages, not {traffic!r}"
        return
    revisions = {endpoint.revision} if previous is None else {endpoint.revision, previous}
    if set(traffic) != revisions:
        yield f"traffic must name {', '.join(sorted(revisions))}, not {', '.join(sorted(traffic))}"
    if sum(traffic.values()) != 100 or not all(0 <= percent <= 100 for percent in traffic.values()):
        yield f"the shares of traffic must be from 0 to 100 and add up to 100, not {dict(traffic)}"
    if not isinstance(endpoint.settings, Mapping):
        yield f"settings must be an object, not {endpoint.settings!r}"
        return
    for name in endpoint.settings:
        if _SECRET.search(str(name)):
            yield f"the setting {name!r} looks like a secret; give it to the step by its environment"
