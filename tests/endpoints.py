"""Endpoints that tests deploy to this machine's Docker engine: their names, and the end of leftovers."""

import os
import re
import uuid
from contextlib import suppress
from typing import Any

import psutil

# The first process of this run of the tests; its workers inherit it.
_OWNER = os.environ.setdefault("FLOWPARTS_TESTS_OWNER", str(os.getpid()))


def new_name(stem: str) -> str:
    """Return a name that tells which run of the tests the endpoint belongs to."""
    return f"{stem}-of-{_OWNER}-{uuid.uuid4().hex[:8]}"


def remove_left_behind() -> None:
    """Remove the endpoints of runs that were killed; those that go on keep theirs."""
    from docker.client import DockerClient
    from docker.errors import DockerException

    from flowparts.deploy.targets import docker

    with suppress(DockerException, ValueError):
        engine = DockerClient.from_env()
        labelled = {"filters": {"label": "flowparts.endpoint"}}
        found = [
            *(container.labels for container in engine.containers.list(all=True, **labelled)),
            *(volume.attrs["Labels"] for volume in engine.volumes.list(**labelled)),
            *(network.attrs["Labels"] for network in engine.networks.list(**labelled)),
        ]
        engine.close()
        for name in sorted({labels["flowparts.endpoint"] for labels in found}):
            owner = re.fullmatch(r".+-of-(\d+)-[0-9a-f]{8}(-too)?", name)
            if owner and not psutil.pid_exists(int(owner[1])):
                docker.remove(name)


def kill(engine: Any, container: Any) -> None:
    """Kill a container's first process from outside: the engine restarts what it hasn't stopped itself."""
    command = ["sh", "-c", f"kill -9 {container.attrs['State']['Pid']}"]
    engine.containers.run(
        container.image.id,
        command,
        entrypoint=[],
        user="0",
        pid_mode="host",
        network_mode="none",
        remove=True,
    )
