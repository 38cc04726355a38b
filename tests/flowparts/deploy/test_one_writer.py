"""Several steps change one endpoint at once: one after the other, whoever is killed."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowparts.deploy import _lease
from flowparts.deploy.common import one_writer
from flowparts.deploy.targets import kubernetes
from flowparts.deploy.targets._fleet import Fleet
from tests.flowparts.deploy.kubernetes_api import KubernetesApi

LEASE_SECONDS = 2.0
OPERATIONS, WRITERS, KILLS = 24, 3, 4
OPTIONS: dict[str, Any] = {"image": "registry.example/flowparts-serving:0.1.0", "timeout_seconds": 5.0}
FIRST, SECOND = "s3://models/churn/1", "s3://models/churn/2"


def violations(api: KubernetesApi) -> list[str]:
    """Say where the endpoint doesn't serve what its record says."""
    service = api.objects.get(("services", "churn"))
    if service is None:
        return []
    record = json.loads(service["metadata"]["annotations"]["flowparts/endpoint"])
    serving = [revision for revision, share in record["traffic"].items() if share]
    found = []
    pinned = service["spec"]["selector"].get("flowparts/revision")
    if pinned != (serving[0] if len(serving) == 1 else None):
        found.append(f"the Service selects {pinned}, and its record says {serving}")
    for revision in serving:
        deployment = api.objects.get(("deployments", f"churn-{revision}"), {})
        if not deployment.get("status", {}).get("availableReplicas"):
            found.append(f"{revision} is to serve and has no pod that is ready")
    return found


