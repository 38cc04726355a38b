"""The Docker target: model servers in containers on this machine, behind HAProxy, which splits the traffic.

Everything of an endpoint has its name as a label: a network, a HAProxy container, a volume with its
configuration, and for each revision a volume with the model and one container per replica. The configuration
is the state: the revisions, their traffic and their servers. Anything else with the label is left over from a
killed deployment, and the next one removes it.
"""

import hashlib
import http.client
import io
import logging
import os
import socket
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowparts.deploy import _lease, common, log_options
from flowparts.deploy.endpoint import Endpoint
from flowparts.deploy.options import OwnServers
from flowparts.deploy.targets import _splitter
from flowparts.deploy.targets._splitter import State
from flowparts.util import trees
from flowparts.util.errors import RefusedError, UnreachableError
from flowparts.util.shortening import shorten

if TYPE_CHECKING:
    from docker.client import DockerClient
    from docker.models.containers import Container

_ENDPOINT, _ROLE, _REVISION = "flowparts.endpoint", "flowparts.role", "flowparts.revision"
_MODEL_FOLDER = "/mnt/models"
_LOG_FOLDER = "/mnt/log"
_SPLITTER_FOLDER = "/etc/splitter"
_CONFIGURATION = "haproxy.cfg"
_SPLITTER_MEMORY_BYTES = 256 * 2**20
# Time for open connections to leave HAProxy's old process, and for servers to finish pending requests.
_LEAVE_SECONDS = 1.0
_DRAIN_SECONDS = 30
_RELOAD_SECONDS = 20.0
_LOG_LINES = 30
_SAID = 160
_USER = 65532
_WHERE = "on this Docker engine"

_ASK_READY = (
    "import urllib.request; "
    f"urllib.request.urlopen('http://127.0.0.1:{_splitter.PORT}/v2/health/ready', timeout=2)"
)

_log = logging.getLogger("flowparts")


@dataclass(frozen=True, kw_only=True)
class Options(OwnServers):
    """The options of Docker.

    Attributes:
        port: Port of the endpoint on 127.0.0.1; 0 keeps it, or picks a free one for a new endpoint.
        splitter_image: The image with HAProxy; default: this release's.
        prediction_log: The servers' prediction log, as `flowparts.deploy.log_options` says; its directory is
            one of this machine, and stays when the endpoint is removed.
    """

    timeout_seconds: float = 300.0
    port: int = 0
    splitter_image: str = ""
    prediction_log: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        log_options.check(self.prediction_log)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, or 0 for a free one, not {self.port}")


def deploy(model: str, name: str, **given: Any) -> Endpoint:
    """Serve a model from this machine, as a revision of an endpoint.

    Args:
        model: The model directory or its URI. It is copied, so the endpoint doesn't depend on the directory.
        name: The endpoint.
        given: `Options` by name.

    Raises:
        ValueError: An option or the model is invalid, no engine answers, or the model can't be served.
    """
    common.check_name(name)
    chosen = Options(**given)
    limits = {
        "nano_cpus": int(common.cpus(chosen.cpu) * 1e9),
        "mem_limit": common.memory_bytes(chosen.memory),
    }
    with common.local_copy(model) as directory:
        revision = common.revision(directory)
        with _engine() as engine, _writing(name, chosen.wait_seconds):
            host = _Host(engine, name)
            before = host.state()
            host.tidy(before)
            splitter_id = host.image(common.image("deploy", chosen.splitter_image))
            servers = host.bring_up(
                directory,
                revision,
                host.image(common.image("serving", chosen.image)),
                limits,
                chosen,
            )
            url = f"http://127.0.0.1:{host.choose_port(chosen.port, before)}"
            if before is None:
                after, others = Endpoint("docker", name, url, revision, {revision: 100}), {}
            else:
                after = replace(before.endpoint.deploying(revision, chosen.percent), url=url)
                others = dict(before.servers)
            after = replace(after, settings=common.kept_options())
            return host.apply(after, {**others, revision: servers}, splitter_id)


