"""What Katib does with an Experiment, for the stand-in of the Kubernetes API.

Conditions and pods' states are those that a real Katib and its cluster had (katib_recorded.json). Trials that
run are run here: as Katib runs them where `in_processes` is set, else by the same function in this process.
"""

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate

from flowparts.tune import trial as trials

if TYPE_CHECKING:
    from tests.flowparts.deploy.kubernetes_api import KubernetesApi

RECORDED = json.loads(Path(__file__).with_name("katib_recorded.json").read_text(encoding="utf-8"))
_DENIED = 'admission webhook "validator.experiment.katib.kubeflow.org" denied the request: '
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_LINE = 'python3 -m flowparts.tune.trial "$STUDY" $PARAMETERS'
_COLLECTED = "I1128 03:53:25.659880      19 main.go:143] "
_ENDS = ("Succeeded", "Failed", "MetricsUnavailable")

Object = dict[str, Any]


@dataclass
class Katib:
    """How trials fare.

    Attributes:
        scenario: "ready", "waiting" (trials never end), "crash" (without a result), "oom", "image",
            "unschedulable", "silent" (no number is reported), "stuck" (accepted, and never worked on) or
            "suggestion" (refused by the service that suggests).
        in_processes: Whether a trial is a process, started by the line that Katib makes of its command.
        environment: What the Secret of the trials holds.
        injects: Whether the namespace has the label without which Katib takes no Experiment.
        ran: The arguments of the trials that were run.
    """

    scenario: str = "ready"
    in_processes: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    injects: bool = True
    ran: list[list[str]] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)

    def refusal(self, experiment: Object) -> str:
        """Return what Katib's webhooks have against an Experiment; empty for nothing."""
        spec, template = experiment["spec"], experiment["spec"]["trialTemplate"]
        if not self.injects:
            label = "katib.kubeflow.org/metrics-collector-injection=enabled"
            return f"{_DENIED}the namespace needs the label {label}"
        if not _NAME.fullmatch(experiment["metadata"]["name"]):
            return f"{_DENIED}metadata.name: Invalid value: {experiment['metadata']['name']!r}"
        for count in ("parallelTrialCount", "maxFailedTrialCount"):
            if spec[count] > spec["maxTrialCount"]:
                return f"{_DENIED}spec.{count}: Invalid value: {spec[count]}: should be less than or equal"
        if not spec["parameters"]:
            return f"{_DENIED}spec: Required value: spec.parameters or spec.nasConfig must be specified"
        for place, parameter in enumerate(spec["parameters"]):
            ranged = {"min", "max"} & parameter["feasibleSpace"].keys()
            if (parameter["parameterType"] == "categorical") == bool(ranged):
                return f"{_DENIED}spec.parameters[{place}].feasibleSpace: not supported for its parameterType"
            for value in parameter["feasibleSpace"].values():
                assert isinstance(value, str | list), "json: cannot unmarshal number into type string"
        named = {parameter["name"] for parameter in spec["parameters"]}
        used = set(re.findall(r"\$\{trialParameters\.([^}]+)\}", json.dumps(template["trialSpec"])))
        referenced = {each["name"]: each["reference"] for each in template["trialParameters"]}
        if used != referenced.keys() or set(referenced.values()) != named:
            return f"{_DENIED}spec.trialTemplate: parameters are not those of spec.parameters"
        job = template["trialSpec"]
        kubernetes_validate.validate({**job, "metadata": {"name": "job"}}, "1.37", strict=True)
        if zero := _zero(job):
            return f"{_DENIED}spec.trialTemplate: unable to convert: {zero} to Job"
        return ""

    def step(self, api: "KubernetesApi", name: str, experiment: Object) -> None:
        """Go on with an Experiment, as each look at the cluster finds it a little later."""
        spec, key = experiment["spec"], ("katib_experiments", name)
        looks = self.looks[name] = self.looks.get(name, 0) + 1
        if not _names_that_work(spec["parameters"]) or self.scenario == "stuck":
            api.warn(name, "ReconcileError", "rpc error: code = Unknown desc = the space can't be searched")
            api.set_status(key, {"conditions": RECORDED["experiments"]["running"][:1]})
            return
        if self.scenario == "suggestion":
            message = "Validation failed: ValidateAlgorithmSettings Error: unknown setting"
            condition = {"type": "Failed", "status": "True", "message": message}
            api.objects["katib_suggestions", name] = {
                "metadata": {"name": name},
                "status": {"conditions": [condition]},
            }
            api.set_status(key, {"conditions": RECORDED["experiments"]["suggestion failed"]})
            return
        if looks < 3:
            api.set_status(key, {"conditions": RECORDED["experiments"]["running"][:1]} if looks > 1 else {})
            return
        found = [
            thing
            for (plural, _), thing in list(api.objects.items())
            if plural == "katib_trials"
            and thing["metadata"]["labels"]["katib.kubeflow.org/experiment"] == name
        ]
        for each in found:
            if not _end(each):
                self._advance(api, spec, each)
        ended = [each for each in found if _end(each)]
        failures = sum(_end(each) in ("Failed", "MetricsUnavailable") for each in found)
        state = "running"
        if failures >= spec.get("maxFailedTrialCount", 10**6):
            state = "failed"
        elif len(ended) >= spec["maxTrialCount"]:
            state = "succeeded"
        elif len(found) < spec["maxTrialCount"] and len(found) - len(ended) < spec["parallelTrialCount"]:
            self._start(api, name, spec, len(found))
        api.set_status(key, {"conditions": RECORDED["experiments"][state], "trials": len(found)})

    def _start(self, api: "KubernetesApi", name: str, spec: Object, number: int) -> None:
        draws = random.Random(f"{spec['algorithm']} {number}")
        assigned = [
            {"name": parameter["name"], "value": _drawn(parameter, draws)} for parameter in spec["parameters"]
        ]
        trial = f"{name}-{''.join(draws.choices('bcdfghjklmnpqrst', k=8))}"
        api.objects["katib_trials", trial] = {
            "metadata": {
                "name": trial,
                "labels": {"katib.kubeflow.org/experiment": name},
                "creationTimestamp": f"2026-11-28T03:{number // 60:02}:{number % 60:02}Z",
            },
            "spec": {"parameterAssignments": assigned},
            "status": {"conditions": RECORDED["trials"]["running"]},
        }

    def _advance(self, api: "KubernetesApi", spec: Object, trial: Object) -> None:
        name = trial["metadata"]["name"]
        looks = self.looks[name] = self.looks.get(name, 0) + 1
        if looks < 2 or self.scenario == "waiting":
            return
        if self.scenario in ("image", "unschedulable"):
            is_over = looks > 12
            self._pod(api, trial, self.scenario)
            if is_over:  # the Job's deadline, by which its pod is deleted
                assert spec["trialTemplate"]["trialSpec"]["spec"]["activeDeadlineSeconds"]
                api.objects.pop(("pods", f"{name}-x7zq4"))
                trial["status"] = {"conditions": RECORDED["trials"]["deadline"]}
            return
        if self.scenario in ("crash", "oom"):
            self._pod(api, trial, self.scenario, f"{_COLLECTED}ValueError: the folder can't be used\n")
            trial["status"] = {"conditions": RECORDED["trials"]["failed"]}
            return
        code, output = self._run(spec["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"], trial)
        self._pod(api, trial, "crash" if code else "done", "".join(_COLLECTED + line for line in output))
        reported = [] if self.scenario == "silent" else _numbers(spec, output)
        state = "failed" if code else "succeeded" if reported else "no metric"
        trial["status"] = {"conditions": RECORDED["trials"][state]}
        if reported:
            metric = {"name": spec["objective"]["objectiveMetricName"], "latest": reported[-1]}
            trial["status"]["observation"] = {"metrics": [metric]}

    def _pod(self, api: "KubernetesApi", trial: Object, state: str, log: str = "") -> None:
        name = f"{trial['metadata']['name']}-x7zq4"
        labels = {**trial["metadata"]["labels"], "katib.kubeflow.org/trial": trial["metadata"]["name"]}
        api.objects["pods", name] = {
            "metadata": {"name": name, "labels": labels},
            "status": RECORDED["pods"][state],
            "owner": labels["katib.kubeflow.org/experiment"],
            "log": log,
        }

    def _run(self, pod: Object, trial: Object) -> tuple[int, list[str]]:
        """Run a trial's container; return its exit code and the lines of its output."""
        (container,) = pod["containers"]
        values = {each["name"]: each["value"] for each in trial["spec"]["parameterAssignments"]}
        given = {each["name"]: _filled(each["value"], values) for each in container["env"]}
        assert float(given[trials.STAY_SECONDS]) >= 5, "it may end before its collector runs"
        assert container["command"] == ["sh", "-c", _LINE]
        environment = {**given, **self.environment, "KATIB_TRIAL_NAME": trial["metadata"]["name"]}
        environment[trials.STAY_SECONDS] = "0"
        arguments = [given["STUDY"], *given["PARAMETERS"].split()]
        self.ran.append(arguments)
        if not self.in_processes:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                code = trials.main(arguments, environment)
            return code, output.getvalue().splitlines(keepends=True)
        with tempfile.TemporaryDirectory() as folder:
            log, mark = Path(folder) / "metrics.log", Path(folder) / "7.pid"
            line = f"{container['command'][2]} 1>{log} 2>&1 && echo completed > {mark}"
            paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            ended = subprocess.run(
                ["sh", "-c", line], env={**os.environ, **environment, **paths}, check=False
            )
            assert mark.exists() == (ended.returncode == 0)
            return ended.returncode, log.read_text(encoding="utf-8").splitlines(keepends=True)