class Writers:
    """Processes that change the endpoint, of which some are killed."""

    def __init__(self) -> None:
        self.chance = random.Random(7)
        self.said: list[str] = []
        self.running: list[tuple[subprocess.Popen[str], threading.Thread]] = []
        self.started = 0

    def start(self) -> None:
        self.started += 1
        command = [
            sys.executable,
            "-m",
            "tests.flowparts.deploy.writer",
            str(self.started),
            str(LEASE_SECONDS),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        self.running.append((process, reader))

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        with process.stdout as lines:
            self.said += (line.strip() for line in lines)

    def kill(self, number: int) -> None:
        process, reader = self.running.pop(number)
        process.kill()
        process.wait()
        reader.join()

    @property
    def done(self) -> int:
        return sum(line in ("deployed", "changed") for line in self.said)


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    while made.running:
        made.kill(0)


def test_an_endpoint_always_serves_what_its_record_says(api: KubernetesApi, writers: Writers) -> None:
    for _ in range(WRITERS):
        writers.start()
    bad: Counter[str] = Counter()
    looks = killed = 0
    while writers.done < OPERATIONS or killed < KILLS:
        time.sleep(0.005)
        with api.lock:
            bad.update(violations(api))
        looks += 1
        if writers.done >= OPERATIONS * killed / KILLS and killed < KILLS:
            # At any moment: while it waits, starts pods, shares requests out or removes a revision.
            time.sleep(writers.chance.random() * 0.3)
            writers.kill(writers.chance.randrange(WRITERS))
            writers.start()
            killed += 1
    assert not bad
    problems = {line for line in writers.said if line.startswith("refused") and not is_expected(line)}
    assert not problems


def is_expected(line: str) -> bool:
    expected = ("is being changed by", "has been changed since", "has lost its right")
    # The record is compared when it is written, too.
    return any(words in line for words in (*expected, "meanwhile; look at its Service"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lease, "_RENEW_SECONDS", 0.05)
    monkeypatch.setattr(_lease, "_LOOK_SECONDS", 0.02)


def taken(api: KubernetesApi, age_seconds: float = 0.0) -> None:
    """Let another step have the lease, which was last there so many seconds ago."""
    moment = (datetime.now(UTC) - timedelta(seconds=age_seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {
        "holderIdentity": "step-b",
        "leaseDurationSeconds": 20,
        "acquireTime": moment,
        "renewTime": moment,
    }
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
    with api.lock:
        api.apply("leases", "churn-writer", lease | {"metadata": {"name": "churn-writer"}}, "other")


@pytest.fixture
def other(api: KubernetesApi, quick: None) -> Iterator[threading.Event]:
    """Let another step change the endpoint until the event is set."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.05):
            taken(api)
        api.delete("leases", "churn-writer")

    taken(api)
    thread = threading.Thread(target=renew)
    thread.start()
    yield over
    over.set()
    thread.join()


def test_the_second_writer_is_refused_with_who_is_the_first(
    api: KubernetesApi, other: threading.Event
) -> None:
    with pytest.raises(
        ValueError,
        match=r"endpoint 'churn' in namespace team is being changed by step-b since \d\d:\d\d:\d\d UTC; "
        "run this again when that is done, or wait for it with the option wait_seconds",
    ):
        kubernetes.deploy(FIRST, "churn", **OPTIONS)
    assert api.names("deployments") == []
    threading.Timer(0.3, other.set).start()
    assert kubernetes.deploy(FIRST, "churn", wait_seconds=60, **OPTIONS).percent == 100
    assert api.names("leases") == []


def test_the_lease_of_a_step_that_died_runs_out(
    api: KubernetesApi, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_lease, "SECONDS", 1.5)
    taken(api)
    assert kubernetes.deploy(FIRST, "churn", **OPTIONS).percent == 100
    assert "endpoint 'churn' in namespace team was being changed by step-b, which has ended" in caplog.text


def test_a_step_whose_clock_is_wrong_takes_no_lease_from_one_that_lives(
    api: KubernetesApi, other: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr("flowparts.deploy.cluster.datetime", Late)
    with pytest.raises(ValueError, match="is being changed by step-b"):
        kubernetes.deploy(FIRST, "churn", **OPTIONS)


def test_all_writes_of_a_block_are_one_change(api: KubernetesApi, quick: None) -> None:
    with one_writer():
        first = kubernetes.deploy(FIRST, "churn", **OPTIONS)
        assert api.names("leases") == ["churn-writer"]
        kubernetes.shift(first, 100)
        holder = api.get("leases", "churn-writer")["spec"]["holderIdentity"]
        assert kubernetes.deploy(SECOND, "churn", **OPTIONS).previous_revision == first.revision
        assert api.get("leases", "churn-writer")["spec"]["holderIdentity"] == holder
    assert api.names("leases") == []


def test_a_step_that_lost_its_lease_writes_nothing_more(
    api: KubernetesApi, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kubernetes.deploy(FIRST, "churn", **OPTIONS)
    look = Fleet._look

    def held_up(fleet: Any, revision: str, count: int) -> str:
        if "churn-writer" in api.names("leases"):
            api.delete("leases", "churn-writer")
            taken(api)
            for lease in _lease._held.values():
                lease._until = 0.0
        return look(fleet, revision, count)

    monkeypatch.setattr(Fleet, "_look", held_up)
    with pytest.raises(
        ValueError, match="was held up and has lost its right to change endpoint 'churn'"
    ) as raised:
        kubernetes.deploy(SECOND, "churn", **OPTIONS)
    assert str(raised.value).count("held up") == 1
    assert f"churn-{first.revision}" in api.names("deployments")
    # What it has begun is for the other one to remove.
    assert len(api.names("deployments")) == 2
    assert api.get("services", "churn")["spec"]["selector"]["flowparts/revision"] == first.revision


CHANGES: dict[str, Callable[[dict[str, str]], object]] = {
    "a note of the cloud": lambda annotations: annotations.update(cloud="x"),
    "another record": lambda annotations: annotations.update({"flowparts/endpoint": "{}"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_service_is_changed_only_if_its_record_is_what_was_read(
    change: str, api: KubernetesApi, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes.deploy(FIRST, "churn", **OPTIONS)
    written = Fleet._written
    looks = []

    def meanwhile(fleet: Any) -> tuple[str, str]:
        found = written(fleet)
        looks.append(found)
        if len(looks) == 2:  # between the look before the change and the change
            with api.lock:
                service = json.loads(json.dumps(api.get("services", "churn")))
                CHANGES[change](service["metadata"]["annotations"])
                api.store(("services", "churn"), service)
        return found

    monkeypatch.setattr(Fleet, "_written", meanwhile)
    if change == "a note of the cloud":
        made = kubernetes.deploy(SECOND, "churn", **OPTIONS)
        assert api.get("services", "churn")["spec"]["selector"]["flowparts/revision"] == made.revision
        assert api.get("services", "churn")["metadata"]["annotations"]["cloud"] == "x"
    else:
        with pytest.raises(
            ValueError, match="endpoint 'churn' in namespace team was changed by something else"
        ):
            kubernetes.deploy(SECOND, "churn", **OPTIONS)


HOLD = """
import sys
from flowparts.deploy import _lease
with _lease.writing(_lease.FileStore(sys.argv[1]), "it"):
    print("has it", flush=True)
    sys.stdin.read()
"""


def test_on_one_machine_the_lease_ends_with_its_process(tmp_path: Path, quick: None) -> None:
    name = f"test-{tmp_path.name}"
    command = [sys.executable, "-c", HOLD, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "has it\n"
        with (
            pytest.raises(ValueError, match=rf"it is being changed by .*process {other.pid}.* since .* UTC"),
            _lease.writing(_lease.FileStore(name), "it"),
        ):
            pass
        other.kill()
        other.wait()
        with _lease.writing(_lease.FileStore(name), "it"):
            pass
    assert not Path(_lease.FileStore(name).key).exists()