@contextmanager
def writing(name: str, *, wait_seconds: float = 0.0) -> Iterator[Endpoint | None]:
    """Lock an endpoint for changes, and yield it; None if there is none."""
    with _engine() as engine, _writing(name, wait_seconds):
        state = _Host(engine, name).state()
        yield state.endpoint if state else None


def endpoints() -> list[Endpoint]:
    """Return the endpoints of the Docker engine.

    Raises:
        ValueError: No engine answers.
    """
    with _engine() as engine:
        found = engine.containers.list(all=True, filters={"label": _ENDPOINT})
        states = (_Host(engine, name).state() for name in sorted({each.labels[_ENDPOINT] for each in found}))
        return [state.endpoint for state in states if state]


def shift(endpoint: Endpoint, percent: int) -> Endpoint:
    """Route a part of the traffic to the current revision; the previous one gets the rest.

    Raises:
        ValueError: No engine answers, or the endpoint doesn't exist or has changed since.
    """
    with _engine() as engine, _writing(endpoint.name):
        host = _Host(engine, endpoint.name)
        state = host.state()
        found = common.unchanged(endpoint, state.endpoint if state else None, _WHERE)
        return host.apply(found.with_percent(percent), state.servers if state else {})


def rollback(endpoint: Endpoint) -> Endpoint:
    """Route all traffic to the previous revision and remove the current one; idempotent.

    Raises:
        ValueError: No engine answers, there is no previous revision, or the endpoint doesn't exist or has
            changed since.
    """
    with _engine() as engine, _writing(endpoint.name):
        host = _Host(engine, endpoint.name)
        state = host.state()
        after = common.rolled_back(endpoint, state.endpoint if state else None, _WHERE)
        return host.apply(after, state.servers if state else {})


def remove(name: str, *, dry_run: bool = False) -> list[str]:
    """Remove an endpoint with everything that belongs to it, and return what was removed.

    Args:
        name: The endpoint.
        dry_run: Remove nothing, and return what would be removed.

    Raises:
        ValueError: No engine answers.
    """
    with _engine() as engine, _writing(name):
        host = _Host(engine, name)
        held = host.resources()
        if not dry_run:
            host.remove()
        return held


def predict(endpoint: Endpoint, rows: list[dict[str, Any]], revision: str = "") -> list[dict[str, Any]]:
    """Send rows to the endpoint and return the predictions.

    Raises:
        ValueError: There is no answer, or it isn't a prediction.
    """
    headers = {_splitter.REVISION_HEADER: revision} if revision else {}
    return common.ask(f"{endpoint.url}/predict", rows, headers)


def crashes(endpoint: Endpoint, revision: str) -> dict[str, int]:
    """Return how often each server of a revision has crashed.

    Raises:
        ValueError: No engine answers.
    """
    with _engine() as engine:
        return {server.id: _ends(server) for server in _Host(engine, endpoint.name).servers(revision)}


def diagnose(endpoint: Endpoint, revision: str) -> str:
    """Return how the servers of a revision crashed last, and how often; empty if none has.

    Raises:
        ValueError: No engine answers.
    """
    with _engine() as engine:
        servers = _Host(engine, endpoint.name).servers(revision)
        return "; ".join(
            f"its server {_last_end(server)} (ended {_ends(server)}x)" for server in servers if _ends(server)
        )