def _end(trial: Object) -> str:
    states = {each["type"] for each in trial["status"]["conditions"] if each["status"] == "True"}
    return next((state for state in _ENDS if state in states), "")


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{trialParameters\.([^}]+)\}", lambda found: values[found[1]], text)


def _numbers(spec: Object, output: list[str]) -> list[str]:
    """Return what the collector finds of the objective in a trial's output, by the Experiment's filter."""
    (pattern,) = spec["metricsCollectorSpec"]["source"]["filter"]["metricsFormat"]
    assert ";" not in pattern
    return [found[2] for line in output for found in re.finditer(pattern, line)]


def _names_that_work(parameters: list[Object]) -> bool:
    """Whether Katib can work with a space that its webhooks take: bounds in order, names and values plain."""
    for parameter in parameters:
        space = parameter["feasibleSpace"]
        texts = [parameter["name"], *space.get("list", [])]
        if "min" in space and not float(space["min"]) < float(space["max"]):
            return False
        if space.get("distribution") == "logUniform" and float(space["min"]) <= 0:
            return False
        if "." in parameter["name"] or not _NAME.fullmatch(parameter["name"]) or space.get("list") == []:
            return False
        if any(character in text for text in texts for character in '"\\ '):
            return False
    return True


def _drawn(parameter: Object, draws: random.Random) -> str:
    space = parameter["feasibleSpace"]
    if parameter["parameterType"] == "categorical":
        return draws.choice(space["list"])
    low, high = float(space["min"]), float(space["max"])
    value = (
        low * (high / low) ** draws.random()
        if space["distribution"] == "logUniform"
        else draws.uniform(low, high)
    )
    return str(round(value)) if parameter["parameterType"] == "int" else repr(value)


def _zero(thing: Any, path: str = "") -> str:
    """Return the path of a field that Katib's template refuses: one with its type's zero value."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            nullable = key in (
                "automountServiceAccountToken",
                "allowPrivilegeEscalation",
                "enableServiceLinks",
            )
            is_zero = value in ("", [], {}, None) or (value is False and not nullable)
            if is_zero and key not in ("emptyDir", "limits", "requests"):
                return f"{path}/{key}"
            if found := _zero(value, f"{path}/{key}"):
                return found
    if isinstance(thing, list):
        return next((found for each in thing if (found := _zero(each, path))), "")
    return ""
