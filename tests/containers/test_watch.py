"""The image that watches runs on a cluster, against a server that replays a recorded run."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from flowparts import __version__
from flowparts.components import REGISTRY
from tests.submit.kubeflow_server import KubeflowServer
from tests.submit.test_watch import Hook

IMAGE = f"{REGISTRY}/flowparts-watch:{__version__}"


@contextmanager
def watching(kubeflow: KubeflowServer, hook: Hook) -> Iterator["subprocess.Popen[str]"]:
    """Run the image as docs/kubeflow/watch.yaml does: without root, and nothing but /tmp is writable."""
    name = f"watch-{os.getpid()}"
    command = [
        *("docker", "run", "--rm", f"--name={name}", "--network=host", "--read-only", "--tmpfs=/tmp"),
        *("--user=65532", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m"),
        *("-e", f"FLOWPARTS_NOTIFY_WEBHOOK={hook.url}/hook", IMAGE),
        *("kubeflow", "watch", "--endpoint", kubeflow.url, "--state=/tmp/watch.json", "--interval=0.2"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)


def test_the_image_notifies_of_a_run_that_fails_after_it_has_started() -> None:
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"{IMAGE} isn't here; run make watch-image")
    kubeflow, hook = KubeflowServer(), Hook()
    try:
        kubeflow.replay("succeeded-one-step")
        with watching(kubeflow, hook) as process:

            def until(condition: Callable[[], object]) -> None:
                deadline = time.monotonic() + 120
                while not condition():
                    assert process.poll() is None, process.stdout and process.stdout.read()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)

            # It tells nothing of what its first look finds.
            until(lambda: len(kubeflow.sent("GET", "/runs$")) > 1)
            kubeflow.replay("failed-step-in-exit-handler")
            until(lambda: hook.titles)
        (title,) = hook.titles
        assert "failed" in title
    finally:
        hook.close()
        kubeflow.close()