class _Host:
    """An endpoint's containers, volumes and network on a Docker engine."""

    def __init__(self, engine: "DockerClient", name: str) -> None:
        self.engine = engine
        self.name = name
        self.prefix = f"endpoint-{name}"

    @property
    def _mine(self) -> dict[str, str]:
        """The engine's filter for everything that belongs to the endpoint."""
        return {"label": f"{_ENDPOINT}={self.name}"}

    def state(self) -> State | None:
        """Return the splitter's last configured state; None if there is no such endpoint."""
        text = self._configuration()
        return _splitter.state_of(text) if text else None

    def _configuration(self) -> str:
        """Return the splitter's configuration; empty if there is none."""
        splitter = self._container(self.prefix)
        if splitter is not None:
            return _file_of(splitter, f"{_SPLITTER_FOLDER}/{_CONFIGURATION}")
        servers = self.engine.containers.list(all=True, filters=self._mine)
        if not servers or not self._has_volume(self.prefix):
            return ""
        # The splitter is gone, but not its configuration.
        with self._loader(self.prefix, str(servers[0].image.id)) as loader:
            return _file_of(loader, f"{_MODEL_FOLDER}/{_CONFIGURATION}")

    def servers(self, revision: str) -> "list[Container]":
        """Return the containers that serve a revision, running or not."""
        parts = [f"{_ENDPOINT}={self.name}", f"{_REVISION}={revision}", f"{_ROLE}=server"]
        found: list[Container] = self.engine.containers.list(all=True, filters={"label": parts})
        return found

    def image(self, reference: str) -> str:
        """Return the ID of an image, which is pulled if it is missing."""
        from docker.errors import DockerException, ImageNotFound

        try:
            return str(self.engine.images.get(reference).id)
        except ImageNotFound:
            pass
        try:
            return str(self.engine.images.pull(reference).id)
        except DockerException:
            raise ValueError(
                f"the image {reference} is not on this Docker engine and can't be pulled; run make images, "
                "or name another one"
            ) from None

    def bring_up(
        self,
        directory: Path,
        revision: str,
        image_id: str,
        limits: Mapping[str, Any],
        chosen: Options,
    ) -> list[str]:
        """Start the servers of a revision beside those that serve, and wait until they are ready.

        Returns:
            The containers' names, which identify the revision and its settings.

        Raises:
            ValueError: A server doesn't become ready; everything is restored.
        """
        before = self.state()
        # Another token needs other servers.
        of = [image_id, sorted(limits.items()), os.environ.get("FLOWPARTS_SERVING_TOKEN")]
        log = chosen.prediction_log
        what = _digest(*of, *([sorted(log.items())] if log else []))
        servers = [f"{self.prefix}-{revision}-{what}-{number}" for number in range(1, chosen.replicas + 1)]
        if before is None or revision not in before.servers:
            self._store(f"{self.prefix}-{revision}", directory, image_id, revision)
        try:
            for server in servers:
                self._start_server(server, revision, image_id, limits, log)
            for server in servers:
                self._wait_until_ready(server, chosen.timeout_seconds)
        except BaseException as error:
            self.tidy(before)
            if not isinstance(error, ValueError):
                raise
            serving = f"{before.endpoint.revision} keeps serving" if before else "nothing is served"
            raise ValueError(
                f"revision {revision} of endpoint {self.name!r} does not serve: {error}; {serving}"
            ) from None
        return servers

    def _store(self, volume: str, directory: Path, image_id: str, revision: str) -> None:
        """Copy a directory into a new volume."""
        self._remove_volume(volume)
        trees.files(directory)
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
                tar.add(directory, ".", filter=_readable)
            archive.seek(0)
            self._fill(volume, archive, image_id, {_REVISION: revision})

    def _start_server(
        self, name: str, revision: str, image_id: str, limits: Mapping[str, Any], log: Mapping[str, Any]
    ) -> None:
        """Start a server of a revision, unless it runs."""
        from docker.types.services import Mount

        found = self._container(name)
        if found is not None and found.status == "running":
            return
        if found is not None:
            found.remove(force=True)
        settings = {"MODEL": _MODEL_FOLDER, "NAME": self.name, "DRAIN_SECONDS": str(_LEAVE_SECONDS)}
        environment = {f"FLOWPARTS_SERVING_{key}": value for key, value in settings.items()}
        if token := os.environ.get("FLOWPARTS_SERVING_TOKEN"):
            environment["FLOWPARTS_SERVING_TOKEN"] = token
        mounts = [Mount(_MODEL_FOLDER, f"{self.prefix}-{revision}", read_only=True, no_copy=True)]
        user = _USER
        if log:
            user = log_options.writer_of(log, _USER)
            environment |= log_options.variables(log, _LOG_FOLDER)
            mounts.append(Mount(_LOG_FOLDER, log["directory"], type="bind"))
        _log.info("starting %s", name)
        self._run(
            name,
            image_id,
            labels=self._labels("server", revision),
            user=user,
            environment=environment,
            mounts=mounts,
            memswap_limit=limits["mem_limit"],
            **limits,
        )

    def _wait_until_ready(self, name: str, timeout_seconds: float) -> None:
        """Wait until a server is ready, and then turn on the engine's restarts."""
        server = self.engine.containers.get(name)

        def look() -> str:
            from docker.errors import APIError

            try:
                code, _ = server.exec_run(["python", "-c", _ASK_READY])
            except APIError:  # the container doesn't run
                code = 1
            if code == 0:
                return ""
            server.reload()
            if server.status != "running":
                raise ValueError(f"its server {_ending(server)}")
            return f"the server loads the model ({_last_line(server)})"

        try:
            common.wait("its server", look, timeout_seconds)
        except ValueError:
            for line in _lines(server):
                _log.info("%s: %s", name, line)
            raise
        server.update(restart_policy={"Name": "unless-stopped"})

    @staticmethod
    def choose_port(port: int, before: State | None) -> int:
        """Return the requested port, else the endpoint's, else a free one."""
        return port or (_port_in(before.endpoint.url) if before else _free_port())

    def apply(self, endpoint: Endpoint, servers: Mapping[str, Sequence[str]], image_id: str = "") -> Endpoint:
        """Configure the splitter for an endpoint's traffic, then remove servers without traffic.

        If that fails, the previous traffic split is restored.
        """
        from docker.errors import DockerException

        splitter = self._container(self.prefix)
        old = self._configuration()
        before = _splitter.state_of(old) if old else None
        if before and not image_id:
            image_id = before.image_id
        state = State(endpoint, {revision: servers[revision] for revision in endpoint.traffic}, image_id)
        text = _splitter.configuration(state)
        try:
            self._split(splitter, state, text, old)
        except (ValueError, DockerException):
            with suppress(ValueError, DockerException):
                if before:
                    self._split(self._container(self.prefix), before, old, text)
                    self.tidy(before)
                else:
                    self.remove()
            raise
        if text != old and old:
            time.sleep(_LEAVE_SECONDS)
        self.tidy(state)
        _log.info("endpoint %s: %s", self.name, _shares(endpoint))
        return endpoint

    def _split(self, splitter: "Container | None", state: State, text: str, old: str) -> None:
        """Make a splitter load its configuration, which was `old`, and wait until it has."""
        endpoint, image_id = state.endpoint, state.image_id
        if text != old:
            self._fill(self.prefix, _archive(_CONFIGURATION, text), image_id, {})
        port = _port_in(endpoint.url)
        if splitter and (splitter.image.id != image_id or _port_of(splitter) != port):
            splitter.remove(force=True)
            splitter = None
        if splitter is None:
            splitter = self._start_splitter(image_id, port)
        elif splitter.status != "running":
            splitter.start()
        elif self._active_state(endpoint) != state.to_json():
            splitter.kill("USR2")

        def look() -> str:
            splitter.reload()
            if splitter.status != "running":
                raise ValueError(f"the splitter of endpoint {self.name!r} {_ending(splitter)}")
            return (
                ""
                if self._active_state(endpoint) == state.to_json()
                else "the splitter is loading its configuration"
            )

        common.wait(f"endpoint {self.name!r}", look, _RELOAD_SECONDS)

    @staticmethod
    def _active_state(endpoint: Endpoint) -> str:
        """Return the splitter's active state; empty if it doesn't answer."""
        return _get(f"{endpoint.url}{_splitter.TRAFFIC_PATH}")

    def tidy(self, state: State | None) -> None:
        """Remove everything of the endpoint that isn't in its state."""
        names = set()
        if state:
            volumes = [f"{self.prefix}-{revision}" for revision in state.servers]
            names = {self.prefix, *volumes, *(name for servers in state.servers.values() for name in servers)}
        found = self.engine.containers.list(all=True, filters=self._mine)
        doomed = [container for container in found if container.name not in names]
        for container in doomed:
            if container.status == "running":  # all of them finish pending requests in parallel
                container.kill("SIGTERM")
        for container in doomed:
            _log.info("removing %s", container.name)
            # A server that was never ready has no pending requests and doesn't handle signals yet.
            restarts = container.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
            container.stop(timeout=_DRAIN_SECONDS if restarts else 0)
            container.remove(force=True)
        for volume in self.engine.volumes.list(filters=self._mine):
            if volume.name not in names:
                volume.remove(force=True)

    def resources(self) -> list[str]:
        """Return everything that belongs to the endpoint."""
        kinds = {
            "container": self.engine.containers.list(all=True, filters=self._mine),
            "volume": self.engine.volumes.list(filters=self._mine),
            "network": self.engine.networks.list(filters=self._mine),
        }
        return [f"{kind} {thing.name}" for kind, things in kinds.items() for thing in things]

    def remove(self) -> None:
        """Remove everything that belongs to the endpoint."""
        self.tidy(None)
        for network in self.engine.networks.list(filters=self._mine):
            network.remove()

    def _start_splitter(self, image_id: str, port: int) -> "Container":
        from docker.types.services import Mount

        return self._run(
            self.prefix,
            image_id,
            entrypoint=["/usr/sbin/haproxy", "-W", "-db", "-f", f"{_SPLITTER_FOLDER}/{_CONFIGURATION}"],
            labels=self._labels("splitter"),
            mounts=[Mount(_SPLITTER_FOLDER, self.prefix, read_only=True, no_copy=True)],
            ports={f"{_splitter.PORT}/tcp": ("127.0.0.1", port)},
            mem_limit=_SPLITTER_MEMORY_BYTES,
            memswap_limit=_SPLITTER_MEMORY_BYTES,
            restart_policy={"Name": "unless-stopped"},
            # HAProxy finishes pending requests.
            stop_signal="SIGUSR1",
        )

    def _run(self, name: str, image_id: str, user: int = _USER, **settings: Any) -> "Container":
        if not self.engine.networks.list(names=[f"^{self.prefix}$"]):
            self.engine.networks.create(self.prefix, labels=self._labels("network"))
        started: Container = self.engine.containers.run(
            image_id,
            name=name,
            detach=True,
            network=self.prefix,
            user=f"{user}:0",
            read_only=True,
            tmpfs={"/tmp": "size=256m"},  # noqa: S108 for the model server's temporary files
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=1024,
            log_config={"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            **settings,
        )
        return started

    def _fill(self, volume: str, archive: Any, image_id: str, labels: Mapping[str, str]) -> None:
        """Put the files of a tar archive into a volume, which is created if necessary."""
        self.engine.volumes.create(volume, labels={**self._labels("volume"), **labels})
        with self._loader(volume, image_id) as loader:
            loader.put_archive(_MODEL_FOLDER, archive)

    @contextmanager
    def _loader(self, volume: str, image_id: str) -> Iterator["Container"]:
        """Yield a container with a volume mounted; it is never started."""
        from docker.types.services import Mount

        loader = self.engine.containers.create(
            image_id,
            labels=self._labels("loader"),
            mounts=[Mount(_MODEL_FOLDER, volume, no_copy=True)],
        )
        try:
            yield loader
        finally:
            loader.remove(force=True)

    def _has_volume(self, volume: str) -> bool:
        return volume in [found.name for found in self.engine.volumes.list(filters={"name": volume})]

    def _remove_volume(self, volume: str) -> None:
        from docker.errors import NotFound

        with suppress(NotFound):
            self.engine.volumes.get(volume).remove(force=True)

    def _container(self, name: str) -> "Container | None":
        from docker.errors import NotFound

        try:
            found: Container = self.engine.containers.get(name)
        except NotFound:
            return None
        return found

    def _labels(self, role: str, revision: str = "") -> dict[str, str]:
        labels = {_ENDPOINT: self.name, _ROLE: role}
        return labels | ({_REVISION: revision} if revision else {})


@contextmanager
def _engine() -> Iterator["DockerClient"]:
    """Open a client of the Docker engine; its errors become one-line messages."""
    from docker.client import DockerClient
    from docker.errors import APIError, DockerException

    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        engine = DockerClient.from_env()
        engine.ping()
    except DockerException:
        raise UnreachableError(
            f"no Docker engine answers at {where}; start one, and run this step as a subprocess on its "
            "machine (run.py's default), because a pipeline's container has no access to it"
        ) from None
    try:
        yield engine
    except APIError as error:
        detail = " ".join(str(error.explanation or error).split())
        raise RefusedError(f"the Docker engine at {where} refused: {detail}") from None
    finally:
        engine.close()


def _writing(name: str, wait_seconds: float = 0.0) -> AbstractContextManager[object]:
    """Lock an endpoint for changes; all steps that change it run on the engine's machine."""
    engine = _digest(os.environ.get("DOCKER_HOST", ""))
    return _lease.writing(
        _lease.FileStore(f"endpoint-{name}-{engine}"), f"endpoint {name!r} on this machine", wait_seconds
    )


def _get(url: str) -> str:
    """Return the answer of a URL on this machine; empty without an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return str(answer.read().decode())
    except (OSError, http.client.HTTPException):
        return ""


def _digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:6]


def _shares(endpoint: Endpoint) -> str:
    return ", ".join(f"{revision} {percent} %" for revision, percent in endpoint.traffic.items())


def _port_in(url: str) -> int:
    return int(url.rpartition(":")[2])


def _port_of(splitter: "Container") -> int:
    return int(splitter.attrs["HostConfig"]["PortBindings"][f"{_splitter.PORT}/tcp"][0]["HostPort"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make the deploying user's files readable for the servers' user."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


def _archive(name: str, text: str) -> io.BytesIO:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive


def _file_of(container: "Container", path: str) -> str:
    """Return a text file of a container, running or not; empty if it doesn't exist."""
    from docker.errors import NotFound

    try:
        chunks, _ = container.get_archive(path)
    except NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        file = tar.extractfile(tar.getmembers()[0])
        return file.read().decode() if file else ""


def _lines(container: "Container", **period: Any) -> list[str]:
    text = container.logs(tail=_LOG_LINES, **period).decode(errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _last_line(container: "Container", **period: Any) -> str:
    """Return a container's last log line; for JSON, its message."""
    lines = _lines(container, **period)
    return shorten(common.log_text(lines[-1]), _SAID) if lines else "its log is empty"


def _ends(container: "Container") -> int:
    """Return how often a container has crashed; the engine counts when it restarts it."""
    return int(container.attrs["RestartCount"] + (container.status != "running"))


def _last_end(container: "Container") -> str:
    """Return how a container crashed last; if it runs again, only the engine's events know."""
    if container.status != "running":
        return _ending(container)
    wanted = {"container": container.id, "event": ["die", "oom"]}
    events = list(container.client.events(since=0, until=int(time.time()) + 1, filters=wanted, decode=True))
    ends = [event for event in events if event["Action"] == "die"]
    if not ends:  # the engine only keeps the latest events of all containers
        return "has crashed before"
    last = ends[-1]
    if any(event["Action"] == "oom" for event in events):
        return f"was killed: {_too_little(container)}"
    code = last["Actor"]["Attributes"]["exitCode"]
    return f"ended with exit code {code}: {_last_line(container, until=last['time'] + 1)}"


def _ending(container: "Container") -> str:
    """Return how a stopped container ended."""
    state = container.attrs["State"]
    if state.get("OOMKilled"):
        return f"was killed: {_too_little(container)}"
    return f"ended with exit code {state['ExitCode']}: {_last_line(container)}"


def _too_little(container: "Container") -> str:
    limit = container.attrs["HostConfig"]["Memory"] / 2**20
    return f"it needs more memory than its limit, {limit:,.0f} MiB"
