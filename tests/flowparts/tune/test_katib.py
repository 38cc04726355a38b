"""Against the stand-in for the Kubernetes API with a Katib in it; no trial is trained here."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowparts.deploy.cluster import Cluster
from flowparts.train.candidates import Options
from flowparts.tune import katib, platforms, remote
from flowparts.tune.katib import Katib
from flowparts.tune.remote import Search
from flowparts.tune.study import Budget
from flowparts.tune.tuning import Settings
from flowparts.util.errors import RefusedError, UnreachableError
from tests.flowparts.deploy.kubernetes_api import KubernetesApi
from tests.flowparts.tune.katib_controller import Katib as KatibController

ALPHA = {"type": "float", "low": 0.1, "high": 10.0, "log": True}


def search(trials: int = 3, parallel: int = 1, **space: Any) -> Search:
    settings = Settings(
        label="y",
        task="regression",
        options=Options(seed=7),
        space=space or {"Ridge": {"alpha": ALPHA}},
        budget=Budget(trials, 0.0, parallel),
    )
    return Search("flowparts-1a2b3c4d5e6f", "s3://studies/flowparts-1a2b3c4d5e6f", settings, "rmse", False)


def test_an_experiment_is_valid_for_katib(cluster: KubernetesApi) -> None:
    options = {
        "image": "registry.example/flowparts-sklearn:1",
        "environment_from": "store",
        "service_account": "trials",
        "pods": {"labels": {"team": "growth"}, "node_selector": {"pool": "cpu"}},
    }
    made = Katib(**options).experiment(search(9, 2), Cluster())
    assert cluster.katib.refusal(made) == ""
    spec = made["spec"]
    assert (spec["maxTrialCount"], spec["parallelTrialCount"], spec["maxFailedTrialCount"]) == (9, 2, 5)
    assert spec["objective"] == {"type": "minimize", "objectiveMetricName": "rmse"}
    space = {"min": "0.1", "max": "10.0", "distribution": "logUniform"}
    assert spec["parameters"] == [{"name": "alpha", "parameterType": "double", "feasibleSpace": space}]
    job = spec["trialTemplate"]["trialSpec"]["spec"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (0, 900)
    assert job["template"]["metadata"]["labels"] == {"team": "growth"}
    pod = job["template"]["spec"]
    assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("trials", {"pool": "cpu"})
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert pod["containers"][0]["securityContext"]["runAsNonRoot"]
    assert "securityContext" not in pod, "the container that Katib adds runs as root"
    assert "ownerReferences" not in made["metadata"]


def test_the_experiment_goes_with_the_pod_of_the_step(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "run-1-tune")
    monkeypatch.setenv("KFP_POD_UID", "uid-1")
    own, other = Cluster(), Cluster()
    own.pod_namespace, other.pod_namespace = own.namespace, "elsewhere"
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "run-1-tune", "uid": "uid-1"}
    assert Katib().experiment(search(), own)["metadata"]["ownerReferences"] == [owner]
    assert "ownerReferences" not in Katib().experiment(search(), other)["metadata"]


@pytest.mark.parametrize(
    ("scenario", "problem"),
    [
        ("crash", "ValueError: the folder can't be used"),
        ("oom", "OOMKilled: exit code 137 (OOMKilled), it needs more memory than its limit, last log line: "),
        (
            "unschedulable",
            "it took longer than trial_seconds (Unschedulable: 0/1 nodes are available: 1 Insuff",
        ),
    ],
)
def test_why_a_trial_failed_is_reported_without_names(
    scenario: str, problem: str, cluster: KubernetesApi
) -> None:
    cluster.katib.scenario = scenario
    attempts = Katib().search(search(4, 2))
    # A search ends when half of its trials have failed, but not before three have.
    assert 3 <= len(attempts) <= 4
    for attempt in attempts:
        assert attempt.problem.startswith(problem), attempt.problem
        assert attempt.name not in attempt.problem
        assert 0.1 <= float(attempt.assigned["alpha"]) <= 10


def test_an_image_that_is_not_there_ends_the_search_at_once(cluster: KubernetesApi) -> None:
    cluster.katib.scenario = "image"
    with pytest.raises(
        ValueError, match=r"^the trials of Experiment \S+ can't run: ImagePullBackOff: Back-off"
    ) as e:
        Katib().search(search())
    assert "\n" not in str(e.value)


def test_an_experiment_that_katib_never_starts_is_reported(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.katib.scenario = "stuck"
    monkeypatch.setattr(katib, "_START_SECONDS", 0.3)
    with pytest.raises(
        ValueError,
        match=r"Katib began no trial of Experiment \S+ within 0.3 s: ReconcileError: rpc error: code",
    ):
        Katib().search(search())


def test_a_refusal_of_the_suggestion_service_is_reported(cluster: KubernetesApi) -> None:
    cluster.katib.scenario = "suggestion"
    with pytest.raises(
        ValueError, match=r"Katib ran no trial of .*: Validation failed: ValidateAlgorithmSettings"
    ):
        Katib().search(search())


def test_a_hanging_search_is_ended(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.katib.looks = {"flowparts-1a2b3c4d5e6f": -(10**6)}
    monkeypatch.setattr(Katib, "_limit", lambda *_: 0.2)
    with pytest.raises(
        ValueError, match=r"Experiment \S+ is not ready after 0.2 s: 0 of 3 trials have ended"
    ):
        Katib().search(search())


def test_an_experiment_that_somebody_deletes_is_missed(cluster: KubernetesApi) -> None:
    cluster.katib.scenario = "unschedulable"
    cluster.katib.looks = {"flowparts-1a2b3c4d5e6f": -30}
    wanted = search()

    def delete() -> None:
        while ("katib_experiments", wanted.name) not in cluster.objects:
            time.sleep(0.01)
        with cluster.lock:
            cluster.delete("katib_experiments", wanted.name)

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(ValueError, match=r"Experiment \S+ was deleted while its trials ran"):
        Katib().search(wanted)
    thread.join()


def test_an_experiment_of_an_earlier_attempt_is_followed(cluster: KubernetesApi) -> None:
    cluster.katib.scenario = "crash"
    first = Katib().search(search())
    posted = [request for request in cluster.requests if request[0] == "POST"]
    again = Katib().search(search())
    assert again == first
    assert [request for request in cluster.requests if request[0] == "POST"] == posted * 2
    Katib().remove(search())
    assert cluster.names("katib_experiments") == cluster.names("katib_trials") == []


def test_refusals_are_sentences(cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.katib.injects = False
    with pytest.raises(
        RefusedError, match=r"status 400: .* the namespace needs the label katib.kubeflow.org/metr"
    ):
        Katib().search(search())
    cluster.katib.injects = True
    cluster.denied = {("create", "experiments")}
    with pytest.raises(
        RefusedError, match=r"no permission to POST \S+/experiments; .* cannot create resource"
    ):
        Katib().search(search())
    cluster.denied = {("list", "trials")}
    with pytest.raises(RefusedError, match=r"no permission to GET \S+/trials; .* cannot list resource"):
        Katib().search(search())
    cluster.unknown.add("kubeflow.org/v1beta1")
    with pytest.raises(
        ValueError, match=r"the cluster has no Katib \(Experiment kubeflow.org/v1beta1\); install it"
    ):
        Katib().search(search())


def test_an_api_that_is_away_for_a_while_is_waited_for(
    cluster: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.katib.scenario = "crash"
    asked, found = 0, Cluster.find

    def find(self: Cluster, *arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked in (2, 3):
            raise UnreachableError("the Kubernetes API can't be reached")
        return found(self, *arguments)

    monkeypatch.setattr(Cluster, "find", find)
    assert len(Katib().search(search())) == 3
    asked = 0
    monkeypatch.setattr(remote, "_SILENT_SECONDS", -1.0)
    with pytest.raises(UnreachableError):
        Katib().search(search())


def test_an_api_that_is_not_there_is_unreachable(
    cluster: KubernetesApi, tmp_path: Any, monkeypatch: Any
) -> None:
    file = tmp_path / "other"
    file.write_text(cluster.kubeconfig.replace(cluster.url, "http://127.0.0.1:9"))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(UnreachableError, match=r"the Kubernetes API at http://127.0.0.1:9 can't be reached"):
        Katib().search(search())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cpus": "1"}, "unknown option of the target katib 'cpus'; did you mean 'cpu'"),
        ({"memory": "much"}, "memory 'much' is not an amount"),
        ({"trial_seconds": 5}, "trial_seconds must be at least 60, not 5"),
        ({"trial_seconds": "long"}, "option 'trial_seconds' of the target katib must be int, not 'long'"),
        ({"pods": {"node": {}}}, "'node'"),
        ({"image": "sklearn:latest"}, "image 'sklearn:latest' must have a fixed tag or a digest"),
        ({"reset": True}, "'reset'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        platforms.platform("katib", options)


def test_a_secret_that_is_not_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWPARTS_ALLOWED_SECRETS", "store-*")
    with pytest.raises(ValueError, match=r"environment_from 'root' is not allowed here"):
        Katib(environment_from="root")


def test_the_documented_role_is_what_a_search_needs_and_no_more(cluster: KubernetesApi) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", Path("docs/tuning.md").read_text(encoding="utf-8"), re.DOTALL)
    role = yaml.safe_load(text)
    cluster.role = {
        (role["metadata"]["namespace"], group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    cluster.katib.scenario = "crash"
    Katib().search(search())
    Katib().remove(search())
    cluster.katib = KatibController("suggestion")
    with pytest.raises(ValueError, match="ran no trial"):
        Katib().search(search())
    assert cluster.needed == cluster.role
